#include "vmm/boot/boot.h"

#include <asm/bootparam.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/boot/boot_file.h"
#include "vmm/boot/memory_map.h"
#include "vmm/boot/test_images.h"
#include "vmm/hypervisor/initial_cpu_state.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kGiB = 1 << 30;
constexpr GuestAddress kRsdp = layout::kAcpiTables;

template <typename T>
T ObjectAt(const GuestMemory& memory, GuestAddress address) {
  T object = {};
  EXPECT_TRUE(memory.ReadObject(address, object));
  return object;
}

MemoryMapEntry Ram(GuestAddress start, GuestAddress end) {
  return {start, end - start, MemoryMapEntry::kRam};
}
MemoryMapEntry Reserved(GuestAddress start, GuestAddress end) {
  return {start, end - start, MemoryMapEntry::kReserved};
}

TEST(MemoryMapTest, HasRamBelowTheEbdaAndAboveOneMiBAndReservesTheVmmsRanges) {
  EXPECT_THAT(BuildMemoryMap(MakeGuestMemory(64 * kMiB)),
              ElementsAre(Ram(0, 0x9fc00), Reserved(0x9fc00, 0x100000), Ram(0x100000, 64 * kMiB),
                          Reserved(0xe0000000, 0xe0100000), Reserved(0xfffbc000, 0xfffc0000)));
}

TEST(MemoryMapTest, RamContinuesAboveTheHole) {
  EXPECT_THAT(BuildMemoryMap(MakeGuestMemory(3 * kGiB, kGiB)),
              ElementsAre(Ram(0, 0x9fc00), Reserved(0x9fc00, 0x100000), Ram(0x100000, 3 * kGiB),
                          Reserved(0xe0000000, 0xe0100000), Reserved(0xfffbc000, 0xfffc0000),
                          Ram(4 * kGiB, 5 * kGiB)));
}

TEST(InitialCpuStateTest, PvhEntersProtectedModeWithoutPaging) {
  const InitialCpuState state = PvhCpuState(0x1000850, 0x6000);
  EXPECT_EQ(state.rip, 0x1000850u);
  EXPECT_EQ(state.rbx, 0x6000u);
  EXPECT_EQ(state.rflags, 2u);
  EXPECT_EQ(state.cr0, 0x11u) << "PE, ET";
  EXPECT_EQ(state.cr4, 0u);
  EXPECT_EQ(state.efer, 0u);
  EXPECT_EQ(EncodeDescriptor(state.code), 0x00cf9b000000ffffu);
  EXPECT_EQ(EncodeDescriptor(state.data), 0x00cf93000000ffffu);
  EXPECT_EQ(EncodeDescriptor(state.task), 0x00008b0000000067u);
  EXPECT_EQ(state.code.limit, 0xffffffffu);
}

TEST(InitialCpuStateTest, Linux64EntersLongModeWithLinuxsSelectors) {
  const InitialCpuState state = Linux64CpuState(0x1000200, 0x7000);
  EXPECT_EQ(state.rip, 0x1000200u);
  EXPECT_EQ(state.rsi, 0x7000u);
  EXPECT_EQ(state.cr0, 0x80000011u) << "PG, PE, ET";
  EXPECT_EQ(state.cr3, 0x9000u);
  EXPECT_EQ(state.cr4, 0x20u) << "PAE";
  EXPECT_EQ(state.efer, 0x500u) << "LMA, LME";
  EXPECT_EQ(state.code.selector, 0x10);
  EXPECT_EQ(state.data.selector, 0x18);
  EXPECT_EQ(EncodeDescriptor(state.code), 0x00af9b000000ffffu);
}

TEST(InitialCpuStateTest, DescriptorsSpreadBaseAndLimitOverTheirBits) {
  Segment segment;
  segment.base = 0x12345678;
  segment.limit = 0xfedcbfff;
  segment.granularity = true;
  segment.privilege_level = 3;
  segment.available = true;
  EXPECT_EQ(EncodeDescriptor(segment), 0x129f60345678edcbu);
}

