// The processes of a disk of vhost_user die at each of its crash points, which its binary lists
// itself, under a guest that uses the disk in every way; the guest must not notice. Once with relay
// and a qcow2 image, which qemu-storage-daemon serves, and once with the queues lent to a back end
// that keeps a record of requests in flight.
//
// There are many points, and a death costs less than a guest: one guest sees the processes die at
// one point after the other. Each of them meets what the one before has left, so that the order
// counts: long_vhost_user_crash_points_test has others, and a death after each message of the
// handshake.

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <iterator>
#include <memory>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/run_command.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "integration/recovery/device_deaths.h"
#include "integration/vhost_user/back_ends.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Minutes(2);
constexpr char kDisk[] = "disk0";
constexpr char kBinary[] = "vhost_user";
constexpr char kBackEndLost[] = "back_end_lost";
constexpr char kCompletionTaken[] = "completion_taken";
constexpr char kWorkPolled[] = "after_work_polled";
constexpr char kRecoveryNoted[] = "recovery_noted";
constexpr char kMessageSent[] = "message_to_back_end_sent";
// More than a handshake with the start of a queue has.
constexpr int kMessages = 24;
constexpr int kOrders = 5;  // in one run

enum class Mode { kRelayed, kLent };
using Points = std::vector<std::string>;

// Whether a process can come by the point, where it does not poll.
bool IsOf(Mode mode, const std::string& point) {
  constexpr absl::string_view kOfRelay[] = {"before_back_end_is_rung",
                                            "before_results_are_shown",
                                            "completion_noted",
                                            kCompletionTaken,
                                            "completions_shown",
                                            "recovered",
                                            "requests_passed_on_again",
                                            kRecoveryNoted,
                                            "rings_cleared"};
  constexpr absl::string_view kOfLentQueues[] = {"before_queue_counts_as_stopped",
                                                 "before_queue_start", "doorbell_taken_back",
                                                 "requests_in_flight_cleared"};
  const auto is_among = [&point](const auto& names) {
    return std::find(std::begin(names), std::end(names), point) != std::end(names);
  };
  if (point == kWorkPolled) return false;
  if (mode == Mode::kRelayed) return !is_among(kOfLentQueues);
  // Queues that are lent are the back end's.
  return !is_among(kOfRelay) && !absl::StartsWith(point, "queue_");
}

Points PointsOf(Mode mode) {
  Points points;
  for (const std::string& point : CrashPointsOf(kBinary)) {
    if (IsOf(mode, point)) points.push_back(point);
  }
  return points;
}

// Whether the guest must reset the PCI function for a process to come by the point. A reset in
// which a process has died is over: its successor does not come by the next point of it.
bool NeedsReset(const std::string& point) {
  return absl::StartsWith(point, "reset_") || absl::StartsWith(point, "record_");
}

// Nearly the same order, in which each of them is reached.
Points InOrder(const Points& points) {
  Points with_reset, others;
  for (const std::string& point : points) {
    if (point == kBackEndLost || point == kRecoveryNoted) continue;
    (NeedsReset(point) ? with_reset : others).push_back(point);
  }
  // Once, while the second process serves, the back end dies.
  Points ordered = {kBackEndLost};
  size_t resets = 0;
  for (size_t i = 0; i < others.size(); ++i) {
    // The rounds of the guest have one reset each.
    if (i * with_reset.size() / others.size() == resets) ordered.push_back(with_reset[resets++]);
    ordered.push_back(others[i]);
    // There is something to recover from a process that died at work.
    if (others[i] == kCompletionTaken) ordered.push_back(kRecoveryNoted);
  }
  return ordered;
}

class VhostUserCrashPointsTest : public testing::TestWithParam<Mode> {
 protected:
  ~VhostUserCrashPointsTest() override {
    for (const std::string& path : {image_, socket_}) unlink(path.c_str());
  }

  void RunWith(const Points& points, int rounds) {
    const bool lent = GetParam() == Mode::kLent;
    MakeDiskImage();
    if (lent) {
      StartBackEnd();
    } else {
      OutputOf(absl::StrCat("qemu-img create -q -f qcow2 -F raw -b ", DiskImage(), " ", image_));
    }
    const auto [died, log] = RunUnderDeaths(
        {.device = kDisk,
         .binary = kBinary,
         .config = absl::StrCat(more_config_, lent ? OfLentQueues() : OfQcowDisk()),
         .points = points,
         .rounds = rounds,
         .once_killed = [this, &points](const VmProcess& vm, const VmClient& client) {
           if (points[0] == kBackEndLost) KillBackEnd(vm, client);
         }});
    if (died < 0) return;
    EXPECT_EQ(died, static_cast<int>(points.size()) + 1)
        << "not reached: " << points[std::clamp<size_t>(died, 1, points.size()) - 1] << "\n"
        << log;
  }

