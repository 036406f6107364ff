#include "vmm/boot/kernel_loader.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/boot/test_images.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint64_t kMiB = 1 << 20;

absl::StatusOr<LoadedKernel> Load(const std::string& bytes, uint64_t memory_bytes = 64 * kMiB) {
  const GuestMemory memory = MakeGuestMemory(memory_bytes);
  return LoadKernel(MakeBootFile(bytes), memory);
}

TEST(KernelLoaderTest, LoadsTheSegmentsOfA64BitElfKernelAtTheirPhysicalAddresses) {
  const GuestMemory memory = MakeGuestMemory(64 * kMiB);
  const std::string file =
      MakeElf({.pvh_entry = 0x1000004,
               .segments = {{0x1000000, "text segment", 12}, {0x3000000, "data", 0x1000}}});
  const absl::StatusOr<LoadedKernel> kernel = LoadKernel(MakeBootFile(file), memory);
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  EXPECT_EQ(kernel->protocol, EntryProtocol::kPvh);
  EXPECT_EQ(kernel->entry, 0x1000004u);
  EXPECT_EQ(kernel->start, 0x1000000u);
  EXPECT_EQ(kernel->end, 0x3001000u);
  EXPECT_EQ(kernel->initrd_limit, layout::kHoleStart);
  EXPECT_EQ(kernel->max_command_line_bytes, 2047u);
  EXPECT_EQ(BytesAt(memory, 0x1000000, 12), "text segment");
  EXPECT_EQ(BytesAt(memory, 0x3000000, 5), std::string("data\0", 5));
}

TEST(KernelLoaderTest, ALargeKernelIsTheSameOverHugePages) {
  std::string bytes(20 * kMiB, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 251);
  const GuestMemory memory = MakeGuestMemory(64 * kMiB);
  const std::string file = MakeElf({.segments = {{0x100000, bytes, 22 * kMiB}}});
  const absl::StatusOr<LoadedKernel> kernel = LoadKernel(MakeBootFile(file), memory);
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  EXPECT_TRUE(BytesAt(memory, 0x100000, bytes.size()) == bytes);
  EXPECT_EQ(BytesAt(memory, 0x100000 + bytes.size(), 2 * kMiB), std::string(2 * kMiB, '\0'));
}

TEST(KernelLoaderTest, LoadsA32BitElfWithAFourByteNote) {
  const absl::StatusOr<LoadedKernel> kernel = Load(MakeElf({.is_64bit = false,
                                                            .machine = 3,  // EM_386
                                                            .pvh_entry = 0x100002,
                                                            .note_descriptor_bytes = 4}));
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  EXPECT_EQ(kernel->entry, 0x100002u);
  EXPECT_EQ(kernel->end, 0x102000u);
}

TEST(KernelLoaderTest, LoadsABzImageAtItsPreferredAddress) {
  const GuestMemory memory = MakeGuestMemory(64 * kMiB);
  const absl::StatusOr<LoadedKernel> kernel =
      LoadKernel(MakeBootFile(MakeBzImage({.setup_sectors = 3})), memory);
  ASSERT_TRUE(kernel.ok()) << kernel.status();
  EXPECT_EQ(kernel->protocol, EntryProtocol::kLinux64);
  EXPECT_EQ(kernel->entry, 0x1000200u);
  EXPECT_EQ(kernel->start, 0x1000000u);
  EXPECT_EQ(kernel->end, 0x1800000u) << "init_size, not the file's size";
  EXPECT_EQ(kernel->initrd_limit, 0x80000000u);
  const std::string image = BytesAt(memory, 0x1000000, 0x1001);
  EXPECT_EQ(static_cast<uint8_t>(image[0xfff]), 0xfff % 251);
  EXPECT_EQ(image[0x1000], '\0') << "nothing past syssize";
  ASSERT_EQ(kernel->setup_header.size(), 0x7bu) << "0x202 + 0x6a - 0x1f1";
  EXPECT_EQ(kernel->setup_header[0], 3) << "setup_sects comes first";
}

TEST(KernelLoaderTest, ABzImageWithoutASetupSectorCountHasFour) {
  EXPECT_TRUE(Load(MakeBzImage({.setup_sectors = 0})).ok());
}

