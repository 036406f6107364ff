// The commands of the control plane, as the thread of the data plane carries them out.
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/message_socket.h"
#include "base/steady_time.h"
#include "base/unique_fd.h"
#include "devices/host/control_mailbox.h"
#include "devices/host/device_host.h"
#include "devices/host/device_model.h"
#include "devices/host/durable_state.h"
#include "devices/host/testing/vmm_side.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/contract.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;
using CommandType = ControlMailbox::CommandType;

constexpr absl::Duration kLong = absl::Seconds(30);        // never passes in a test that works
constexpr absl::Duration kShort = absl::Milliseconds(50);  // passes where nothing is expected

// A device with one register of 8 bytes and work that ends when the test says so.
class FakeModel : public DeviceModel {
 public:
  static constexpr uint64_t kHang = 8;   // W: does not return until hang_ends
  static constexpr uint64_t kWork = 16;  // W: as kHang, but says that it is alive

  v1::DeviceInfo Describe() const override {
    v1::DeviceInfo info;
    info.mutable_pci()->set_has_intx(true);
    info.mutable_pci()->set_msix_vectors(1);
    info.mutable_pci()->add_bars()->set_size_bytes(4096);
    info.add_doorbells();
    info.set_saved_state_bytes(sizeof(register_));
    info.set_durable_memory_bytes(16);
    return info;
  }
  absl::Status Start(DeviceServices& services) override {
    services_ = &services;
    return services.Watch(work_ends.fd(), [this] {
      AwaitHeartbeatWanted();
      work_ends.Drain();
      in_flight = false;
      register_ += 1000;
      services_->StateChanged();
    });
  }
  size_t Save(absl::Span<uint8_t> out) const override {
    memcpy(out.data(), &register_, sizeof(register_));
    return sizeof(register_);
  }
  absl::Status Restore(absl::Span<const uint8_t> state) override {
    memcpy(&register_, state.data(), std::min(state.size(), sizeof(register_)));
    return absl::OkStatus();
  }
  void Reset() override { register_ = 0; }
  void SetServing(bool serving) override { is_serving = serving; }
  bool at_rest() const override { return !in_flight; }
  bool dma_in_flight() const override { return in_flight; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override {
    metrics.add_metrics()->set_name("of_the_model");
  }

  uint64_t Read(uint8_t, uint64_t, uint8_t) override { return register_; }
  void Write(uint8_t, uint64_t offset, uint8_t, uint64_t value) override {
    if (offset == kHang || offset == kWork) {
      hangs.Notify();
      while (!hang_ends.HasBeenNotified()) {
        if (offset == kWork) services_->KeepAlive();
      }
      return;
    }
    register_ = value;
    services_->StateChanged();
  }
  void OnDoorbell(uint32_t) override {
    ++doorbells;
    if (AwaitHeartbeatWanted()) work_ends.Signal();
  }
  void OnFunctionState(const FunctionState& state) override { function_state = state; }

  DeviceServices& services() { return *services_; }

  std::atomic<bool> in_flight{false};
  std::atomic<bool> is_serving{true};
  std::atomic<int> doorbells{0};
  // If set, a doorbell starts work, and both calls last until a caller waits for a heartbeat.
  std::atomic<const channel::ChannelClient*> heartbeats_in_calls{nullptr};
  FunctionState function_state;  // of the host's thread
  const EventFd work_ends = *EventFd::Create();
  absl::Notification hangs, hang_ends;

 private:
  bool AwaitHeartbeatWanted() const {
    while (const channel::ChannelClient* vmm = heartbeats_in_calls) {
      if (!vmm->heartbeat().has_value()) return true;
    }
    return false;
  }

  DeviceServices* services_ = nullptr;
  uint64_t register_ = 0;
};

class DeviceHostControlTest : public testing::Test {
 protected:
  DeviceHostControlTest() {
    host_ = *DeviceHost::Create(vmm_.info, vmm_.MakeAttachment(/*generation=*/7), *control_);
    EXPECT_TRUE(host_->Start(model_).ok());
    thread_ = std::thread([this] { end_ = host_->Run(sockets_.second.get()); });
  }
  ~DeviceHostControlTest() override { EndHost(); }
  void EndHost() {
    sockets_.first.reset();
    if (thread_.joinable()) thread_.join();
  }

