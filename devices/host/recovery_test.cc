// A device process that is killed at every place where it matters, and its successors: nothing that
// the guest does is lost, or done twice.
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/event_fd.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "devices/host/control_mailbox.h"
#include "devices/host/device_host.h"
#include "devices/host/device_model.h"
#include "devices/host/testing/vmm_side.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/contract.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;

constexpr absl::Duration kLong = absl::Seconds(60);  // never passes in a test that works

// Registers of 8 bytes.
constexpr uint64_t kAdd = 0x00;       // W: adds to the sum
constexpr uint64_t kSum = 0x08;       // R
constexpr uint64_t kTake = 0x10;      // R: 1, 2, 3, ...: a read that changes the device
constexpr uint64_t kWorkDone = 0x18;  // R: see OnDoorbell()
constexpr uint64_t kState = 0x20;     // R: the function state
constexpr uint64_t kTouched = 0x28;   // R: writes since the reset, counted in durable memory

// In guest memory.
constexpr GuestAddress kWorkPlace = 8;
constexpr GuestAddress kFoundPlace = 16;
constexpr GuestAddress kSleepsPlace = 24;
constexpr GuestAddress kSumThenPlace = 32;  // the sum when work was found

// Everything in it counts: what happens twice or never shows.
class Ledger : public DeviceModel {
 public:
  v1::DeviceInfo Describe() const override {
    v1::DeviceInfo info;
    info.mutable_pci()->set_msix_vectors(1);
    info.mutable_pci()->add_bars()->set_size_bytes(4096);
    info.add_doorbells();
    info.set_saved_state_bytes(sizeof(State));
    info.set_durable_memory_bytes(sizeof(uint64_t));
    info.set_state_version(1);
    return info;
  }
  absl::Status Start(DeviceServices& services) override {
    services_ = &services;
    return services.Watch(rest_.fd(), [this] {
      rest_.Drain();
      resting_ = true;
    });
  }
  size_t Save(absl::Span<uint8_t> out) const override {
    memcpy(out.data(), &state_, sizeof(state_));
    return sizeof(state_);
  }
  absl::Status Restore(absl::Span<const uint8_t> state) override {
    if (state.size() != sizeof(state_)) return absl::InvalidArgumentError("no ledger");
    memcpy(&state_, state.data(), sizeof(state_));
    if (state_.sum != 0 && Read(0, kTouched, 8) == 0) {
      return absl::InvalidArgumentError("the state is of another time than the memory");
    }
    if (state_.work_done != 0) services_->SignalMsix(0);
    return absl::OkStatus();
  }
  void Reset() override {
    state_ = {};
    resting_ = false;  // for one turn of the loop
    rest_.Signal();
  }
  void SetServing(bool) override {}
  bool at_rest() const override { return resting_; }

  uint64_t Read(uint8_t, uint64_t offset, uint8_t) override {
    switch (offset) {
      case kSum:
        return state_.sum;
      case kTake:
        services_->StateChanged();
        return ++state_.taken;
      case kWorkDone:
        return state_.work_done;
      case kState:
        return function_state_;
      case kTouched: {
        uint64_t touched = 0;
        memcpy(&touched, services_->durable_memory().data(), sizeof(touched));
        return touched;
      }
      default:
        return 0;
    }
  }
  void Write(uint8_t, uint64_t, uint8_t, uint64_t value) override {
    state_.sum += value;
    uint64_t touched = Read(0, kTouched, 8) + 1;
    memcpy(services_->durable_memory().data(), &touched, sizeof(touched));
    services_->StateChanged();
  }
  // Guest memory says how much there is to do.
  void OnDoorbell(uint32_t) override {
    uint64_t work = 0;
    services_->memory().ReadObject(0, work);
    if (work == state_.work_done) return;
    state_.work_done = work;
    services_->SignalMsix(0);
    services_->StateChanged();
  }
  // Another place in guest memory says what to do without a doorbell, a third one what was found,
  // and a fourth one that this side sleeps and wants a doorbell.
  bool HasWork() const override { return Shared(kWorkPlace).load() != state_.found; }
  void DoWork() override {
    Shared(kSleepsPlace).store(0);
    state_.found = Shared(kWorkPlace).load();
    services_->StateChanged();
    Shared(kSumThenPlace).store(state_.sum);
    Shared(kFoundPlace).store(state_.found);
  }
  bool PrepareToSleep() override {
    Shared(kSleepsPlace).store(1);
    return HasWork();
  }
  void OnFunctionState(const FunctionState& state) override {
    function_state_ = (state.bus_master ? kFunctionStateBusMaster : 0) |
                      (state.msix_enabled ? kFunctionStateMsixEnabled : 0) |
                      (state.intx_disabled ? kFunctionStateIntxDisabled : 0);
  }