TEST(KernelLoaderTest, ARelocatableBzImageIsAlignedAndAFixedOneIsNot) {
  EXPECT_EQ(Load(MakeBzImage({.pref_address = 0x1000001}))->start, 0x1200000u);
  EXPECT_EQ(Load(MakeBzImage({.pref_address = 0}))->start, 0x200000u);
  EXPECT_EQ(Load(MakeBzImage({.relocatable = 0, .pref_address = 0x1000100}))->start, 0x1000100u);
}

TEST(KernelLoaderTest, BytesAfterABzImagesCodeAreNotLoaded) {
  EXPECT_TRUE(Load(MakeBzImage({}) + "a signature").ok());
}

struct BadKernel {
  std::string name;
  std::string bytes;
  std::string error;
};

void PrintTo(const BadKernel& bad, std::ostream* out) { *out << bad.name; }

class BadKernelTest : public ::testing::TestWithParam<BadKernel> {};

TEST_P(BadKernelTest, IsRefusedWithOneLineThatNamesTheFile) {
  const absl::Status status = Load(GetParam().bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), StartsWith("kernel.path: \"test\": "));
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().error));
  EXPECT_THAT(std::string(status.message()), ::testing::Not(HasSubstr("\n")));
}

std::string Truncated(std::string bytes, size_t size) {
  bytes.resize(size);
  return bytes;
}

// A 64-bit ELF with the bytes at `offset` replaced.
std::string Patched(std::string bytes, size_t offset, const std::string& patch) {
  return bytes.replace(offset, patch.size(), patch);
}

INSTANTIATE_TEST_SUITE_P(Files, BadKernelTest,
                         ::testing::Values(BadKernel{"OneByte", "x",
                                                     "neither an ELF file nor a bzImage"},
                                           BadKernel{"Text", std::string(4096, 'x'),
                                                     "neither an ELF file nor a bzImage"}));

INSTANTIATE_TEST_SUITE_P(
    Elf, BadKernelTest,
    ::testing::Values(
        BadKernel{"OnlyMagic", "\177ELF", "truncated"},
        BadKernel{"HalfAHeader", Truncated(MakeElf({}), 40), "truncated"},
        BadKernel{"HalfTheProgramHeaders", Truncated(MakeElf({}), 100), "truncated"},
        BadKernel{"LastByteMissing", Truncated(MakeElf({}), MakeElf({}).size() - 1), "truncated"},
        BadKernel{"BigEndian", Patched(MakeElf({}), 5, "\2"), "little-endian"},
        BadKernel{"NoClass", Patched(MakeElf({}), 4, "\7"), "neither 32 nor 64 bits"},
        BadKernel{"OtherMachine", MakeElf({.machine = 183}), "machine 183"},
        BadKernel{"SharedObject", MakeElf({.type = 3}), "type 3"},
        BadKernel{"NoProgramHeaders", Patched(MakeElf({}), 56, std::string(2, '\0')),
                  "0 program headers"},
        BadKernel{"TooManyProgramHeaders", Patched(MakeElf({}), 56, "\377\377"),
                  "65535 program headers"},
        BadKernel{"ProgramHeaderOffsetWraps", Patched(MakeElf({}), 32, std::string(8, '\377')),
                  "truncated"},
        BadKernel{"NoPvhNote", MakeElf({.note_type = 17}), "without a PVH entry note"},
        BadKernel{"OddNote", MakeElf({.note_descriptor_bytes = 5}), "PVH entry note of 5 bytes"},
        // The note's header follows the ELF header and two program headers.
        BadKernel{"NoteNameTooLong", Patched(MakeElf({}), 64 + 2 * 56, std::string(4, '\377')),
                  "runs past its segment"},
        BadKernel{"HugeNoteSegment", Patched(MakeElf({}), 64 + 32, std::string(8, '\177')),
                  "note segment"},
        BadKernel{"EntryInBss", MakeElf({.pvh_entry = 0x100800}), "is in no segment"},
        BadKernel{"EntryNowhere", MakeElf({.pvh_entry = ~uint64_t{0}}), "is in no segment"},
        BadKernel{"NoSegments", MakeElf({.segments = {}}), "is in no segment"},
        BadKernel{"LowSegment", MakeElf({.segments = {{0x9000, "x", 1}}}), "below 1 MiB"},
        BadKernel{"SegmentPastMemory", MakeElf({.segments = {{64 * kMiB - 1, "xy", 2}}}),
                  "more memory"},
        BadKernel{"SegmentFarPastMemory", MakeElf({.segments = {{uint64_t{1} << 40, "x", 1}}}),
                  "more memory"},
        BadKernel{"HugeMemorySize", MakeElf({.segments = {{0x100000, "x", ~uint64_t{0}}}}),
                  "more memory"},
        BadKernel{"AddressWraps", MakeElf({.segments = {{~uint64_t{0} - 4095, "x", 8192}}}),
                  "more memory"},
        BadKernel{"MoreInFileThanInMemory", MakeElf({.segments = {{0x100000, "abc", 2}}}),
                  "more bytes in the file"},
        BadKernel{"OverlappingSegments",
                  MakeElf({.segments = {{0x101000, "x", 1}, {0x100000, "x", 0x1001}}}),
                  "overlap at 0x101000"}));

