#include "vmm/pci/function_config.h"

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Bar = PciFunctionConfig::Bar;

PciFunctionConfig ValidConfig() {
  PciFunctionConfig config;
  config.name = "disk0";
  config.vendor_id = 0x1af4;
  config.device_id = 0x1042;
  config.class_code = 0x010000;
  config.bars = {{.index = 0, .size_bytes = 0x4000, .is_64bit = true}};
  config.msix_event_fds = {10, 11, 12};
  config.capabilities = {{.id = 9, .body = std::vector<uint8_t>(14)},
                         {.id = 9, .body = std::vector<uint8_t>(17), .forwarded = true}};
  config.doorbells = {{.bar = 0, .offset = 0x3000, .size_bytes = 2, .event_fd = 20}};
  return config;
}

std::string ErrorOf(const PciFunctionConfig& config) {
  const absl::StatusOr<PciFunctionLayout> layout = CheckAndLayOut(config);
  if (layout.ok()) return "accepted";
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StartsWith(layout.status().message(), "device disk0: "));
  return std::string(layout.status().message());
}

TEST(FunctionConfigTest, CapabilitiesArePackedAtDwordsAndMsixTakesTheLowestFreeBar) {
  const absl::StatusOr<PciFunctionLayout> layout = CheckAndLayOut(ValidConfig());
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->msix_capability, 0x40);
  EXPECT_THAT(layout->device_capabilities, ElementsAre(0x4c, 0x5c));
  EXPECT_EQ(layout->msix_bar, 2);  // BAR 0 is a 64-bit one and takes 1 too
}

TEST(FunctionConfigTest, WithoutMsixTheFirstCapabilityIsTheDevices) {
  PciFunctionConfig config = ValidConfig();
  config.msix_event_fds.clear();
  const absl::StatusOr<PciFunctionLayout> layout = CheckAndLayOut(config);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_EQ(layout->msix_capability, 0);
  EXPECT_FALSE(layout->msix_bar.has_value());
  EXPECT_THAT(layout->device_capabilities, ElementsAre(0x40, 0x50));
}

TEST(FunctionConfigTest, CapabilitiesMayFillTheSpaceButNotPassIt) {
  PciFunctionConfig config = ValidConfig();  // 0x40 + 12 for MSI-X, 8 for resets: 172 are left
  config.capabilities = {{.id = 9, .body = std::vector<uint8_t>(170)}};
  EXPECT_EQ(ErrorOf(config), "accepted");
  config.capabilities = {{.id = 9, .body = std::vector<uint8_t>(171)}};
  EXPECT_THAT(ErrorOf(config), HasSubstr("capabilities take 196 bytes; 192 are there"));
}

TEST(FunctionConfigTest, BarsOfABadShapeAreRefused) {
  const auto error_of = [](std::vector<Bar> bars) {
    PciFunctionConfig config = ValidConfig();
    config.doorbells.clear();
    config.bars = std::move(bars);
    return ErrorOf(config);
  };
  EXPECT_EQ(error_of({{.index = 0, .size_bytes = 16}, {.index = 5, .size_bytes = 1 << 30}}),
            "accepted");
  EXPECT_THAT(error_of({{.index = 6, .size_bytes = 4096}}), HasSubstr("BAR 6 does not exist"));
  EXPECT_THAT(error_of({{.index = 5, .size_bytes = 4096, .is_64bit = true}}),
              HasSubstr("does not exist"));
  for (uint64_t size : {uint64_t{0}, uint64_t{8}, uint64_t{4097}, uint64_t{1} << 31}) {
    EXPECT_THAT(error_of({{.index = 0, .size_bytes = size}}), HasSubstr("no power of two"));
  }
  EXPECT_THAT(error_of({{.index = 0, .size_bytes = 16}, {.index = 0, .size_bytes = 16}}),
              HasSubstr("overlaps"));
  EXPECT_THAT(
      error_of({{.index = 1, .size_bytes = 16}, {.index = 0, .size_bytes = 16, .is_64bit = true}}),
      HasSubstr("overlaps"));
  EXPECT_THAT(
      error_of({{.index = 0, .size_bytes = 16, .is_64bit = true}, {.index = 1, .size_bytes = 16}}),
      HasSubstr("overlaps"));
}

