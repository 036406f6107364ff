// Hostile disks: partition tables, FAT file systems, GRUB's scripts and environment, entries of the
// Boot Loader Specification, unified kernel images. Starts from the texts of testdata, where it
// finds them.
#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/testing/fuzz_input.h"
#include "vmm/boot_loader/boot_menu.h"
#include "vmm/boot_loader/fake_file_system.h"
#include "vmm/boot_loader/fat_file_system.h"
#include "vmm/boot_loader/partition_table.h"
#include "vmm/boot_loader/test_disks.h"
#include "vmm/boot_loader/test_unified_kernel.h"

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

// FAT12 with a cluster a sector: /EFI/LINUX/long-name.efi of 1000 bytes.
std::string FatImage() {
  constexpr size_t kFat = 512, kRoot = 1024, kData = 2048;
  std::string bytes(64 * 512, '\0');
  bytes.replace(0, 2, "\xeb\x3c");
  for (const auto& [offset, value, size] : {std::tuple{11, 512, 2},
                                            {13, 1, 1},
                                            {14, 1, 2},
                                            {16, 1, 1},
                                            {17, 32, 2},
                                            {19, 64, 2},
                                            {21, 0xf8, 1},
                                            {22, 1, 2},
                                            {38, 0x29, 1},
                                            {510, 0xaa55, 2}}) {
    Put(bytes, static_cast<size_t>(offset), static_cast<uint64_t>(value),
        static_cast<size_t>(size));
  }
  // Clusters 2 and 3 end, 4 is followed by 5.
  Put(bytes, kFat, 0x005fff'fffff8ull | 0xfff'000ull << 48, 8);
  const auto entry = [&bytes](size_t at, const char* name, int attributes, int cluster, int size) {
    bytes.replace(at, 11, name, 11);
    Put(bytes, at + 11, static_cast<uint64_t>(attributes), 1);
    Put(bytes, at + 26, static_cast<uint64_t>(cluster), 2);
    Put(bytes, at + 28, static_cast<uint64_t>(size), 4);
  };
  entry(kRoot, "EFI        ", 0x10, 2, 0);
  entry(kData, "LINUX      ", 0x10, 3, 0);
  entry(kData + 512 + 32, "LONG-N~1EFI", 0x20, 4, 1000);
  Put(bytes, kData + 512, 0x41, 1);
  Put(bytes, kData + 512 + 11, 0x0f, 1);
  return bytes;
}

void FuzzFat(FuzzInput& input) {
  std::string bytes = FatImage();
  for (int changes = input.Byte() % 24; changes > 0; --changes) {
    const size_t at = input.Byte() < 64 ? 11 + input.Byte() % 52 : 512 + input.Take(2) % 2560;
    bytes[at] = static_cast<char>(input.Byte());
  }
  if (input.Byte() < 32) bytes.resize(input.Take(2) % bytes.size());
  const MemoryDisk disk(std::move(bytes));
  const auto files = OpenFatFileSystem(disk);
  if (!files.ok()) return;
  std::string folder;
  for (int depth = 0; depth < 4; ++depth) {
    const auto names = (*files)->ListFolder(folder);
    if (!names.ok() || names->empty()) break;
    Require(names->size() <= 1000);
    for (size_t i = 0; i < names->size() && i < 4; ++i) {
      const std::string path = absl::StrCat(folder, "/", (*names)[i]);
      const auto text = (*files)->ReadFile(path, 1 << 20, {.offset = input.Byte()});
      Require(!text.ok() || text->size() <= (*files)->FileSize(path).value_or(0));
    }
    folder = absl::StrCat(folder, "/", (*names)[input.Byte() % names->size()]);
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
      {"/loader/loader.conf", Mutated("timeout 3\ndefault a-2*\n", input)},
      {"/EFI/Linux/a-3.efi", Mutated(UnifiedKernelImage({{".osrel", "PRETTY_NAME='A'\n"},
                                                         {".cmdline", "quiet"},
                                                         {".linux", "kernel"},
                                                         {".initrd", "initrd"}}),
                                     input)},
      {"/k", "kernel"},
      {"/i", "initrd"}};
  if (input.Byte() < 128) files.erase("/grub/grub.cfg");
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
  const uint8_t what = input.Byte();
  if (what < 64) {
    bulkhead::boot_loader::FuzzPartitions(input);
  } else if (what < 128) {
    bulkhead::boot_loader::FuzzFat(input);
  } else {
    bulkhead::boot_loader::FuzzMenu(input);
  }
  return 0;
}
