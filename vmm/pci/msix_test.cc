#include "vmm/pci/msix.h"

#include "base/event_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/pci/fake_event_routing.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Delivery = FakeEventRouting::Delivery;

constexpr Msix::Control kOn = {.enabled = true, .function_mask = false, .bus_master = true};
constexpr Msix::Control kFunctionMasked = {
    .enabled = true, .function_mask = true, .bus_master = true};
constexpr uint64_t kLapic = 0xfee00000;

class MsixTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kVectors = 70;  // more than one PBA qword

  MsixTest() {
    std::vector<int> fds;
    for (uint32_t i = 0; i < kVectors; ++i) {
      events_.push_back(*EventFd::Create());
      fds.push_back(events_.back().fd());
    }
    msix_ = *Msix::Create("test", fds, routing_);
  }
  ~MsixTest() override {
    msix_.reset();
    EXPECT_EQ(routing_.bound_irqs(), 0u);
    EXPECT_THAT(routing_.violations(), IsEmpty());
  }

  void Write(uint32_t vector, uint32_t field, uint32_t value) {
    msix_->Write(0, vector * 16 + field, 4, value);
  }
  void Program(uint32_t vector, uint64_t address, uint32_t data) {
    Write(vector, 0, static_cast<uint32_t>(address));
    Write(vector, 4, static_cast<uint32_t>(address >> 32));
    Write(vector, 8, data);
  }
  void Mask(uint32_t vector) { Write(vector, 12, 1); }
  void Unmask(uint32_t vector) { Write(vector, 12, 0); }
  bool Pending(uint32_t vector) {
    return msix_->Read(0, Msix::PbaOffset(kVectors) + vector / 64 * 8, 8) >> (vector % 64) & 1;
  }
  bool Bound(uint32_t vector) const { return routing_.IsBound(events_[vector].fd()); }

  FakeEventRouting routing_;
  std::vector<EventFd> events_;
  std::unique_ptr<Msix> msix_;
};

TEST_F(MsixTest, AfterResetEveryVectorIsMaskedAndZero) {
  for (uint32_t vector = 0; vector < kVectors; ++vector) {
    EXPECT_EQ(msix_->Read(0, vector * 16, 8), 0u);
    EXPECT_EQ(msix_->Read(0, vector * 16 + 8, 8), uint64_t{1} << 32);
  }
  msix_->SetControl(kOn);
  EXPECT_EQ(routing_.bound_irqs(), 0u);
}

TEST_F(MsixTest, AnUnmaskedVectorIsBoundAndDelivers) {
  Program(3, kLapic | 0x1000, 0x4041);
  Unmask(3);
  EXPECT_FALSE(Bound(3));  // MSI-X itself is off
  msix_->SetControl(kOn);
  EXPECT_TRUE(Bound(3));
  events_[3].Signal();
  EXPECT_THAT(routing_.TakeDeliveries(), ElementsAre(Delivery{0, kLapic | 0x1000, 0x4041}));
}

TEST_F(MsixTest, AMaskedVectorHoldsItsEventForThePbaAndDeliversItWhenUnmasked) {
  Program(66, kLapic, 0x55);
  Unmask(66);
  msix_->SetControl(kOn);
  Mask(66);
  events_[66].Signal();
  EXPECT_THAT(routing_.TakeDeliveries(), IsEmpty());
  EXPECT_TRUE(Pending(66));
  EXPECT_FALSE(Pending(2));
  EXPECT_EQ(msix_->Read(0, Msix::PbaOffset(kVectors) + 8, 4), 1u << 2);
  EXPECT_EQ(msix_->Read(0, Msix::PbaOffset(kVectors) + 8, 1), 1u << 2);
  Unmask(66);
  EXPECT_FALSE(Pending(66));
  EXPECT_THAT(routing_.TakeDeliveries(), ElementsAre(Delivery{0, kLapic, 0x55}));
}

