#include "tools/vmctl/listen_address.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::EndsWith;
using ::testing::Not;

TEST(ListenAddressTest, AddressesReadBackAsTheyWereGiven) {
  for (const char* text :
       {"127.0.0.1:9707", "127.1.2.3:1", "0.0.0.0:65535", "[::1]:9707", "[::]:0", "[fe80::2]:80"}) {
    const absl::StatusOr<ListenAddress> address = ParseListenAddress(text);
    ASSERT_TRUE(address.ok()) << address.status();
    EXPECT_EQ(address->Text(), text);
  }
}

TEST(ListenAddressTest, OnlyThoseOfThisHostAloneAreLoopback) {
  for (const char* text : {"127.0.0.1:1", "127.255.0.9:1", "[::1]:1"}) {
    EXPECT_TRUE(ParseListenAddress(text)->IsLoopback()) << text;
  }
  for (const char* text :
       {"0.0.0.0:1", "128.0.0.1:1", "10.127.0.1:1", "[::]:1", "[::ffff:127.0.0.1]:1"}) {
    EXPECT_FALSE(ParseListenAddress(text)->IsLoopback()) << text;
  }
}

TEST(ListenAddressTest, WhatIsNoAddressIsAnError) {
  for (const char* text : {"",
                           ":",
                           ":80",
                           "9707",
                           "localhost:80",
                           "127.0.0.1",
                           "127.0.0.1:",
                           "127.0.0.1:65536",
                           "127.0.0.1:+1",
                           "127.0.0.1: 1",
                           "127.0.0.1:1 ",
                           "127.0.0.1:-1",
                           "127.1:80",
                           "::1:80",
                           "[::1]",
                           "[::1:80",
                           "[127.0.0.1]:80",
                           "[::1%lo]:80",
                           "1.2.3.4.5:80",
                           " 127.0.0.1:80"}) {
    EXPECT_EQ(ParseListenAddress(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ListenAddressTest, PortZeroIsReplacedByTheOneThatItHas) {
  ListenAddress address = *ParseListenAddress("127.0.0.1:0");
  const absl::StatusOr<UniqueFd> socket = Listen(address, 1);
  ASSERT_TRUE(socket.ok()) << socket.status();
  EXPECT_THAT(address.Text(), Not(EndsWith(":0")));
  ListenAddress again = address;
  const absl::StatusOr<UniqueFd> second = Listen(again, 1);
  EXPECT_EQ(second.status().message().substr(0, 27), "cannot listen on 127.0.0.1:");
}

}  // namespace
}  // namespace bulkhead::vmctl