  std::string more_config_;  // of the disk

 private:
  std::string OfLentQueues() const {
    return absl::StrCat("resources { name: \"back_end\" unix_socket { path: \"", socket_, "\" } }");
  }
  std::string OfQcowDisk() const {
    return absl::StrCat("arg: \"--relay\"\nresources { name: \"back_end\" ",
                        QcowBackEnd(image_, DiskImage()), " }");
  }

  void StartBackEnd() {
    unlink(socket_.c_str());
    absl::StatusOr<std::unique_ptr<ChildProcess>> started = ChildProcess::Start(
        {DataFile("devices/vhost_user/testing/block_back_end"), socket_, DiskImage()}, {});
    ASSERT_TRUE(started.ok()) << started.status();
    lent_to_ = *std::move(started);
    const absl::Time deadline = absl::Now() + kTimeout;
    while (access(socket_.c_str(), F_OK) != 0 && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(10));
    }
  }

  // Once the second process of the device is connected to it. Another one takes its place.
  void KillBackEnd(const VmProcess& vm, const VmClient& client) {
    ASSERT_TRUE(client.AwaitGeneration(kDisk, 2));
    const absl::Time deadline = absl::Now() + kTimeout;
    while (client.DeviceMetric(kDisk, "back_end_connected") != 1 && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    EXPECT_EQ(client.GenerationOf(kDisk), 2u);
    if (GetParam() == Mode::kLent) {
      lent_to_.reset();
      StartBackEnd();
    } else {
      EXPECT_EQ(kill(vm.HelperPid("vmm-back-end"), SIGKILL), 0);
    }
  }

  const std::string image_ = absl::StrCat(testing::TempDir(), "/disk.qcow2");
  const std::string socket_ = absl::StrCat(testing::TempDir(), "/back_end");
  std::unique_ptr<ChildProcess> lent_to_;
};

TEST_P(VhostUserCrashPointsTest, TheGuestNoticesNothing) {
  RunWith(InOrder(PointsOf(GetParam())), /*rounds=*/6);
}

// On a host with two processors.
class PolledVhostUserCrashPointsTest : public VhostUserCrashPointsTest {};

TEST_P(PolledVhostUserCrashPointsTest, TheGuestNoticesNothing) {
  more_config_ = "max_poll: \"10ms\"\n";  // on a busy host the guest takes longer than the default
  RunWith({kWorkPolled, absl::StrCat(kWorkPolled, ":7")}, /*rounds=*/2);
}

class VhostUserCrashOrdersTest : public VhostUserCrashPointsTest {};

TEST_P(VhostUserCrashOrdersTest, EachMessageMayBeTheLast) {
  Points points;
  for (int i = 1; i <= kMessages; ++i) points.push_back(absl::StrCat(kMessageSent, ":", i));
  RunWith(points, /*rounds=*/8);
}

TEST_P(VhostUserCrashOrdersTest, InAnyOrder) {
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < kOrders && !HasFailure(); ++i) {
    Points points = PointsOf(GetParam());
    std::shuffle(points.begin(), points.end(), random);
    points = InOrder(points);
    std::cout << absl::StrJoin(points, " ") << std::endl;
    RunWith(points, /*rounds=*/12);
  }
}

std::string NameOf(const testing::TestParamInfo<Mode>& info) {
  return info.param == Mode::kRelayed ? "Relayed" : "Lent";
}
INSTANTIATE_TEST_SUITE_P(All, VhostUserCrashPointsTest,
                         testing::Values(Mode::kRelayed, Mode::kLent), NameOf);
INSTANTIATE_TEST_SUITE_P(All, VhostUserCrashOrdersTest,
                         testing::Values(Mode::kRelayed, Mode::kLent), NameOf);
INSTANTIATE_TEST_SUITE_P(All, PolledVhostUserCrashPointsTest, testing::Values(Mode::kRelayed),
                         NameOf);

}  // namespace
}  // namespace bulkhead::integration
