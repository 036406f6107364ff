#include "devices/host/device_host.h"

#include <pthread.h>
#include <sys/socket.h>
#include <time.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/message_socket.h"
#include "base/unique_fd.h"
#include "devices/host/attachment.h"
#include "devices/host/control_mailbox.h"
#include "devices/host/device_model.h"
#include "devices/host/testing/vmm_side.h"
#include "gtest/gtest.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_memory.h"
#include "proto/channel/channel_peer.h"
#include "proto/channel/connect_server.h"
#include "proto/channel/trace_ring.h"
#include "proto/contract.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {
namespace {

using channel::Operation;

constexpr absl::Duration kLong = absl::Seconds(30);  // never passes in a test that works
constexpr uint32_t kWaiters = 2;

// One register, and a record of what happened. The test's thread looks at the record under the
// mutex; the rest belongs to the host's thread.
class FakeModel : public DeviceModel {
 public:
  struct Write {
    uint8_t region;
    uint64_t offset;
    uint8_t size_bytes;
    uint64_t value;
    bool operator==(const Write&) const = default;
  };

  v1::DeviceInfo Describe() const override {
    v1::DeviceInfo info;
    info.mutable_pci()->set_has_intx(true);
    info.mutable_pci()->set_msix_vectors(1);
    v1::Bar& bar = *info.mutable_pci()->add_bars();
    bar.set_size_bytes(4096);
    info.add_doorbells();
    info.add_doorbells();
    return info;
  }
  absl::Status Start(DeviceServices& services) override {
    services_ = &services;
    return on_start(services);
  }
  size_t Save(absl::Span<uint8_t>) const override { return 0; }
  absl::Status Restore(absl::Span<const uint8_t>) override { return absl::OkStatus(); }
  void Reset() override {}
  void SetServing(bool) override {}
  bool at_rest() const override { return true; }
  uint64_t Read(uint8_t, uint64_t, uint8_t) override { return 0x1122334455667788; }
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override {
    absl::MutexLock lock(&mutex);
    writes.push_back({region, offset, size_bytes, value});
  }
  void OnDoorbell(uint32_t index) override {
    absl::MutexLock lock(&mutex);
    doorbells.push_back(index);
    writes_at_doorbell = writes.size();
  }
  void OnFunctionState(const FunctionState& new_state) override {
    absl::MutexLock lock(&mutex);
    state = new_state;
    services_->SignalMsix(0);  // goes by the new state already
  }

  std::function<absl::Status(DeviceServices&)> on_start = [](DeviceServices&) {
    return absl::OkStatus();
  };
  absl::Mutex mutex;
  std::vector<struct Write> writes ABSL_GUARDED_BY(mutex);
  std::vector<uint32_t> doorbells ABSL_GUARDED_BY(mutex);
  size_t writes_at_doorbell ABSL_GUARDED_BY(mutex) = 0;
  FunctionState state ABSL_GUARDED_BY(mutex);

 private:
  DeviceServices* services_ = nullptr;
};

class DeviceHostTest : public testing::Test {
 protected:
  ~DeviceHostTest() override { EndHost(); }

  void StartHost(Attachment attachment) {
    host_ = *DeviceHost::Create(model_.Describe(), std::move(attachment), *control_);
    ASSERT_TRUE(host_->Start(model_).ok());
    thread_ = std::thread([this] { end_ = host_->Run(sockets_.second.get()); });
  }
  // The vmm goes away.
  void EndHost() {
    sockets_.first.reset();
    if (thread_.joinable()) thread_.join();
  }

  uint64_t Read(uint64_t offset, uint8_t size_bytes) {
    return *vmm_.client->Call(Operation::kRead, 0, 0, offset, size_bytes, 0, kLong);
  }
  bool WaitForDoorbells(size_t count) {
    absl::MutexLock lock(&model_.mutex);
    const auto enough = [&]() ABSL_SHARED_LOCKS_REQUIRED(model_.mutex) {
      return model_.doorbells.size() >= count;
    };
    return model_.mutex.AwaitWithTimeout(absl::Condition(&enough), kLong);
  }

  const VmmSide vmm_{FakeModel().Describe(), {.slots = 64, .waiters = kWaiters}};
  std::pair<UniqueFd, UniqueFd> sockets_ = *CreateSocketPair(SOCK_SEQPACKET);

