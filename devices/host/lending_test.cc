// A model that lends its doorbell, its vector and guest memory to a process that has nothing else.
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "devices/host/control_mailbox.h"
#include "devices/host/device_host.h"
#include "devices/host/device_model.h"
#include "devices/host/testing/vmm_side.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;

constexpr absl::Duration kLong = absl::Seconds(30);  // never passes in a test that works
constexpr uint64_t kAll = kFunctionStateBusMaster | kFunctionStateMsixEnabled;

// Guest memory is the second half of its file.
constexpr uint64_t kBlockSize = VmmSide::kRamBytes / 2;
constexpr GuestAddress kBlockStart = 0x100000;

enum Server : uint64_t { kModel, kBorrower };

// At the start of the block. The guest writes the number of its request and rings doorbell 0.
struct Work {
  std::atomic<uint64_t> request;
  std::atomic<uint64_t> answered;   // up to this one
  std::atomic<uint64_t> served[2];  // how many, by Server
};

// False: there is nothing to do.
bool Serve(Work& work, Server server) {
  const uint64_t request = work.request;
  if (request == work.answered) return false;
  ++work.served[server];
  work.answered = request;
  return true;
}

// What the model tells the borrower. kStart comes with memory, doorbell and vector.
constexpr absl::string_view kStart = "start";
constexpr absl::string_view kStop = "stop";
constexpr absl::string_view kTakeAndStop = "take";  // first takes an event and does not act on it

void Borrow(int socket, SocketMessage start) {
  const MemoryMapping memory =
      *MemoryMapping::Map(start.descriptors[0].get(), /*offset=*/kBlockSize, kBlockSize,
                          MemoryMapping::Protection::kReadWrite);
  const EventFd doorbell(std::move(start.descriptors[1]));
  const EventFd vector(std::move(start.descriptors[2]));
  while (true) {
    pollfd ready[] = {{.fd = socket, .events = POLLIN, .revents = 0},
                      {.fd = doorbell.fd(), .events = POLLIN, .revents = 0}};
    poll(ready, 2, -1);
    if (ready[0].revents != 0) break;
    if (doorbell.Drain() && Serve(*reinterpret_cast<Work*>(memory.data()), kBorrower)) {
      vector.Signal();
    }
  }
  const auto stop = ReceiveSocketMessage(socket, 64, absl::ZeroDuration());
  if (!stop.ok()) return;  // the model is gone
  while (stop->bytes == kTakeAndStop && !doorbell.Drain()) {
    pollfd ready = {.fd = doorbell.fd(), .events = POLLIN, .revents = 0};
    poll(&ready, 1, -1);
  }
  (void)SendSocketMessage(socket, "stopped", {});
}

// The borrower's process: it has the socket, and what comes over it.
class BorrowerProcess {
 public:
  BorrowerProcess() {
    std::pair<UniqueFd, UniqueFd> sockets = *CreateSocketPair(SOCK_SEQPACKET);
    process_ = fork();
    if (process_ == 0) {
      dup2(sockets.second.get(), 3);
      close_range(4, ~0u, 0);
      while (true) {
        auto start = ReceiveSocketMessage(3, 64, absl::InfiniteDuration());
        if (!start.ok()) _exit(0);
        Borrow(3, *std::move(start));
      }
    }
    socket_ = std::move(sockets.first);
  }
  ~BorrowerProcess() {
    socket_.reset();
    int status = -1;
    EXPECT_EQ(waitpid(process_, &status, 0), process_);
    EXPECT_EQ(status, 0);
  }
  int socket() const { return socket_.get(); }

 private:
  pid_t process_;
  UniqueFd socket_;
};

// Registers of 8 bytes.
constexpr uint64_t kLend = 0x00;      // W; R: whether the doorbell is lent
constexpr uint64_t kTakeBack = 0x08;  // W: the message to the borrower: 0 kStop, 1 kTakeAndStop

class LendingModel : public DeviceModel {
 public:
  explicit LendingModel(int borrower) : borrower_(borrower) {}

