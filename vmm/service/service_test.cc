// With a socket as a service manager has it.
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/vm_control.pb.h"
#include "vmm/service/notify_socket.h"
#include "vmm/service/service_status.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {
namespace {

class ServiceTest : public testing::Test {
 protected:
  // `name`: of the socket, '@' for an abstract one.
  void Listen(const std::string& name) {
    sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
    ASSERT_LT(name.size(), sizeof(address.sun_path));
    memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@') address.sun_path[0] = '\0';
    unlink(name.c_str());
    listening_ = UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    ASSERT_EQ(bind(listening_.get(), reinterpret_cast<const sockaddr*>(&address),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
              0)
        << strerror(errno);
    setenv("NOTIFY_SOCKET", name.c_str(), 1);
  }
  void TearDown() override {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) unsetenv(name);
  }
  // The next datagram, or "nothing".
  std::string Next() {
    char buffer[8192];
    const ssize_t size = recv(listening_.get(), buffer, sizeof(buffer), 0);
    return size < 0 ? "nothing" : std::string(buffer, static_cast<size_t>(size));
  }
  static v1::Event DeviceIs(const std::string& device, v1::Device::State state) {
    v1::Event event;
    event.mutable_device_state()->set_device(device);
    event.mutable_device_state()->set_to(state);
    return event;
  }
  static v1::Event VmIs(v1::VmStatus::State state, const std::string& reason) {
    v1::Event event;
    event.mutable_vm_state()->set_state(state);
    event.mutable_vm_state()->set_reason(reason);
    return event;
  }

  UniqueFd listening_;
};

TEST_F(ServiceTest, WithoutAManagerNothingIsSaid) {
  const NotifySocket socket = NotifySocket::FromEnvironment();
  EXPECT_FALSE(socket.connected());
  EXPECT_EQ(socket.watchdog_interval(), absl::InfiniteDuration());
  socket.Send("READY=1");
  EventLog events;
  const ServiceStatus status(socket, events);
  events.Append(VmIs(v1::VmStatus::PAUSED, ""));
}

TEST_F(ServiceTest, TakesTheVariablesAwayAndSpeaksToEitherKindOfSocket) {
  for (const std::string& name : {TempPath("notify"), absl::StrCat("@bulkhead-", getpid())}) {
    ASSERT_NO_FATAL_FAILURE(Listen(name));
    setenv("WATCHDOG_USEC", "3000000", 1);
    setenv("WATCHDOG_PID", absl::StrCat(getpid()).c_str(), 1);
    const NotifySocket socket = NotifySocket::FromEnvironment();
    EXPECT_TRUE(socket.connected());
    EXPECT_EQ(socket.watchdog_interval(), absl::Milliseconds(1500));
    for (const char* variable : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) {
      EXPECT_EQ(getenv(variable), nullptr);
    }
    socket.Send("WATCHDOG=1");
    EXPECT_EQ(Next(), "WATCHDOG=1");
  }
}

TEST_F(ServiceTest, AnotherProcessesWatchdogIsNotOurs) {
  ASSERT_NO_FATAL_FAILURE(Listen(TempPath("notify")));
  setenv("WATCHDOG_USEC", "3000000", 1);
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_EQ(NotifySocket::FromEnvironment().watchdog_interval(), absl::InfiniteDuration());
  for (const char* wrong : {"", "-1", "0", "soon"}) {
    ASSERT_NO_FATAL_FAILURE(Listen(TempPath("notify")));
    setenv("WATCHDOG_USEC", wrong, 1);
    EXPECT_EQ(NotifySocket::FromEnvironment().watchdog_interval(), absl::InfiniteDuration());
  }
}

TEST_F(ServiceTest, AManagerThatIsNotThereOrDoesNotReadKeepsNobody) {
  for (const char* name : {"", "relative", "/no/such/socket", "vsock:2:1"}) {
    setenv("NOTIFY_SOCKET", name, 1);
    EXPECT_FALSE(NotifySocket::FromEnvironment().connected()) << name;
  }
  setenv("NOTIFY_SOCKET", std::string(200, '/').c_str(), 1);
  EXPECT_FALSE(NotifySocket::FromEnvironment().connected());
  ASSERT_NO_FATAL_FAILURE(Listen(TempPath("notify")));
  const NotifySocket socket = NotifySocket::FromEnvironment();
  for (int i = 0; i < 10'000; ++i) socket.Send("WATCHDOG=1");
  listening_ = UniqueFd();
  socket.Send("WATCHDOG=1");
}

TEST_F(ServiceTest, StatusNamesWhatDoesNotRun) {
  ASSERT_NO_FATAL_FAILURE(Listen(TempPath("notify")));
  const NotifySocket socket = NotifySocket::FromEnvironment();
  EventLog events;
  events.Append(DeviceIs("rng0", v1::Device::FAILED));
  events.Append(DeviceIs("net0", v1::Device::RUNNING));
  const ServiceStatus status(socket, events);
  EXPECT_EQ(Next(), "READY=1");
  EXPECT_EQ(Next(), "STATUS=running; rng0 failed");
  events.Append(DeviceIs("disk0", v1::Device::RESTARTING));
  EXPECT_EQ(Next(), "STATUS=running; disk0 restarting; rng0 failed");
  events.Append(DeviceIs("disk0", v1::Device::RUNNING));
  EXPECT_EQ(Next(), "STATUS=running; rng0 failed");
  events.Append(v1::Event());
  EXPECT_EQ(Next(), "nothing");
  events.Append(DeviceIs("rng0", v1::Device::RUNNING));
  EXPECT_EQ(Next(), "STATUS=running");
  events.Append(VmIs(v1::VmStatus::PAUSED, "by a client\nREADY=0"));
  EXPECT_EQ(Next(), "STATUS=paused: by a client READY=0");
  events.Append(VmIs(v1::VmStatus::ENDING, "stopped"));
  EXPECT_EQ(Next(), "STOPPING=1\nSTATUS=ending: stopped");
}

}  // namespace
}  // namespace bulkhead::vmm
