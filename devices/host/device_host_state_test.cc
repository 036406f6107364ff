// How a DeviceHost saves its model and has the next one go on from there.
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "devices/host/control_mailbox.h"
#include "devices/host/device_host.h"
#include "devices/host/device_model.h"
#include "devices/host/durable_state.h"
#include "devices/host/testing/vmm_side.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/contract.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);  // never passes in a test that works
constexpr uint64_t kMaster = kFunctionStateBusMaster;
constexpr uint64_t kMsix = kFunctionStateMsixEnabled;
constexpr uint64_t kIntxOff = kFunctionStateIntxDisabled;

// One register that is saved, and a record of the calls at its start.
class FakeModel : public DeviceModel {
 public:
  static constexpr uint64_t kOwe = 16;  // W: whether it owes the guest a failed writeback

  v1::DeviceInfo Describe() const override {
    v1::DeviceInfo info;
    info.mutable_pci()->set_has_intx(true);
    info.mutable_pci()->set_msix_vectors(1);
    info.mutable_pci()->add_bars()->set_size_bytes(4096);
    info.set_saved_state_bytes(sizeof(value));
    info.set_durable_memory_bytes(8);
    return info;
  }
  absl::Status Start(DeviceServices& new_services) override {
    services = &new_services;
    calls.push_back("start");
    return on_start();
  }
  size_t Save(absl::Span<uint8_t> out) const override {
    memcpy(out.data(), &value, sizeof(value));
    return sizeof(value);
  }
  absl::Status Restore(absl::Span<const uint8_t> state) override {
    calls.push_back("restore");
    memcpy(&value, state.data(), std::min(state.size(), sizeof(value)));
    return on_restore();
  }
  uint64_t Read(uint8_t, uint64_t, uint8_t) override { return value; }
  void Write(uint8_t, uint64_t offset, uint8_t, uint64_t new_value) override {
    value = new_value;
    if (offset == kOwe) services->OweWritebackFailure(new_value != 0);
    if (offset == 0 || offset == kOwe) services->StateChanged();  // else: nothing worth saving
  }
  void OnDoorbell(uint32_t) override {}
  void Reset() override { value = 0; }
  bool at_rest() const override { return !in_flight; }
  void SetServing(bool serving) override {
    calls.push_back(serving ? absl::StrCat("serve with ", value) : "do not serve");
    on_serving();
  }
  void OnFunctionState(const FunctionState& state) override {
    calls.push_back(state.bus_master ? "state with bus master" : "state");
  }

  std::function<absl::Status()> on_start = [] { return absl::OkStatus(); };
  std::function<absl::Status()> on_restore = [] { return absl::OkStatus(); };
  std::function<void()> on_serving = [] {};
  DeviceServices* services = nullptr;
  std::atomic<bool> in_flight{false};
  uint64_t value = 0;
  std::vector<std::string> calls;
};

class DeviceHostStateTest : public testing::Test {
 protected:
  ~DeviceHostStateTest() override { Stop(); }

  // A new process attaches. Its model is model().
  absl::Status Attach(uint64_t function_state = 0) {
    Attachment attachment = vmm_.MakeAttachment(++generation_);
    attachment.function_state = function_state;
    auto host = DeviceHost::Create(vmm_.info, std::move(attachment), *control_);
    if (!host.ok()) return host.status();
    host_ = *std::move(host);
    return host_->Start(model());
  }
  void Run() {
    sockets_ = *CreateSocketPair(SOCK_SEQPACKET);
    thread_ = std::thread([this] { EXPECT_TRUE(host_->Run(sockets_.second.get()).ok()); });
  }
  // The process ends. The next one has a new model.
  void Stop() {
    sockets_.first.reset();
    if (thread_.joinable()) thread_.join();
    calls_of_last_ = model_->calls;
    model_.reset();
    host_.reset();
    model_.emplace();
  }
  FakeModel& model() { return *model_; }

  void Write(uint64_t offset, uint64_t value) {
    EXPECT_TRUE(vmm_.client->Call(Operation::kWrite, 0, 0, offset, 8, value, kLong).ok());
  }
  uint64_t Read() { return *vmm_.client->Call(Operation::kRead, 0, 0, 0, 8, 0, kLong); }
  void SetFunctionState(uint64_t state) {
    EXPECT_TRUE(vmm_.client->Call(Operation::kSetFunctionState, 0, 0, 0, 8, state, kLong).ok());
  }
  // As a process before would have.
  void SaveState(const DurableState::Record& record) {
    const auto state = *DurableState::Open(vmm_.info, vmm_.durable_state.get(), record.ticket);
    state->Save(record, [](absl::Span<uint8_t> out) { return out.size(); });
  }
  std::optional<DurableState::Loaded> Saved() {
    return (*DurableState::Open(vmm_.info, vmm_.durable_state.get(), 1000))->TakeLoaded();
  }

