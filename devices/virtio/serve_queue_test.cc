// The turns in which a queue is served, with a device type that takes what it is given.
#include <stdint.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/holding_device.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"
#include "proto/channel/trace_ring.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {
namespace {

// Lets a test act in each call of a turn, as a guest's other CPUs do.
class TurnDevice : public HoldingDevice {
 public:
  void BeginTurn(uint32_t queue) override {
    on_call();
    HoldingDevice::BeginTurn(queue);
  }
  absl::Span<iovec> Room(uint32_t queue) override {
    on_call();
    return HoldingDevice::Room(queue);
  }
  void OnChain(uint32_t queue, const DescriptorChain& chain) override {
    HoldingDevice::OnChain(queue, chain);
    on_call();
  }
  void EndBatch(uint32_t queue) override {
    HoldingDevice::EndBatch(queue);
    ++batches;
    on_call();
  }

  bool HasResults() const override { return results != 0; }
  void TakeResults() override { taken_results += std::exchange(results, 0); }

  std::function<void()> on_call = [] {};
  int batches = 0;
  int results = 0;
  int taken_results = 0;
};

class Rig {
 public:
  explicit Rig(uint64_t features, uint32_t chains_per_turn = 64) {
    auto owned = std::make_unique<TurnDevice>();
    device = owned.get();
    device->chains_per_turn = chains_per_turn;
    model = std::make_unique<PciTransport>(std::move(owned));
    EXPECT_TRUE(model->Start(services).ok());
    driver = std::make_unique<FakeDriver>(*model, services);
    EXPECT_TRUE(driver->Initialize(features));
    device->turns[0] = device->turns[1] = device->batches = 0;
  }

  FakeQueue& queue() { return driver->queue(1); }
  std::vector<uint16_t>& held() { return device->held[1]; }
  void Add(int count = 1) {
    for (; count > 0; --count) ASSERT_TRUE(queue().Add({{driver->Allocate(16), 16, true}}));
  }
  void AddAndKick(int count) {
    Add(count);
    driver->Kick(1);
  }
  void CompleteOne() {
    device->virtio->Complete(1, held().front(), 7);
    held().erase(held().begin());
  }