  v1::DeviceInfo Describe() const override {
    v1::DeviceInfo info;
    info.mutable_pci()->set_msix_vectors(1);
    info.mutable_pci()->add_bars()->set_size_bytes(4096);
    info.add_doorbells();
    info.set_uses_dma(true);
    info.set_lends_descriptors(true);
    return info;
  }
  absl::Status Start(DeviceServices& services) override {
    services_ = &services;
    if (lends_at_start) Lend();
    return services.Watch(borrower_, [this] { OnBorrowerStopped(); });
  }
  size_t Save(absl::Span<uint8_t>) const override { return 0; }
  absl::Status Restore(absl::Span<const uint8_t>) override { return absl::OkStatus(); }
  void Reset() override { Stop(kStop); }
  void SetServing(bool serving) override {
    if (!serving) Stop(kStop);
  }
  bool at_rest() const override { return !lent_; }
  bool dma_in_flight() const override { return lent_; }
  uint64_t Read(uint8_t, uint64_t, uint8_t) override { return lent_ ? 1 : 0; }
  void Write(uint8_t, uint64_t offset, uint8_t, uint64_t value) override {
    if (offset == kLend) Lend();
    if (offset == kTakeBack) Stop(value == 0 ? kStop : kTakeAndStop);
  }
  void OnDoorbell(uint32_t) override {
    if (lent_) ++doorbells_while_lent;
    if (!state_.bus_master) return;
    uint8_t* const memory = services_->memory().HostPointer(kBlockStart, sizeof(Work));
    if (Serve(*reinterpret_cast<Work*>(memory), kModel)) services_->SignalMsix(0);
  }
  void OnFunctionState(const FunctionState& state) override {
    state_ = state;
    if (!state.bus_master || !state.msix_enabled) return Stop(kStop);
    if (!lent_) OnDoorbell(0);
  }

  bool lends_at_start = false;
  int doorbells_while_lent = 0;

 private:
  void Lend() {
    if (lent_) return;
    const GuestMemoryBlock& block = services_->memory_blocks()[0];
    EXPECT_EQ(block.address, kBlockStart);
    EXPECT_EQ(block.size_bytes, kBlockSize);
    EXPECT_EQ(block.offset_in_file, kBlockSize);
    lent_ = true;
    const int doorbell = services_->LendDoorbell(0);
    EXPECT_TRUE(
        SendSocketMessage(borrower_, kStart, {block.fd, doorbell, services_->vector_descriptor(0)})
            .ok());
  }
  void Stop(absl::string_view message) {
    if (!lent_ || std::exchange(stopping_, true)) return;
    EXPECT_TRUE(SendSocketMessage(borrower_, message, {}).ok());
  }
  void OnBorrowerStopped() {
    if (!ReceiveSocketMessage(borrower_, 64, absl::ZeroDuration()).ok()) {
      return services_->Unwatch(borrower_);
    }
    lent_ = stopping_ = false;
    services_->TakeBackDoorbell(0);
  }

  const int borrower_;
  DeviceServices* services_ = nullptr;
  FunctionState state_;
  bool lent_ = false;
  bool stopping_ = false;
};

// How many descriptors of the guest memory's file this process has.
int MemoryDescriptors() {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code ignored;
    const std::string file = std::filesystem::read_symlink(entry.path(), ignored);
    if (absl::StartsWith(file, "/memfd:ram")) ++count;
  }
  return count;
}

class LendingTest : public testing::Test {
 protected:
  ~LendingTest() override { EndHost(); }

  Attachment MakeAttachment() const {
    Attachment attachment = vmm_.MakeAttachment();
    attachment.function_state = kAll;
    attachment.guest_memory[0].start = kBlockStart;
    attachment.guest_memory[0].offset = kBlockSize;
    attachment.guest_memory[0].size_bytes = kBlockSize;
    return attachment;
  }
  void StartHost() {
    host_ = *DeviceHost::Create(vmm_.info, MakeAttachment(), *control_);
    ASSERT_TRUE(host_->Start(model_).ok());
    thread_ = std::thread([this] { EXPECT_TRUE(host_->Run(sockets_.second.get()).ok()); });
  }
  void EndHost() {
    sockets_.first.reset();
    if (thread_.joinable()) thread_.join();
  }

  bool IsLent() { return *vmm_.client->Call(Operation::kRead, 0, 0, kLend, 8, 0, kLong) != 0; }
  void Post(uint64_t offset, uint64_t value = 0) {
    ASSERT_TRUE(vmm_.client->Post(0, 0, offset, 8, value, kLong).ok());
  }
  void SetFunctionState(uint64_t state) {
    ASSERT_TRUE(vmm_.client->Call(Operation::kSetFunctionState, 0, 0, 0, 8, state, kLong).ok());
  }
  void Ask() {
    ++work_.request;
    vmm_.doorbells[0].Signal();
  }
  // By an interrupt.
  bool IsAnswered() {
    const absl::Time deadline = absl::Now() + kLong;
    while (work_.answered != work_.request) {
      pollfd interrupt = {.fd = vmm_.vectors[0].fd(), .events = POLLIN, .revents = 0};
      if (poll(&interrupt, 1, 100) == 1) vmm_.vectors[0].Drain();
      if (absl::Now() > deadline) return false;
    }
    return true;
  }
  uint64_t ServedBy(Server server) const { return work_.served[server]; }

