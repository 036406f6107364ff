// Loads Debian's kernel in both formats.

#include <fcntl.h>
#include <stdlib.h>

#include <string>

#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/boot_file.h"
#include "vmm/boot/test_images.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kMiB = 1 << 20;

BootFile OpenKernel(const std::string& name) {
  const std::string path = std::string(getenv("TEST_SRCDIR")) + "/debian_guest_kernel/" + name;
  return *BootFile::FromFd(UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC)), "kernel.path", path);
}

TEST(DebianKernelTest, TheElfFormStartsAtItsPvhEntry) {
  const GuestMemory memory = MakeGuestMemory(256 * kMiB);
  const absl::StatusOr<InitialCpuState> state =
      PrepareBoot({.kernel = OpenKernel("vmlinux")}, layout::kAcpiTables, memory);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->efer, 0u);
  // pvh_start_xen: cld, then lgdt.
  EXPECT_EQ(BytesAt(memory, state->rip, 4), "\xfc\x0f\x01\x15");
}

TEST(DebianKernelTest, TheBzImageStartsAtIts64BitEntry) {
  const GuestMemory memory = MakeGuestMemory(256 * kMiB);
  const absl::StatusOr<InitialCpuState> state =
      PrepareBoot({.kernel = OpenKernel("bzImage")}, layout::kAcpiTables, memory);
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->efer, 0x500u);
  // startup_64: cld, cli.
  EXPECT_EQ(BytesAt(memory, state->rip, 2), "\xfc\xfa");
}

TEST(DebianKernelTest, NeitherFormFitsIntoTooLittleMemory) {
  const GuestMemory memory = MakeGuestMemory(16 * kMiB);
  for (const char* name : {"vmlinux", "bzImage"}) {
    const absl::Status status =
        PrepareBoot({.kernel = OpenKernel(name)}, layout::kAcpiTables, memory).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_NE(status.message().find("more memory"), absl::string_view::npos) << status;
  }
}

}  // namespace
}  // namespace bulkhead::vmm