  absl::Status Call(CommandType type, absl::Duration timeout = kLong) {
    return control_->Call(type, timeout, [] { return false; });
  }
  // Asks as the vmm does. None: no answer came in time.
  std::optional<channel::ChannelClient::Heartbeat> AwaitHeartbeat(absl::Duration timeout = kLong) {
    vmm_.client->AskForHeartbeat();
    const absl::Time deadline = SteadyNow() + timeout;
    while (!vmm_.client->heartbeat().has_value() && SteadyNow() < deadline) {
      std::this_thread::yield();
    }
    return vmm_.client->heartbeat();
  }
  double Metric(const std::string& name) {
    v1::DeviceMetrics metrics;
    EXPECT_TRUE(
        control_->Call(CommandType::kGetMetrics, kLong, [] { return false; }, &metrics).ok());
    for (const v1::DeviceMetric& metric : metrics.metrics()) {
      if (metric.name() == name) return metric.value();
    }
    return -1;
  }

  uint64_t Read(absl::Duration timeout = kLong) {
    return vmm_.client->Call(Operation::kRead, 0, 0, 0, 8, 0, timeout).value_or(~uint64_t{0});
  }
  void Write(uint64_t offset, uint64_t value) {
    EXPECT_TRUE(vmm_.client->Call(Operation::kWrite, 0, 0, offset, 8, value, kLong).ok());
  }
  void Post(uint64_t offset, uint64_t value) {
    EXPECT_TRUE(vmm_.client->Post(0, 0, offset, 8, value, kLong).ok());
  }
  // What a successor would find.
  uint64_t Saved() {
    const auto state = DurableState::Open(vmm_.info, vmm_.durable_state.get(), 10'000);
    EXPECT_TRUE(state.ok()) << state.status();
    const auto loaded = (*state)->TakeLoaded();
    uint64_t saved = ~uint64_t{0};
    if (loaded.has_value() && loaded->bytes.size() == sizeof(saved)) {
      memcpy(&saved, loaded->bytes.data(), sizeof(saved));
    }
    return saved;
  }

  const VmmSide vmm_{FakeModel().Describe(), {.slots = 64, .waiters = 2}};
  std::pair<UniqueFd, UniqueFd> sockets_ = *CreateSocketPair(SOCK_SEQPACKET);
  std::unique_ptr<ControlMailbox> control_ = *ControlMailbox::Create();
  std::unique_ptr<DeviceHost> host_;
  FakeModel model_;  // ends before its host
  std::thread thread_;
  absl::Status end_ = absl::UnknownError("Run() has not returned");
};

TEST_F(DeviceHostControlTest, HeartbeatsAreAnsweredByChannelAndByCall) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(AwaitHeartbeat().has_value());
    EXPECT_TRUE(control_->AwaitHeartbeat(kLong, [] { return false; }).ok());
  }
}

TEST_F(DeviceHostControlTest, AModelThatHangsGivesNoHeartbeat) {
  Post(FakeModel::kHang, 0);
  model_.hangs.WaitForNotification();
  EXPECT_FALSE(AwaitHeartbeat(kShort).has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded(control_->AwaitHeartbeat(kShort, [] { return false; })));
  model_.hang_ends.Notify();
  EXPECT_TRUE(AwaitHeartbeat().has_value());
}