 private:
  struct State {
    uint64_t sum = 0;
    uint64_t taken = 0;
    uint64_t work_done = 0;
    uint64_t found = 0;
  };

  std::atomic_ref<uint64_t> Shared(GuestAddress place) const {
    return std::atomic_ref<uint64_t>(
        *reinterpret_cast<uint64_t*>(services_->memory().HostPointer(place, sizeof(uint64_t))));
  }

  DeviceServices* services_ = nullptr;
  const EventFd rest_ = *EventFd::Create();
  bool resting_ = true;
  State state_;
  uint64_t function_state_ = 0;
};

// The vmm, and a guest with one CPU. One thread: it forks.
class Machine {
 public:
  // Process n dies at `deaths[n - 1]`, those after the last one live.
  explicit Machine(std::vector<std::string> deaths) : deaths_(std::move(deaths)) { StartProcess(); }
  ~Machine() { End(); }

  uint64_t Read(uint64_t offset) { return Call(Operation::kRead, offset, 0); }
  void Write(uint64_t offset, uint64_t value) { Call(Operation::kWrite, offset, value); }
  void SetFunctionState(uint64_t state) {
    function_state_ = state;  // first, as the vmm does it
    Call(Operation::kSetFunctionState, 0, state);
  }
  void Reset() { Call(Operation::kReset, 0, 0); }
  void Post(uint64_t offset, uint64_t value) {
    while (!broken_ && !vmm_.client->Post(0, 0, offset, 8, value, kStep).ok()) Supervise();
  }
  // Has the device do work by its doorbell, and returns once it has. False: no interrupt came.
  bool WorkIsDone(uint64_t work) {
    vmm_.vectors[0].Drain();
    memcpy(vmm_.ram.data(), &work, sizeof(work));
    vmm_.doorbells[0].Signal();
    while (!broken_ && Read(kWorkDone) != work) absl::SleepFor(absl::Milliseconds(1));
    return vmm_.vectors[0].IsPending();
  }

  // Has it do work that it has to find, or to be woken for if it sleeps, and returns the sum that
  // it had then.
  uint64_t FindWork(uint64_t work) {
    const auto shared = [this](GuestAddress place) {
      return std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(vmm_.ram.data() + place));
    };
    shared(kWorkPlace).store(work);
    if (shared(kSleepsPlace).load() != 0) vmm_.doorbells[0].Signal();
    while (!broken_ && shared(kFoundPlace).load() != work) Supervise();
    EXPECT_FALSE(broken_) << "the device sleeps, or never looked";
    return shared(kSumThenPlace).load();
  }

  int deaths() const { return generation_ - 1; }
  // Ends the process as a vmm that goes away does. Its exit code.
  int End() {
    vmm_end_.reset();
    if (child_ <= 0) return exit_code_;
    if (broken_) kill(child_, SIGKILL);
    int status = 0;
    waitpid(child_, &status, 0);
    child_ = 0;
    return exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  static constexpr absl::Duration kStep = absl::Milliseconds(5);

  uint64_t Call(Operation operation, uint64_t offset, uint64_t value) {
    absl::StatusOr<uint64_t> answer = vmm_.client->Call(operation, 0, 0, offset, 8, value, kStep);
    while (absl::IsDeadlineExceeded(answer.status()) && !broken_) {
      Supervise();
      answer = vmm_.client->AwaitAnswer(0, kStep);
    }
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or(~uint64_t{0});
  }

  void Supervise() {
    int status = 0;
    broken_ = broken_ || absl::Now() > give_up_;
    if (waitpid(child_, &status, WNOHANG) != child_) return;
    child_ = 0;
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "status " << status;
    const auto plan = vmm_.client->PrepareSuccessor(/*discard_requests=*/false);
    EXPECT_TRUE(plan.ok() && plan->violation.ok()) << plan.status();
    broken_ = broken_ || testing::Test::HasFailure();
    if (broken_) return;
    StartProcess();
  }

  void StartProcess() {
    ++generation_;
    std::pair<UniqueFd, UniqueFd> sockets = *CreateSocketPair(SOCK_SEQPACKET);
    vmm_end_ = std::move(sockets.first);
    child_ = fork();
    if (child_ != 0) return;
    vmm_end_.reset();
    const size_t n = static_cast<size_t>(generation_) - 1;
    const absl::Status status =
        RunDevice(sockets.second.get(), n < deaths_.size() ? deaths_[n] : "");
    if (!status.ok()) fprintf(stderr, "%s\n", status.ToString().c_str());
    _exit(status.ok() ? 0 : 1);
  }

  absl::Status RunDevice(int attach_socket, const std::string& death) {
    RETURN_IF_ERROR(ArmCrashPoint(death, static_cast<uint64_t>(generation_)));
    const auto mailbox = *ControlMailbox::Create();
    std::unique_ptr<DeviceHost> host;  // ends after the model
    Ledger ledger;
    Attachment attachment = vmm_.MakeAttachment(static_cast<uint64_t>(generation_));
    attachment.function_state = function_state_;
    ASSIGN_OR_RETURN(host, DeviceHost::Create(vmm_.info, std::move(attachment), *mailbox));
    RETURN_IF_ERROR(host->Start(ledger));
    return host->Run(attach_socket);
  }

  const std::vector<std::string> deaths_;
  const absl::Time give_up_ = absl::Now() + kLong;
  bool broken_ = false;
  const VmmSide vmm_{Ledger().Describe(), {.slots = 8, .waiters = 2}};
  UniqueFd vmm_end_;
  pid_t child_ = 0;
  uint64_t function_state_ = 0;
  int generation_ = 0;
  int exit_code_ = -1;
};

