// Both kinds of devices against back ends of the test's own, each on a thread, which die when the
// test says so.
#include "devices/vhost_user/back_end_device.h"

#include <errno.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "devices/vhost_user/device_kind.h"
#include "devices/vhost_user/lending_device.h"
#include "devices/vhost_user/testing/back_end_device_fixture.h"
#include "devices/virtio/in_flight_log.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::vhost_user {
namespace {

TEST_F(LendingDeviceTest, TheBackEndServesTheQueue) {
  Start(kPlain);
  EXPECT_EQ(driver->features(), kRings | virtio::kFeatureVersion1);
  EXPECT_EQ(driver->ReadConfig(0, 4), 0x07070707u);
  EXPECT_EQ(driver->ReadConfig(34, 2), 1u) << "the number of queues";
  for (int i = 1; i <= 40; ++i) {
    AddRequest();
    ASSERT_TRUE(IsDone(i));
  }
  EXPECT_TRUE(services.is_lent(0));
  EXPECT_TRUE(services.TakeVectorEvent(1)) << "the back end interrupts the guest by itself";
  EXPECT_EQ(Metric("back_end_connected"), 1);
  EXPECT_EQ(Metric("queues_served"), 1);
}

TEST_F(LendingDeviceTest, WithoutMessagesTheLineInterrupts) {
  Start(kPlain);
  device->OnFunctionState({.bus_master = true, .msix_enabled = false});
  AddRequest();
  ASSERT_TRUE(IsDone(1));
  EXPECT_TRUE(Until([&] { return services.intx(); }));
  EXPECT_EQ(driver->ReadIsr(), virtio::kIsrQueue);
}

TEST_F(LendingDeviceTest, AResetWaitsUntilTheBackEndHasStopped) {
  Start(kPlain | kProtocolResetDevice, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  ASSERT_TRUE(driver->Reset());
  EXPECT_FALSE(services.is_lent(0));
  EXPECT_TRUE(IsDone(1)) << "the back end ends what it holds before it stops";
  EXPECT_TRUE(Until([&] { return back_end->resets() == 1; }));
  ASSERT_TRUE(driver->Initialize(kRings));
  AddRequest();
  ASSERT_TRUE(IsTaken(2));
}

TEST_F(LendingDeviceTest, WithoutBusMasteringTheBackEndStandsStill) {
  Start(kPlain);
  device->OnFunctionState({.bus_master = false, .msix_enabled = true});
  ASSERT_TRUE(Until([&] { return !device->dma_in_flight(); }));
  AddRequest();
  services.RunWatches(20);
  EXPECT_EQ(back_end->taken(), 0);
  device->OnFunctionState({.bus_master = true, .msix_enabled = true});
  EXPECT_TRUE(IsDone(1));
}

TEST_F(LendingDeviceTest, RequestsWaitForTheNextBackEnd) {
  Start(kPlain);
  AddRequest();
  ASSERT_TRUE(IsDone(1));
  EXPECT_FALSE(services.awaits_back_end());
  KillBackEnd();
  EXPECT_TRUE(services.awaits_back_end());
  Fail(ECONNREFUSED);
  services.RunWatches(10);
  EXPECT_TRUE(services.awaits_back_end());
  Offer({.protocol_features = kPlain}, 2);
  ASSERT_TRUE(Until([&] { return Metric("queues_served") == 1; }));
  EXPECT_FALSE(services.awaits_back_end());
  AddRequest();
  EXPECT_TRUE(IsDone(2));
  EXPECT_FALSE(NeedsReset());
}

TEST_F(LendingDeviceTest, RecordedRequestsAreDoneAgain) {
  Start(kTracking);
  AddRequest();
  ASSERT_TRUE(IsDone(1));
  KillBackEnd();
  // Each of three back ends takes a request more, and dies over all of them.
  for (int i = 1; i <= 3; ++i) {
    Offer({.protocol_features = kTracking, .holds = true}, 1 + i);
    AddRequest();
    ASSERT_TRUE(IsTaken(i));
    EXPECT_EQ(back_end->taken_again(), i - 1);
    KillBackEnd();
  }
  Offer({.protocol_features = kTracking}, 9);
  EXPECT_TRUE(IsDone(4));
  services.RunWatches(10);
  EXPECT_TRUE(IsDone(4));
  EXPECT_EQ(done, 4) << "each once";
  EXPECT_FALSE(NeedsReset());
}

TEST_F(LendingDeviceTest, WithoutARecordTheDriverMustReset) {
  Start(kPlain, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  KillBackEnd();
  Offer({.protocol_features = kPlain}, 2);
  ASSERT_TRUE(Until([&] { return NeedsReset(); }));
  EXPECT_EQ(Metric("queues_lost_total"), 1);
  ASSERT_TRUE(driver->Initialize(kRings));
  AddRequest();
  EXPECT_TRUE(IsDone(1));
}

TEST_F(LendingDeviceTest, NoBackEndIsAwaitedThatTheDriverDoesNotUse) {
  Start(kPlain);
  KillBackEnd();
  EXPECT_TRUE(services.awaits_back_end());
  driver->Reset();
  EXPECT_FALSE(services.awaits_back_end());
  device->Restart();
  EXPECT_FALSE(services.awaits_back_end());
}

TEST_F(LendingDeviceTest, ASilentBackEndIsAwaitedUntilItAnswers) {
  std::atomic<bool> stopped = false;
  Offer({.protocol_features = kPlain,
         .holds = true,
         .lie = [&stopped](MessageType) -> std::optional<std::string> {
           while (stopped) absl::SleepFor(absl::Milliseconds(1));
           return std::nullopt;
         }},
        1);
  StartDevice();
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  stopped = true;
  EXPECT_TRUE(Until([&] { return services.awaits_back_end(); }));
  EXPECT_EQ(Metric("back_end_silent"), 1);
  stopped = false;
  EXPECT_TRUE(Until([&] { return !services.awaits_back_end(); }));
  EXPECT_EQ(Metric("back_end_silent"), 0);
  EXPECT_EQ(Metric("back_end_losses_total"), 0);
  back_end->Kill();  // it uses what is here
}

// Nor is a back end asked that has nothing to do.
TEST_F(LendingDeviceTest, ABackEndThatIsOnlySlowIsNotAwaited) {
  std::atomic<int> questions = 0;
  Offer({.protocol_features = kPlain,
         .holds = true,
         .lie = [&questions](MessageType type) -> std::optional<std::string> {
           questions += type == MessageType::kGetFeatures;
           return std::nullopt;
         }},
        1);
  StartDevice();
  const int at_start = questions;
  const absl::Time idle = absl::Now();
  while (absl::Now() - idle < absl::Milliseconds(2500)) services.RunWatches(10);
  EXPECT_EQ(questions, at_start);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  ASSERT_TRUE(Until([&] {
    EXPECT_FALSE(services.awaits_back_end());
    return questions >= at_start + 2;
  }));
  back_end->Kill();
}

TEST_F(LendingDeviceTest, AResetDuringAnOutageEndsAndTheQueuesWaitForABackEnd) {
  Start(kPlain, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  KillBackEnd();
  ASSERT_TRUE(driver->Initialize(kRings));
  AddRequest();
  Offer({.protocol_features = kPlain}, 2);
  EXPECT_TRUE(IsDone(1));
  EXPECT_FALSE(NeedsReset());
}

TEST_F(LendingDeviceTest, ASuccessorGoesOnWithTheSameQueues) {
  for (const uint64_t features : {kPlain, kTracking}) {
    SCOPED_TRACE(features);
    if (driver == nullptr) {
      Start(features);
    } else {
      KillBackEnd();
      Offer({.protocol_features = features}, 1);
      ASSERT_TRUE(Until([&] { return Metric("back_end_connected") == 1; }));
      ASSERT_TRUE(driver->Initialize(kRings));
    }
    done = 0;
    for (int i = 1; i <= 30; ++i) {
      AddRequest();
      Offer({.protocol_features = features}, 1);  // the same process, on its next connection
      device->Restart();
      ASSERT_TRUE(Until([&] { return Metric("back_end_connected") == 1; }));
      ASSERT_TRUE(IsDone(i));
    }
    EXPECT_FALSE(NeedsReset());
  }
}

TEST_F(LendingDeviceTest, NoLieHangsTheDevice) {
  Start(kTracking);
  AddRequest();
  ASSERT_TRUE(IsDone(1));
  int lies = 0;
  int requests = 1;
  const auto lie_at = [](MessageType at, std::string lie) {
    return [at, lie](MessageType type) {
      return type == at ? std::optional<std::string>(lie) : std::nullopt;
    };
  };
  const std::string huge = std::string("\1\0\0\0\5\0\0\0\xff\xff\xff\xff", 12);
  const std::string stray = std::string("\1\0\0\0\5\0\0\0\10\0\0\0\0\0\0\0\0\0\0\0", 20);
  for (const MessageType at :
       {MessageType::kGetFeatures, MessageType::kGetProtocolFeatures, MessageType::kSetOwner,
        MessageType::kGetConfig, MessageType::kSetMemTable, MessageType::kSetInflightFd,
        MessageType::kSetVringNum, MessageType::kSetVringKick, MessageType::kSetVringEnable}) {
    for (const std::string& lie : {huge, stray + stray, std::string(2000, 'x')}) {
      const double losses = Metric("back_end_losses_total");
      KillBackEnd();
      ASSERT_TRUE(Until([&] { return Metric("back_end_losses_total") > losses; }));
      Offer({.protocol_features = kTracking, .lie = lie_at(at, lie)}, 2);
      ASSERT_TRUE(Until([&] { return Metric("back_end_losses_total") > losses + 1; }))
          << static_cast<int>(at);
      KillBackEnd();
      ++lies;
      AddRequest();
      Offer({.protocol_features = kTracking}, 3);
      ASSERT_TRUE(IsDone(++requests)) << static_cast<int>(at);
    }
  }
  EXPECT_FALSE(NeedsReset());
}

TEST_F(LendingDeviceTest, ABackEndMayDieAtAnyPointOfTheHandshake) {
  Start(kTracking);
  int requests = 0;
  for (const MessageType at :
       {MessageType::kGetFeatures, MessageType::kGetProtocolFeatures,
        MessageType::kSetProtocolFeatures, MessageType::kSetOwner, MessageType::kGetConfig,
        MessageType::kSetFeatures, MessageType::kSetMemTable, MessageType::kSetInflightFd,
        MessageType::kSetVringNum, MessageType::kSetVringBase, MessageType::kSetVringAddr,
        MessageType::kSetVringCall, MessageType::kSetVringKick, MessageType::kSetVringEnable}) {
    KillBackEnd();
    AddRequest();
    for (int i = 0; i < 3; ++i) {
      const double losses = Metric("back_end_losses_total");
      Offer({.protocol_features = kTracking, .dies_at = at}, 2);
      ASSERT_TRUE(Until([&] { return Metric("back_end_losses_total") > losses; }))
          << static_cast<int>(at);
    }
    Offer({.protocol_features = kTracking}, 3);
    ASSERT_TRUE(IsDone(++requests)) << static_cast<int>(at);
  }
  EXPECT_FALSE(NeedsReset());
}

TEST_F(LendingDeviceTest, ABackEndWithoutTheGuestsFeaturesIsRefused) {
  Start(kPlain);
  KillBackEnd();
  Offer({.features = virtio::kFeatureVersion1 | kFeatureProtocolFeatures,
         .protocol_features = kPlain},
        2);
  ASSERT_TRUE(Until([&] { return Metric("back_end_losses_total") == 2; }));
  Offer({.protocol_features = kPlain}, 3);
  AddRequest();
  EXPECT_TRUE(IsDone(1));
}

TEST_F(LendingDeviceTest, WithoutAnyBackEndItDoesNotStart) {
  Fail(ENOENT);
  auto lending = std::make_unique<LendingDevice>(*MakeDeviceKind({.type = "blk"}));
  lending->set_greeting_limit(absl::Milliseconds(50));
  virtio::PciTransport transport(std::move(lending));
  services.SetDurableMemory(transport.Describe().durable_memory_bytes());
  const absl::Status status = transport.Start(services);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(status.message(),
            "the back end does not serve: cannot connect: No such file or directory");
}

// As a daemon that opens a large image, on a busy host.
TEST_F(LendingDeviceTest, TheFirstBackEndMayTakeItsTime) {
  std::thread daemon([this] {
    absl::SleepFor(absl::Milliseconds(3500));
    Offer({.protocol_features = kPlain}, 1);
  });
  StartDevice();
  daemon.join();
  AddRequest();
  EXPECT_TRUE(IsDone(1));
}

TEST_F(RelayingDeviceTest, TheBackEndServesTheRequests) {
  Start(kPlain);
  EXPECT_EQ(driver->features(), kRings | virtio::kFeatureVersion1);
  for (int i = 1; i <= 40; ++i) {
    AddRequest();
    ASSERT_TRUE(IsServed(i));
  }
  EXPECT_FALSE(services.is_lent(0));
  EXPECT_EQ(back_end->taken(), 40);
  EXPECT_EQ(Metric("queues_served"), 1);
}

TEST_F(RelayingDeviceTest, TheNextBackEndGetsTheRequestsOfADeadOne) {
  Start(kPlain, /*holds=*/true);
  for (int i = 1; i <= 3; ++i) {
    AddRequest();
    ASSERT_TRUE(IsTaken(i));
    KillBackEnd();
    Offer({.protocol_features = kPlain, .holds = true}, 1 + i);
    ASSERT_TRUE(IsTaken(i)) << "again";
  }
  KillBackEnd();
  AddRequest();
  EXPECT_TRUE(services.awaits_back_end());
  Offer({.protocol_features = kPlain}, 9);
  EXPECT_TRUE(IsServed(4));
  EXPECT_FALSE(services.awaits_back_end());
  services.RunWatches(10);
  EXPECT_TRUE(IsServed(4));
  EXPECT_EQ(done, 4) << "each once";
  EXPECT_EQ(Metric("requests_passed_on_again_total"), 9);
  EXPECT_FALSE(NeedsReset());
}

TEST_F(RelayingDeviceTest, ASuccessorPassesTheRequestsOnAgain) {
  Start(kPlain, /*holds=*/true);
  for (int i = 1; i <= 5; ++i) {
    AddRequest();
    ASSERT_TRUE(IsTaken(i));
    Offer({.protocol_features = kPlain, .holds = true}, 1);
    device->Restart();
    ASSERT_TRUE(IsTaken(i)) << "again";
  }
  Offer({.protocol_features = kPlain}, 1);
  device->Restart();
  EXPECT_TRUE(IsServed(5));
  services.RunWatches(10);
  EXPECT_TRUE(IsServed(5));
  EXPECT_EQ(done, 5) << "each once";
}

TEST_F(RelayingDeviceTest, AResetWaitsForTheBackEnd) {
  Start(kPlain | kProtocolResetDevice, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  driver->Set(virtio::kDeviceStatus, 1, 0);
  EXPECT_NE(driver->status(), 0) << "the back end may still write";
  KillBackEnd();
  ASSERT_TRUE(driver->Reset());
  Offer({.protocol_features = kPlain | kProtocolResetDevice}, 2);
  ASSERT_TRUE(driver->Initialize(kRings));
  done = 0;
  AddRequest();
  EXPECT_TRUE(IsServed(1));
  ASSERT_TRUE(driver->Initialize(kRings));
  EXPECT_TRUE(Until([&] { return back_end->resets() == 1; }));
  done = 0;
  AddRequest();
  EXPECT_TRUE(IsServed(1));
}

TEST_F(RelayingDeviceTest, AResetDoesNotWaitForEverForABackEndThatHangs) {
  reset_limit = absl::Milliseconds(50);
  Start(kPlain, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  driver->Set(virtio::kDeviceStatus, 1, 0);
  EXPECT_NE(driver->status(), 0);
  EXPECT_TRUE(Until([&] { return driver->status() == 0; }));
  EXPECT_EQ(Metric("back_end_losses_total"), 1);
}

TEST_F(RelayingDeviceTest, AResetEndsThoughTheBackEndThatHangsServesAgain) {
  reset_limit = absl::Milliseconds(50);
  Start(kPlain, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  driver->Set(virtio::kDeviceStatus, 1, 0);
  ASSERT_TRUE(Until([&] { return Metric("back_end_losses_total") == 1; }));
  EXPECT_NE(driver->status(), 0);
  Offer({.protocol_features = kPlain, .holds = true}, 1);
  EXPECT_TRUE(Until([&] { return driver->status() == 0; }));
  EXPECT_EQ(back_end->taken(), 0) << "of a driver that waits no longer";
  EXPECT_FALSE(NeedsReset());
}

// Each costs the back end many messages, which wait for their answers.
TEST_F(RelayingDeviceTest, ADriverThatResetsAgainAndAgainWaitsForTheBackEnd) {
  Start(kPlain | kProtocolResetDevice);
  constexpr int kResets = 20;
  for (int i = 0; i < kResets; ++i) {
    driver->Set(virtio::kDeviceStatus, 1, 0);
    ASSERT_TRUE(Until([&] { return driver->status() == 0; }));
    ASSERT_TRUE(driver->Initialize(kRings));
    EXPECT_LE(back_end->resets(), i + 1);
    EXPECT_GE(back_end->resets(), i) << "the reset before is not answered yet";
  }
  done = 0;
  AddRequest();
  EXPECT_TRUE(IsServed(1));
}

TEST_F(RelayingDeviceTest, AResetDuringAnOutageEnds) {
  Start(kPlain, /*holds=*/true);
  AddRequest();
  ASSERT_TRUE(IsTaken(1));
  KillBackEnd();
  AddRequest();
  ASSERT_TRUE(driver->Initialize(kRings));
  AddRequest();
  Offer({.protocol_features = kPlain}, 2);
  EXPECT_TRUE(IsServed(1));
}

TEST_F(RelayingDeviceTest, ABackEndThatCompletesWhatItDoesNotHaveIsReplaced) {
  Start(kPlain);
  AddRequest();
  ASSERT_TRUE(IsServed(1));
  KillBackEnd();
  AddRequest();
  int lies = 0;
  for (const uint32_t lie : {1u, 16u, 0xffff0000u}) {
    Offer({.protocol_features = kPlain, .head_lie = lie}, 2);
    ++lies;
    ASSERT_TRUE(Until([&] { return Metric("back_end_losses_total") >= 1 + lies; }));
    KillBackEnd();
  }
  EXPECT_EQ(done, 1);
  Offer({.protocol_features = kPlain}, 3);
  EXPECT_TRUE(IsServed(2));
  EXPECT_FALSE(NeedsReset());
}

// It has the file of the durable memory, for the rings: the log of requests in flight lies there,
// too.
TEST_F(RelayingDeviceTest, ABackEndThatWritesIntoTheLogDoesNotDisturbTheProcess) {
  Start(kPlain, /*holds=*/true);
  const absl::Span<uint8_t> log =
      services.durable_memory().first(virtio::InFlightLog::SizeBytes(16));
  int requests = 0;
  for (const uint8_t lie : {0x00, 0x01, 0x0f, 0x7f, 0xff}) {
    SCOPED_TRACE(lie);
    for (int i = 0; i < 4; ++i) AddRequest();
    ASSERT_TRUE(IsTaken(4));
    KillBackEnd();
    std::fill(log.begin(), log.end(), lie);
    Offer({.protocol_features = kPlain,
           .serve =
               [log, lie](auto, auto writable) {
                 std::fill(log.begin(), log.end(), lie);
                 static_cast<uint8_t*>(writable.back().iov_base)[0] = 0;
                 return 1;
               }},
          2);
    requests += 4;
    ASSERT_TRUE(IsServed(requests));
    KillBackEnd();
    Offer({.protocol_features = kPlain, .holds = true}, 3);
  }
  EXPECT_FALSE(NeedsReset());
}

TEST_F(RelayingDeviceTest, ABackEndThatCannotTakeItsRequestsIsRefused) {
  Start(kPlain);
  KillBackEnd();
  Offer({.features = virtio::kFeatureVersion1 | kFeatureProtocolFeatures,
         .protocol_features = kPlain},
        2);
  ASSERT_TRUE(Until([&] { return Metric("back_end_losses_total") == 2; }))
      << "it lacks indirect descriptors";
  Offer({.protocol_features = kPlain}, 3);
  AddRequest();
  EXPECT_TRUE(IsServed(1));
}

}  // namespace
}  // namespace bulkhead::devices::vhost_user