INSTANTIATE_TEST_SUITE_P(
    BzImage, BadKernelTest,
    ::testing::Values(
        BadKernel{"HeaderCutOff", Truncated(MakeBzImage({}), 0x208), "truncated bzImage"},
        BadKernel{"LastByteMissing", Truncated(MakeBzImage({}), 1024 + 0xfff),
                  "truncated bzImage: it has 5119 bytes, its header requires 5120"},
        BadKernel{"NoBootFlag", Patched(MakeBzImage({}), 0x1fe, "xx"), "boot flag"},
        BadKernel{"OldProtocol", MakeBzImage({.protocol = 0x020b}), "boot protocol 2.11"},
        BadKernel{"ZImage", MakeBzImage({.loadflags = 0}), "zImage"},
        BadKernel{"No64BitEntry", MakeBzImage({.xloadflags = 2}), "64-bit entry point"},
        BadKernel{"OddAlignment", MakeBzImage({.kernel_alignment = 3}), "kernel_alignment"},
        BadKernel{"NoAlignment", MakeBzImage({.kernel_alignment = 0}), "kernel_alignment"},
        BadKernel{"PreferredAddressHuge", MakeBzImage({.pref_address = ~uint64_t{0}}),
                  "load address"},
        BadKernel{"FixedBelowOneMiB", MakeBzImage({.relocatable = 0, .pref_address = 0x9000}),
                  "load address would be 0x9000"},
        BadKernel{"NoCode",
                  MakeBzImage({.payload_offset = 0, .payload_length = 0, .image_bytes = 0x200}),
                  "payload"},
        BadKernel{"PayloadPastCode", MakeBzImage({.payload_length = 0xe01}), "payload"},
        BadKernel{"PayloadWraps", MakeBzImage({.payload_length = 0xffffffff}), "payload"},
        BadKernel{"HugeInitSize", MakeBzImage({.init_size = 0xffffffff}), "more memory"},
        BadKernel{"AtTheEndOfMemory",
                  MakeBzImage({.pref_address = 62 * kMiB, .init_size = 2 * kMiB + 1}),
                  "more memory"},
        BadKernel{"PastMemory", MakeBzImage({.pref_address = 64 * kMiB}), "more memory"}));

TEST(KernelLoaderTest, ABzImageMayEndAtTheEndOfMemory) {
  EXPECT_TRUE(Load(MakeBzImage({.pref_address = 62 * kMiB, .init_size = 2 * kMiB})).ok());
}

TEST(KernelLoaderTest, NothingIsLoadedAboveTheHole) {
  const GuestMemory memory = MakeGuestMemory(16 * kMiB, 16 * kMiB);
  EXPECT_FALSE(LoadKernel(MakeBootFile(MakeElf({.pvh_entry = layout::kHoleEnd,
                                                .segments = {{layout::kHoleEnd, "x", 1}}})),
                          memory)
                   .ok());
}

}  // namespace
}  // namespace bulkhead::vmm