// One of everything, several times, with every result known.
void UseAndCheck(Machine& machine) {
  constexpr uint64_t kAll = kFunctionStateBusMaster | kFunctionStateMsixEnabled;
  uint64_t sum = 0;
  uint64_t taken = 0;
  machine.SetFunctionState(kAll);
  for (uint64_t i = 1; i <= 6; ++i) {
    for (uint64_t j = 0; j < 3; ++j) machine.Post(kAdd, i);
    machine.Write(kAdd, 100 * i);
    sum += 3 * i + 100 * i;
    ASSERT_EQ(machine.Read(kTake), ++taken);
    ASSERT_EQ(machine.Read(kTake), ++taken);
    ASSERT_TRUE(machine.WorkIsDone(i)) << "the interrupt of work " << i << " is lost";
    machine.Post(kAdd, i);
    sum += i;
    ASSERT_EQ(machine.FindWork(i), sum) << "work has overtaken a posted write";
    ASSERT_EQ(machine.Read(kSum), sum);
    machine.SetFunctionState(kAll | kFunctionStateIntxDisabled);
    ASSERT_EQ(machine.Read(kState), kAll | kFunctionStateIntxDisabled);
    machine.SetFunctionState(kAll);
    if (i != 3) continue;
    machine.Reset();
    ASSERT_EQ(machine.Read(kSum), 0u);
    ASSERT_EQ(machine.Read(kTouched), 0u);
    ASSERT_EQ(machine.Read(kState), kAll) << "it is the vmm's";
    ASSERT_EQ(machine.Read(kTake), 1u);
    sum = 0;
    taken = 1;
  }
}

class RecoveryTest : public testing::TestWithParam<std::string> {};

TEST_P(RecoveryTest, ADeathThereLosesAndRepeatsNothing) {
  for (const int count : {1, 2, 3, 5, 8, 13}) {
    SCOPED_TRACE(count);
    Machine machine({absl::StrCat(GetParam(), ":", count)});
    UseAndCheck(machine);
    if (HasFatalFailure()) return;
    // The rarest things in UseAndCheck() happen once.
    EXPECT_TRUE(count > 1 || machine.deaths() == 1) << "it was not reached";
    EXPECT_EQ(machine.End(), 0);
  }
}

TEST_P(RecoveryTest, ADeathOfTheSuccessorThereLosesAndRepeatsNothing) {
  for (const char* first : {"after_apply:7", "save_mid_contents:7", "mid_complete:5",
                            "after_save_before_complete:6", "after_doorbell_read:2"}) {
    SCOPED_TRACE(first);
    Machine machine({first, GetParam(), absl::StrCat(GetParam(), ":2")});
    UseAndCheck(machine);
    if (HasFatalFailure()) return;
    EXPECT_GE(machine.deaths(), 2) << "it was not reached";
    EXPECT_EQ(machine.End(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(CrashPoints, RecoveryTest, testing::ValuesIn(CrashPointNames()),
                         [](const auto& info) { return info.param; });

TEST(RecoveryTest, ProcessesThatDieOneAfterTheOtherLoseAndRepeatNothing) {
  std::vector<std::string> deaths;
  for (int i = 0; i < 40; ++i) {
    for (const char* point : {"after_fetch:2", "after_apply:2", "save_before_sequence:2",
                              "after_save_before_complete:2", "mid_complete:2"}) {
      deaths.push_back(point);
    }
  }
  Machine machine(deaths);
  UseAndCheck(machine);
  EXPECT_GT(machine.deaths(), 20);
}

TEST(RecoveryTest, WithoutADeathNobodyDies) {
  Machine machine({});
  UseAndCheck(machine);
  EXPECT_EQ(machine.deaths(), 0);
  EXPECT_EQ(machine.End(), 0);
}

}  // namespace
}  // namespace bulkhead::devices