  std::unique_ptr<ControlMailbox> control_ = *ControlMailbox::Create();
  std::unique_ptr<DeviceHost> host_;
  FakeModel model_;  // ends before its host
  std::thread thread_;
  absl::Status end_ = absl::UnknownError("Run() has not returned");
};

TEST_F(DeviceHostTest, AReadGivesTheBytesOfItsSize) {
  StartHost(vmm_.MakeAttachment());
  EXPECT_EQ(Read(0, 8), 0x1122334455667788u);
  EXPECT_EQ(Read(0, 2), 0x7788u);
}

TEST_F(DeviceHostTest, WritesReachTheModelInOrderWithoutBytesAboveTheirSize) {
  StartHost(vmm_.MakeAttachment());
  ASSERT_TRUE(vmm_.client->Post(1, 0, 16, 1, 0xabcd, kLong).ok());
  ASSERT_TRUE(vmm_.client->Call(Operation::kWrite, 0, 0, 8, 4, 5, kLong).ok());
  absl::MutexLock lock(&model_.mutex);
  const std::vector<struct FakeModel::Write> expected = {{0, 16, 1, 0xcd}, {0, 8, 4, 5}};
  EXPECT_EQ(model_.writes, expected);
}

TEST_F(DeviceHostTest, AnAccessOutsideTheRegionsDoesNotReachTheModel) {
  StartHost(vmm_.MakeAttachment());
  EXPECT_EQ(Read(4095, 2), 0xffffu);
  EXPECT_EQ(*vmm_.client->Call(Operation::kRead, 0, 9, 0, 8, 0, kLong), ~uint64_t{0});
  ASSERT_TRUE(vmm_.client->Call(Operation::kWrite, 0, 1, 0, 4, 5, kLong).ok());
  ASSERT_TRUE(vmm_.client->Call(Operation::kWrite, 0, 0, ~uint64_t{0}, 4, 5, kLong).ok());
  absl::MutexLock lock(&model_.mutex);
  EXPECT_TRUE(model_.writes.empty());
}

TEST_F(DeviceHostTest, EveryDoorbellIsLookedAtWhenTheHostStarts) {
  StartHost(vmm_.MakeAttachment());
  ASSERT_TRUE(WaitForDoorbells(2));
  absl::MutexLock lock(&model_.mutex);
  EXPECT_EQ(model_.doorbells, (std::vector<uint32_t>{0, 1}));
}

TEST_F(DeviceHostTest, ADoorbellWakesTheHost) {
  StartHost(vmm_.MakeAttachment());
  ASSERT_TRUE(WaitForDoorbells(2));
  for (size_t n = 3; n < 20; ++n) {
    vmm_.doorbells[1].Signal();
    ASSERT_TRUE(WaitForDoorbells(n));
    absl::MutexLock lock(&model_.mutex);
    EXPECT_EQ(model_.doorbells.back(), 1u);
  }
}

TEST_F(DeviceHostTest, DoorbellsAndInterruptsAreRecordedWhileATraceRuns) {
  StartHost(vmm_.MakeAttachment());
  ASSERT_TRUE(WaitForDoorbells(2));
  Read(0, 1);  // what the start rang is served, without a trace
  channel::TraceReader reader(vmm_.client->trace());
  vmm_.client->SetTracing(true);
  vmm_.doorbells[1].Signal();
  ASSERT_TRUE(WaitForDoorbells(3));
  const auto set_state = [&](uint64_t bits) {
    ASSERT_TRUE(vmm_.client->Call(Operation::kSetFunctionState, 0, 0, 0, 8, bits, kLong).ok());
  };
  set_state(kFunctionStateBusMaster | kFunctionStateMsixEnabled);
  vmm_.client->SetTracing(false);
  set_state(kFunctionStateBusMaster | kFunctionStateMsixEnabled);
  std::vector<channel::TraceRecord> records;
  EXPECT_EQ(reader.Read(SIZE_MAX, records), 0u);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].kind, channel::TraceRecord::kDoorbell);
  EXPECT_EQ(records[0].index, 1u);
  EXPECT_EQ(records[1].kind, channel::TraceRecord::kMsix);
  EXPECT_EQ(records[1].index, 0u);
  EXPECT_LE(records[0].time_ns, records[1].time_ns);
  EXPECT_LE(records[1].time_ns, channel::TraceNow());
}

TEST_F(DeviceHostTest, APostedWriteIsNeverOvertakenByALaterDoorbell) {
  StartHost(vmm_.MakeAttachment());
  ASSERT_TRUE(WaitForDoorbells(2));
  for (size_t n = 1; n <= 2000; ++n) {
    ASSERT_TRUE(vmm_.client->Post(0, 0, 0, 4, n, kLong).ok());
    vmm_.doorbells[0].Signal();
    ASSERT_TRUE(WaitForDoorbells(2 + n));
    absl::MutexLock lock(&model_.mutex);
    ASSERT_EQ(model_.writes_at_doorbell, n);
  }
}