  const VmmSide vmm_{FakeModel().Describe(), {.slots = 64, .waiters = 2}};
  const std::unique_ptr<ControlMailbox> control_ = *ControlMailbox::Create();
  uint64_t generation_ = 0;
  std::pair<UniqueFd, UniqueFd> sockets_;
  std::unique_ptr<DeviceHost> host_;
  std::optional<FakeModel> model_{std::in_place};  // ends before its host
  std::vector<std::string> calls_of_last_;
  std::thread thread_;
};

TEST_F(DeviceHostStateTest, AFirstProcessStartsWithTheFunctionStateThatItIsGiven) {
  ASSERT_TRUE(Attach(kMaster).ok());
  EXPECT_THAT(model().calls, ElementsAre("start", "state with bus master"));
  EXPECT_FALSE(Saved().has_value()) << "nothing has changed";
}

TEST_F(DeviceHostStateTest, ASuccessorGoesOnWithStateAndFunctionState) {
  ASSERT_TRUE(Attach().ok());
  Run();
  Write(0, 5);
  SetFunctionState(kMaster);
  Stop();
  ASSERT_TRUE(Attach(kMaster | kIntxOff).ok());
  EXPECT_THAT(model().calls,
              ElementsAre("start", "do not serve", "restore", "state with bus master"));
  EXPECT_EQ(model().value, 5u);
}

// Else it would do DMA for a guest that has taken bus mastering away while no process served.
TEST_F(DeviceHostStateTest, ASuccessorIsNoBusMasterUnlessTheVmmSaysSoToo) {
  SaveState({.function_state = kMaster | kMsix});
  ASSERT_TRUE(Attach(/*function_state=*/kMsix).ok());
  EXPECT_THAT(model().calls, ElementsAre("start", "do not serve", "restore", "state"));
  EXPECT_EQ(Saved()->record.function_state, kMsix);
}

// A queue that is popped at once could overtake what the guest wrote before it filled that queue.
TEST_F(DeviceHostStateTest, ASuccessorServesNothingBeforeTheRequestsThatWait) {
  SaveState({.ticket = 0});
  for (const uint64_t value : {5, 6}) {
    ASSERT_TRUE(vmm_.client->Post(0, 0, 0, 8, value, kLong).ok());
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      vmm_.client->Call(Operation::kSetFunctionState, 0, 0, 0, 8, 0, absl::ZeroDuration())
          .status()));
  ASSERT_TRUE(Attach(kMaster).ok());
  EventFd serves = *EventFd::Create();
  model().on_serving = [&] { serves.Signal(); };
  Run();
  EXPECT_TRUE(vmm_.client->AwaitAnswer(0, kLong).ok());
  while (!serves.Drain()) {
  }
  Stop();
  EXPECT_EQ(calls_of_last_.back(), "serve with 6");
}

TEST_F(DeviceHostStateTest, OnlyWhatChangesIsSaved) {
  ASSERT_TRUE(Attach().ok());
  Run();
  Write(8, 5);
  Read();
  SetFunctionState(0);
  EXPECT_FALSE(Saved().has_value());
  Write(0, 6);
  EXPECT_EQ(Saved()->record.ticket, 4u);
  Read();
  EXPECT_EQ(Saved()->record.ticket, 4u);
  SetFunctionState(kMaster);
  EXPECT_EQ(Saved()->record.ticket, 6u);
  EXPECT_EQ(Saved()->record.function_state, kMaster);
}

TEST_F(DeviceHostStateTest, AChangeInACallbackIsSavedBeforeTheNextOne) {
  const EventFd event = *EventFd::Create();
  const EventFd called = *EventFd::Create();
  model().on_start = [&] {
    return model().services->Watch(event.fd(), [&] {
      if (model().value == 7) called.Signal();
      event.Drain();
      model().value = 7;
      model().services->StateChanged();
    });
  };
  ASSERT_TRUE(Attach().ok());
  Run();
  event.Signal();
  // Until the second callback, so the first one is over.
  while (!called.Drain()) event.Signal();
  const auto saved = Saved();
  ASSERT_TRUE(saved.has_value());
  EXPECT_EQ(saved->record.ticket, 0u);
  EXPECT_EQ(saved->bytes[0], 7u);
  Stop();  // before the events end
}

