// A disk that grows while its guest uses it: the guest hears of it by an interrupt, and uses what
// is new, whatever happens to the disk's process.

#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(120);
constexpr uint64_t kMiB = 1 << 20;

uint64_t SizeOf(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(stat(path.c_str(), &info), 0);
  return static_cast<uint64_t>(info.st_size);
}

class DiskResizeTest : public testing::Test {
 protected:
  // Boots a guest that uses a disk of 1 MiB until it has `until` bytes.
  void Boot(const std::string& name, uint64_t until) {
    Start(name, absl::StrCat("disk_growth until=", until / 512), "starts with 2048 sectors");
  }
  void Start(const std::string& name, const std::string& orders, const std::string& begin) {
    path_ = WriteTempFile(name + ".img", std::string(kMiB, '\0'));
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
        {absl::StrCat("--name=", name), "--console=stdio", "--no-reboot",
         absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
         absl::StrCat("--cmdline=run=", orders), absl::StrCat("--disk=path=", path_)});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->WaitForOutput(begin, kTimeout).ok()) << vm_->log();
    client_ = std::make_unique<VmClient>(ControlSocketOf(name));
  }

  void ExpectGuestHas(uint64_t bytes) {
    EXPECT_TRUE(vm_->WaitForOutput(absl::StrCat("has ", bytes / 512, " sectors"), kTimeout).ok())
        << vm_->output() << vm_->log();
  }

  void ExpectPass() {
    EXPECT_EQ(vm_->WaitForExit(kTimeout)->ToString(), "exit code 0") << vm_->log();
    EXPECT_THAT(vm_->output(), HasSubstr("BULKHEAD-PASS"));
  }

  std::string path_;
  std::unique_ptr<VmProcess> vm_;
  std::unique_ptr<VmClient> client_;
};

TEST_F(DiskResizeTest, TheGuestHearsOfEachSizeWhateverDies) {
  Boot("grows", 7 * kMiB);
  if (HasFatalFailure()) return;
  ASSERT_TRUE(client_->ResizeDisk("disk0", 2 * kMiB).ok());
  ExpectGuestHas(2 * kMiB);
  EXPECT_EQ(SizeOf(path_), 2 * kMiB);
  ASSERT_TRUE(client_->KillProcessOf("disk0"));
  ASSERT_TRUE(vm_->WaitForLog("serves again", kTimeout).ok());

  ASSERT_EQ(truncate(path_.c_str(), 4 * kMiB), 0);
  ASSERT_TRUE(client_->ResizeDisk("disk0", 0).ok());
  ExpectGuestHas(4 * kMiB);

  // Four deaths in all: the fifth within a minute counts as a failure of the device.
  for (uint64_t mib = 5; mib <= 7; ++mib) {
    ASSERT_TRUE(client_->KillProcessOf("disk0"));
    const absl::StatusOr<v1::Device> resized = client_->ResizeDisk("disk0", mib * kMiB);
    EXPECT_TRUE(resized.ok()) << resized.status();
    ExpectGuestHas(mib * kMiB);
  }
  ExpectPass();
}

TEST_F(DiskResizeTest, NothingIsEverCutOff) {
  Boot("shrinks", 4 * kMiB);
  if (HasFatalFailure()) return;
  ASSERT_TRUE(client_->ResizeDisk("disk0", 2 * kMiB).ok());
  ExpectGuestHas(2 * kMiB);
  const absl::Status smaller = client_->ResizeDisk("disk0", kMiB).status();
  EXPECT_EQ(smaller.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(smaller.message()), HasSubstr("would cut off"));
  EXPECT_EQ(SizeOf(path_), 2 * kMiB);
  EXPECT_EQ(client_->ResizeDisk("disk0", 3 * kMiB + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->ResizeDisk("console", 0).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(client_->ResizeDisk("disk9", 0).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(client_->ResizeDisk("disk0", 4 * kMiB).ok());
  ExpectGuestHas(4 * kMiB);
  ExpectPass();
}

TEST_F(DiskResizeTest, AnImageThatTheHostHasCutIsAnErrorUntilARestartTakesItAsItIs) {
  Start("cut", "idle halt=1", "idle");
  if (HasFatalFailure()) return;
  ASSERT_EQ(truncate(path_.c_str(), kMiB / 2), 0);
  const pid_t before = client_->PidOf("disk0");
  const absl::Status cut = client_->ResizeDisk("disk0", 0).status();
  EXPECT_EQ(cut.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(cut.message()),
              HasSubstr("has become smaller, 524288 bytes instead of 1048576"));
  EXPECT_EQ(client_->PidOf("disk0"), before);
  EXPECT_TRUE(client_->RestartDevice("disk0").ok());
  EXPECT_TRUE(client_->ResizeDisk("disk0", 0).ok());
}

}  // namespace
}  // namespace bulkhead::integration