TEST(FunctionConfigTest, MsixNeedsABarOfItsOwn) {
  PciFunctionConfig config = ValidConfig();
  config.bars = {{.index = 0, .size_bytes = 0x4000, .is_64bit = true},
                 {.index = 2, .size_bytes = 4096, .is_64bit = true},
                 {.index = 4, .size_bytes = 4096}};
  EXPECT_EQ(CheckAndLayOut(config)->msix_bar, 5);
  config.bars[2].is_64bit = true;
  EXPECT_THAT(ErrorOf(config), HasSubstr("no BAR is left for MSI-X"));
}

TEST(FunctionConfigTest, DoorbellsMustLieInABarAndApart) {
  const auto error_of = [](PciFunctionConfig::Doorbell doorbell) {
    PciFunctionConfig config = ValidConfig();
    config.doorbells.push_back(doorbell);
    return ErrorOf(config);
  };
  EXPECT_EQ(error_of({.bar = 0, .offset = 0x3ffc, .size_bytes = 4, .event_fd = 21}), "accepted");
  EXPECT_EQ(error_of({.bar = 0, .offset = 0x3fff, .size_bytes = 0, .event_fd = 21}), "accepted");
  EXPECT_THAT(error_of({.bar = 0, .offset = 0x3ffd, .size_bytes = 4, .event_fd = 21}),
              HasSubstr("outside BAR 0"));
  EXPECT_THAT(error_of({.bar = 0, .offset = ~uint64_t{0}, .size_bytes = 4, .event_fd = 21}),
              HasSubstr("outside BAR 0"));
  EXPECT_THAT(error_of({.bar = 1, .offset = 0, .size_bytes = 4, .event_fd = 21}),
              HasSubstr("BAR 1, which it does not have"));
  EXPECT_THAT(error_of({.bar = 9, .offset = 0, .size_bytes = 4, .event_fd = 21}),
              HasSubstr("which it does not have"));
  EXPECT_THAT(error_of({.bar = 0, .offset = 0, .size_bytes = 3, .event_fd = 21}),
              HasSubstr("doorbell of 3 bytes"));
  EXPECT_THAT(error_of({.bar = 0, .offset = 0x3000, .size_bytes = 0, .event_fd = 21}),
              HasSubstr("two doorbells at 12288"));
  EXPECT_THAT(error_of({.bar = 0, .offset = 0, .size_bytes = 4}), HasSubstr("without an eventfd"));
}

TEST(FunctionConfigTest, IdsCapabilitiesAndInterruptsOfABadShapeAreRefused) {
  const auto error_after = [](auto change) {
    PciFunctionConfig config = ValidConfig();
    change(config);
    return ErrorOf(config);
  };
  EXPECT_THAT(error_after([](PciFunctionConfig& c) { c.vendor_id = 0xffff; }),
              HasSubstr("vendor ID"));
  EXPECT_THAT(error_after([](PciFunctionConfig& c) { c.class_code = 0x1000000; }),
              HasSubstr("class code"));
  for (uint8_t id : {0x00, 0x05, 0x11}) {
    EXPECT_THAT(error_after([id](PciFunctionConfig& c) { c.capabilities[0].id = id; }),
                HasSubstr("capability ID"));
  }
  for (size_t size : {0, 1, 253}) {
    EXPECT_THAT(error_after([size](PciFunctionConfig& c) { c.capabilities[0].body.resize(size); }),
                HasSubstr("2 to 252"));
  }
  EXPECT_THAT(error_after([](PciFunctionConfig& c) { c.capabilities.resize(17); }),
              HasSubstr("at most 16"));
  EXPECT_THAT(error_after([](PciFunctionConfig& c) { c.msix_event_fds.resize(2049); }),
              HasSubstr("2049 MSI-X vectors"));
  EXPECT_THAT(error_after([](PciFunctionConfig& c) { c.msix_event_fds[1] = -1; }),
              HasSubstr("MSI-X vector without"));
  EXPECT_THAT(error_after([](PciFunctionConfig& c) { c.intx = {.event_fd = 5}; }),
              HasSubstr("INTx without"));
}

}  // namespace
}  // namespace bulkhead::vmm
