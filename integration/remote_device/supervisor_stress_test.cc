// Accesses go on from several threads while the device's process is killed, stopped and replaced at
// random moments: every write takes effect exactly once, and no read is lost.
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "devices/host/testdata/misbehaving_device.h"
#include "gtest/gtest.h"
#include "integration/remote_device/supervised_test.h"
#include "vmm/config/vm_spec.h"
#include "vmm/supervisor/device_supervisor.h"

namespace bulkhead::vmm {
namespace {

namespace regs = devices::testdata;

constexpr int kKills = 200;
constexpr uint32_t kVcpus = 3;

struct Storm {
  const char* name;
  bool spare;
  bool commands;  // restarts and resets that are asked for, too
  int stops;      // of the kills, every how many-th is a SIGSTOP; 0: none
};

class StormTest : public SupervisedTest, public testing::WithParamInterface<Storm> {};

TEST_P(StormTest, EveryWriteTakesEffectOnceAndEveryReadIsAnswered) {
  DeviceSpec spec = Spec("");
  spec.spare = GetParam().spare;
  spec.restart = {.min_backoff = absl::Milliseconds(1),
                  .max_backoff = absl::Milliseconds(1),
                  .max_crashes = -1};
  spec.heartbeat = {.interval = absl::Milliseconds(50), .misses = 3};
  spec.access_timeout = kTestTimeout;
  absl::StatusOr<std::unique_ptr<DeviceSupervisor>> created = Supervise(std::move(spec));
  ASSERT_TRUE(created.ok()) << created.status();
  DeviceSupervisor& device = **created;

  std::atomic<bool> over{false};
  std::atomic<uint64_t> sent{0};  // the sum of what was written, or is being written
  std::atomic<uint64_t> writes{0};
  std::atomic<uint64_t> accesses{0};
  std::vector<std::thread> vcpus;
  for (uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
    vcpus.emplace_back([&, vcpu] {
      std::minstd_rand random(vcpu + 1);
      uint64_t own = 0;
      while (!over) {
        const uint64_t value = random() % 1000 + 1;
        const bool post = random() % 2 == 0;
        sent += value;
        ++writes;
        if (post) {
          device.device().PostWrite(vcpu, 0, regs::kAdd, 8, value);
        } else {
          device.device().WriteAndWait(vcpu, 0, regs::kAdd, 8, value);
        }
        own += value;
        const uint64_t sum = device.device().Read(vcpu, 0, regs::kAdd, 8);
        EXPECT_GE(sum, own);
        EXPECT_LE(sum, sent.load());
        accesses += 2;
      }
    });
  }

  std::minstd_rand random(7);
  uint64_t seen = 0;
  for (int i = 0; i < kKills; ++i) {
    // Some kills hit a process that serves, some one that attaches, some one that starts.
    absl::SleepFor(absl::Microseconds(random() % 15000));
    if (i % 8 == 0) {  // now and then the guest gets somewhere in between
      ASSERT_TRUE(WaitUntil([&] { return accesses.load() > seen; }));
      seen = accesses.load();
    }
    if (GetParam().commands && i % 10 == 5) {
      // Fails if the new process is killed in the middle of it.
      Restart(device).IgnoreError();
    }
    const bool stop = GetParam().stops != 0 && i % GetParam().stops == 0;
    for (const pid_t child : Children()) {
      if (random() % 4 != 0) kill(child, stop ? SIGSTOP : SIGKILL);
    }
  }
  ASSERT_TRUE(WaitUntil([&] { return accesses.load() > seen + 100; }));
  over = true;
  for (std::thread& vcpu : vcpus) vcpu.join();
  EXPECT_EQ(device.device().Read(0, 0, regs::kAdd, 8), sent.load());
  EXPECT_EQ(device.device().Read(0, 0, regs::kWriteCount, 8), writes.load());
  EXPECT_EQ(device.device().dropped_accesses() + device.device().timed_out_accesses(), 0u);
  const v1::Device described = device.Describe();
  EXPECT_GT(described.restarts(), 10u);
  printf("%d attempts, %d restarts, %d accesses\n", static_cast<int>(described.generation()),
         static_cast<int>(described.restarts()), static_cast<int>(accesses.load()));
}

INSTANTIATE_TEST_SUITE_P(Storms, StormTest,
                         testing::Values(Storm{"Kills", false, false, 0},
                                         Storm{"KillsWithSpares", true, false, 0},
                                         Storm{"KillsStopsAndCommands", false, true, 20},
                                         Storm{"KillsStopsAndCommandsWithSpares", true, true, 20}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace bulkhead::vmm
