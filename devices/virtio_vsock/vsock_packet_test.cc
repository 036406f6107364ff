#include "devices/virtio_vsock/vsock_packet.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

using State = ConnectLine::State;

TEST(ConnectLineTest, TakesAPort) {
  for (const uint32_t port : {0u, 52u, 4294967295u}) {
    const ConnectLine line = ParseConnectLine("CONNECT " + std::to_string(port) + "\n");
    EXPECT_EQ(line.state, State::kValid);
    EXPECT_EQ(line.port, port);
  }
}

TEST(ConnectLineTest, WaitsForTheNewline) {
  const std::string whole = "CONNECT 4294967295";
  for (size_t size = 0; size <= whole.size(); ++size) {
    EXPECT_EQ(ParseConnectLine(whole.substr(0, size)).state, State::kIncomplete) << size;
  }
  EXPECT_EQ(ParseConnectLine(whole + "0").state, State::kInvalid);
}

TEST(ConnectLineTest, RefusesAllElse) {
  for (const char* const text :
       {"\n", "CONNECT\n", "CONNECT \n", "CONNECT -1\n", "CONNECT +1\n", "CONNECT 4294967296\n",
        "CONNECT 0x10\n", "CONNECT 5 \n", "CONNECT  5\n", "connect 5\n", "CONNECT 5\r\n",
        "GET / HTTP/1.1\n"}) {
    EXPECT_EQ(ParseConnectLine(text).state, State::kInvalid) << text;
  }
}

TEST(VsockPacketTest, SlicesAndCopiesAcrossBuffers) {
  char bytes[] = "abcdefgh";
  const std::vector<iovec> buffers = {{bytes, 3}, {bytes + 3, 0}, {bytes + 3, 2}, {bytes + 5, 3}};
  EXPECT_EQ(TotalBytes(buffers), 8u);
  char out[9] = "";
  EXPECT_EQ(CopyOut(Slice(buffers, 2, 4), out, 8), 4u);
  EXPECT_STREQ(out, "cdef");
  EXPECT_EQ(TotalBytes(Slice(buffers, 6, 100)), 2u);
  EXPECT_TRUE(Slice(buffers, 8, 1).empty());
  EXPECT_TRUE(Slice(buffers, 3, 0).empty());
  EXPECT_EQ(CopyIn(Slice(buffers, 1, 3), "XYZW", 4), 3u);
  EXPECT_STREQ(bytes, "aXYZefgh");
}

}  // namespace
}  // namespace bulkhead::devices::virtio
