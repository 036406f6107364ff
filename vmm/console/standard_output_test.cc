#include "vmm/console/standard_output.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "base/memory_mapping.h"
#include "base/shared_stream.h"
#include "base/testing/streams.h"
#include "gtest/gtest.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kNoLimit = ~uint64_t{0};

std::string ReadAvailable(int fd) {
  fcntl(fd, F_SETFL, O_NONBLOCK);
  std::string text;
  char buffer[65536];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

SharedStream Share(const UniqueFd& fd, int direction) {
  return *SharedStream::Create(fd.get(), direction);
}
SharedStream ShareAsGiven(const UniqueFd& fd, int) {
  return *SharedStream::CreateAsGiven(fd.get());
}

struct Case {
  StreamEnds (*make)(int direction);
  SharedStream (*share)(const UniqueFd& fd, int direction);
};

class StreamKindTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { signal(SIGPIPE, SIG_IGN); }
};

TEST_P(StreamKindTest, ASlowReaderIsNotWaitedForAndMissesNothing) {
  const StreamEnds ends = GetParam().make(O_WRONLY);
  StandardOutput output(GetParam().share(ends.ours, O_WRONLY), kNoLimit);
  const std::string sent = Letters(300'000);
  size_t done = 0;
  std::string received;
  for (int rounds = 0; done < sent.size() && rounds < 100'000; ++rounds) {
    done += output.Write(absl::string_view(sent).substr(done));
    const std::string some = ReadAvailable(ends.other.get());
    ASSERT_FALSE(some.empty()) << "it stopped although there is room, at " << done;
    received += some;
  }
  received += ReadAvailable(ends.other.get());
  EXPECT_TRUE(received == sent) << received.size() << " of " << sent.size();
}

TEST_P(StreamKindTest, InputIsReadAsItComesAndNotWaitedFor) {
  const StreamEnds ends = GetParam().make(O_RDONLY);
  const SharedStream input = GetParam().share(ends.ours, O_RDONLY);
  char bytes[100];
  EXPECT_EQ(input.Read(bytes, sizeof(bytes)), -1);
  EXPECT_EQ(errno, EAGAIN);
  ASSERT_EQ(write(ends.other.get(), "keys", 4), 4);
  EXPECT_EQ(input.Read(bytes, sizeof(bytes)), 4);
  EXPECT_EQ(std::string(bytes, 4), "keys");
  EXPECT_EQ(input.Read(bytes, sizeof(bytes)), -1);
}

TEST_P(StreamKindTest, TheDescriptorsModeIsLeftAlone) {
  const StreamEnds ends = GetParam().make(O_WRONLY);
  StandardOutput output(GetParam().share(ends.ours, O_WRONLY), kNoLimit);
  output.Write(Letters(300'000));
  EXPECT_EQ(fcntl(ends.ours.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_P(StreamKindTest, WithoutAReaderOutputIsDropped) {
  StreamEnds ends = GetParam().make(O_WRONLY);
  ends.other.reset();
  StandardOutput output(GetParam().share(ends.ours, O_WRONLY), kNoLimit);
  EXPECT_EQ(output.Write("nobody reads this"), 17u);
}

INSTANTIATE_TEST_SUITE_P(Kinds, StreamKindTest,
                         testing::Values(Case{MakePipe, Share}, Case{MakePipe, ShareAsGiven},
                                         Case{MakeTerminal, Share},
                                         Case{MakeTerminal, ShareAsGiven},
                                         Case{MakeSocketPair, Share}));

TEST(StandardOutputTest, AFileGrowsToItsLimitOnly) {
  const UniqueFd file = *CreateMemfd("log", 0);
  StandardOutput output(Share(file, O_WRONLY), 5);
  EXPECT_EQ(output.Write("123"), 3u);
  EXPECT_EQ(output.Write("4567890"), 7u) << "the guest goes on";
  struct stat info;
  ASSERT_EQ(fstat(file.get(), &info), 0);
  EXPECT_EQ(info.st_size, 5);
}

TEST(StandardOutputTest, AFileIsWrittenWhereOthersWroteBefore) {
  const UniqueFd file = *CreateMemfd("log", 0);
  ASSERT_EQ(write(file.get(), "before ", 7), 7);
  StandardOutput output(Share(file, O_WRONLY), kNoLimit);
  output.Write("after");
  char text[20] = {};
  EXPECT_EQ(pread(file.get(), text, sizeof(text), 0), 12);
  EXPECT_STREQ(text, "before after");
}

TEST(SharedStreamTest, AClosedDescriptorIsAnError) {
  EXPECT_FALSE(SharedStream::Create(-1, O_RDONLY).ok());
}

}  // namespace
}  // namespace bulkhead::vmm