TEST(InitialCpuStateTest, PageTablesMapTheFirstFourGiBToThemselves) {
  const GuestMemory memory = MakeGuestMemory(16 * kMiB);
  ASSERT_TRUE(WritePageTables(memory).ok());
  for (const GuestAddress address : {GuestAddress{0}, GuestAddress{0x1000200},
                                     GuestAddress{0xbfffffff}, GuestAddress{0xffffffff}}) {
    uint64_t entry = layout::kPageTables;
    for (const int shift : {39, 30, 21}) {
      const GuestAddress table = entry & 0xffffffffff000;
      entry = ObjectAt<uint64_t>(memory, table + (address >> shift & 0x1ff) * 8);
      ASSERT_EQ(entry & 0x3, 0x3u) << "present, writable";
    }
    EXPECT_EQ(entry & 0x80, 0x80u) << "a large page";
    EXPECT_EQ((entry & 0xfffffffe00000) | (address & 0x1fffff), address);
  }
}

TEST(BootFileTest, OnlyARegularFileThatIsNotEmptyIsAccepted) {
  const auto error_of = [](UniqueFd fd) {
    return BootFile::FromFd(std::move(fd), "kernel.initrd", "/x").status();
  };
  EXPECT_EQ(error_of(UniqueFd(open("/", O_RDONLY))).message(),
            "kernel.initrd: \"/x\": not a regular file");
  EXPECT_EQ(error_of(UniqueFd(open("/dev/zero", O_RDONLY))).message(),
            "kernel.initrd: \"/x\": not a regular file");
  EXPECT_EQ(error_of(*CreateMemfd("empty", 0)).message(),
            "kernel.initrd: \"/x\": the file is empty");
}

TEST(BootFileTest, AFileThatShrinksIsAnErrorAndNotABlockedRead) {
  UniqueFd fd = *CreateMemfd("file", 8192);
  const UniqueFd other(dup(fd.get()));
  const BootFile file = *BootFile::FromFd(std::move(fd), "kernel.path", "/x");
  ASSERT_EQ(ftruncate(other.get(), 4096), 0);
  std::array<uint8_t, 8192> bytes;
  EXPECT_EQ(file.ReadAt(0, absl::MakeSpan(bytes)).message(),
            "kernel.path: \"/x\": the file shrank while it was read");
}

class PrepareBootTest : public ::testing::Test {
 protected:
  GuestMemory memory_ = MakeGuestMemory(64 * kMiB);
};

TEST_F(PrepareBootTest, APvhKernelGetsStartInfoModuleAndMemoryMap) {
  const BootSources sources = {.kernel = MakeBootFile(MakeElf({})),
                               .initrd = MakeBootFile(std::string(5000, 'i'), "kernel.initrd"),
                               .command_line = "console=ttyS0"};
  const absl::StatusOr<InitialCpuState> state = PrepareBoot(sources, kRsdp, memory_);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->rip, 0x100000u);
  EXPECT_EQ(state->rbx, layout::kPvhStartInfo);

  struct StartInfo {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line, rsdp, memory_map;
    uint32_t memory_map_entries, reserved;
  };
  const auto info = ObjectAt<StartInfo>(memory_, layout::kPvhStartInfo);
  EXPECT_EQ(info.magic, 0x336ec578u);
  EXPECT_EQ(info.version, 1u);
  EXPECT_EQ(info.rsdp, kRsdp);
  EXPECT_EQ(BytesAt(memory_, info.command_line, 14), std::string("console=ttyS0\0", 14));

  ASSERT_EQ(info.modules, 1u);
  const auto module = ObjectAt<std::array<uint64_t, 4>>(memory_, info.module_list);
  EXPECT_THAT(module, ElementsAre(64 * kMiB - 8192, 5000, 0, 0))
      << "as high as possible, page-aligned";
  EXPECT_EQ(BytesAt(memory_, module[0], 5001), std::string(5000, 'i') + '\0');

  ASSERT_EQ(info.memory_map_entries, 5u);
  const auto second = ObjectAt<std::array<uint64_t, 3>>(memory_, info.memory_map + 24);
  EXPECT_THAT(second, ElementsAre(0x9fc00, 0x60400, 2)) << "the reserved firmware area";
}

