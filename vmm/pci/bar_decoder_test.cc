#include "vmm/pci/bar_decoder.h"

#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/pci/bar_placement.h"
#include "vmm/pci/fake_event_routing.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Doorbell = FakeEventRouting::Doorbell;

constexpr GuestAddress kLow = layout::kMmio32Start;
constexpr GuestAddress kHigh = layout::kMmio64MinStart;

// Answers with its own number.
class Numbered final : public IoHandler {
 public:
  explicit Numbered(uint64_t number) : number_(number) {}
  uint64_t Read(Waiter, uint64_t, uint8_t) override { return number_; }
  void Write(Waiter, uint64_t, uint8_t, uint64_t) override {}

 private:
  const uint64_t number_;
};

class BarDecoderTest : public ::testing::Test {
 protected:
  ~BarDecoderTest() override { EXPECT_THAT(routing_.violations(), IsEmpty()); }

  // The number of the handler that answers at the address; 0: none.
  uint64_t Answer(GuestAddress address) {
    const uint64_t value = view_.Read(0, address, 4);
    return value == 0xffffffff ? 0 : value;
  }

  AddressSpace memory_;
  FakeEventRouting routing_;
  Numbered first_{1};
  Numbered second_{2};
  AddressSpace::View view_{memory_};
  BarDecoder decoder_{memory_, routing_, MmioWindows::ForHighStart(kHigh)};
};

TEST_F(BarDecoderTest, ABarFollowsItsAddressWithItsDoorbells) {
  const auto bar = decoder_.Add({.name = "a",
                                 .size_bytes = 0x1000,
                                 .handler = &first_,
                                 .doorbells = {{0x10, 2, 50}, {0x20, 0, 51}}});
  EXPECT_EQ(Answer(kLow), 0u);
  decoder_.Decode(bar, kLow);
  EXPECT_EQ(Answer(kLow), 1u);
  EXPECT_EQ(Answer(kLow + 0xffc), 1u);
  EXPECT_THAT(routing_.doorbells(),
              ElementsAre(Doorbell{kLow + 0x10, 2, 50}, Doorbell{kLow + 0x20, 0, 51}));
  decoder_.Decode(bar, kHigh + 0x5000);
  EXPECT_EQ(Answer(kLow), 0u);
  EXPECT_EQ(Answer(kHigh + 0x5000), 1u);
  EXPECT_THAT(routing_.doorbells(),
              ElementsAre(Doorbell{kHigh + 0x5010, 2, 50}, Doorbell{kHigh + 0x5020, 0, 51}));
  decoder_.Decode(bar, std::nullopt);
  EXPECT_EQ(Answer(kHigh + 0x5000), 0u);
  EXPECT_THAT(routing_.doorbells(), IsEmpty());
}

TEST_F(BarDecoderTest, TheSameAddressAgainChangesNothing) {
  const auto bar = decoder_.Add(
      {.name = "a", .size_bytes = 0x1000, .handler = &first_, .doorbells = {{0, 4, 50}}});
  decoder_.Decode(bar, kLow);
  const int calls = routing_.doorbell_calls();
  decoder_.Decode(bar, kLow);
  EXPECT_EQ(routing_.doorbell_calls(), calls);
}

TEST_F(BarDecoderTest, OutsideTheWindowsABarIsNotDecoded) {
  const auto bar = decoder_.Add(
      {.name = "a", .size_bytes = 0x2000, .handler = &first_, .doorbells = {{0, 4, 50}}});
  for (GuestAddress address :
       {GuestAddress{0}, layout::kHighMemory, kLow - 0x2000, kLow - 0x1000,
        layout::kMmio32End - 0x1000, layout::kEcamStart, layout::kIoApic, layout::kLocalApic,
        layout::kTss, layout::kHoleEnd, kHigh - 0x1000, kHigh + layout::kMmio64Size - 0x1000,
        kHigh + layout::kMmio64Size, ~GuestAddress{0x1fff}}) {
    decoder_.Decode(bar, address);
    EXPECT_FALSE(decoder_.IsDecoded(bar)) << address;
    EXPECT_THAT(routing_.doorbells(), IsEmpty()) << address;
  }
  decoder_.Decode(bar, layout::kMmio32End - 0x2000);
  EXPECT_TRUE(decoder_.IsDecoded(bar));
  decoder_.Decode(bar, kHigh + layout::kMmio64Size - 0x2000);
  EXPECT_TRUE(decoder_.IsDecoded(bar));
}