TEST_F(DeviceHostStateTest, AChangeAtTheStartIsSaved) {
  model().on_start = [&] {
    model().value = 7;
    model().services->StateChanged();
    return absl::OkStatus();
  };
  ASSERT_TRUE(Attach().ok());
  EXPECT_EQ(Saved()->bytes[0], 7u);
}

TEST_F(DeviceHostStateTest, DurableMemoryIsTheSameForTheSuccessor) {
  ASSERT_TRUE(Attach().ok());
  ASSERT_EQ(model().services->durable_memory().size(), 8u);
  model().services->durable_memory()[3] = 9;
  Stop();
  ASSERT_TRUE(Attach().ok());
  EXPECT_EQ(model().services->durable_memory()[3], 9);
}

TEST_F(DeviceHostStateTest, ARequestThatWasAppliedIsAnsweredAndNotAppliedAgain) {
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      vmm_.client->Call(Operation::kWrite, 0, 0, 0, 8, 5, absl::ZeroDuration()).status()));
  SaveState({.ticket = 1, .answer = 0x1234});
  ASSERT_TRUE(Attach().ok());
  EXPECT_EQ(*vmm_.client->AwaitAnswer(0, kLong), 0x1234u);
  EXPECT_EQ(model().value, 0u);
  EXPECT_EQ(vmm_.client->device_report().processed, 1u);
}

TEST_F(DeviceHostStateTest, AStateThatIncludesARequestThatWasNeverSentIsRefused) {
  SaveState({.ticket = 1});
  const absl::Status status = Attach();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_EQ(status.message(), "the saved state includes request 1, which was never sent");
}

TEST_F(DeviceHostStateTest, AStateFromTheFutureIsRefused) {
  SaveState({.ticket = 2});
  EXPECT_TRUE(absl::IsDataLoss(Attach()));
  EXPECT_TRUE(model().calls.empty()) << "nothing is loaded";
}

TEST_F(DeviceHostStateTest, AStateThatTheModelRefusesIsNotServed) {
  SaveState({});
  model().on_restore = [] { return absl::InvalidArgumentError("no such status"); };
  EXPECT_EQ(Attach().message(), "no such status");
}

// A predecessor that was compromised could say that MSI-X is off: each interrupt would be lost.
TEST_F(DeviceHostStateTest, WhatIsRaisedInRestoreGoesByTheFunctionStateThatTheVmmTells) {
  SaveState({.function_state = kMaster});
  model().on_restore = [this] {
    model().services->SignalMsix(0);
    return absl::OkStatus();
  };
  ASSERT_TRUE(Attach(kMaster | kMsix).ok());
  EXPECT_TRUE(vmm_.vectors[0].IsPending());
  EXPECT_EQ(Saved()->record.function_state, kMaster | kMsix);
}

TEST_F(DeviceHostStateTest, ABusMasterThatThePredecessorDeniedIsOneOnceAllRequestsAreApplied) {
  SaveState({.function_state = 0});
  model().on_restore = [this] {
    model().services->SignalMsix(0);
    return absl::OkStatus();
  };
  ASSERT_TRUE(vmm_.client->Post(0, 0, 0, 8, 6, kLong).ok());
  ASSERT_TRUE(Attach(kMaster | kMsix).ok());
  EXPECT_FALSE(vmm_.vectors[0].IsPending()) << "held back";
  Run();
  Read();
  while (!vmm_.vectors[0].IsPending()) std::this_thread::yield();
  Read();
  Stop();
  EXPECT_THAT(calls_of_last_, ElementsAre("start", "do not serve", "restore", "state",
                                          "state with bus master", "serve with 6"));
  EXPECT_EQ(Saved()->record.function_state, kMaster | kMsix);
}

TEST_F(DeviceHostStateTest, ANewerFunctionStateThatWaitsInTheRingHolds) {
  SaveState({.function_state = kMaster});
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      vmm_.client->Call(Operation::kSetFunctionState, 0, 0, 0, 8, kIntxOff, absl::ZeroDuration())
          .status()));
  ASSERT_TRUE(Attach(kMaster).ok());  // what it was when the vmm made its offer
  Run();
  EXPECT_TRUE(vmm_.client->AwaitAnswer(0, kLong).ok());
  Read();
  Stop();
  EXPECT_EQ(Saved()->record.function_state, kIntxOff);
}

TEST_F(DeviceHostStateTest, AVectorThatWasHeldBackIsHeldBackAgain) {
  SaveState({.function_state = kMsix});
  model().on_restore = [this] {
    model().services->SignalMsix(0);
    return absl::OkStatus();
  };
  ASSERT_TRUE(Attach(kMsix).ok());
  EXPECT_FALSE(vmm_.vectors[0].IsPending());
  Run();
  SetFunctionState(kMaster | kMsix);
  EXPECT_TRUE(vmm_.vectors[0].IsPending());
}