// The whole vmm may be stopped there, in a debugger for one.
TEST_F(DeviceHostTest, ASenderThatIsStoppedInTheMiddleOfARequestCostsNoProcessor) {
  StartHost(vmm_.MakeAttachment());
  ASSERT_TRUE(WaitForDoorbells(2));
  const uint64_t ticket = channel::ChannelPeer::Reserve(*vmm_.client, 1);
  ASSERT_TRUE(vmm_.client->Post(0, 0, 0, 4, 1, kLong).ok());
  vmm_.doorbells[0].Signal();
  clockid_t clock;
  ASSERT_EQ(pthread_getcpuclockid(thread_.native_handle(), &clock), 0);
  const auto cpu_time = [&] {
    timespec now;
    EXPECT_EQ(clock_gettime(clock, &now), 0);
    return absl::DurationFromTimespec(now);
  };
  absl::SleepFor(absl::Milliseconds(200));  // it may hope for a moment
  const absl::Duration before = cpu_time();
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_LT(cpu_time() - before, absl::Milliseconds(100));
  channel::ChannelPeer::Publish(*vmm_.client, ticket);
  ASSERT_TRUE(WaitForDoorbells(3));
}

TEST_F(DeviceHostTest, TheFunctionStateReachesInterruptsAndModel) {
  StartHost(vmm_.MakeAttachment());
  const uint64_t all =
      kFunctionStateBusMaster | kFunctionStateMsixEnabled | kFunctionStateIntxDisabled;
  ASSERT_TRUE(vmm_.client->Call(Operation::kSetFunctionState, 1, 0, 0, 8, all, kLong).ok());
  absl::MutexLock lock(&model_.mutex);
  EXPECT_TRUE(model_.state.bus_master);
  EXPECT_TRUE(model_.state.msix_enabled);
  EXPECT_TRUE(model_.state.intx_disabled);
  EXPECT_TRUE(vmm_.vectors[0].IsPending());
}

TEST_F(DeviceHostTest, ALevelThatIsStillTrueIsAssertedAfterTheAcknowledgement) {
  model_.on_start = [](DeviceServices& services) {
    services.SetIntx(true);
    return absl::OkStatus();
  };
  StartHost(vmm_.MakeAttachment());
  ASSERT_TRUE(vmm_.line.Drain());
  vmm_.resample.Signal();
  // Both descriptors wake the host in one look or two; the doorbell's is not the earlier one.
  vmm_.doorbells[0].Signal();
  ASSERT_TRUE(WaitForDoorbells(3));
  Read(0, 1);
  EXPECT_TRUE(vmm_.line.IsPending());
}

TEST_F(DeviceHostTest, AWatchedDescriptorCallsTheModelUntilItIsUnwatched) {
  const EventFd watched = *EventFd::Create();
  const EventFd called = *EventFd::Create();
  model_.on_start = [&](DeviceServices& services) {
    return services.Watch(watched.fd(), [&] {
      services.Unwatch(watched.fd());
      called.Signal();
    });
  };
  StartHost(vmm_.MakeAttachment());
  watched.Signal();
  while (!called.Drain()) Read(0, 1);
  Read(0, 1);
  EXPECT_FALSE(called.IsPending());
  EndHost();  // before the events end
}

TEST_F(DeviceHostTest, AResourceCanBeTakenOnce) {
  Attachment attachment = vmm_.MakeAttachment();
  attachment.resources.push_back({"disk", *CreateMemfd("disk", 4096)});
  model_.on_start = [](DeviceServices& services) {
    EXPECT_TRUE(services.TakeResource("disk").ok());
    EXPECT_EQ(services.TakeResource("disk").status().code(), absl::StatusCode::kNotFound);
    EXPECT_TRUE(services.memory().WriteObject(0, uint64_t{1}));
    return absl::OkStatus();
  };
  StartHost(std::move(attachment));
}

TEST_F(DeviceHostTest, AResourceThatTheModelDoesNotTakeIsAnError) {
  Attachment attachment = vmm_.MakeAttachment();
  attachment.resources.push_back({"dosk", *CreateMemfd("disk", 4096)});
  host_ = *DeviceHost::Create(model_.Describe(), std::move(attachment), *control_);
  EXPECT_EQ(host_->Start(model_).message(), "this device has no use for the resource 'dosk'");
}

