#include "integration/testbed/wire.h"

#include <string>

#include "gtest/gtest.h"

namespace bulkhead::testbed {
namespace {

TEST(WireTest, StartRequestSurvivesTheTrip) {
  StartRequest request;
  request.terminal = true;
  request.window = {.rows = 33, .columns = 77};
  request.unix_time_ns = 1234567890123456789;
  request.entropy = std::string("\0\1\2", 3);
  request.directory = "/some where";
  request.command = {"echo", "", "two words"};
  request.environment = {"A=b", "EMPTY="};
  request.writable_folders = {"/out"};

  const absl::StatusOr<StartRequest> decoded = DecodeStart(EncodeStart(request));

  ASSERT_TRUE(decoded.ok());
  EXPECT_TRUE(decoded->terminal);
  EXPECT_EQ(decoded->window.rows, 33);
  EXPECT_EQ(decoded->window.columns, 77);
  EXPECT_EQ(decoded->unix_time_ns, request.unix_time_ns);
  EXPECT_EQ(decoded->entropy, request.entropy);
  EXPECT_EQ(decoded->directory, request.directory);
  EXPECT_EQ(decoded->command, request.command);
  EXPECT_EQ(decoded->environment, request.environment);
  EXPECT_EQ(decoded->writable_folders, request.writable_folders);
}

TEST(WireTest, EveryTruncatedStartRequestIsRefused) {
  StartRequest request;
  request.command = {"true"};
  const std::string whole = EncodeStart(request);
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_EQ(DecodeStart(whole.substr(0, length)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << length;
  }
  EXPECT_FALSE(DecodeStart(whole + "x").ok());
}

TEST(WireTest, HugeListCountIsRefusedWithoutAllocating) {
  StartRequest request;
  request.command = {"true"};
  std::string encoded = EncodeStart(request);
  // Flag, window, clock, no entropy, no directory; then the count of the command's words.
  const size_t count_offset = 1 + 4 + 8 + 4 + 4;
  encoded.replace(count_offset, 4, "\xff\xff\xff\xff");
  EXPECT_FALSE(DecodeStart(encoded).ok());
}

TEST(WireTest, FramesAreCutFromAnyPieces) {
  std::string stream;
  AppendFrame(FrameType::kStdout, "hello", stream);
  AppendFrame(FrameType::kExit, 7, stream);
  FrameReader reader;
  for (size_t i = 0; i + 1 < stream.size(); ++i) reader.Append(stream.substr(i, 1));

  absl::StatusOr<Frame> first = reader.Next();
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->type, FrameType::kStdout);
  EXPECT_EQ(first->payload, "hello");
  EXPECT_EQ(reader.Next().status().code(), absl::StatusCode::kUnavailable);
  reader.Append(stream.substr(stream.size() - 1));
  absl::StatusOr<Frame> second = reader.Next();
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->type, FrameType::kExit);
  EXPECT_EQ(DecodeNumber(second->payload).value_or(0), 7u);
}

TEST(WireTest, OverlongFrameIsRefused) {
  FrameReader reader;
  reader.Append(absl::string_view("\xff\xff\xff\xff\x11\0\0\0", 8));
  EXPECT_EQ(reader.Next().status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace bulkhead::testbed
