#include "devices/virtio_balloon/balloon_device.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"
#include "devices/virtio/testing/restartable_device.h"
#include "devices/virtio/virtio_layout.h"
#include "gtest/gtest.h"
#include "proto/balloon_link.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kRam = 8 << 20;
constexpr GuestAddress kArena = 4 << 20;  // pages that the tests give up
constexpr uint32_t kArenaPage = kArena / kBalloonPage;
constexpr uint32_t kReports = 2;  // the queue that Linux takes

constexpr uint64_t kTargetField = 0;
constexpr uint64_t kActualField = 4;

class BalloonDeviceTest : public testing::Test {
 protected:
  BalloonDeviceTest() : services({{0, kRam}}) {
    NewPipe(0);
    device = std::make_unique<RestartableDevice>(
        services, [] { return std::make_unique<PciTransport>(std::make_unique<BalloonDevice>()); });
    driver = std::make_unique<FakeDriver>(*device, services);
  }

  void Initialize() {
    ASSERT_TRUE(driver->Initialize(kBalloonDeflateOnOom | kBalloonReporting | kFeatureEventIndex |
                                   kFeatureIndirectDescriptors));
    driver->Set(kConfigMsixVector, 2, 0);
  }

  // As the vmm does for each process.
  void NewPipe(BalloonTarget present) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    services.AddResource(kBalloonTargetResource, UniqueFd(ends[0]));
    to_device.reset(ends[1]);
    Send(present);
  }
  void Send(BalloonTarget target) {
    ASSERT_EQ(write(to_device.get(), &target, sizeof(target)), ssize_t{sizeof(target)});
  }

  void FillArena(uint8_t with, uint32_t pages = 16) {
    const std::vector<uint8_t> bytes(pages * kBalloonPage, with);
    ASSERT_TRUE(services.memory().Write(kArena, bytes));
  }
  uint8_t FirstOf(uint32_t page) {
    uint8_t byte = 0xff;
    EXPECT_TRUE(services.memory().ReadObject(kArena + page * kBalloonPage, byte));
    return byte;
  }
  // What RAM takes of the host.
  uint64_t HostBytes() {
    struct stat file = {};
    EXPECT_EQ(fstat(services.memory_blocks()[0].fd, &file), 0);
    return static_cast<uint64_t>(file.st_blocks) * 512;
  }

  // Adds a request that names these pages of the arena.
  void Add(uint16_t queue, const std::vector<uint32_t>& pages) {
    std::vector<uint32_t> numbers;
    for (const uint32_t page : pages) numbers.push_back(kArenaPage + page);
    const auto size = static_cast<uint32_t>(numbers.size() * sizeof(uint32_t));
    const GuestAddress at = driver->Allocate(size);
    ASSERT_TRUE(services.memory().Write(
        at, absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(numbers.data()), size)));
    driver->queue(queue).Add({{at, size, false}});
  }

  double Metric(absl::string_view name) {
    v1::DeviceMetrics metrics;
    device->AppendMetrics(metrics);
    for (const v1::DeviceMetric& metric : metrics.metrics()) {
      if (metric.name() == name) return metric.value();
    }
    ADD_FAILURE() << "there is no " << name;
    return -1;
  }
  bool ConfigInterrupt() {
    bool found = false;
    for (const uint32_t vector : services.TakeMsixSignals()) found |= vector == 0;
    return found;
  }

  DurableServices services;
  UniqueFd to_device;
  std::unique_ptr<RestartableDevice> device;
  std::unique_ptr<FakeDriver> driver;
};

TEST_F(BalloonDeviceTest, IsABalloonThatTakesNeitherPoisonNorHints) {
  const v1::DeviceInfo info = device->Describe();
  EXPECT_EQ(info.model(), "virtio-balloon");
  EXPECT_EQ(info.pci().device_id(), 0x1045u);
  ASSERT_EQ(info.required_resources_size(), 1);
  EXPECT_EQ(info.required_resources(0), "target");
  const uint64_t features = driver->DeviceFeatures();
  EXPECT_EQ(features & 0xffffff, kBalloonDeflateOnOom | kBalloonReporting);
}

