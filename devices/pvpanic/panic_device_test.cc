#include "devices/pvpanic/panic_device.h"

#include <stdint.h>

#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "devices/host/testing/fake_services.h"
#include "devices/host/testing/fake_vm_link.h"
#include "devices/pvpanic/registers.h"
#include "gtest/gtest.h"
#include "proto/vm_link.h"

namespace bulkhead::devices::pvpanic {
namespace {

using Kinds = std::vector<uint32_t>;

class PanicDeviceTest : public testing::Test {
 protected:
  PanicDeviceTest() { Start(); }

  void Start() {
    link_.Connect(services_);
    device_.emplace();
    ASSERT_TRUE(device_->Start(services_).ok());
  }
  std::vector<uint8_t> Saved() const {
    std::vector<uint8_t> saved(device_->Describe().saved_state_bytes());
    saved.resize(device_->Save(absl::MakeSpan(saved)));
    return saved;
  }
  absl::Status Restart(const std::vector<uint8_t>& saved) {
    Start();
    return device_->Restore(saved);
  }
  void Write(uint64_t value) { device_->Write(kBar, kEventsOffset, 1, value); }

  FakeServices services_;
  FakeVmLink link_;
  std::optional<PanicDevice> device_;
};

TEST_F(PanicDeviceTest, IsThePciVariantAndKnowsTwoEvents) {
  const v1::DeviceInfo info = device_->Describe();
  EXPECT_EQ(info.pci().vendor_id(), 0x1b36u);
  EXPECT_EQ(info.pci().device_id(), 0x0011u);
  EXPECT_FALSE(info.uses_dma());
  EXPECT_EQ(device_->Read(kBar, kEventsOffset, 1), 3u);
  EXPECT_EQ(device_->Read(kBar, 1, 1), 0u);
}

TEST_F(PanicDeviceTest, EachEventIsReported) {
  Write(kCrashLoaded);
  EXPECT_EQ(link_.TakeReports(), Kinds{VmReport::kCrashLoaded});
  Write(kPanicked);
  EXPECT_EQ(link_.TakeReports(), Kinds{VmReport::kPanicked});
  Write(kPanicked | kCrashLoaded);
  EXPECT_EQ(link_.TakeReports(), (Kinds{VmReport::kCrashLoaded, VmReport::kPanicked}));
}

TEST_F(PanicDeviceTest, UnknownEventsAndOtherOffsetsAreIgnored) {
  services_.TakeStateChanges();
  Write(0xfc);
  device_->Write(kBar, 1, 1, kPanicked);
  EXPECT_EQ(link_.TakeReports(), Kinds{});
  EXPECT_EQ(services_.TakeStateChanges(), 0);
}

TEST_F(PanicDeviceTest, AReportThatWasNotSavedIsNotMadeTwice) {
  EXPECT_EQ(services_.TakeStateChanges(), 1) << "the number must be saved before the first report";
  const std::vector<uint8_t> before = Saved();
  Write(kPanicked | kCrashLoaded);
  ASSERT_TRUE(Restart(before).ok());
  Write(kPanicked | kCrashLoaded);  // the host applies the write again
  EXPECT_EQ(link_.TakeReports(), (Kinds{VmReport::kCrashLoaded, VmReport::kPanicked}));
  Write(kPanicked);
  EXPECT_EQ(link_.TakeReports(), Kinds{VmReport::kPanicked});
}

TEST_F(PanicDeviceTest, AfterAResetOrWithoutStateItReportsAsBefore) {
  Write(kPanicked);
  device_->Reset();
  Write(kPanicked);
  EXPECT_EQ(link_.TakeReports().size(), 2u);
  Start();
  Write(kPanicked);
  EXPECT_EQ(link_.TakeReports().size(), 1u);
}

TEST_F(PanicDeviceTest, ImpossibleStateDoesNotKeepItFromReporting) {
  Write(kPanicked);
  EXPECT_EQ(link_.TakeReports().size(), 1u);
  EXPECT_FALSE(Restart(std::vector<uint8_t>(7)).ok());
  ASSERT_TRUE(Restart(std::vector<uint8_t>(8, 0xff)).ok());
  Write(kPanicked);
  EXPECT_EQ(link_.TakeReports().size(), 1u);
}

TEST_F(PanicDeviceTest, AFloodOfEventsIsDropped) {
  for (int i = 0; i < 10'000; ++i) Write(kPanicked);
  EXPECT_LT(link_.TakeReports().size(), 10'000u);
  Write(kPanicked);
  EXPECT_EQ(link_.TakeReports().size(), 1u);
}

}  // namespace
}  // namespace bulkhead::devices::pvpanic
