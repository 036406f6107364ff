// The options of --disk, as a guest sees them.

#include <stdint.h>
#include <sys/stat.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(120);

int64_t AllocatedBytes(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(stat(path.c_str(), &info), 0);
  return info.st_blocks * 512;
}

// Runs the guest program on a disk of 1 MiB. Returns what it printed.
std::string RunGuest(const std::string& path, const std::string& options,
                     const std::string& orders) {
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        absl::StrCat("--cmdline=run=virtio_blk_test hostile=0 ", orders),
                        "--no-reboot", absl::StrCat("--disk=path=", path, ",", options)});
  if (!vm.ok()) return vm.status().ToString();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0") << (*vm)->log();
  return (*vm)->output();
}

TEST(DiskOptionsTest, DiscardsGiveSpaceBackUnlessThatIsOff) {
  const std::string path = WriteTempFile("discard.img", std::string(1 << 20, 'x'));
  const int64_t before = AllocatedBytes(path);
  ASSERT_GE(before, 1 << 20);
  EXPECT_THAT(RunGuest(path, "discard=off", "discard=0"), HasSubstr("BULKHEAD-PASS"));
  EXPECT_EQ(AllocatedBytes(path), before);
  EXPECT_THAT(RunGuest(path, "discard=on", "discard=1"), HasSubstr("BULKHEAD-PASS"));
  EXPECT_LT(AllocatedBytes(path), before);
}

TEST(DiskOptionsTest, TheGuestSeesTheSerialNumber) {
  const std::string path = WriteTempFile("serial.img", std::string(1 << 20, 'x'));
  EXPECT_THAT(RunGuest(path, "serial=backup,,2026-11-29", ""),
              HasSubstr("2048 sectors, called 'backup,2026-11-29'"));
}

TEST(DiskOptionsTest, ASerialNumberThatIsTooLongIsAMistakeInTheConfiguration) {
  const std::string path = WriteTempFile("long.img", std::string(1 << 20, 'x'));
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm =
      VmProcess::Start({absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
                        absl::StrCat("--disk=path=", path, ",serial=more-than-twenty-bytes")});
  ASSERT_TRUE(vm.ok()) << vm.status();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 2");
  EXPECT_THAT((*vm)->log(), HasSubstr("--serial=more-than-twenty-bytes: is longer than 20 bytes"));
}

}  // namespace
}  // namespace bulkhead::integration
