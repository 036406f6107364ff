#include "integration/debian_guest/debian_vm.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {

absl::StatusOr<std::unique_ptr<GuestShell>> BootDebian(const std::string& disk,
                                                       const std::vector<std::string>& flags) {
  // The copy lies in the testbed's memory: the half of it that holds nothing takes none.
  const std::string copy = absl::StrCat("cp --sparse=always --no-preserve=mode ",
                                        DataFile("kernel_images/debian_root.img"), " ", disk);
  if (std::system(copy.c_str()) != 0) return absl::InternalError(copy);
  std::vector<std::string> all = {
      absl::StrCat("--kernel=", DataFile("kernel_images/debian_root.vmlinuz")),
      absl::StrCat("--initrd=", DataFile("kernel_images/debian_root.initrd")),
      // As Debian's installer has it; nothing that a real machine would not need.
      "--cmdline=console=ttyS0 root=/dev/vda quiet",
      absl::StrCat("--disk=path=", disk),
  };
  all.insert(all.end(), flags.begin(), flags.end());
  ASSIGN_OR_RETURN(std::unique_ptr<VmProcess> vm, VmProcess::Start(all));
  auto shell = std::make_unique<GuestShell>(std::move(vm));
  RETURN_IF_ERROR(shell->LogIn(kSlowly));
  return shell;
}

}  // namespace bulkhead::integration