TEST_F(DeviceHostControlTest, AModelThatWorksLongAndSaysSoGivesHeartbeats) {
  Post(FakeModel::kWork, 0);
  model_.hangs.WaitForNotification();
  AwaitHeartbeat();  // it may tell of the time before
  for (int i = 0; i < 3; ++i) {
    const auto heartbeat = AwaitHeartbeat();
    ASSERT_TRUE(heartbeat.has_value());
    EXPECT_TRUE(heartbeat->in_long_call);
  }
  model_.hang_ends.Notify();
  while (AwaitHeartbeat()->in_long_call) std::this_thread::yield();
}

TEST_F(DeviceHostControlTest, ADeviceThatIsIdleOrInResetIsInNoLongCall) {
  for (int i = 0; i < 20; ++i) {
    const auto heartbeat = AwaitHeartbeat();
    ASSERT_TRUE(heartbeat.has_value());
    EXPECT_FALSE(heartbeat->in_long_call);
    if (i != 10) continue;
    model_.in_flight = true;
    EXPECT_TRUE(absl::IsDeadlineExceeded(
        vmm_.client->Call(Operation::kReset, 0, 0, 0, 8, 0, kShort).status()));
  }
  model_.work_ends.Signal();
}

TEST_F(DeviceHostControlTest, TwoHeartbeatsInOneTurnOfTheLoopMakeNoLongCall) {
  model_.heartbeats_in_calls = vmm_.client.get();
  vmm_.doorbells[0].Signal();
  for (int i = 0; i < 20; ++i) {
    const auto heartbeat = AwaitHeartbeat();
    ASSERT_TRUE(heartbeat.has_value());
    EXPECT_FALSE(heartbeat->in_long_call);
  }
  model_.heartbeats_in_calls = nullptr;
}

TEST_F(DeviceHostControlTest, ACancelledCallReturnsSoon) {
  Post(FakeModel::kHang, 0);
  model_.hangs.WaitForNotification();
  EXPECT_TRUE(
      absl::IsCancelled(control_->AwaitHeartbeat(absl::InfiniteDuration(), [] { return true; })));
  EXPECT_TRUE(absl::IsCancelled(
      control_->Call(CommandType::kQuiesce, absl::InfiniteDuration(), [] { return true; })));
  model_.hang_ends.Notify();
  Read();
  EXPECT_TRUE(model_.is_serving) << "the call left something behind";
}

TEST_F(DeviceHostControlTest, QuiesceWaitsForRestAndSavesTheLastOfIt) {
  model_.in_flight = true;
  std::thread ends([this] {
    while (model_.is_serving) std::this_thread::yield();
    model_.work_ends.Signal();
  });
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());
  ends.join();
  EXPECT_FALSE(model_.in_flight);
  EXPECT_EQ(Saved(), 1000u);
}

TEST_F(DeviceHostControlTest, QuiesceSavesEvenWhatTheModelDidNotTell) {
  EXPECT_EQ(Saved(), ~uint64_t{0});
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());
  EXPECT_EQ(Saved(), 0u);
}

TEST_F(DeviceHostControlTest, AQuiescedDeviceLeavesRequestsAndDoorbellsUntilItIsResumed) {
  Write(0, 5);
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());
  EXPECT_TRUE(Call(CommandType::kQuiesce).ok()) << "again";
  const int doorbells = model_.doorbells;
  vmm_.doorbells[0].Signal();
  Post(0, 6);
  EXPECT_EQ(Read(kShort), ~uint64_t{0}) << "answered";
  EXPECT_TRUE(AwaitHeartbeat().has_value());
  EXPECT_EQ(model_.doorbells, doorbells);
  EXPECT_EQ(vmm_.client->device_report().processed, 1u);
  EXPECT_EQ(Saved(), 5u);

  ASSERT_TRUE(Call(CommandType::kResume).ok());
  EXPECT_EQ(*vmm_.client->AwaitAnswer(0, kLong), 6u);
  EXPECT_TRUE(model_.is_serving);
  while (model_.doorbells == doorbells) std::this_thread::yield();
  EXPECT_TRUE(Call(CommandType::kResume).ok()) << "again";
}

