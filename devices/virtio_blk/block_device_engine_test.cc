// What a disk asks of its engine: bounded batches, whatever the driver asks for, and patience.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_blk/block_device.h"
#include "devices/virtio_blk/block_layout.h"
#include "devices/virtio_blk/direct_engine.h"
#include "devices/virtio_blk/disk_engine.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kDiskBytes = uint64_t{1} << 30;
constexpr uint64_t kMemoryBytes = 64 << 20;
constexpr uint16_t kQueueSize = 256;
constexpr int64_t kPiece = BlockRequest::kMaxTransferBytes;

// Does nothing, and remembers what it was asked for.
class FakeEngine : public DiskEngine {
 public:
  struct Batch {
    int operations = 0;
    int64_t bytes = 0;
  };

  void Prepare(const FileOperation& operation, uint64_t id) override {
    ++next_.operations;
    const bool moves = !operation.buffers.empty();
    if (moves) next_.bytes += static_cast<int64_t>(operation.length);
    if (fills && operation.kind == FileOperation::Kind::kRead) {
      for (const iovec& buffer : operation.buffers) memset(buffer.iov_base, 'r', buffer.iov_len);
    }
    const int32_t result = static_cast<int32_t>(moves ? operation.length : 0);
    prepared.push_back({id, short_of_threads ? -ECANCELED : result});
  }
  bool Submit() override {
    ++submits;
    if (short_of_memory) return false;
    if (next_.operations != 0) batches.push_back(std::exchange(next_, {}));
    while (!prepared.empty()) {
      (at_once ? done : in_kernel).push_back(prepared.front());
      prepared.pop_front();
    }
    return true;
  }
  bool Reap(Result& result) override {
    if (done.empty()) return false;
    result = done.front();
    done.pop_front();
    if (done.empty()) event_.Drain();
    return true;
  }
  bool Drain(absl::Duration) override { return true; }
  uint32_t in_flight() const override {
    return static_cast<uint32_t>(prepared.size() + in_kernel.size() + done.size());
  }
  int fd() const override { return event_.fd(); }

  // The kernel is done with the first `count` operations.
  void Finish(size_t count) {
    for (; count > 0 && !in_kernel.empty(); --count) {
      done.push_back(in_kernel.front());
      in_kernel.pop_front();
    }
    event_.Signal();
  }

  bool at_once = false;  // as the page cache does
  bool fills = false;    // reads give 'r'
  bool short_of_memory = false;
  bool short_of_threads = false;
  int submits = 0;
  std::vector<Batch> batches;
  std::deque<Result> prepared, in_kernel, done;

 private:
  Batch next_;
  EventFd event_ = EventFd::Create().value();
};

class BlockDeviceEngineTest : public testing::Test {
 protected:
  // `direct`: through buffers of the device, where those of the driver are not aligned to 512
  // bytes.
  explicit BlockDeviceEngineTest(bool direct = false) {
    services_.AddResource("disk", CreateMemfd("disk", kDiskBytes).value());
    auto device = BlockDevice::Create({.queue_size = kQueueSize}).value();
    device->set_engine_factory([this, direct](const DiskFile&, uint32_t max_operations) {
      auto fake = std::make_unique<FakeEngine>();
      engine_ = fake.get();
      std::unique_ptr<DiskEngine> engine = std::move(fake);
      if (direct) {
        DiskFile disk;
        disk.direct_alignment = disk.memory_alignment = 512;
        engine = std::make_unique<DirectEngine>(std::move(engine), disk, max_operations);
      }
      return absl::StatusOr<ChosenEngine>(ChosenEngine{std::move(engine), true});
    });
    model_ = std::make_unique<PciTransport>(std::move(device));
    EXPECT_TRUE(model_->Start(services_).ok());
    driver_ = std::make_unique<FakeDriver>(*model_, services_);
    EXPECT_TRUE(driver_->Initialize(~kFeatureEventIndex));  // an interrupt each time
    header_ = driver_->Allocate(16);
    status_ = driver_->Allocate(1);
    table_ = driver_->Allocate(kQueueSize * 16);
    data_ = driver_->Allocate(1 << 20);
    EXPECT_TRUE(services_.memory().WriteObject(header_, BlockHeader{kBlockIn, 0, 0}));
  }