TEST_F(DeviceHostStateTest, ALevelThatIsTrueAssertsTheLineAgain) {
  SaveState({});
  model().on_restore = [this] {
    model().services->SetIntx(true);
    return absl::OkStatus();
  };
  ASSERT_TRUE(Attach().ok());
  EXPECT_TRUE(vmm_.line.Drain());
  Run();
  vmm_.resample.Signal();  // the guest has acknowledged
  while (!vmm_.line.IsPending()) Read();
}

TEST_F(DeviceHostStateTest, AnInterruptOfWhichTheStateKnowsNothingIsNoInterruptStatus) {
  SaveState({.function_state = kIntxOff});
  vmm_.line.Signal();  // by the process before, which died then
  ASSERT_TRUE(Attach(kIntxOff).ok());
  EXPECT_FALSE(vmm_.line.IsPending());
}

TEST_F(DeviceHostStateTest, ADeathInAResetThatWaitsLeavesADeviceAsAfterPowerOnAndTheAnswerToIt) {
  ASSERT_TRUE(Attach().ok());
  Run();
  Write(0, 5);
  model().services->durable_memory()[3] = 9;
  model().in_flight = true;
  EXPECT_TRUE(absl::IsDeadlineExceeded(
      vmm_.client->Call(Operation::kReset, 0, 0, 0, 8, 0, absl::Milliseconds(20)).status()));
  const auto read = vmm_.client->Call(Operation::kRead, 1, 0, 0, 8, 0, kLong);
  EXPECT_EQ(read.value_or(0), ~uint64_t{0});
  Stop();
  const auto plan = vmm_.client->PrepareSuccessor(/*discard_requests=*/false);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(plan->violation.ok()) << plan->violation;
  EXPECT_TRUE(absl::IsDeadlineExceeded(vmm_.client->AwaitAnswer(0, absl::ZeroDuration()).status()))
      << "not given up";
  ASSERT_TRUE(Attach().ok());
  EXPECT_TRUE(vmm_.client->AwaitAnswer(0, kLong).ok());
  EXPECT_EQ(model().services->durable_memory()[3], 0);
  Run();
  EXPECT_EQ(Read(), 0u);
}

TEST_F(DeviceHostStateTest, AFailedWritebackThatIsOwedOutlivesAResetInWhichTheProcessDies) {
  for (const bool owed : {true, false}) {
    ASSERT_TRUE(Attach().ok());
    Run();
    Write(FakeModel::kOwe, 1);
    Write(FakeModel::kOwe, owed ? 1 : 0);
    model().in_flight = true;
    EXPECT_TRUE(absl::IsDeadlineExceeded(
        vmm_.client->Call(Operation::kReset, 0, 0, 0, 8, 0, absl::Milliseconds(20)).status()));
    Stop();
    ASSERT_TRUE(vmm_.client->PrepareSuccessor(/*discard_requests=*/false).ok());
    bool told = false;
    model().on_start = [&] {
      told = model().services->writeback_failed("disk");
      return absl::OkStatus();
    };
    ASSERT_TRUE(Attach().ok());
    EXPECT_EQ(told, owed);
    Stop();
  }
}

TEST_F(DeviceHostStateTest, WhatRestoreTellsIsNotToldAtTheStart) {
  ASSERT_TRUE(Attach().ok());
  Run();
  Write(FakeModel::kOwe, 1);
  Stop();
  model().on_start = [&] {
    EXPECT_FALSE(model().services->writeback_failed("disk"));
    return absl::OkStatus();
  };
  ASSERT_TRUE(Attach().ok());
}

TEST_F(DeviceHostStateTest, ADeathInTheMiddleOfAResetLeavesADeviceAsAfterPowerOn) {
  ASSERT_TRUE(Attach().ok());
  Run();
  Write(0, 5);
  SetFunctionState(kMaster);
  model().services->durable_memory()[3] = 9;
  Stop();
  (*DurableState::Open(vmm_.info, vmm_.durable_state.get(), 2))
      ->SaveResetOrder({.ticket = 2, .function_state = kMaster});
  ASSERT_TRUE(Attach(kMaster).ok());
  EXPECT_THAT(model().calls, ElementsAre("start", "do not serve", "state with bus master"));
  EXPECT_EQ(model().services->durable_memory()[3], 0);
  const auto saved = Saved();
  EXPECT_FALSE(saved->reset_ordered) << "it is done";
  EXPECT_EQ(saved->bytes[0], 0);
}

}  // namespace
}  // namespace bulkhead::devices
