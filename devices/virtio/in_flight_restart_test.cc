// Chains in flight when a process dies, through registers and rings as a driver sees them.
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/holding_device.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"
#include "proto/channel/trace_ring.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kAllFeatures = ~uint64_t{0};

struct Rings {
  const char* name;
  uint64_t features;
  bool indirect;
};
std::ostream& operator<<(std::ostream& out, const Rings& rings) { return out << rings.name; }

// The rings' features, with which every test of restarts must hold.
class InFlightRestartTest : public testing::TestWithParam<Rings> {
 protected:
  InFlightRestartTest()
      : model(services,
              [this] {
                auto owned = std::make_unique<HoldingDevice>();
                device = owned.get();
                device->slow_to_stop = slow_to_stop;
                return std::make_unique<PciTransport>(std::move(owned));
              }),
        driver(std::make_unique<FakeDriver>(model, services)) {
    EXPECT_TRUE(Initialize());
  }

  bool Initialize() { return driver->Initialize(GetParam().features); }
  // The driver is unbound, and another one takes its place in memory.
  void Rebind() {
    ASSERT_TRUE(driver->Reset());
    driver = std::make_unique<FakeDriver>(model, services);
    ASSERT_TRUE(Initialize());
  }

  uint16_t Add(uint16_t queue) {
    const GuestAddress data = driver->Allocate(64);
    const std::vector<Buffer> buffers = {{data, 16, false}, {data + 16, 16, true}};
    return *(GetParam().indirect ? driver->queue(queue).AddIndirect(buffers, data + 32)
                                 : driver->queue(queue).Add(buffers));
  }
  std::vector<uint16_t> AddAndKick(uint16_t queue, int count) {
    std::vector<uint16_t> heads;
    for (int i = 0; i < count; ++i) heads.push_back(Add(queue));
    driver->Kick(queue);
    return heads;
  }
  // What the driver finds in the used ring.
  std::vector<uint16_t> TakeUsed(uint16_t queue) {
    std::vector<uint16_t> heads;
    while (const std::optional<UsedElement> used = driver->queue(queue).PopUsed()) {
      EXPECT_EQ(used->length, 7u);
      heads.push_back(static_cast<uint16_t>(used->id));
    }
    return heads;
  }
  // Completes one of those that are held, and shows it.
  void CompleteOne(uint16_t queue, size_t which) {
    std::vector<uint16_t>& held = device->held[queue];
    device->virtio->Complete(queue, held[which], 7);
    held.erase(held.begin() + which);
  }

  bool slow_to_stop = false;
  DurableServices services;
  HoldingDevice* device = nullptr;
  RestartableDevice model;
  std::unique_ptr<FakeDriver> driver;
};

using Heads = std::vector<uint16_t>;

TEST_P(InFlightRestartTest, ChainsComeAgainInTheirOrderAndBeforeNewOnes) {
  Heads first = AddAndKick(1, 3);
  ASSERT_EQ(device->held[1], first);
  // The middle one is done; its head is used again, for the newest chain.
  CompleteOne(1, 1);
  device->virtio->Publish();
  ASSERT_EQ(TakeUsed(1), Heads{first[1]});
  first.erase(first.begin() + 1);
  for (const uint16_t head : AddAndKick(1, 2)) first.push_back(head);
  const Heads other = AddAndKick(0, 4);
  ASSERT_EQ(device->held[1], first);
  for (int i = 0; i < 3; ++i) {
    first.push_back(Add(1));  // while no process serves
    model.Restart();
    EXPECT_EQ(device->held[1], first);
    EXPECT_EQ(device->held[0], other);
  }
  device->Release(1);
  device->Release(0);
  EXPECT_EQ(TakeUsed(1), first);
  EXPECT_EQ(TakeUsed(0), other);
  EXPECT_EQ(AddAndKick(1, 2), device->held[1]);
}