  // A read of that many segments of `bytes`, all into the same memory.
  void AddRead(size_t segments, uint32_t bytes) {
    std::vector<Buffer> buffers = {{header_, 16, false}};
    buffers.resize(1 + segments, {data_, bytes, true});
    buffers.push_back({status_, 1, true});
    ASSERT_TRUE(driver_->queue(0).AddIndirect(buffers, table_).has_value());
  }

  void AddFlush() { AddFlush(status_); }
  void AddFlush(GuestAddress status) {
    ASSERT_TRUE(services_.memory().WriteObject(header_, BlockHeader{kBlockFlushCommand, 0, 0}));
    ASSERT_TRUE(services_.memory().WriteObject<uint8_t>(status, 0xff));
    ASSERT_TRUE(driver_->queue(0).Add({{header_, 16, false}, {status, 1, true}}).has_value());
  }
  void FlushAtOnce();
  uint8_t Status() {
    uint8_t status = 0xff;
    EXPECT_TRUE(services_.memory().ReadObject(status_, status));
    return status;
  }

  FakeServices services_{{{0, kMemoryBytes}}};
  FakeEngine* engine_ = nullptr;
  std::unique_ptr<PciTransport> model_;
  std::unique_ptr<FakeDriver> driver_;
  GuestAddress header_ = 0, status_ = 0, table_ = 0, data_ = 0;
};

class DirectBlockDeviceTest : public BlockDeviceEngineTest {
 protected:
  DirectBlockDeviceTest() : BlockDeviceEngineTest(/*direct=*/true) {
    engine_->fills = true;
    data_ += 8;
  }
  void SetBusMaster(bool on) { model_->OnFunctionState({.bus_master = on, .msix_enabled = true}); }
  std::string Data() {
    std::string data(512, '\0');
    EXPECT_TRUE(services_.memory().Read(
        data_, absl::MakeSpan(reinterpret_cast<uint8_t*>(data.data()), data.size())));
    return data;
  }
};

TEST_F(DirectBlockDeviceTest, WhatWasReadIsNotCopiedIntoGuestMemoryWhileBusMasteringIsOff) {
  constexpr int kReads = DirectEngine::kBounceBuffers;
  for (int i = 0; i < kReads; ++i) AddRead(1, 512);
  driver_->Kick(0);
  SetBusMaster(false);
  ASSERT_TRUE(services_.RunUntil([&] {
    engine_->Finish(1);
    return !model_->dma_in_flight();
  }));
  EXPECT_EQ(Data(), std::string(512, '\0'));
  EXPECT_EQ(driver_->queue(0).used_idx(), 0);
  EXPECT_TRUE(model_->at_rest());
  engine_->at_once = true;
  SetBusMaster(true);
  ASSERT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == kReads; }));
  EXPECT_EQ(Data(), std::string(512, 'r'));
}

TEST_F(DirectBlockDeviceTest, WhatWaitsForABufferIsStartedWhereverResultsWereReaped) {
  constexpr uint16_t kBuffers = DirectEngine::kBounceBuffers;
  for (int i = 0; i < kBuffers + 4; ++i) AddRead(1, 512);
  driver_->Kick(0);
  ASSERT_EQ(engine_->in_kernel.size(), kBuffers);
  // They end just when the driver rings.
  engine_->Finish(kBuffers);
  AddRead(1, 512);
  driver_->Kick(0);
  EXPECT_EQ(driver_->queue(0).used_idx(), kBuffers);
  EXPECT_EQ(engine_->in_kernel.size(), 5u);
  engine_->Finish(5);
  EXPECT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == kBuffers + 5; }));
}

TEST_F(DirectBlockDeviceTest, WhatWasReadIsNotCopiedIntoTheMemoryOfADriverThatHasReset) {
  AddRead(1, 512);
  driver_->Kick(0);
  ASSERT_EQ(engine_->in_kernel.size(), 1u);
  driver_->Set(kDeviceStatus, 1, 0);
  engine_->Finish(1);
  ASSERT_TRUE(services_.RunUntil([&] { return driver_->status() == 0; }));
  EXPECT_EQ(Data(), std::string(512, '\0'));
}