TEST_F(DeviceHostControlTest, AQuiesceThatIsGivenUpIsUndone) {
  model_.in_flight = true;
  EXPECT_TRUE(absl::IsDeadlineExceeded(Call(CommandType::kQuiesce, kShort)));
  EXPECT_EQ(Read(), 0u) << "answers again";
  while (!model_.is_serving) std::this_thread::yield();
  model_.in_flight = false;
  EXPECT_TRUE(Call(CommandType::kQuiesce).ok());
}

TEST_F(DeviceHostControlTest, ResetComesAfterEveryRequestSentBefore) {
  for (int i = 0; i < 50; ++i) Post(0, 7);
  ASSERT_TRUE(Call(CommandType::kReset).ok());
  EXPECT_EQ(Read(), 0u);
  EXPECT_EQ(Saved(), 0u);
}

// Its work may take for ever, on a disk that does not answer: no vCPU waits for that.
TEST_F(DeviceHostControlTest, ADeviceInResetReadsAllOnesAndDropsWrites) {
  Write(0, 5);
  model_.in_flight = true;
  EXPECT_TRUE(absl::IsDeadlineExceeded(Call(CommandType::kReset, kShort)));
  Post(0, 6);
  const auto read = vmm_.client->Call(Operation::kRead, 0, 0, 0, 8, 0, kLong);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, ~uint64_t{0});
  Write(0, 7);
  EXPECT_TRUE(
      vmm_.client->Call(Operation::kSetFunctionState, 0, 0, 0, 8, kFunctionStateBusMaster, kLong)
          .ok());
  for (uint64_t i = 0; i < 1000; ++i) Post(0, i);  // more than the ring holds
  EXPECT_TRUE(AwaitHeartbeat().has_value());
  EXPECT_GE(Metric("saves_total"), 1);
  model_.work_ends.Signal();  // adds 1000 after the reset, as no model should
  while (Read() == ~uint64_t{0}) std::this_thread::yield();
  EXPECT_EQ(Read(), 1000u) << "writes were dropped";
  EXPECT_EQ(Saved(), 1000u);
  ASSERT_TRUE(
      Call(CommandType::kQuiesce).ok());  // its thread rests: the test may look at the model
  EXPECT_TRUE(model_.function_state.bus_master) << "what the vmm said meanwhile";
}

TEST_F(DeviceHostControlTest, OnlyTheAnswersToResetsWaitForTheDevice) {
  Write(0, 5);
  model_.in_flight = true;
  const auto reset = [this](uint32_t waiter) {
    return vmm_.client->Call(Operation::kReset, waiter, 0, 0, 8, 0, kShort).status();
  };
  EXPECT_TRUE(absl::IsDeadlineExceeded(reset(0)));
  const auto read = [this](uint32_t waiter) {
    return vmm_.client->Call(Operation::kRead, waiter, 0, 0, 8, 0, kLong).value();
  };
  EXPECT_EQ(read(1), ~uint64_t{0});
  EXPECT_TRUE(absl::IsDeadlineExceeded(reset(1))) << "a second one";
  model_.work_ends.Signal();
  EXPECT_TRUE(vmm_.client->AwaitAnswer(1, kLong).ok());
  EXPECT_TRUE(vmm_.client->AwaitAnswer(0, kLong).ok());
  EXPECT_EQ(read(1), 1000u);
  EXPECT_EQ(Metric("resets_total"), 2);
}

TEST_F(DeviceHostControlTest, AResetThatWasGivenUpDisturbsNoLaterRequest) {
  model_.in_flight = true;
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      vmm_.client->Call(Operation::kReset, 0, 0, 0, 8, 0, kShort).status()));
  EXPECT_EQ(Read(), ~uint64_t{0});
  model_.work_ends.Signal();
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());  // after the reset
  ASSERT_TRUE(Call(CommandType::kResume).ok());
  EXPECT_EQ(Read(), 1000u);
  EXPECT_TRUE(vmm_.client->status().ok()) << vmm_.client->status();
}