TEST_P(InFlightRestartTest, WhatWasShownIsNotDoneAgain) {
  const Heads heads = AddAndKick(0, 4);
  device->Release(0);
  model.Restart();
  EXPECT_TRUE(device->held[0].empty());
  EXPECT_EQ(TakeUsed(0), heads);
  EXPECT_EQ(AddAndKick(0, 1), device->held[0]);
}

TEST_P(InFlightRestartTest, WhatWasCompletedAndNotShownIsDoneAgain) {
  const Heads heads = AddAndKick(0, 3);
  CompleteOne(0, 2);
  CompleteOne(0, 0);
  model.Restart();
  EXPECT_EQ(device->held[0], heads);
  EXPECT_TRUE(TakeUsed(0).empty());
  device->Release(0);
  EXPECT_EQ(TakeUsed(0), heads);
}

TEST_P(InFlightRestartTest, ManyProcessesServeManyRequests) {
  Heads pending;
  size_t done = 0;
  for (int i = 0; i < 1000; ++i) {
    while (pending.size() < 5) {
      pending.push_back(Add(1));
      driver->Kick(1);
    }
    switch (i % 7) {
      case 0:
      case 3:
        CompleteOne(1, i % device->held[1].size());
        break;
      case 1:
        device->virtio->Publish();
        break;
      case 2:
        CompleteOne(1, 0);
        device->virtio->Publish();
        break;
      default:
        model.Restart();
        EXPECT_EQ(device->held[1].size(), pending.size());
        break;
    }
    for (const uint16_t head : TakeUsed(1)) {
      const auto it = std::find(pending.begin(), pending.end(), head);
      ASSERT_NE(it, pending.end()) << "twice";
      pending.erase(it);
      ++done;
    }
  }
  EXPECT_GT(done, 200u);
  device->Release(1);
  EXPECT_EQ(TakeUsed(1).size(), pending.size());
}

// Its predecessor's time is not known to it, and that of a process which is gone is not measured.
TEST_P(InFlightRestartTest, ASuccessorTimesWhatItTakesOverFromThenOn) {
  AddAndKick(1, 3);
  const uint64_t before = channel::TraceNow();
  while (channel::TraceNow() < before + 5'000'000) {
  }
  const uint64_t restarted = channel::TraceNow();
  model.Restart();
  ASSERT_EQ(device->held[1].size(), 3u);
  device->Release(1);
  v1::DeviceMetrics metrics;
  model.AppendMetrics(metrics);
  uint64_t timed = 0;
  for (const uint64_t bucket : metrics.request_latency().buckets()) timed += bucket;
  EXPECT_EQ(timed, 1u);
  EXPECT_LE(metrics.request_latency().sum_nanoseconds(), channel::TraceNow() - restarted);
}

// --- Resets
// ----------------------------------------------------------------------------------------

TEST_P(InFlightRestartTest, OfAQueueThatWasResetNothingComesAgain) {
  AddAndKick(0, 3);
  const Heads other = AddAndKick(1, 2);
  driver->Set(kQueueSelect, 2, 0);
  driver->Set(kQueueReset, 2, 1);
  ASSERT_EQ(driver->Get(kQueueReset, 2), 0u);
  model.Restart();
  EXPECT_TRUE(device->held[0].empty());
  EXPECT_EQ(device->held[1], other);
  driver->SetUpQueue(0, 4);
  model.Restart();
  EXPECT_TRUE(device->held[0].empty());
  const Heads heads = AddAndKick(0, 2);
  model.Restart();
  EXPECT_EQ(device->held[0], heads);
  device->Release(0);
  EXPECT_EQ(TakeUsed(0), heads);
}

