#include "base/mac_address.h"

#include "gtest/gtest.h"

namespace bulkhead {
namespace {

TEST(MacAddressTest, OnlyAddressesOfOneStationAreParsed) {
  EXPECT_EQ(ParseMacAddress("52:54:00:12:34:5f"), (MacAddress{0x52, 0x54, 0, 0x12, 0x34, 0x5f}));
  for (const char* text : {"", "52:54:00:12:34", "53:54:00:12:34:56", "52:54:00:12:34:5g",
                           "00:00:00:00:00:00", "52:54:00:12:34:56:78", "52:54:0:12:34:56"}) {
    EXPECT_FALSE(ParseMacAddress(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace bulkhead
