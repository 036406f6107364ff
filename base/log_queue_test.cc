#include "base/log_queue.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/testing/streams.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

StreamEnds MakeNonBlocking(StreamEnds ends) {
  EXPECT_EQ(fcntl(ends.ours.get(), F_SETFL, O_NONBLOCK), 0);
  return ends;
}
StreamEnds MakeNonBlockingPipe(int direction) { return MakeNonBlocking(MakePipe(direction)); }
StreamEnds MakeNonBlockingTerminal(int direction) {
  return MakeNonBlocking(MakeTerminal(direction));
}

// Reads until `last` has come, or nothing comes any more.
std::string ReadTo(int fd, absl::string_view last) {
  std::string text;
  std::string buffer(64 * 1024, '\0');
  pollfd readable = {.fd = fd, .events = POLLIN, .revents = 0};
  while (text.find(std::string(last)) == std::string::npos && poll(&readable, 1, 60'000) == 1) {
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n <= 0) break;
    text.append(buffer, 0, static_cast<size_t>(n));
  }
  return text;
}

class LogQueueTest : public testing::TestWithParam<StreamEnds (*)(int)> {};

TEST_P(LogQueueTest, ALineIsWritten) {
  const StreamEnds ends = GetParam()(O_WRONLY);
  const auto queue = *LogQueue::Create(ends.ours.get());
  queue->Append("head: ", "head: one\nhead: two\n");
  EXPECT_TRUE(queue->Flush(kPatience));
  EXPECT_EQ(ReadTo(ends.other.get(), "two\n"), "head: one\nhead: two\n");
}

// The whole promise: nobody reads, and the caller goes on. Later everything that the queue took is
// there, in order, with a line where some were dropped that says how many.
TEST_P(LogQueueTest, WithoutAReaderTheCallerGoesOnAndWhatIsDroppedIsCounted) {
  const StreamEnds ends = GetParam()(O_WRONLY);
  const int flags = fcntl(ends.ours.get(), F_GETFL);
  const auto queue = *LogQueue::Create(ends.ours.get());
  const std::string filler(1000, 'x');
  constexpr uint64_t kLines = 2000;
  for (uint64_t i = 0; i < kLines; ++i) queue->Append("", absl::StrCat(i, " ", filler, "\n"));
  EXPECT_FALSE(queue->Flush(absl::Milliseconds(1)));
  EXPECT_EQ(fcntl(ends.ours.get(), F_GETFL), flags) << "others use the descriptor too";

  std::string text;
  std::thread reader([&] { text = ReadTo(ends.other.get(), "last\n"); });
  EXPECT_TRUE(queue->Flush(kPatience));
  queue->Append("head: ", "last\n");
  reader.join();

  uint64_t next = 0;
  bool told = false;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    absl::ConsumePrefix(&line, "head: ");
    uint64_t dropped = 0;
    if (absl::ConsumePrefix(&line, "(") &&
        absl::ConsumeSuffix(&line, " lines were dropped here)")) {
      ASSERT_TRUE(absl::SimpleAtoi(line, &dropped));
      next += dropped;
      told = true;
    } else if (absl::ConsumeSuffix(&line, filler)) {
      EXPECT_EQ(line, absl::StrCat(next++, " "));
    }
  }
  EXPECT_TRUE(told);
  EXPECT_EQ(next, kLines);
}

TEST_P(LogQueueTest, WithoutAReaderAtTheOtherEndItIsOverAtOnce) {
  StreamEnds ends = GetParam()(O_WRONLY);
  ends.other.reset();
  const auto queue = *LogQueue::Create(ends.ours.get());
  for (int i = 0; i < 1000; ++i) queue->Append("", "nobody will read this\n");
  EXPECT_TRUE(queue->Flush(kPatience));
}

TEST_P(LogQueueTest, ItsOwnerDoesNotWaitForAWriteThatIsHeldUp) {
  const StreamEnds ends = GetParam()(O_WRONLY);
  auto queue = *LogQueue::Create(ends.ours.get());
  for (int i = 0; i < 1000; ++i) queue->Append("", absl::StrCat(std::string(1000, 'x'), "\n"));
  pollfd readable = {.fd = ends.other.get(), .events = POLLIN, .revents = 0};
  ASSERT_EQ(poll(&readable, 1, 60'000), 1) << "it does not write";
  queue.reset();
}

INSTANTIATE_TEST_SUITE_P(Kinds, LogQueueTest,
                         testing::Values(MakePipe, MakeNonBlockingPipe, MakeSocketPair,
                                         MakeTerminal, MakeNonBlockingTerminal));

TEST(LogQueueFileTest, AFullFileSystemLosesLinesOnly) {
  const UniqueFd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full.ok());
  const auto queue = *LogQueue::Create(full.get());
  queue->Append("", "one\n");
  queue->Append("", "two\n");
  EXPECT_TRUE(queue->Flush(kPatience));
}

TEST(LogQueueFileTest, AClosedDescriptorIsAnError) { EXPECT_FALSE(LogQueue::Create(-1).ok()); }

}  // namespace
}  // namespace bulkhead