TEST_F(MsixTest, TheFunctionMaskHoldsEveryVector) {
  for (uint32_t vector : {0u, 69u}) {
    Program(vector, kLapic, 0x40 + vector);
    Unmask(vector);
  }
  msix_->SetControl(kFunctionMasked);
  events_[0].Signal();
  events_[69].Signal();
  EXPECT_EQ(routing_.bound_irqs(), 0u);
  EXPECT_TRUE(Pending(0));
  EXPECT_TRUE(Pending(69));
  msix_->SetControl(kOn);
  EXPECT_THAT(routing_.TakeDeliveries(),
              ElementsAre(Delivery{0, kLapic, 0x40}, Delivery{0, kLapic, 0x40 + 69}));
  msix_->SetControl(kFunctionMasked);
  EXPECT_EQ(routing_.bound_irqs(), 0u);
}

TEST_F(MsixTest, WithoutBusMasterNoMessageIsSent) {
  Program(0, kLapic, 0x40);
  Unmask(0);
  msix_->SetControl({.enabled = true, .function_mask = false, .bus_master = false});
  events_[0].Signal();
  EXPECT_FALSE(Bound(0));
  EXPECT_TRUE(Pending(0));
  msix_->SetControl(kOn);
  EXPECT_THAT(routing_.TakeDeliveries(), ElementsAre(Delivery{0, kLapic, 0x40}));
}

// The sequence of Linux' msix_capability_init() and request_irq().
TEST_F(MsixTest, LinuxEnableSequenceBindsEachVectorOnce) {
  msix_->SetControl(kFunctionMasked);
  for (uint32_t vector = 0; vector < 64; ++vector) {
    Mask(vector);
    Program(vector, kLapic, 0x30 + vector);
  }
  msix_->SetControl(kOn);
  EXPECT_EQ(routing_.irq_calls(), 0);  // nothing may be delivered yet
  for (uint32_t vector = 0; vector < 64; ++vector) {
    Program(vector, kLapic | 0x2000, 0x50 + vector);
    Unmask(vector);
  }
  EXPECT_EQ(routing_.irq_calls(), 64);
  EXPECT_EQ(routing_.bound_irqs(), 64u);
}

TEST_F(MsixTest, MaskingUnbindsAndUnmaskingBindsThatVectorAlone) {
  for (uint32_t vector : {0u, 1u}) {
    Program(vector, kLapic, 0x30 + vector);
    Unmask(vector);
  }
  msix_->SetControl(kOn);
  const int before = routing_.irq_calls();
  Mask(1);
  EXPECT_TRUE(Bound(0));
  EXPECT_FALSE(Bound(1));
  Mask(1);
  Unmask(1);
  Unmask(1);
  EXPECT_TRUE(Bound(1));
  EXPECT_EQ(routing_.irq_calls() - before, 2);
}

// The sequence of Linux' irq_move_irq().
TEST_F(MsixTest, AMessageChangedWhileMaskedIsUsedFromUnmaskingOn) {
  Program(0, kLapic, 0x40);
  Unmask(0);
  msix_->SetControl(kOn);
  const int before = routing_.irq_calls();
  Mask(0);
  events_[0].Signal();
  Program(0, kLapic | 0x1000, 0x51);
  EXPECT_TRUE(Pending(0));
  Unmask(0);
  EXPECT_EQ(routing_.irq_calls() - before, 2);
  EXPECT_THAT(routing_.TakeDeliveries(), ElementsAre(Delivery{0, kLapic | 0x1000, 0x51}));
}

TEST_F(MsixTest, AMessageChangedWhileUnmaskedTakesEffectAndStaysBound) {
  Program(0, kLapic, 0x40);
  Unmask(0);
  msix_->SetControl(kOn);
  Write(0, 8, 0x41);
  EXPECT_TRUE(Bound(0));
  events_[0].Signal();
  EXPECT_THAT(routing_.TakeDeliveries(), ElementsAre(Delivery{0, kLapic, 0x41}));
}