TEST_F(DeviceHostControlTest, TheGuestsResetIsAnsweredOnceTheDeviceRests) {
  Write(0, 5);
  model_.in_flight = true;
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      vmm_.client->Call(Operation::kReset, 0, 0, 0, 8, 0, kShort).status()));
  std::thread quiesces([this] { EXPECT_TRUE(Call(CommandType::kQuiesce).ok()); });
  EXPECT_TRUE(AwaitHeartbeat().has_value());
  model_.work_ends.Signal();
  EXPECT_TRUE(vmm_.client->AwaitAnswer(0, kLong).ok());
  quiesces.join();  // it waited for the end of the reset
  EXPECT_TRUE(Call(CommandType::kResume).ok());
}

TEST_F(DeviceHostControlTest, AGuestThatTakesBusMasteringAwayWaitsForTheDmaInFlight) {
  const auto set = [this](uint64_t state, absl::Duration timeout) {
    return vmm_.client->Call(Operation::kSetFunctionState, 0, 0, 0, 8, state, timeout).status();
  };
  ASSERT_TRUE(set(kFunctionStateBusMaster, kLong).ok());
  model_.in_flight = true;
  EXPECT_TRUE(absl::IsDeadlineExceeded(set(0, kShort)));
  // Others are served meanwhile.
  EXPECT_TRUE(vmm_.client->Call(Operation::kRead, 1, 0, 0, 8, 0, kLong).ok());
  model_.work_ends.Signal();
  EXPECT_TRUE(vmm_.client->AwaitAnswer(0, kLong).ok());

  // A disk that never answers keeps no vCPU.
  ASSERT_TRUE(set(kFunctionStateBusMaster, kLong).ok());
  model_.in_flight = true;
  EXPECT_TRUE(set(0, kLong).ok());
  EXPECT_TRUE(model_.in_flight);
  model_.in_flight = false;
}

TEST_F(DeviceHostControlTest, AResetZeroesDurableMemoryAndTakesInterruptsBack) {
  constexpr uint64_t kState = kFunctionStateIntxDisabled | kFunctionStateBusMaster;
  ASSERT_TRUE(vmm_.client->Call(Operation::kSetFunctionState, 0, 0, 0, 8, kState, kLong).ok());
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());  // its thread rests: the test may touch the model
  std::fill_n(model_.services().durable_memory().begin(), 16, 0xff);
  model_.services().SetIntx(true);
  model_.function_state = {};
  ASSERT_TRUE(Call(CommandType::kResume).ok());
  ASSERT_TRUE(vmm_.line.IsPending());
  ASSERT_TRUE(vmm_.client->Call(Operation::kReset, 0, 0, 0, 8, 0, kLong).ok());
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());
  EXPECT_EQ(model_.services().durable_memory()[0], 0);
  EXPECT_EQ(model_.services().durable_memory()[15], 0);
  EXPECT_FALSE(vmm_.line.IsPending());
  EXPECT_TRUE(model_.function_state.bus_master) << "the model was not told again";
}

TEST_F(DeviceHostControlTest, AQuiescedDeviceIsNotReset) {
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Call(CommandType::kReset)));
}

TEST_F(DeviceHostControlTest, ShutdownAppliesWhatWasSentAndEnds) {
  for (uint64_t i = 0; i < 50; ++i) Post(0, i);
  ASSERT_TRUE(Call(CommandType::kShutdown).ok());
  thread_.join();
  EXPECT_TRUE(end_.ok()) << end_;
  EXPECT_EQ(Saved(), 49u);
}

TEST_F(DeviceHostControlTest, ShutdownOfAQuiescedDeviceLeavesTheRequestsToTheSuccessor) {
  Write(0, 5);
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());
  Post(0, 6);
  ASSERT_TRUE(Call(CommandType::kShutdown).ok());
  thread_.join();
  EXPECT_TRUE(end_.ok()) << end_;
  EXPECT_EQ(Saved(), 5u);
  EXPECT_EQ(vmm_.client->device_report().processed, 1u);
}