  BorrowerProcess borrower_;  // before there are threads
  LendingModel model_{borrower_.socket()};
  const VmmSide vmm_{model_.Describe(), {.slots = 64, .waiters = 1}};
  Work& work_ = *reinterpret_cast<Work*>(vmm_.ram.data() + kBlockSize);
  std::pair<UniqueFd, UniqueFd> sockets_ = *CreateSocketPair(SOCK_SEQPACKET);
  const std::unique_ptr<ControlMailbox> control_ = *ControlMailbox::Create();
  std::unique_ptr<DeviceHost> host_;
  std::thread thread_;
};

TEST_F(LendingTest, WhileTheDoorbellGoesToAndFroEachRequestIsServedOnce) {
  StartHost();
  for (uint64_t i = 0; i < 600; ++i) {
    if (i % 10 == 0) Post(kLend);
    if (i % 10 == 5) Post(kTakeBack);
    Ask();
    if (i % 10 == 3) Post(kTakeBack);
    if (i % 10 == 7) Post(kLend);
    ASSERT_TRUE(IsAnswered()) << "request " << i << " is lost";
    ASSERT_EQ(ServedBy(kModel) + ServedBy(kBorrower), i + 1);
  }
  EXPECT_GT(ServedBy(kModel), 0u);
  EXPECT_GT(ServedBy(kBorrower), 0u);
  EndHost();
  EXPECT_EQ(model_.doorbells_while_lent, 0);
}

TEST_F(LendingTest, AnEventThatTheBorrowerTookAndDidNotActOnIsServedByTheModel) {
  StartHost();
  Post(kLend);
  Ask();
  ASSERT_TRUE(IsAnswered());
  ASSERT_TRUE(IsLent());
  const uint64_t before = ServedBy(kModel);
  Post(kTakeBack, 1);
  ASSERT_TRUE(IsLent()) << "it waits for an event";
  Ask();
  ASSERT_TRUE(IsAnswered());
  EXPECT_EQ(ServedBy(kModel), before + 1);
}

// As a successor may: a borrower of its predecessor has taken the event.
TEST_F(LendingTest, ABorrowerLooksForWorkThatWasRungBefore) {
  model_.lends_at_start = true;
  work_.request = 1;
  StartHost();
  ASSERT_TRUE(IsAnswered());
  EXPECT_EQ(ServedBy(kBorrower), 1u);
  EndHost();
  EXPECT_EQ(model_.doorbells_while_lent, 0);
}

TEST_F(LendingTest, WithoutBusMasteringTheBorrowerStandsStill) {
  StartHost();
  Post(kLend);
  ASSERT_TRUE(IsLent());
  SetFunctionState(kFunctionStateMsixEnabled);
  while (IsLent()) std::this_thread::yield();
  Ask();
  EXPECT_FALSE(IsLent());
  EXPECT_EQ(work_.answered, 0u);
  SetFunctionState(kAll);
  ASSERT_TRUE(IsAnswered());
  EXPECT_EQ(ServedBy(kModel), 1u);
}

TEST_F(LendingTest, WhatThereIsNotIsNotLent) {
  host_ = *DeviceHost::Create(vmm_.info, MakeAttachment(), *control_);
  EXPECT_EQ(MemoryDescriptors(), 2) << "the vmm's and the host's";
  EXPECT_GE(host_->LendDoorbell(0), 0);
  EXPECT_EQ(host_->LendDoorbell(1), -1);
  host_->TakeBackDoorbell(1);
  EXPECT_GE(host_->vector_descriptor(0), 0);
  EXPECT_EQ(host_->vector_descriptor(1), -1);
}

TEST_F(LendingTest, ADeviceThatDoesNotLendClosesTheDescriptorsOfGuestMemory) {
  v1::DeviceInfo info = vmm_.info;
  info.clear_lends_descriptors();
  host_ = *DeviceHost::Create(info, MakeAttachment(), *control_);
  EXPECT_TRUE(host_->memory().Contains(kBlockStart, kBlockSize));
  EXPECT_EQ(MemoryDescriptors(), 1) << "the vmm's";
  EXPECT_TRUE(host_->memory_blocks().empty());
  EXPECT_EQ(host_->LendDoorbell(0), -1);
  EXPECT_EQ(host_->vector_descriptor(0), -1);
}

}  // namespace
}  // namespace bulkhead::devices