TEST_F(BlockDeviceEngineTest, AFullQueueOfTheLargestRequestsIsServedInBoundedTurns) {
  engine_->at_once = true;
  for (int i = 0; i < kQueueSize; ++i) AddRead(254, 1 << 20);
  int turns = 0;
  size_t seen = 0;
  // Each turn of the loop does a bounded amount, in bounded batches, and says that it lives.
  const auto check_turn = [&] {
    int64_t bytes = 0;
    for (; seen < engine_->batches.size(); ++seen) {
      ASSERT_LE(engine_->batches[seen].operations, 16);
      ASSERT_LE(engine_->batches[seen].bytes, (1 << 20) - 1 + kPiece);
      bytes += engine_->batches[seen].bytes;
    }
    ASSERT_LE(bytes, (8 << 20) + kPiece);
    ASSERT_GE(services_.keep_alives(), static_cast<int>(engine_->batches.size()));
    ++turns;
  };
  driver_->Kick(0);
  check_turn();
  while (driver_->queue(0).used_idx() != kQueueSize && !HasFailure()) {
    ASSERT_LT(turns, 100'000);
    ASSERT_GT(services_.RunWatches(0), 0) << "work is left and no callback is due";
    check_turn();
  }
  EXPECT_GT(turns, 1000);
}

TEST_F(BlockDeviceEngineTest, SmallRequestsShareASubmission) {
  for (int i = 0; i < 40; ++i) AddRead(1, 512);
  driver_->Kick(0);
  ASSERT_EQ(engine_->batches.size(), 3u);
  EXPECT_EQ(engine_->batches[0].operations, 16);
  EXPECT_EQ(engine_->batches[1].operations, 16);
  EXPECT_EQ(engine_->batches[2].operations, 8);
  engine_->Finish(40);
  EXPECT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == 40; }));
}

TEST_F(BlockDeviceEngineTest, TheFirstAnswersAreShownBeforeTheLastRequestsAreStarted) {
  engine_->at_once = true;
  for (int i = 0; i < 64; ++i) AddRead(128, 1024);  // 8 MiB in all
  driver_->Kick(0);
  const std::vector<FakeEngine::Batch> batches = engine_->batches;
  ASSERT_GE(batches.size(), 8u);
  EXPECT_EQ(driver_->queue(0).used_idx(), 64);
  // An interrupt a batch: each was published by itself.
  EXPECT_EQ(services_.TakeMsixSignals().size(), batches.size());
}

TEST_F(BlockDeviceEngineTest, AHostThatIsShortOfMemoryIsAskedAgainNowAndThenOnly) {
  engine_->short_of_memory = true;
  for (int i = 0; i < 4; ++i) AddRead(1, 512);
  driver_->Kick(0);
  const int submits = engine_->submits;
  EXPECT_EQ(services_.RunWatches(0), 0) << "nothing to do until the timer says so";
  for (int i = 0; i < 3; ++i) ASSERT_EQ(services_.RunWatches(60000), 1);
  EXPECT_GT(engine_->submits, submits);
  EXPECT_LE(engine_->submits, submits + 2 * 3);
  engine_->short_of_memory = false;
  engine_->at_once = true;
  EXPECT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == 4; }));
  EXPECT_EQ(services_.RunWatches(20), 0);
}

TEST_F(BlockDeviceEngineTest, AHostThatIsShortOfThreadsIsAskedAgainNowAndThenOnly) {
  engine_->at_once = true;
  engine_->short_of_threads = true;
  for (int i = 0; i < 4; ++i) AddRead(1, 512);
  driver_->Kick(0);
  EXPECT_EQ(engine_->batches.size(), 1u);
  EXPECT_EQ(services_.RunWatches(0), 0) << "nothing to do until the timer says so";
  // What comes meanwhile is tried at once, and puts the others off no further.
  AddRead(1, 512);
  driver_->Kick(0);
  EXPECT_EQ(engine_->batches.size(), 2u);
  for (size_t i = 3; i <= 5; ++i) {
    ASSERT_EQ(services_.RunWatches(60000), 1);
    EXPECT_EQ(engine_->batches.size(), i);
    EXPECT_EQ(engine_->batches.back().operations, 5);
  }
  EXPECT_EQ(driver_->queue(0).used_idx(), 0);
  EXPECT_FALSE(model_->at_rest());
  engine_->short_of_threads = false;
  EXPECT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == 5; }));
  EXPECT_EQ(Status(), kBlockStatusOk);
  EXPECT_TRUE(model_->at_rest());
  EXPECT_EQ(services_.RunWatches(20), 0);
}