TEST_F(BalloonDeviceTest, InflatedPagesAreFreedAndNoOthers) {
  Initialize();
  FillArena(0x77);
  Add(BalloonDevice::kInflate, {3, 1, 2, 9});
  const uint64_t before = HostBytes();
  ASSERT_EQ(driver->KickAndWait(BalloonDevice::kInflate)->length, 0u);
  EXPECT_EQ(HostBytes(), before - 4 * kBalloonPage);
  for (const uint32_t page : {1, 2, 3, 9}) EXPECT_EQ(FirstOf(page), 0) << page;
  for (const uint32_t page : {0, 4, 8, 10}) EXPECT_EQ(FirstOf(page), 0x77) << page;
  EXPECT_EQ(Metric("inflated_pages_total"), 4);
  EXPECT_EQ(Metric("freed_bytes_total"), 4 * kBalloonPage);
}

TEST_F(BalloonDeviceTest, DeflationTouchesNothing) {
  Initialize();
  FillArena(0x77);
  Add(BalloonDevice::kDeflate, {1, 2});
  ASSERT_TRUE(driver->KickAndWait(BalloonDevice::kDeflate).has_value());
  EXPECT_EQ(FirstOf(1), 0x77);
  EXPECT_EQ(Metric("deflated_pages_total"), 2);
}

TEST_F(BalloonDeviceTest, PagesThatAreNoRamDoNoHarm) {
  Initialize();
  FillArena(0x77);
  Add(BalloonDevice::kInflate, {0x0fffffff, kRam / kBalloonPage - kArenaPage, 5, ~0u - kArenaPage});
  ASSERT_TRUE(driver->KickAndWait(BalloonDevice::kInflate).has_value());
  EXPECT_EQ(FirstOf(5), 0);
  EXPECT_EQ(Metric("left_out_total"), 3);
  EXPECT_EQ(Metric("failures_total"), 0);
  EXPECT_EQ(driver->status() & kStatusNeedsReset, 0);
}

TEST_F(BalloonDeviceTest, OfReportedMemoryTheWholePagesAreFreed) {
  Initialize();
  FillArena(0x77);
  driver->queue(kReports).Add({{kArena + 100, 3 * kBalloonPage, true},
                               {kArena + 8 * kBalloonPage, 2 * kBalloonPage, true},
                               {kArena + 12 * kBalloonPage + 1, kBalloonPage, true}});
  ASSERT_EQ(driver->KickAndWait(kReports)->length, 0u);
  for (const uint32_t page : {1, 2, 8, 9}) EXPECT_EQ(FirstOf(page), 0) << page;
  for (const uint32_t page : {0, 3, 7, 10, 12, 13}) EXPECT_EQ(FirstOf(page), 0x77) << page;
  EXPECT_EQ(Metric("reported_bytes_total"), 4 * kBalloonPage);
}

TEST_F(BalloonDeviceTest, TheQueueOfTheSpecificationTakesReportsToo) {
  Initialize();
  FillArena(0x77);
  driver->queue(4).Add({{kArena, kBalloonPage, true}});
  ASSERT_TRUE(driver->KickAndWait(4).has_value());
  EXPECT_EQ(FirstOf(0), 0);
}

TEST_F(BalloonDeviceTest, WithoutTheFeatureReportsFreeNothing) {
  ASSERT_TRUE(driver->Initialize(kBalloonDeflateOnOom));
  FillArena(0x77);
  driver->queue(kReports).Add({{kArena, kBalloonPage, true}});
  ASSERT_TRUE(driver->KickAndWait(kReports).has_value());
  EXPECT_EQ(FirstOf(0), 0x77);
}

TEST_F(BalloonDeviceTest, BuffersThatAreReadAreNotReportedAndOnesThatAreWrittenNameNoPages) {
  Initialize();
  FillArena(0x77);
  driver->queue(kReports).Add({{kArena, kBalloonPage, false}});
  ASSERT_TRUE(driver->KickAndWait(kReports).has_value());
  const uint32_t number = kArenaPage + 1;
  const GuestAddress at = driver->Allocate(sizeof(number));
  services.memory().WriteObject(at, number);
  driver->queue(BalloonDevice::kInflate).Add({{at, sizeof(number), true}});
  ASSERT_TRUE(driver->KickAndWait(BalloonDevice::kInflate).has_value());
  EXPECT_EQ(FirstOf(0), 0x77);
  EXPECT_EQ(FirstOf(1), 0x77);
}

