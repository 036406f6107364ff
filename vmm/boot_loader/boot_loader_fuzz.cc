// Hostile disks: partition tables, GRUB's scripts and environment, entries of the Boot Loader
// Specification. Starts from the texts of testdata, where it finds them.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/testing/fuzz_input.h"
#include "vmm/boot_loader/boot_menu.h"
#include "vmm/boot_loader/fake_file_system.h"
#include "vmm/boot_loader/partition_table.h"
#include "vmm/boot_loader/test_disks.h"

namespace bulkhead::boot_loader {
namespace {

constexpr const char* kTexts[] = {"debian_12_grub.cfg", "debian_13_grub.cfg",
                                  "ubuntu_24_04_grub.cfg", "fedora_40_grub.cfg"};
constexpr const char* kWords[] = {
    "{",          "}",          "if ",       "then ",       "fi\n",     "else ",   "elif ",
    "while ",     "do ",        "done\n",    "for a in",    "$",        "${",      "\"",
    "'",          "\\",         "function",  " f {",        "f\n",      "[ ",      " ]",
    " -a ",       "!",          "linux /k ", "initrd",      "search ",  "--set=",  "blscfg",
    "load_env\n", "menuentry",  "submenu",   "source ",     "default=", "$prefix", "\n",
    "options",    "(hd0,gpt1)", "$?",        "set a=$a$a\n"};

std::string ReadText(const std::string& name) {
  std::ifstream in(absl::StrCat("vmm/boot_loader/testdata/", name));
  return {(std::istreambuf_iterator<char>(in)), {}};
}

// Changes the text in some places.
std::string Mutated(std::string text, FuzzInput& input) {
  const auto offset = [&] { return input.Take(3) % (text.size() + 1); };
  for (int changes = input.Byte() % 16; changes > 0; --changes) {
    const size_t at = offset();
    switch (input.Byte() % 4) {
      case 0:
        text.erase(at, input.Byte());
        break;
      case 1:
        text.insert(at, text.substr(offset(), input.Byte()));
        break;
      case 2:
        text.insert(at, kWords[input.Byte() % std::size(kWords)]);
        break;
      case 3:
        text.insert(at, 1, static_cast<char>(input.Byte()));
        break;
    }
  }
  return text;
}

void FuzzPartitions(FuzzInput& input) {
  const bool is_gpt = (input.Byte() & 1) != 0;
  std::string bytes =
      is_gpt ? GptDisk({{1, 40, 20}, {2, 70, 100}}) : MbrDisk({{0x83, 40, 20}, {0x05, 100, 100}});
  if (!is_gpt) PutMbr(bytes, 100, {{0x83, 2, 20}, {0x05, 50, 50}});
  for (int changes = input.Byte() % 16; changes > 0; --changes) {
    const size_t at = is_gpt ? 512 + input.Take(2) % 1024
                             : (input.Byte() % 4 != 0 ? 446 : 51'646) + input.Byte() % 66;
    bytes[at] = static_cast<char>(input.Byte());
  }
  // Mostly with checksums that are right: else no reader would get further.
  if (is_gpt && input.Byte() < 224) SealGpt(bytes);
  if (input.Byte() < 32) bytes.resize(input.Take(2) % bytes.size());
  const MemoryDisk disk(bytes);
  const PartitionTable table = ReadPartitionTable(disk);
  Require(table.partitions.size() <= 128);
  for (const Partition& each : table.partitions) {
    Require(each.number > 0 && each.size_bytes > 0);
    Require(each.start_bytes <= disk.size_bytes() &&
            each.size_bytes <= disk.size_bytes() - each.start_bytes);
  }
}

void FuzzMenu(FuzzInput& input) {
  static const auto* const texts = [] {
    auto* const all = new std::vector<std::string>();
    for (const char* name : kTexts) all->push_back(ReadText(name));
    return all;
  }();
  std::string config = (*texts)[input.Byte() % texts->size()];
  if (input.Byte() < 64) {
    config.clear();
    while (!input.empty() && config.size() < 512) {
      config += kWords[input.Byte() % std::size(kWords)];
      if (input.Byte() < 32) config.push_back(static_cast<char>(input.Byte()));
    }
  }
  std::map<std::string, std::string> files = {
      {"/grub/grub.cfg", Mutated(std::move(config), input)},
      {"/grub/grubenv",
       Mutated("# GRUB Environment Block\nsaved_entry=a-1\nkernelopts=root=/dev/vda1 ro\n#",
               input)},
      {"/loader/entries/a-1.conf",
       Mutated("title A\nlinux /k\ninitrd /i $x\noptions $kernelopts quiet\n", input)},
      {"/loader/entries/a-2.conf", Mutated("title B\nlinux /k\n", input)},
      {"/k", "kernel"},
      {"/i", "initrd"}};
  std::vector<Volume> volumes;
  volumes.push_back(
      FakeVolume(1, "hd0,gpt1", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "boot", std::move(files)));
  std::vector<std::string> log;
  const std::string wanted = input.Byte() < 64 ? Mutated("1>0", input) : "";
  const absl::StatusOr<BootPlan> plan = FindBootPlan(volumes, wanted, log);
  Require(log.size() <= 64);
  if (!plan.ok()) {
    Require(absl::IsNotFound(plan.status()));
    return;
  }
  Require(plan->kernel.volume == volumes.data() && !plan->kernel.path.empty());
  Require(plan->initrds.size() <= 16 && plan->command_line.size() < (1 << 20));
}

}  // namespace
}  // namespace bulkhead::boot_loader

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  bulkhead::FuzzInput input(data, size);
  if (input.Byte() < 64) {
    bulkhead::boot_loader::FuzzPartitions(input);
  } else {
    bulkhead::boot_loader::FuzzMenu(input);
  }
  return 0;
}