TEST_F(DeviceHostControlTest, TheVmmsEndComesThroughInEveryMode) {
  ASSERT_TRUE(Call(CommandType::kQuiesce).ok());
  EndHost();
  EXPECT_TRUE(end_.ok()) << end_;
}

TEST_F(DeviceHostControlTest, TheVmmsEndComesThroughInTheMiddleOfAReset) {
  model_.in_flight = true;
  EXPECT_TRUE(absl::IsDeadlineExceeded(Call(CommandType::kReset, kShort)));
  EndHost();
  EXPECT_TRUE(end_.ok()) << end_;
}

TEST_F(DeviceHostControlTest, MetricsCountWhatHappened) {
  Write(0, 5);
  Read();
  Read();
  Post(0, 6);
  Read();
  EXPECT_EQ(Metric("register_writes_total"), 1);
  EXPECT_EQ(Metric("register_posted_writes_total"), 1);
  EXPECT_EQ(Metric("register_reads_total"), 3);
  EXPECT_EQ(Metric("saves_total"), 2) << "reads change nothing";
  EXPECT_GE(Metric("doorbells_total"), 1);
  EXPECT_EQ(Metric("of_the_model"), 0);
  ASSERT_TRUE(vmm_.client->Call(Operation::kReset, 0, 0, 0, 8, 0, kLong).ok());
  EXPECT_EQ(Metric("resets_total"), 1);
}

TEST_F(DeviceHostControlTest, CommandsOfManyCallersAreAllCarriedOut) {
  std::vector<std::thread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([this, i] {
      for (int round = 0; round < 50; ++round) {
        switch ((i + round) % 4) {
          case 0:
            EXPECT_TRUE(Call(CommandType::kQuiesce).ok());
            EXPECT_TRUE(Call(CommandType::kResume).ok());
            break;
          case 1: {
            const absl::Status status = Call(CommandType::kReset);
            EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status)) << status;
            break;
          }
          case 2:
            EXPECT_GE(Metric("saves_total"), 0);
            break;
          case 3:
            EXPECT_TRUE(AwaitHeartbeat().has_value());
            break;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_TRUE(Call(CommandType::kResume).ok());
  EXPECT_TRUE(model_.is_serving);
  Write(0, 9);
  EXPECT_EQ(Read(), 9u);
}

TEST(ControlMailboxTest, AClosedMailboxTurnsEveryoneAway) {
  const auto mailbox = *ControlMailbox::Create();
  const auto never = [] { return false; };
  absl::Status waiting;
  std::thread caller(
      [&] { waiting = mailbox->Call(CommandType::kReset, absl::InfiniteDuration(), never); });
  std::shared_ptr<ControlMailbox::Command> command;
  while (command == nullptr) command = mailbox->Take(/*metrics_only=*/false);
  mailbox->Close();
  caller.join();
  EXPECT_TRUE(absl::IsUnavailable(waiting));
  EXPECT_FALSE(mailbox->Finish(*command, absl::OkStatus())) << "too late";
  EXPECT_TRUE(
      absl::IsUnavailable(mailbox->Call(CommandType::kReset, absl::InfiniteDuration(), never)));
  EXPECT_TRUE(absl::IsUnavailable(mailbox->AwaitHeartbeat(absl::InfiniteDuration(), never)));
}

TEST(ControlMailboxTest, WhatIsGivenUpIsNotTaken) {
  const auto mailbox = *ControlMailbox::Create();
  const auto never = [] { return false; };
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(mailbox->Call(CommandType::kReset, absl::ZeroDuration(), never)));
  EXPECT_EQ(mailbox->Take(/*metrics_only=*/false), nullptr);
}

}  // namespace
}  // namespace bulkhead::devices