  FakeServices services;
  TurnDevice* device;
  std::unique_ptr<PciTransport> model;
  std::unique_ptr<FakeDriver> driver;
};

class ServeQueueTest : public testing::TestWithParam<uint64_t> {
 protected:
  Rig NewRig(uint32_t chains_per_turn = 64) { return Rig(GetParam(), chains_per_turn); }
};

TEST_P(ServeQueueTest, ATurnTakesNoMoreThanItsShare) {
  Rig rig = NewRig(/*chains_per_turn=*/4);
  rig.AddAndKick(8);
  EXPECT_EQ(rig.held().size(), 4u);
  const int keep_alives = rig.services.keep_alives();
  for (const size_t taken : {8, 10}) {
    rig.Add();
    EXPECT_FALSE(rig.queue().NeedsDoorbell()) << "another turn is due anyway";
    EXPECT_EQ(rig.services.RunWatches(0), 1);
    EXPECT_EQ(rig.held().size(), taken);
  }
  EXPECT_EQ(rig.services.keep_alives(), keep_alives + 2);
  EXPECT_EQ(rig.services.RunWatches(0), 0);
  EXPECT_EQ(rig.device->turns[1], 3);
}

TEST_P(ServeQueueTest, AfterTheLastTurnTheDriverRingsAgain) {
  Rig rig = NewRig(/*chains_per_turn=*/2);
  rig.AddAndKick(3);
  EXPECT_EQ(rig.services.RunWatches(0), 1);
  rig.Add();
  EXPECT_TRUE(rig.queue().NeedsDoorbell());
}

TEST_P(ServeQueueTest, TheDriverRingsOnlyADeviceThatSleeps) {
  Rig rig = NewRig();
  rig.AddAndKick(1);
  rig.Add();
  ASSERT_TRUE(rig.queue().NeedsDoorbell());
  rig.model->OnDoorbell(1);  // from here on the device polls
  EXPECT_FALSE(rig.model->HasWork());
  for (const size_t taken : {3, 4, 5}) {
    rig.Add();
    EXPECT_FALSE(rig.queue().NeedsDoorbell());
    EXPECT_TRUE(rig.model->HasWork());
    rig.model->DoWork();
    EXPECT_EQ(rig.held().size(), taken);
    EXPECT_FALSE(rig.model->HasWork());
  }
  EXPECT_FALSE(rig.model->PrepareToSleep());
  rig.Add();
  EXPECT_TRUE(rig.queue().NeedsDoorbell());
  EXPECT_TRUE(rig.model->HasWork()) << "woken by something else, it finds that too";
}

TEST_P(ServeQueueTest, AChainThatComesJustBeforeTheSleepPreventsIt) {
  Rig rig = NewRig();
  rig.AddAndKick(1);
  rig.Add();
  ASSERT_TRUE(rig.queue().NeedsDoorbell());
  rig.model->OnDoorbell(1);
  rig.Add();
  EXPECT_FALSE(rig.queue().NeedsDoorbell());
  EXPECT_TRUE(rig.model->PrepareToSleep());
  rig.model->DoWork();
  EXPECT_EQ(rig.held().size(), 3u);
  EXPECT_FALSE(rig.model->PrepareToSleep());
  EXPECT_FALSE(rig.model->PrepareToSleep());
  rig.Add();
  EXPECT_TRUE(rig.queue().NeedsDoorbell());
}

TEST_P(ServeQueueTest, ChainsThatAFullDeviceCannotTakeAreNoWork) {
  Rig rig = NewRig();
  rig.device->capacity = 1;
  rig.AddAndKick(3);
  EXPECT_EQ(rig.held().size(), 1u);
  EXPECT_FALSE(rig.model->HasWork());
  EXPECT_FALSE(rig.model->PrepareToSleep());
}

TEST_P(ServeQueueTest, ResultsAreWork) {
  Rig rig = NewRig();
  rig.AddAndKick(1);
  EXPECT_FALSE(rig.model->HasWork());
  rig.device->results = 2;
  EXPECT_TRUE(rig.model->HasWork());
  EXPECT_TRUE(rig.model->PrepareToSleep());
  rig.model->DoWork();
  EXPECT_EQ(rig.device->taken_results, 2);
  EXPECT_FALSE(rig.model->PrepareToSleep());
}

TEST_P(ServeQueueTest, AFullDeviceIsServedAgainOnceItHasRoom) {
  Rig rig = NewRig();
  rig.device->capacity = 3;
  rig.AddAndKick(5);
  EXPECT_EQ(rig.held().size(), 3u);
  EXPECT_EQ(rig.services.RunWatches(0), 0) << "it waits, it does not ask again and again";
  rig.Add();
  EXPECT_FALSE(rig.queue().NeedsDoorbell());
  rig.model->OnDoorbell(1);  // comes nevertheless
  EXPECT_EQ(rig.held().size(), 3u);
  rig.CompleteOne();
  rig.device->virtio->ServeLater(1);
  EXPECT_EQ(rig.services.RunWatches(0), 1);
  EXPECT_EQ(rig.held().size(), 3u);
  EXPECT_EQ(rig.queue().used_idx(), 1u);
  rig.device->capacity = 10;
  rig.device->virtio->ServeLater(1);
  EXPECT_EQ(rig.services.RunWatches(0), 1);
  EXPECT_EQ(rig.held().size(), 5u);
  rig.Add();
  EXPECT_TRUE(rig.queue().NeedsDoorbell());
}

TEST_P(ServeQueueTest, ATurnEndsWithOnePublication) {
  Rig rig = NewRig();
  rig.device->completes_at_once = true;
  int calls = 0;
  rig.device->on_call = [&] {
    ++calls;
    EXPECT_EQ(rig.queue().used_idx(), 0u);
  };
  rig.AddAndKick(6);
  EXPECT_EQ(rig.queue().used_idx(), 6u);
  EXPECT_EQ(rig.services.TakeMsixSignals().size(), 1u);
  EXPECT_GT(calls, 6);
}

TEST_P(ServeQueueTest, AChainThatComesInTheMiddleOfATurnIsNeverLost) {
  for (const uint32_t chains_per_turn : {1, 2, 3, 64}) {
    for (const size_t capacity : {1, 2, 3, 64}) {
      bool came = true;
      for (int at = 0; came; ++at) {
        SCOPED_TRACE(testing::Message()
                     << chains_per_turn << " a turn, room for " << capacity << ", in call " << at);
        Rig rig = NewRig(chains_per_turn);
        rig.device->capacity = capacity;
        bool doorbell = false;
        came = false;
        rig.device->on_call = [&, call = 0]() mutable {
          if (call++ != at) return;
          came = true;
          rig.Add();
          doorbell = rig.queue().NeedsDoorbell();
        };
        rig.AddAndKick(2);
        while (true) {
          if (std::exchange(doorbell, false)) {
            rig.model->OnDoorbell(1);
          } else if (rig.services.RunWatches(0) == 0) {
            if (rig.held().empty()) break;
            rig.CompleteOne();
            rig.device->virtio->ServeLater(1);
          }
        }
        EXPECT_EQ(rig.queue().used_idx(), came ? 3u : 2u);
        EXPECT_TRUE(came || at > 5);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(ServeQueueTest, ABrokenQueueEndsTheTurnAndTheNext) {
  Rig rig = NewRig(/*chains_per_turn=*/2);
  rig.Add(2);
  rig.queue().MakeAvailable(200);  // there is no such descriptor
  rig.AddAndKick(2);
  EXPECT_EQ(rig.held().size(), 2u);
  EXPECT_EQ(rig.services.RunWatches(0), 1);
  EXPECT_EQ(rig.held().size(), 2u);
  EXPECT_NE(rig.driver->status() & kStatusNeedsReset, 0);
  EXPECT_EQ(rig.services.RunWatches(0), 0);
  rig.model->OnDoorbell(1);
  EXPECT_EQ(rig.held().size(), 2u);
}

TEST_P(ServeQueueTest, ADeviceThatFailsInTheMiddleOfATurnGetsNoMoreChains) {
  Rig rig = NewRig();
  rig.device->on_call = [&] {
    if (rig.held().size() == 2) rig.device->virtio->Fail("as a test wants it");
  };
  rig.AddAndKick(5);
  EXPECT_EQ(rig.held().size(), 2u);
  EXPECT_EQ(rig.device->batches, 1);
  EXPECT_EQ(rig.services.RunWatches(0), 0);
}

TEST_P(ServeQueueTest, AResetBetweenTwoTurnsEndsThem) {
  Rig rig = NewRig(/*chains_per_turn=*/4);
  rig.AddAndKick(10);
  ASSERT_EQ(rig.held().size(), 4u);
  rig.device->slow_to_stop = true;
  rig.driver->Set(kDeviceStatus, 1, 0);
  rig.services.RunWatches(0);
  EXPECT_EQ(rig.held().size(), 4u) << "stopping";
  rig.device->Release(1);
  EXPECT_EQ(rig.driver->status(), 0);
  EXPECT_EQ(rig.queue().used_idx(), 0u);
  EXPECT_EQ(rig.services.RunWatches(0), 0);
  ASSERT_TRUE(rig.driver->Initialize(GetParam()));
  rig.AddAndKick(3);
  EXPECT_EQ(rig.held().size(), 3u);
}

TEST_P(ServeQueueTest, WithoutBusMasteringATurnGivesNoChains) {
  Rig rig = NewRig(/*chains_per_turn=*/4);
  rig.AddAndKick(10);
  rig.model->OnFunctionState({.bus_master = false, .msix_enabled = true});
  EXPECT_EQ(rig.services.RunWatches(0), 1);
  EXPECT_EQ(rig.device->turns[1], 2) << "for what the device holds back";
  EXPECT_EQ(rig.held().size(), 4u);
  rig.model->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_EQ(rig.held().size(), 8u);
  EXPECT_EQ(rig.services.RunWatches(0), 1);
  EXPECT_EQ(rig.held().size(), 10u);
}

TEST_P(ServeQueueTest, ATraceHasEachChainFromItsTakingToItsCompletion) {
  Rig rig = NewRig();
  rig.AddAndKick(1);
  channel::TraceReader reader(rig.services.trace_ring());
  rig.services.StartTrace();
  ASSERT_TRUE(rig.queue().Add(
      {{rig.driver->Allocate(16), 16, false}, {rig.driver->Allocate(512), 512, true}}));
  rig.driver->Kick(1);
  ASSERT_EQ(rig.held().size(), 2u);
  const uint16_t head = rig.held()[1];
  rig.CompleteOne();
  rig.CompleteOne();
  std::vector<channel::TraceRecord> records;
  EXPECT_EQ(reader.Read(SIZE_MAX, records), 0u);
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].kind, channel::TraceRecord::kTaken);
  EXPECT_EQ(records[0].index, 1u);
  EXPECT_EQ(records[0].a, head);
  EXPECT_EQ(records[0].b, channel::BytesOfBuffers(/*readable=*/16, /*writable=*/512));
  EXPECT_EQ(records[1].kind, channel::TraceRecord::kCompleted);
  EXPECT_EQ(records[2].kind, channel::TraceRecord::kCompleted);
  EXPECT_EQ(records[2].index, 1u);
  EXPECT_EQ(records[2].a, head);
  EXPECT_EQ(records[2].b, 7u);
}

// --- Latency ------------------------------------------------------------------------------------

struct Timed {
  uint64_t count = 0;
  uint64_t sum_ns = 0;
};
Timed LatencyOf(const DeviceModel& model) {
  v1::DeviceMetrics metrics;
  model.AppendMetrics(metrics);
  EXPECT_TRUE(metrics.has_request_latency());
  Timed timed{.sum_ns = metrics.request_latency().sum_nanoseconds()};
  for (const uint64_t bucket : metrics.request_latency().buckets()) timed.count += bucket;
  return timed;
}

void SpinFor(uint64_t nanoseconds) {
  const uint64_t end = channel::TraceNow() + nanoseconds;
  while (channel::TraceNow() < end) {
  }
}

TEST_P(ServeQueueTest, ARequestIsTimedFromItsTakingToItsCompletion) {
  Rig rig = NewRig();
  EXPECT_EQ(LatencyOf(*rig.model).count, 0u);
  const uint64_t before = channel::TraceNow();
  rig.AddAndKick(1);
  SpinFor(1'000'000);
  EXPECT_EQ(LatencyOf(*rig.model).count, 0u);
  rig.CompleteOne();
  const Timed timed = LatencyOf(*rig.model);
  EXPECT_EQ(timed.count, 1u);
  EXPECT_GE(timed.sum_ns, 1'000'000u);
  EXPECT_LE(timed.sum_ns, channel::TraceNow() - before);
}

TEST_P(ServeQueueTest, WhatAResetEndsIsNotTimed) {
  for (const bool slow_to_stop : {false, true}) {
    Rig rig = NewRig();
    rig.device->slow_to_stop = slow_to_stop;
    rig.AddAndKick(1);
    rig.driver->Set(kDeviceStatus, 1, 0);
    if (slow_to_stop) rig.device->Release(1);
    ASSERT_EQ(rig.driver->status(), 0);
    EXPECT_EQ(LatencyOf(*rig.model).count, 0u);

    SpinFor(1'000'000);  // else the timer may take the queue for busy, and skip the next one
    ASSERT_TRUE(rig.driver->Initialize(GetParam() | kFeatureRingReset));
    const uint64_t before = channel::TraceNow();
    rig.AddAndKick(1);
    rig.CompleteOne();
    EXPECT_EQ(LatencyOf(*rig.model).count, 1u);
    EXPECT_LE(LatencyOf(*rig.model).sum_ns, channel::TraceNow() - before);

    rig.AddAndKick(1);
    rig.driver->Set(kQueueSelect, 2, 1);
    rig.driver->Set(kQueueReset, 2, 1);
    if (slow_to_stop) rig.device->Release(1);
    ASSERT_EQ(rig.driver->Get(kQueueReset, 2), 0u);
    EXPECT_EQ(LatencyOf(*rig.model).count, 1u) << "a queue by itself";
  }
}

// The guest makes a head available that is in flight, and timed.
TEST_P(ServeQueueTest, AHeadThatIsUsedTwiceIsNotTimedTwice) {
  Rig rig = NewRig();
  rig.AddAndKick(1);
  rig.queue().MakeAvailable(rig.held()[0]);
  rig.driver->Kick(1);
  EXPECT_NE(rig.driver->status() & kStatusNeedsReset, 0);
  EXPECT_EQ(rig.held().size(), 1u);
  rig.CompleteOne();
  EXPECT_EQ(LatencyOf(*rig.model).count, 1u);
}

TEST_P(ServeQueueTest, ADeviceThatShallNotServeGetsNoChainsInATurnThatWasDue) {
  Rig rig = NewRig(/*chains_per_turn=*/4);
  rig.AddAndKick(6);
  rig.model->SetServing(false);
  rig.services.RunWatches(0);
  EXPECT_EQ(rig.held().size(), 4u);
  rig.model->SetServing(true);
  EXPECT_EQ(rig.held().size(), 6u);
}

INSTANTIATE_TEST_SUITE_P(All, ServeQueueTest, testing::Values(0, kFeatureEventIndex),
                         [](const auto& info) {
                           return std::string(info.param == 0 ? "Flags" : "EventIndex");
                         });

}  // namespace
}  // namespace bulkhead::devices::virtio
