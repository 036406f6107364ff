// Each device binary starts, says what it is and ends under the filter of its own policy, without a
// vmm or a launcher.

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/contract.h"
#include "vmm/process/control_client.h"
#include "vmm/sandbox/filtered_child.h"
#include "vmm/sandbox/policy_note.h"
#include "vmm/sandbox/sandbox_descriptors.h"

namespace bulkhead {
namespace {

using vmm::ControlCall;
using vmm::ControlClient;

constexpr int kAboveAll = 100;  // no descriptor of this test has a higher number
constexpr rlim_t kOpenFiles = 256;
constexpr absl::Duration kTimeout = absl::Seconds(20);

class DeviceStartTest : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Devices, DeviceStartTest,
                         testing::Values("example", "rig", "uart16550", "virtio_blk", "virtio_rng"),
                         [](const auto& device) { return std::string(device.param); });

TEST_P(DeviceStartTest, StartsAndEndsUnderItsFilter) {
  const UniqueFd binary(
      open(absl::StrCat("devices/", GetParam(), "/", GetParam()).c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(binary.ok());
  const absl::StatusOr<std::string> policy = vmm::ReadPolicyNote(binary.get());
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_NE(*policy, "");
  auto attach = *CreateSocketPair(SOCK_SEQPACKET);
  auto control = *CreateSocketPair(SOCK_STREAM | SOCK_NONBLOCK);

  const vmm::FilteredEnd end = vmm::RunFiltered({
      .device_policy = *policy,
      .prepare =
          [&] {
            const std::pair<int, int> places[] = {{attach.second.get(), kAttachSocketFd},
                                                  {control.second.get(), kControlSocketFd},
                                                  {binary.get(), vmm::kBinaryFd}};
            int copies[3];
            for (int i = 0; i < 3; ++i)
              copies[i] = fcntl(places[i].first, F_DUPFD_CLOEXEC, kAboveAll);
            for (int i = 0; i < 3; ++i) dup2(copies[i], places[i].second);
            fcntl(vmm::kBinaryFd, F_SETFD, FD_CLOEXEC);
            const rlimit limit = {kOpenFiles, kOpenFiles};
            setrlimit(RLIMIT_NOFILE, &limit);
          },
      .body =
          [] {
            const char* const arguments[] = {GetParam(), nullptr};
            const char* const environment[] = {nullptr};
            syscall(SYS_execveat, vmm::kBinaryFd, "", arguments, environment, AT_EMPTY_PATH);
            return errno;
          },
      .meanwhile =
          [&] {
            control.second.reset();
            const auto client = ControlClient::Create(std::move(control.first));
            ASSERT_TRUE(client.ok()) << client.status();
            ControlCall describe(kTimeout);
            const auto info = (*client)->Describe(describe);
            EXPECT_TRUE(info.ok()) << info.status();
            ControlCall heartbeat(kTimeout);
            EXPECT_TRUE((*client)->Heartbeat(heartbeat).ok());
            ControlCall metrics(kTimeout);
            EXPECT_TRUE((*client)->GetMetrics(metrics).ok());
            ControlCall shutdown(kTimeout);
            (*client)->Shutdown(shutdown).IgnoreError();
          },
  });
  EXPECT_EQ(end.error, "");
  EXPECT_EQ(end.violation, "");
  EXPECT_EQ(end.exit_code, 0);
}

}  // namespace
}  // namespace bulkhead
