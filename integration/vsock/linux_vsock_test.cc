// Linux's own driver on the vsock device: streams between programs of the guest and of the host,
// both ways, one and many, whole and under kills of the device's process. One guest for all tests:
// after each it is as before.

#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/guest_shell.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/vsock/host_end.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Minutes(8);
constexpr size_t kLong = 4 << 20;
constexpr uint32_t kHostPort = 5000;
constexpr uint32_t kNoPort = 4999;  // nobody listens there, on either side

// The value of a figure that the guest's program has printed.
uint64_t Figure(const std::string& figures, absl::string_view name) {
  const size_t at = figures.find(absl::StrCat(" ", name, "="));
  EXPECT_NE(at, std::string::npos) << name << ": " << figures;
  if (at == std::string::npos) return 0;
  return strtoull(figures.c_str() + at + name.size() + 2, nullptr, 10);
}

class LinuxVsockTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const std::string folder = MakeTempFolder();
    path_ = folder + "/v";
    control_ = folder + "/vm.sock";
    server_ = new EchoServer(absl::StrCat(path_, "_", kHostPort));
    const std::string config = absl::StrCat(
        "devices { name: \"console\" binary: \"uart16550\" resources { name: \"console\" ",
        "console { standard_streams: true } } }\n",
        "devices { name: \"vsock0\" binary: \"virtio_vsock\" arg: \"--cid=42\" ",
        "restart { max_crashes: -1 min_backoff: \"1ms\" max_backoff: \"1ms\" } ",
        "resources { name: \"host\" vsock { socket: \"", path_, "\" } } }\n");
    absl::StatusOr<std::unique_ptr<GuestShell>> booted = GuestShell::Boot(
        {"--config=" + WriteTempFile("vm.textproto", config), "--control=" + control_,
         "--memory=256M", "--initrd=" + DataFile("integration/vsock/guest_initramfs.cpio")});
    ASSERT_TRUE(booted.ok()) << booted.status();
    guest_ = booted->release();
  }
  static void TearDownTestSuite() {
    if (guest_ != nullptr) {
      const absl::StatusOr<std::string> errors = guest_->KernelErrors();
      EXPECT_TRUE(errors.ok()) << errors.status();
      EXPECT_EQ(errors.value_or(""), "") << "in the guest's kernel log";
      const absl::StatusOr<ExitInfo> exit = guest_->Leave();
      EXPECT_TRUE(exit.ok()) << exit.status();
      EXPECT_EQ(exit.ok() ? exit->ToString() : "", "exit code 0") << guest_->vm().log();
      EXPECT_NE(access(path_.c_str(), F_OK), 0) << "the socket is left over";
    }
    delete guest_;
    delete server_;
    unlink(absl::StrCat(path_, "_", kHostPort).c_str());
  }
  void SetUp() override { ASSERT_NE(guest_, nullptr); }

  static std::string InGuest(const std::string& command) {
    const absl::StatusOr<std::string> output = guest_->Run(command, kTimeout);
    EXPECT_TRUE(output.ok()) << output.status() << guest_->vm().log();
    return output.value_or("");
  }
  // Runs the guest's program in the background until EndInGuest().
  static void StartInGuest(const std::string& order) {
    InGuest(absl::StrCat("vsock ", order, " > /tmp/out 2>&1 & pid=$!; ",
                         "until grep -q running /tmp/out; do sleep 0.1; done"));
  }
  // What it has printed. Fails the test if it complains.
  static std::string EndInGuest() {
    return InGuest("kill -TERM $pid; wait $pid; code=$?; cat /tmp/out; (exit $code)");
  }
  // The guest's echo server, which may not listen yet when StartInGuest() returns.
  static void ServeInGuest(uint32_t port) {
    StartInGuest(absl::StrCat("serve ", port));
    const absl::Time deadline = absl::Now() + kTimeout;
    while (!ConnectToGuest(path_, port).ok() && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
  static pid_t DevicePid() { return VmClient(control_).PidOf("vsock0"); }

  inline static std::string path_;
  inline static std::string control_;
  inline static EchoServer* server_ = nullptr;
  inline static GuestShell* guest_ = nullptr;
  std::atomic<uint64_t> checked_{0};
};

TEST_F(LinuxVsockTest, AProgramOfTheHostConnectsToOneOfTheGuest) {
  ServeInGuest(7);
  const UniqueFd fd = ConnectToGuest(path_, 7);
  ASSERT_TRUE(fd.ok());
  EXPECT_TRUE(CheckEcho(fd, kLong, 1, checked_));
  EXPECT_EQ(checked_, kLong);
  EXPECT_FALSE(ConnectToGuest(path_, kNoPort).ok());
  const std::string figures = EndInGuest();
  EXPECT_EQ(Figure(figures, "bytes"), kLong);
  EXPECT_EQ(Figure(figures, "reset"), 0u);
}

TEST_F(LinuxVsockTest, AProgramOfTheGuestConnectsToOneOfTheHost) {
  const int accepted = server_->accepted();
  const std::string figures = InGuest(absl::StrCat("vsock call ", kHostPort, " 1 ", kLong));
  EXPECT_EQ(Figure(figures, "bytes"), kLong);
  EXPECT_EQ(server_->accepted(), accepted + 1);
  EXPECT_THAT(InGuest(absl::StrCat("! vsock call ", kNoPort, " 1 1")), HasSubstr(" refused=1 "));
}

TEST_F(LinuxVsockTest, ManyConnectionsAtOnceBothWays) {
  constexpr int kEachWay = 32;
  constexpr size_t kBytes = 40'000;
  const int accepted = server_->accepted();
  ServeInGuest(8);
  std::vector<UniqueFd> connections;
  for (int i = 0; i < kEachWay; ++i) {
    connections.push_back(ConnectToGuest(path_, 8));
    ASSERT_TRUE(connections.back().ok());
  }
  std::atomic<int> whole{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kEachWay; ++i) {
    clients.emplace_back(
        [&, i] { whole += CheckEcho(connections[i], kBytes, static_cast<uint32_t>(i), checked_); });
  }
  const std::string figures =
      InGuest(absl::StrCat("vsock call ", kHostPort, " ", kEachWay, " ", kBytes));
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(whole, kEachWay);
  EXPECT_EQ(checked_, kEachWay * kBytes);
  EXPECT_EQ(Figure(figures, "bytes"), kEachWay * kBytes);
  EXPECT_EQ(server_->accepted(), accepted + kEachWay);
  EXPECT_EQ(Figure(EndInGuest(), "bytes"), kEachWay * kBytes);
}

// A program that only waits for data hears of it, too.
TEST_F(LinuxVsockTest, AKillResetsAConnectionWithoutTraffic) {
  ServeInGuest(9);
  const UniqueFd fd = ConnectToGuest(path_, 9);
  ASSERT_TRUE(fd.ok());
  char byte = 'x';
  ASSERT_EQ(send(fd.get(), &byte, 1, MSG_NOSIGNAL), 1);
  ASSERT_EQ(recv(fd.get(), &byte, 1, 0), 1);
  ASSERT_EQ(kill(DevicePid(), SIGKILL), 0);
  pollfd entry = {.fd = fd.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&entry, 1, 40'000), 1) << "the host's end hangs";
  EXPECT_LE(recv(fd.get(), &byte, 1, 0), 0);
  // New ones work at once, in both directions.
  ExpectWholeEcho(path_, 9, 100'000, checked_);
  InGuest(absl::StrCat("vsock call ", kHostPort, " 1 100000"));
  EXPECT_EQ(Figure(EndInGuest(), "reset"), 1u);
}

TEST_F(LinuxVsockTest, ConnectionsUnderLoadAreResetByKillsAndNoneHangs) {
  ServeInGuest(10);
  InGuest(absl::StrCat("vsock storm ", kHostPort, " 4 > /tmp/storm 2>&1 & storm=$!"));
  std::atomic<bool> stopping{false};
  std::atomic<int> whole{0};
  std::atomic<int> reset{0};
  std::vector<std::thread> clients;
  for (uint32_t client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      for (uint32_t i = 0; !stopping; ++i) {
        const UniqueFd fd = ConnectToGuest(path_, 10);
        const bool is_whole = fd.ok() && CheckEcho(fd, 50'000, client * 1000 + i, checked_);
        ++(is_whole ? whole : reset);
      }
    });
  }
  const absl::Time deadline = absl::Now() + kTimeout;
  for (int kills = 0; kills < 8; ++kills) {
    // Each process has served both directions, and is killed amid that.
    const uint64_t checked = checked_;
    const uint64_t echoed = server_->echoed();
    while ((checked_ < checked + 10'000 || server_->echoed() < echoed + 10'000) &&
           absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_EQ(kill(DevicePid(), SIGKILL), 0);
  }
  EXPECT_LT(absl::Now(), deadline) << "nothing passes";
  stopping = true;
  for (std::thread& client : clients) client.join();
  ExpectWholeEcho(path_, 10, 500'000, checked_);
  const std::string storm =
      InGuest("kill -TERM $storm; wait $storm; code=$?; cat /tmp/storm; (exit $code)");
  InGuest(absl::StrCat("vsock call ", kHostPort, " 4 100000"));
  const std::string served = EndInGuest();
  EXPECT_GT(whole, 0);
  EXPECT_GT(reset, 0);
  EXPECT_GT(Figure(storm, "whole"), 0u) << storm;
  EXPECT_GT(Figure(storm, "reset"), 0u) << storm;
  EXPECT_GT(Figure(served, "whole"), 0u) << served;
  EXPECT_GT(Figure(served, "reset"), 0u) << served;
  printf("host: %d whole, %d reset; guest's calls: %s; guest's server: %s\n", whole.load(),
         reset.load(), storm.c_str(), served.c_str());
}

}  // namespace
}  // namespace bulkhead::integration