TEST_F(BarDecoderTest, TheLaterOfTwoOverlappingBarsIsNotDecodedUntilTheRangeIsFree) {
  const auto a = decoder_.Add(
      {.name = "a", .size_bytes = 0x1000, .handler = &first_, .doorbells = {{0, 4, 50}}});
  const auto b = decoder_.Add(
      {.name = "b", .size_bytes = 0x4000, .handler = &second_, .doorbells = {{0x1000, 4, 51}}});
  decoder_.Decode(a, kLow + 0x1000);
  decoder_.Decode(b, kLow);
  EXPECT_EQ(Answer(kLow + 0x1000), 1u);
  EXPECT_EQ(Answer(kLow), 0u);
  EXPECT_THAT(routing_.doorbells(), ElementsAre(Doorbell{kLow + 0x1000, 4, 50}));
  decoder_.Decode(a, std::nullopt);
  EXPECT_EQ(Answer(kLow), 2u);
  EXPECT_EQ(Answer(kLow + 0x1000), 2u);
  EXPECT_THAT(routing_.doorbells(), ElementsAre(Doorbell{kLow + 0x1000, 4, 51}));
}

TEST_F(BarDecoderTest, TwoBarsCanSwapPlaces) {
  const auto a =
      decoder_.Add({.name = "a", .size_bytes = 0x1000, .handler = &first_, .doorbells = {}});
  const auto b =
      decoder_.Add({.name = "b", .size_bytes = 0x1000, .handler = &second_, .doorbells = {}});
  decoder_.Decode(a, kLow);
  decoder_.Decode(b, kLow + 0x1000);
  decoder_.Decode(a, kLow + 0x1000);
  EXPECT_FALSE(decoder_.IsDecoded(a));
  decoder_.Decode(b, kLow);
  EXPECT_EQ(Answer(kLow), 2u);
  EXPECT_EQ(Answer(kLow + 0x1000), 1u);
}

TEST_F(BarDecoderTest, ADoorbellThatTheKernelRefusesLeavesTheBarReachable) {
  const auto bar = decoder_.Add({.name = "a",
                                 .size_bytes = 0x1000,
                                 .handler = &first_,
                                 .doorbells = {{0x10, 2, 50}, {0x20, 0, 51}}});
  routing_.FailNextDoorbell();
  decoder_.Decode(bar, kLow);
  EXPECT_EQ(Answer(kLow), 1u);
  EXPECT_THAT(routing_.doorbells(), ElementsAre(Doorbell{kLow + 0x20, 0, 51}));
  decoder_.Decode(bar, kLow + 0x1000);  // unbinds only what was bound
  EXPECT_EQ(routing_.doorbells().size(), 2u);
}

TEST(PlaceBarsTest, BarsGetAlignedAddressesInTheirWindowAndShareNoPage) {
  std::vector<BarRequest> bars = {{.name = "a", .size_bytes = 16},
                                  {.name = "b", .size_bytes = 0x4000, .is_64bit = true},
                                  {.name = "c", .size_bytes = 0x100000},
                                  {.name = "d", .size_bytes = 0x1000}};
  ASSERT_TRUE(PlaceBars(MmioWindows::ForHighStart(kHigh), bars).ok());
  EXPECT_EQ(bars[2].address, kLow);
  EXPECT_EQ(bars[3].address, kLow + 0x100000);
  EXPECT_EQ(bars[0].address, kLow + 0x101000);
  EXPECT_EQ(bars[1].address, kHigh);
}

TEST(PlaceBarsTest, AWindowCanBeFilledButNotExceeded) {
  std::vector<BarRequest> bars(8, {.name = "big", .size_bytes = 64 << 20});  // 512 MiB
  EXPECT_TRUE(PlaceBars(MmioWindows::ForHighStart(kHigh), bars).ok());
  bars.push_back({.name = "small", .size_bytes = 4096});
  const absl::Status status = PlaceBars(MmioWindows::ForHighStart(kHigh), bars);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("small"));
}

}  // namespace
}  // namespace bulkhead::vmm