TEST_P(InFlightRestartTest, RequestsOfADriverThatWasBoundAnewAreNotTakenForOldOnes) {
  for (int round = 0; round < 3; ++round) {
    // As much as was in flight for the driver before, and as much as it had got back.
    const Heads heads = AddAndKick(0, 3);
    CompleteOne(0, 0);
    device->virtio->Publish();
    EXPECT_EQ(TakeUsed(0), Heads{heads[0]});
    model.Restart();
    EXPECT_EQ(device->held[0], Heads(heads.begin() + 1, heads.end()));
    Rebind();
    if (round == 1) model.Restart();
    EXPECT_TRUE(device->held[0].empty());
  }
  // The very first request of a driver is in flight: index 0 of everything.
  const Heads heads = AddAndKick(0, 1);
  model.Restart();
  EXPECT_EQ(device->held[0], heads);
  device->Release(0);
  EXPECT_EQ(TakeUsed(0), heads);
}

TEST_P(InFlightRestartTest, DeathsWhileNoDriverIsBoundDoNoHarm) {
  AddAndKick(0, 3);
  ASSERT_TRUE(driver->Reset());
  model.Restart();
  EXPECT_EQ(driver->status(), 0);
  EXPECT_TRUE(device->held[0].empty());
  driver = std::make_unique<FakeDriver>(model, services);
  ASSERT_TRUE(driver->Negotiate(GetParam().features));
  model.Restart();
  ASSERT_TRUE(Initialize());
  const Heads heads = AddAndKick(0, 1);
  EXPECT_EQ(device->held[0], heads);
}

// Else a successor, for whom the queue is not enabled yet, would enable it once more and serve from
// index 0 what has been served.
TEST_P(InFlightRestartTest, EnablingAQueueOfARunningDeviceServesItOnlyOnceThatIsSaved) {
  driver->Set(kQueueSelect, 2, 0);
  driver->Set(kQueueReset, 2, 1);
  const int turns = device->turns[0];
  driver->SetUpQueue(0, 4);
  Add(0);  // without a doorbell
  EXPECT_EQ(device->turns[0], turns);
  EXPECT_EQ(services.RunWatches(0), 1);
  EXPECT_EQ(device->held[0].size(), 1u);
}

// --- Bus mastering
// ---------------------------------------------------------------------------------