TEST_F(BalloonDeviceTest, TheDriverHearsOfEachTargetAndSaysWhatItHasGiven) {
  Initialize();
  EXPECT_EQ(driver->ReadConfig(kTargetField, 4), 0u);
  EXPECT_FALSE(ConfigInterrupt());
  Send(1 << 20);
  Send(3 << 20);
  services.RunWatches(0);
  EXPECT_TRUE(ConfigInterrupt());
  EXPECT_EQ(driver->ReadConfig(kTargetField, 4), 768u);
  Send(3 << 20);
  services.RunWatches(0);
  EXPECT_FALSE(ConfigInterrupt()) << "nothing has changed";
  driver->WriteConfig(kActualField, 4, 700);
  driver->WriteConfig(kTargetField, 4, 1);
  EXPECT_EQ(driver->ReadConfig(kTargetField, 4), 768u) << "the target is not the driver's";
  EXPECT_EQ(Metric("actual_bytes"), 700 * kBalloonPage);
  EXPECT_EQ(Metric("target_bytes"), 3 << 20);
}

TEST_F(BalloonDeviceTest, AResetOfTheDriverEmptiesTheBalloonAndKeepsTheTarget) {
  Initialize();
  Send(1 << 20);
  services.RunWatches(0);
  driver->WriteConfig(kActualField, 4, 256);
  ASSERT_TRUE(driver->Reset());
  EXPECT_EQ(Metric("actual_bytes"), 0);
  EXPECT_EQ(driver->ReadConfig(kTargetField, 4), 256u);
}

TEST_F(BalloonDeviceTest, ASuccessorKnowsWhatWasGivenAndDoesNotRepeatTheNews) {
  Initialize();
  Send(1 << 20);
  services.RunWatches(0);
  driver->WriteConfig(kActualField, 4, 255);
  ConfigInterrupt();
  NewPipe(1 << 20);
  device->Restart();
  services.RunWatches(0);
  EXPECT_FALSE(ConfigInterrupt());
  EXPECT_EQ(driver->ReadConfig(kActualField, 4), 255u);
  EXPECT_EQ(driver->ReadConfig(kTargetField, 4), 256u);
}

TEST_F(BalloonDeviceTest, ATargetThatChangesWithoutAProcessReachesTheDriver) {
  Initialize();
  NewPipe(2 << 20);
  device->Restart();
  services.RunWatches(0);
  EXPECT_TRUE(ConfigInterrupt());
  EXPECT_EQ(driver->ReadConfig(kTargetField, 4), 512u);
}

TEST_F(BalloonDeviceTest, ARequestIsNeverRepeatedOnceTheDriverHasIt) {
  Initialize();
  FillArena(0x77);
  for (uint32_t page = 0; page < 16; ++page) {
    Add(BalloonDevice::kInflate, {page});
    ASSERT_TRUE(driver->KickAndWait(BalloonDevice::kInflate).has_value());
    EXPECT_EQ(FirstOf(page), 0);
    // The driver uses the page again at once.
    services.memory().WriteObject(kArena + page * kBalloonPage, uint8_t{0x33});
    NewPipe(0);
    device->Restart();
    services.RunWatches(0);
    EXPECT_EQ(FirstOf(page), 0x33);
  }
}

TEST_F(BalloonDeviceTest, RequestsThatWaitAreServedByTheSuccessor) {
  Initialize();
  FillArena(0x77);
  for (uint32_t page = 0; page < 16; ++page) Add(BalloonDevice::kInflate, {page});
  device->Restart();
  ASSERT_TRUE(services.RunUntil(
      [this] { return driver->queue(BalloonDevice::kInflate).used_idx() == 16; }));
  for (uint32_t page = 0; page < 16; ++page) EXPECT_EQ(FirstOf(page), 0);
}

TEST_F(BalloonDeviceTest, ImpossibleStateIsRefused) {
  Initialize();
  driver->WriteConfig(kActualField, 4, 1);
  services.saved().pop_back();
  NewPipe(0);
  EXPECT_FALSE(device->TryRestart().ok());
}

TEST_F(BalloonDeviceTest, WithoutTheVmmTheTargetStays) {
  Initialize();
  Send(1 << 20);
  services.RunWatches(0);
  to_device.reset();
  services.RunWatches(0);
  EXPECT_EQ(driver->ReadConfig(kTargetField, 4), 256u);
  int rounds = 0;
  while (rounds < 5 && services.RunWatches(0) > 0) ++rounds;
  EXPECT_LT(rounds, 5) << "it goes on looking at the pipe's end";
}

}  // namespace
}  // namespace bulkhead::devices::virtio