TEST_F(PrepareBootTest, ABzImageGetsAZeroPagePageTablesAndGdt) {
  const BootSources sources = {.kernel = MakeBootFile(MakeBzImage({})),
                               .initrd = MakeBootFile(std::string(5000, 'i'), "kernel.initrd"),
                               .command_line = "quiet"};
  const absl::StatusOr<InitialCpuState> state = PrepareBoot(sources, kRsdp, memory_);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->rip, 0x1000200u);
  EXPECT_EQ(state->rsi, layout::kZeroPage);

  const auto params = ObjectAt<boot_params>(memory_, layout::kZeroPage);
  EXPECT_EQ(uint32_t{params.hdr.header}, 0x53726448u) << "HdrS";
  EXPECT_EQ(params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(uint64_t{params.acpi_rsdp_addr}, kRsdp);
  EXPECT_EQ(BytesAt(memory_, params.hdr.cmd_line_ptr, 6), std::string("quiet\0", 6));
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_image}, 64 * kMiB - 8192);
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_size}, 5000u);
  EXPECT_EQ(params.e820_entries, 5);
  EXPECT_EQ(uint64_t{params.e820_table[2].addr}, 0x100000u);
  EXPECT_EQ(uint64_t{params.e820_table[2].size}, 63 * kMiB);
  EXPECT_EQ(uint32_t{params.e820_table[2].type}, 1u);

  const auto gdt = ObjectAt<std::array<uint64_t, 6>>(memory_, state->gdt.base);
  EXPECT_THAT(gdt,
              ElementsAre(0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067, 0));
  EXPECT_EQ(state->gdt.limit, 47);
  EXPECT_NE(ObjectAt<uint64_t>(memory_, state->cr3), 0u);
}

TEST_F(PrepareBootTest, TheInitrdStaysBelowTheKernelsLimit) {
  const BootSources sources = {.kernel = MakeBootFile(MakeBzImage({.initrd_addr_max = 0x2ffffff})),
                               .initrd = MakeBootFile("i", "kernel.initrd")};
  ASSERT_TRUE(PrepareBoot(sources, kRsdp, memory_).ok());
  const auto params = ObjectAt<boot_params>(memory_, layout::kZeroPage);
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_image}, 0x2fff000u);
}

TEST_F(PrepareBootTest, TheInitrdGoesBelowAKernelThatEndsAtTheTop) {
  const BootSources sources = {
      .kernel = MakeBootFile(MakeBzImage({.pref_address = 62 * kMiB, .init_size = 2 * kMiB})),
      .initrd = MakeBootFile("i", "kernel.initrd")};
  ASSERT_TRUE(PrepareBoot(sources, kRsdp, memory_).ok());
  const auto params = ObjectAt<boot_params>(memory_, layout::kZeroPage);
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_image}, 62 * kMiB - 4096);
}

TEST_F(PrepareBootTest, WithoutAnInitrdTheStartInfoHasNoModule) {
  ASSERT_TRUE(PrepareBoot({.kernel = MakeBootFile(MakeBzImage({}))}, kRsdp, memory_).ok());
  const auto params = ObjectAt<boot_params>(memory_, layout::kZeroPage);
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_image}, 0u);
  EXPECT_EQ(uint32_t{params.hdr.ramdisk_size}, 0u);
}

std::string ErrorOf(const BootSources& sources, const GuestMemory& memory) {
  return std::string(PrepareBoot(sources, kRsdp, memory).status().message());
}

TEST_F(PrepareBootTest, AnInitrdThatDoesNotFitIsRefused) {
  const BootSources sources = {
      .kernel = MakeBootFile(MakeBzImage({})),
      .initrd = MakeBootFile(std::string(41 * kMiB, 'x'), "kernel.initrd")};
  EXPECT_THAT(ErrorOf(sources, memory_),
              HasSubstr("kernel.initrd: \"test\": 42991616 bytes do not fit"));
}

TEST_F(PrepareBootTest, TheCommandLineMayHave2047Bytes) {
  BootSources sources = {.kernel = MakeBootFile(MakeElf({})),
                         .command_line = std::string(2047, 'c')};
  EXPECT_TRUE(PrepareBoot(sources, kRsdp, memory_).ok());
  sources.command_line += 'c';
  EXPECT_EQ(ErrorOf(sources, memory_),
            "kernel.cmdline: 2048 bytes long, the kernel accepts at most 2047");
  sources.command_line = std::string("a\0b", 3);
  EXPECT_EQ(ErrorOf(sources, memory_), "kernel.cmdline: contains a zero byte");
}

TEST_F(PrepareBootTest, AKernelsOwnCommandLineLimitIsRespected) {
  const BootSources sources = {.kernel = MakeBootFile(MakeBzImage({.cmdline_size = 10})),
                               .command_line = "12345678901"};
  EXPECT_THAT(ErrorOf(sources, memory_), HasSubstr("at most 10"));
}

}  // namespace
}  // namespace bulkhead::vmm