TEST_F(MsixTest, QwordWritesSetTwoFieldsAtOnce) {
  msix_->SetControl(kOn);
  msix_->Write(0, 16, 8, 0x1'fee01003);  // vector 1; the two lowest address bits are 0
  msix_->Write(0, 24, 8, 0x4142);        // data, and unmask
  EXPECT_EQ(msix_->Read(0, 16, 8), 0x1'fee01000u);
  EXPECT_EQ(msix_->Read(0, 24, 8), 0x4142u);
  events_[1].Signal();
  EXPECT_THAT(routing_.TakeDeliveries(), ElementsAre(Delivery{0, 0x1'fee01000, 0x4142}));
}

TEST_F(MsixTest, NarrowReadsGiveTheBytesAndNarrowWritesAreDropped) {
  Program(0, 0x11223344'55667788, 0x99aabbcc);
  EXPECT_EQ(msix_->Read(0, 0, 1), 0x88u);
  EXPECT_EQ(msix_->Read(0, 3, 2), 0x4455u);
  EXPECT_EQ(msix_->Read(0, 2, 4), 0x33445566u);
  EXPECT_EQ(msix_->Read(0, 3, 8), 0xaabbcc11'22334455u);
  msix_->Write(0, 8, 1, 0x11);
  msix_->Write(0, 8, 2, 0x1111);
  msix_->Write(0, 10, 4, 0x11111111);
  msix_->Write(0, 4, 8, 0x1111111111111111);
  EXPECT_EQ(msix_->Read(0, 0, 8), 0x11223344'55667788u);
  EXPECT_EQ(msix_->Read(0, 8, 4), 0x99aabbccu);
}

TEST_F(MsixTest, ThePbaIsReadOnlyAndTheRestOfTheBarIsZero) {
  const uint32_t end = Msix::BarSize(kVectors);
  for (uint32_t offset = Msix::PbaOffset(kVectors); offset < end; offset += 8) {
    msix_->Write(0, offset, 8, ~uint64_t{0});
    ASSERT_EQ(msix_->Read(0, offset, 8), 0u) << offset;
  }
  for (const EventFd& event : events_) event.Signal();
  EXPECT_EQ(msix_->Read(0, Msix::PbaOffset(kVectors), 8), ~uint64_t{0});
  EXPECT_EQ(msix_->Read(0, Msix::PbaOffset(kVectors) + 8, 8), 0x3fu);
  EXPECT_EQ(msix_->Read(0, Msix::PbaOffset(kVectors) + 16, 8), 0u);
}

TEST_F(MsixTest, AMessageThatCannotBeSentDisablesTheVectorUntilItChanges) {
  Program(0, kLapic, 0x40);
  Unmask(0);
  msix_->SetControl(kOn);
  routing_.FailNextBind();
  Write(0, 4, 0xdead);
  EXPECT_FALSE(Bound(0));
  events_[0].Signal();
  EXPECT_TRUE(Pending(0));
  Write(0, 4, 0);
  EXPECT_THAT(routing_.TakeDeliveries(), ElementsAre(Delivery{0, kLapic, 0x40}));
}

TEST_F(MsixTest, AVectorThatCannotBeBoundIsTriedAgain) {
  Program(0, kLapic, 0x40);
  routing_.FailNextBind();
  msix_->SetControl(kOn);
  Unmask(0);
  EXPECT_FALSE(Bound(0));
  Unmask(0);
  EXPECT_TRUE(Bound(0));
}

TEST(MsixSizesTest, TheBarHoldsTableAndPba) {
  EXPECT_EQ(Msix::BarSize(1), 4096u);
  EXPECT_EQ(Msix::BarSize(252), 4096u);  // 252 * 16 + 4 * 8 = 4064
  EXPECT_EQ(Msix::BarSize(255), 8192u);
  EXPECT_EQ(Msix::BarSize(2048), 65536u);
  EXPECT_EQ(Msix::PbaOffset(2048), 32768u);
}

TEST(MsixCreateTest, TooManyVectorsForTheKernelAreAnErrorAtStart) {
  FakeEventRouting routing;
  routing.set_msi_limit(1);
  const EventFd event = *EventFd::Create();
  EXPECT_EQ(Msix::Create("test", {event.fd(), event.fd()}, routing).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace bulkhead::vmm