TEST_F(BlockDeviceEngineTest, AResetDropsWhatWaitsForThreads) {
  engine_->at_once = true;
  engine_->short_of_threads = true;
  AddRead(1, 512);
  driver_->Kick(0);
  driver_->Set(kDeviceStatus, 1, 0);
  EXPECT_EQ(driver_->status(), 0);
  EXPECT_TRUE(model_->at_rest());
  ASSERT_EQ(services_.RunWatches(60000), 1);
  EXPECT_EQ(engine_->batches.size(), 1u);
}

TEST_F(BlockDeviceEngineTest, AResetDropsWhatWaitsForItsTurn) {
  for (int i = 0; i < kQueueSize; ++i) AddRead(254, 1 << 20);
  driver_->Kick(0);
  const uint32_t started = engine_->in_flight();
  ASSERT_LT(started, uint32_t{kQueueSize});
  driver_->Set(kDeviceStatus, 1, 0);
  EXPECT_NE(driver_->status(), 0) << "what the engine has is still in flight";
  engine_->Finish(started);
  ASSERT_TRUE(services_.RunUntil([&] { return driver_->status() == 0; }));
  EXPECT_EQ(engine_->in_flight(), 0u) << "nothing more was started";
  EXPECT_TRUE(model_->at_rest());
  ASSERT_TRUE(driver_->Initialize(~uint64_t{0}));
  engine_->at_once = true;
  AddRead(1, 512);
  EXPECT_TRUE(driver_->KickAndWait(0).has_value());
}

TEST_F(BlockDeviceEngineTest, AFailedFlushThatAResetCutOffIsToldByTheNextOnce) {
  for (const bool next_fails_too : {false, true}) {
    engine_->at_once = false;
    AddFlush();
    driver_->Kick(0);
    ASSERT_EQ(engine_->in_kernel.size(), 1u);
    driver_->Set(kDeviceStatus, 1, 0);
    engine_->in_kernel.front().result = -EIO;
    engine_->Finish(1);
    ASSERT_TRUE(services_.RunUntil([&] { return driver_->status() == 0; }));
    ASSERT_TRUE(driver_->Initialize(~uint64_t{0}));

    AddFlush();
    driver_->Kick(0);
    // A disk of that size is flushed by parts.
    ASSERT_EQ(engine_->in_kernel.size(), 1u);
    if (next_fails_too) engine_->in_kernel.front().result = -EIO;
    engine_->at_once = true;
    engine_->Finish(1);
    ASSERT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == 1; }));
    EXPECT_EQ(Status(), kBlockStatusIoError);

    AddFlush();
    ASSERT_TRUE(driver_->KickAndWait(0).has_value());
    ASSERT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == 2; }));
    EXPECT_EQ(Status(), kBlockStatusOk);
  }
}

// Once nothing is dirty, a flush is one sync of the file.
void BlockDeviceEngineTest::FlushAtOnce() {
  engine_->at_once = true;
  AddFlush();
  ASSERT_TRUE(driver_->KickAndWait(0).has_value());
  ASSERT_TRUE(services_.RunUntil([&] { return engine_->in_flight() == 0; }));
  engine_->at_once = false;
}

TEST_F(BlockDeviceEngineTest, FlushesThatWaitShareASync) {
  FlushAtOnce();
  const uint16_t used = driver_->queue(0).used_idx();
  for (int i = 0; i < 3; ++i) AddFlush();
  driver_->Kick(0);
  EXPECT_EQ(engine_->in_kernel.size(), 1u);
  // The sync that has started may not see what was written before these.
  for (int i = 0; i < 4; ++i) AddFlush();
  driver_->Kick(0);
  EXPECT_EQ(engine_->in_kernel.size(), 1u);
  EXPECT_EQ(driver_->queue(0).used_idx(), used);
  engine_->Finish(1);
  ASSERT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == used + 3; }));
  EXPECT_EQ(engine_->in_kernel.size(), 1u);
  engine_->Finish(1);
  ASSERT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == used + 7; }));
  EXPECT_EQ(engine_->in_flight(), 0u);
}