TEST_P(InFlightRestartTest, WithoutBusMasteringNothingIsReadAndNothingComesAgain) {
  const Heads heads = AddAndKick(0, 2);
  model.OnFunctionState({.bus_master = false, .msix_enabled = true});
  std::vector<uint8_t> rings(FakeQueue::SizeBytes(8));
  const GuestAddress start = driver->queue(0).setup().descriptor_table;
  ASSERT_TRUE(services.memory().Read(start, absl::MakeSpan(rings)));
  // For now the memory is the guest's, to do with as it likes.
  ASSERT_TRUE(services.memory().Write(start, std::vector<uint8_t>(rings.size(), 0xaa)));
  model.Restart();
  EXPECT_TRUE(device->held[0].empty());
  ASSERT_TRUE(services.memory().Write(start, rings));
  model.OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_EQ(device->held[0], heads);
  EXPECT_EQ(driver->status() & kStatusNeedsReset, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, InFlightRestartTest,
    testing::Values(Rings{"Flags", kFeatureRingReset, false},
                    Rings{"EventIndex", kFeatureEventIndex | kFeatureRingReset, false},
                    Rings{"Indirect", kFeatureIndirectDescriptors | kFeatureRingReset, true},
                    Rings{"Everything", kAllFeatures, true}),
    [](const auto& info) { return std::string(info.param.name); });

// --- Hostile guests, and hostile predecessors
// ------------------------------------------------------

class HostileRestartTest : public InFlightRestartTest {
 protected:
  // The log of queue 0, as it is laid out.
  uint8_t* Log() { return services.durable_memory().data(); }
  void SetUsedIdx(uint16_t idx) {
    services.memory().WriteObject(driver->queue(0).setup().device_area + kUsedIdx, idx);
  }
  void ExpectFailedAndMendable() {
    model.Restart();
    EXPECT_NE(driver->status() & kStatusNeedsReset, 0);
    EXPECT_TRUE(device->held[0].empty());
    EXPECT_TRUE(device->held[1].empty());
    EXPECT_EQ(services.TakeMsixSignals().back(), 0u) << "the driver is told";
    model.Restart();
    EXPECT_NE(driver->status() & kStatusNeedsReset, 0);
    Rebind();
    const Heads heads = AddAndKick(0, 2);
    model.Restart();
    EXPECT_EQ(device->held[0], heads);
  }
};

TEST_P(HostileRestartTest, AUsedIndexThatMovedTooFarFailsTheDevice) {
  AddAndKick(0, 3);
  SetUsedIdx(9);
  ExpectFailedAndMendable();
}

TEST_P(HostileRestartTest, AUsedIndexThatMovedBackFailsTheDevice) {
  AddAndKick(0, 3);
  device->Release(0);
  SetUsedIdx(2);
  ExpectFailedAndMendable();
}

TEST_P(HostileRestartTest, AUsedIndexThatMovedALittleHarmsTheGuestAlone) {
  AddAndKick(0, 3);
  SetUsedIdx(1);
  model.Restart();  // a chain that was completed, for all that the device can know
  EXPECT_EQ(device->held[0].size(), 2u);
  Rebind();
  EXPECT_EQ(AddAndKick(0, 1), device->held[0]);
}

TEST_P(HostileRestartTest, AChainThatWasChangedInFlightIsCheckedAgain) {
  const Heads heads = AddAndKick(0, 1);
  driver->queue(0).WriteDescriptor(heads[0], {uint64_t{1} << 50, 16, 0, 0});
  ExpectFailedAndMendable();
}

TEST_P(HostileRestartTest, AnAvailableIndexThatMovedBackFailsTheDevice) {
  AddAndKick(0, 3);
  driver->queue(0).SetAvailableIdx(1);
  model.Restart();
  EXPECT_NE(driver->status() & kStatusNeedsReset, 0);
  Rebind();
  EXPECT_EQ(AddAndKick(0, 1), device->held[0]);
}

TEST_P(HostileRestartTest, DurableMemoryThatIsGoneFailsTheDevice) {
  AddAndKick(0, 3);
  const absl::Span<uint8_t> memory = services.durable_memory();
  memset(memory.data(), 0, memory.size());
  ExpectFailedAndMendable();
}

TEST_P(HostileRestartTest, TheLogOfAnEarlierEnablingFailsTheDevice) {
  AddAndKick(0, 1);
  uint32_t epoch;
  memcpy(&epoch, Log(), sizeof(epoch));
  --epoch;
  memcpy(Log(), &epoch, sizeof(epoch));
  ExpectFailedAndMendable();
}

TEST_P(HostileRestartTest, CountersThatCannotBeFailTheDevice) {
  AddAndKick(0, 1);
  memset(Log() + 16, 0xff, sizeof(uint64_t));
  ExpectFailedAndMendable();
}

TEST_P(HostileRestartTest, AnyHeadsInTheLogHarmTheGuestAlone) {
  const Heads heads = AddAndKick(0, 2);
  CompleteOne(0, 0);
  device->virtio->Publish();
  // As if used_idx had not followed, and with heads beyond the queue.
  memset(Log() + 6, 0, sizeof(uint16_t));
  memset(Log() + 16 + 8 * sizeof(uint64_t), 0xfe, 8 * sizeof(uint16_t));
  model.Restart();
  EXPECT_LE(device->held[0].size(), 2u);
  Rebind();
  EXPECT_EQ(AddAndKick(0, 1), device->held[0]);
}

INSTANTIATE_TEST_SUITE_P(All, HostileRestartTest,
                         testing::Values(Rings{"Flags", 0, false},
                                         Rings{"Everything", kAllFeatures, true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace bulkhead::devices::virtio
