// A disk whose file system stalls, as a network's may: its process is healthy, and stays.

#include <fcntl.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "devices/virtio_blk/testing/slow_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kTimeout = absl::Seconds(120);
constexpr int kStallMs = 10'000;

class SlowDiskTest : public testing::TestWithParam<std::string> {
 protected:
  // One server for all tests: its mount namespace is the process's.
  static SlowFile& Slow() {
    static SlowFile* const file =
        SlowFile::Create(testing::TempDir() + "/slow", 16 << 20).value().release();
    return *file;
  }
};

TEST_P(SlowDiskTest, AFileSystemThatStallsIsNoHangOfTheDevice) {
  Slow().set_delay_ms(1);
  const std::string name = absl::StrCat("stall-", GetParam());
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
      {absl::StrCat("--name=", name), "--console=stdio", "--no-reboot",
       absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
       "--cmdline=run=disk_storm until_key=1 blocks=64",
       absl::StrCat("--device=name=disk0,binary=virtio_blk,arg=--io_engine=", GetParam(),
                    ",file:disk=", Slow().path())});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("storm begins", kTimeout).ok()) << (*vm)->log();
  const VmClient client(ControlSocketOf(name));
  const absl::StatusOr<v1::Device> before = client.GetDevice("disk0");
  ASSERT_TRUE(before.ok()) << before.status();

  // Longer than five heartbeats: a thread that waits for the file would be taken for hung.
  const int requests = Slow().requests();
  Slow().set_delay_ms(kStallMs);
  // What follows the first stalled request must not stall, too: a thread that writes reports a few
  // writes at a time, and the guest waits for 11.5 s.
  absl::SleepFor(absl::Milliseconds(kStallMs - 500));
  Slow().set_delay_ms(1);
  EXPECT_GT(Slow().requests(), requests) << "nothing stalled: the test shows nothing";

  ASSERT_TRUE((*vm)->Type("x").ok());
  ASSERT_TRUE((*vm)->WaitForOutput("storm ends", kTimeout).ok()) << (*vm)->log();
  EXPECT_EQ((*vm)->WaitForExit(kTimeout)->ToString(), "exit code 0") << (*vm)->output();
  EXPECT_THAT((*vm)->log(), Not(HasSubstr("heartbeat")));
  EXPECT_THAT((*vm)->log(), Not(HasSubstr("serves again")));
}

INSTANTIATE_TEST_SUITE_P(Engines, SlowDiskTest, testing::Values("io_uring", "threads"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace bulkhead::integration
