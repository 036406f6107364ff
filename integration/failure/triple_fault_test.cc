// What follows a triple fault of the guest.
#include <elf.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(60);

// A PVH kernel of one instruction, UD2: there are no interrupt tables, so it is a triple fault.
std::string CrashingKernel() {
  struct {
    Elf32_Ehdr header{};
    Elf32_Phdr load{};
    Elf32_Phdr note{};
    Elf32_Nhdr note_header{};
    char note_name[4] = {'X', 'e', 'n', 0};
    uint32_t entry = 0x100000;
    uint8_t code[4] = {0x0f, 0x0b, 0x0f, 0x0b};
  } image;
  memcpy(image.header.e_ident, ELFMAG, SELFMAG);
  image.header.e_ident[EI_CLASS] = ELFCLASS32;
  image.header.e_ident[EI_DATA] = ELFDATA2LSB;
  image.header.e_ident[EI_VERSION] = EV_CURRENT;
  image.header.e_type = ET_EXEC;
  image.header.e_machine = EM_386;
  image.header.e_version = EV_CURRENT;
  image.header.e_entry = image.entry;
  image.header.e_phoff = sizeof(Elf32_Ehdr);
  image.header.e_ehsize = sizeof(Elf32_Ehdr);
  image.header.e_phentsize = sizeof(Elf32_Phdr);
  image.header.e_phnum = 2;
  image.load.p_type = PT_LOAD;
  image.load.p_offset = offsetof(decltype(image), code);
  image.load.p_vaddr = image.load.p_paddr = image.entry;
  image.load.p_filesz = image.load.p_memsz = sizeof(image.code);
  image.load.p_flags = PF_R | PF_X;
  image.note.p_type = PT_NOTE;
  image.note.p_offset = offsetof(decltype(image), note_header);
  image.note.p_filesz = image.note.p_memsz =
      sizeof(Elf32_Nhdr) + sizeof(image.note_name) + sizeof(image.entry);
  image.note.p_align = 4;
  image.note_header = {.n_namesz = 4, .n_descsz = 4, .n_type = 18};  // XEN_ELFNOTE_PHYS32_ENTRY
  const std::string path = absl::StrCat(testing::TempDir(), "/crash.elf");
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(&image), sizeof(image));
  return path;
}

TEST(TripleFaultTest, EndsTheVmWithItsExitCode) {
  const auto vm = VmProcess::Start({absl::StrCat("--kernel=", CrashingKernel()), "--console=none"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 4") << (*vm)->log();
}

TEST(TripleFaultTest, BootsTheVmAgainIfItIsToldTo) {
  const auto vm = VmProcess::Start(
      {absl::StrCat("--kernel=", CrashingKernel()), "--console=none", "--on-crash=reboot"});
  ASSERT_TRUE(vm.ok()) << vm.status();
  for (int i = 0; i < 3; ++i) {
    const auto log = (*vm)->WaitForLog("the guest crashed and reboots", kTimeout);
    ASSERT_TRUE(log.ok()) << log.status();
  }
  EXPECT_THAT((*vm)->log(), HasSubstr("triple fault"));
  ASSERT_TRUE((*vm)->Signal(SIGTERM).ok());
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 6") << (*vm)->log();
}

}  // namespace
}  // namespace bulkhead::integration
