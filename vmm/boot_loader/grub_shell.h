#ifndef BULKHEAD_VMM_BOOT_LOADER_GRUB_SHELL_H_
#define BULKHEAD_VMM_BOOT_LOADER_GRUB_SHELL_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/boot_loader/bls_entry.h"
#include "vmm/boot_loader/grub_script.h"
#include "vmm/boot_loader/volume.h"

namespace bulkhead::boot_loader {

// An entry of GRUB's menu.
struct MenuEntry {
  std::string title;
  std::string id;                       // "": none
  const GrubBlock* body = nullptr;      // null: a submenu, `bls` or `plan`
  std::shared_ptr<const BlsEntry> bls;  // with the volume that it is on
  const Volume* bls_volume = nullptr;
  std::shared_ptr<const BootPlan> plan;  // of a unified kernel image
  bool is_submenu = false;
  std::vector<MenuEntry> children;  // of a submenu
};

// Runs GRUB's configuration as far as it decides what is booted: variables, conditions, functions,
// search, source, load_env, blscfg, menu entries, linux and initrd. Other commands do nothing and
// succeed. Nothing is written. All that a script can do is bounded. A copy goes on from the same
// variables. Thread-compatible.
class GrubShell {
 public:
  // `volumes` must outlive it. `config`: the configuration's place, whose folder is $prefix.
  GrubShell(absl::Span<const Volume> volumes, const FilePlace& config);

  // Runs the configuration. Errors: InvalidArgument (it cannot be parsed, or does too much), and as
  // FileSystem.
  absl::Status RunConfig();
  // Adds the entries of the Boot Loader Specification on the volume of the configuration. False:
  // there are none.
  bool AddBlsEntries();

  const std::vector<MenuEntry>& menu() const { return menu_; }
  // "": not set.
  std::string Get(absl::string_view name) const;

  // What the entry boots. Errors: NotFound, one line: it boots no Linux that is there.
  absl::StatusOr<BootPlan> Plan(const MenuEntry& entry) const;

 private:
  using Words = std::vector<std::string>;

  absl::Status Source(const FilePlace& place);
  // The result of its last command.
  bool Run(const GrubBlock& block);
  bool Run(const GrubStatement& statement);
  bool RunFor(const GrubStatement& statement);
  bool RunCommand(const Words& words);
  bool RunFunction(const GrubBlock& body, const Words& words);
  void AddMenuEntry(const GrubStatement& statement);
  bool Search(const Words& words);
  bool LoadEnvironment(const Words& words);
  bool SetKernel(const Words& words);
  bool SetInitrds(const Words& words);

  Words Expand(const std::vector<GrubWord>& words) const;
  std::string ExpandVariables(absl::string_view text) const;
  void Set(const std::string& name, absl::string_view value);
  // Counts one more step. False: the script does too much.
  bool Step();

  const Volume* FindVolume(absl::string_view device) const;
  // By a path as a script has it: "/x" on $root, "(hd0,gpt1)/x". The volume is null: there is none.
  FilePlace Resolve(absl::string_view path) const;
  std::optional<uint64_t> FileSize(const std::string& path) const;
  absl::Status CheckFile(const FilePlace& place, absl::string_view what) const;

  absl::Span<const Volume> volumes_;
  FilePlace config_;
  std::map<std::string, std::string, std::less<>> variables_;
  std::map<std::string, const GrubBlock*> functions_;
  std::vector<std::shared_ptr<const GrubBlock>> scripts_;
  std::vector<MenuEntry> menu_;
  std::vector<MenuEntry>* current_menu_ = nullptr;  // while a configuration runs
  Words arguments_;                                 // of the current function
  bool last_result_ = true;
  int steps_ = 0;
  int depth_ = 0;
  size_t entries_ = 0;
  // Set by linux and initrd. A volume of null: the path is not on this disk.
  std::optional<FilePlace> kernel_;
  std::vector<FilePlace> initrds_;
  std::string kernel_arguments_;
};

}  // namespace bulkhead::boot_loader

#endif  // BULKHEAD_VMM_BOOT_LOADER_GRUB_SHELL_H_