TEST_F(DeviceHostTest, AnImpossibleChannelIsRefused) {
  Attachment attachment = vmm_.MakeAttachment();
  attachment.channel.set_slots(63);
  EXPECT_FALSE(DeviceHost::Create(model_.Describe(), std::move(attachment), *control_).ok());
}

TEST_F(DeviceHostTest, RunEndsWhenTheVmmIsGoneAndAppliesWhatTheGuestHasSent) {
  StartHost(vmm_.MakeAttachment());
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(vmm_.client->Post(0, 0, 0, 4, 1, kLong).ok());
  EndHost();
  EXPECT_TRUE(end_.ok()) << end_;
  absl::MutexLock lock(&model_.mutex);
  EXPECT_EQ(model_.writes.size(), 20u);
}

TEST_F(DeviceHostTest, RunEndsWithAnErrorOnAMessageThatNobodyAwaits) {
  StartHost(vmm_.MakeAttachment());
  ASSERT_TRUE(SendSocketMessage(sockets_.first.get(), "hello", {}).ok());
  thread_.join();
  EXPECT_EQ(end_.code(), absl::StatusCode::kInvalidArgument);
}

// Request memory that the test writes by itself, to stop in the middle of a send.
class HandmadeChannel {
 public:
  static constexpr uint32_t kSlots = 16;

  HandmadeChannel() {
    channel::RequestHeader& header = requests_.header();
    header.magic = channel::kRequestMagic;
    header.version = channel::kLayoutVersion;
    header.slots = kSlots;
    header.waiters = kWaiters;
  }

  channel::ServerDescriptors Descriptors() {
    channel::ServerDescriptors descriptors = {
        .request_memory = VmmSide::Duplicate(request_memory_.get()),
        .response_memory = *CreateMemfd("response", channel::ResponseView::SizeBytes(kWaiters)),
        .request_event = VmmSide::Duplicate(request_event_.read_fd()),
        .completion_events = {}};
    for (uint32_t i = 0; i < kWaiters; ++i) {
      descriptors.completion_events.push_back(VmmSide::Duplicate(EventFd::Create()->fd()));
    }
    return descriptors;
  }
  static channel::ServerParameters Parameters() {
    return {.slots = kSlots, .waiters = kWaiters, .max_poll = {}, .generation = 1};
  }

  void PublishWrite(uint64_t ticket) {
    channel::RequestSlot& slot = requests_.slot(ticket);
    slot.offset.Write(0);
    slot.data.Write(ticket);
    const channel::RequestShape shape = {.operation = static_cast<uint8_t>(Operation::kPostedWrite),
                                         .size_bytes = 4};
    slot.shape.Write(shape.Pack());
    slot.sequence.store(ticket, std::memory_order_seq_cst);
    request_event_.Signal();
  }

 private:
  const size_t size_ = channel::RequestView::SizeBytes(kSlots, kWaiters);
  UniqueFd request_memory_ = *CreateMemfd("request", size_);
  MemoryMapping mapping_ =
      *MemoryMapping::Map(request_memory_.get(), 0, size_, MemoryMapping::Protection::kReadWrite);
  channel::RequestView requests_{mapping_.data(), kSlots, kWaiters};
  channel::WakePipe request_event_ = *channel::WakePipe::Create();
};

TEST_F(DeviceHostTest, ADoorbellWaitsForAWriteBehindARequestThatIsStillBeingSent) {
  const EventFd ping = *EventFd::Create();
  const EventFd pong = *EventFd::Create();
  model_.on_start = [&](DeviceServices& services) {
    return services.Watch(ping.fd(), [&] {
      ping.Drain();
      pong.Signal();
    });
  };
  HandmadeChannel handmade;
  StartHost(vmm_.MakeAttachment(handmade.Descriptors(), HandmadeChannel::Parameters()));
  ASSERT_TRUE(WaitForDoorbells(2));
  handmade.PublishWrite(2);  // its sender then rings; the sender of 1 has not finished
  vmm_.doorbells[0].Signal();
  // Three rounds of the host's loop later it has seen the doorbell for sure.
  for (int i = 0; i < 3; ++i) {
    ping.Signal();
    while (!pong.Drain()) std::this_thread::yield();
  }
  {
    absl::MutexLock lock(&model_.mutex);
    EXPECT_EQ(model_.doorbells.size(), 2u);
  }
  handmade.PublishWrite(1);
  ASSERT_TRUE(WaitForDoorbells(3));
  EndHost();  // before the events end
  absl::MutexLock lock(&model_.mutex);
  EXPECT_EQ(model_.writes_at_doorbell, 2u);
}

}  // namespace
}  // namespace bulkhead::devices