TEST_F(BlockDeviceEngineTest, AFailedSyncFailsAllFlushesThatWaitedForIt) {
  FlushAtOnce();
  const uint16_t used = driver_->queue(0).used_idx();
  for (int i = 0; i < 3; ++i) AddFlush(data_ + i);
  driver_->Kick(0);
  ASSERT_EQ(engine_->in_kernel.size(), 1u);
  engine_->in_kernel.front().result = -EIO;
  engine_->Finish(1);
  ASSERT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == used + 3; }));
  for (int i = 0; i < 3; ++i) {
    uint8_t status = 0xff;
    ASSERT_TRUE(services_.memory().ReadObject(data_ + i, status));
    EXPECT_EQ(status, kBlockStatusIoError) << i;
  }
  FlushAtOnce();
  EXPECT_EQ(Status(), kBlockStatusOk);
}

// The host could start no thread for it: all are tried again, together.
TEST_F(BlockDeviceEngineTest, ASyncThatDidNotBeginIsRepeatedForAll) {
  FlushAtOnce();
  const uint16_t used = driver_->queue(0).used_idx();
  for (int i = 0; i < 3; ++i) AddFlush(data_ + i);
  driver_->Kick(0);
  ASSERT_EQ(engine_->in_kernel.size(), 1u);
  engine_->in_kernel.front().result = -EINTR;
  engine_->Finish(1);
  ASSERT_TRUE(services_.RunUntil([&] { return engine_->in_kernel.size() == 1; }));
  EXPECT_EQ(driver_->queue(0).used_idx(), used);
  engine_->Finish(1);
  ASSERT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == used + 3; }));
  EXPECT_EQ(engine_->in_flight(), 0u);
}

TEST_F(BlockDeviceEngineTest, AResetDropsTheFlushesThatWaitForTheNextSync) {
  FlushAtOnce();
  AddFlush();
  driver_->Kick(0);
  for (int i = 0; i < 2; ++i) AddFlush();
  driver_->Kick(0);
  driver_->Set(kDeviceStatus, 1, 0);
  engine_->Finish(1);
  ASSERT_TRUE(services_.RunUntil([&] { return driver_->status() == 0; }));
  EXPECT_EQ(engine_->in_flight(), 0u);
  EXPECT_TRUE(model_->at_rest());
  ASSERT_TRUE(driver_->Initialize(~uint64_t{0}));
  FlushAtOnce();
  EXPECT_EQ(Status(), kBlockStatusOk);
}

TEST_F(BlockDeviceEngineTest, WithoutBusMasteringNothingIsStartedAndNothingForgotten) {
  for (int i = 0; i < 8; ++i) AddRead(254, 1 << 20);
  driver_->Kick(0);
  model_->OnFunctionState({.bus_master = false, .msix_enabled = true});
  const size_t batches = engine_->batches.size();
  engine_->Finish(1000);
  while (services_.RunWatches(0) > 0) {
  }
  EXPECT_EQ(engine_->batches.size(), batches);
  EXPECT_TRUE(model_->at_rest()) << "a successor finds all of it in the queue";
  engine_->at_once = true;
  model_->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_TRUE(services_.RunUntil([&] { return driver_->queue(0).used_idx() == 8; }));
}

// A device that the driver has to reset serves no queue, but it finishes what it has taken.
TEST_F(BlockDeviceEngineTest, WhatWasTakenIsFinishedThoughTheDriverMustReset) {
  AddRead(254, 1 << 20);
  driver_->Kick(0);
  driver_->queue(0).SetAvailableIdx(1000);
  model_->OnDoorbell(0);
  ASSERT_NE(driver_->status() & kStatusNeedsReset, 0);
  model_->OnFunctionState({.bus_master = false, .msix_enabled = true});
  engine_->Finish(1000);
  while (services_.RunWatches(0) > 0) {
  }
  engine_->at_once = true;
  model_->OnFunctionState({.bus_master = true, .msix_enabled = true});
  model_->SetServing(false);
  EXPECT_TRUE(services_.RunUntil([&] { return model_->at_rest(); }));
}

}  // namespace
}  // namespace bulkhead::devices::virtio
