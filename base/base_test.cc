#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "base/access_mask.h"
#include "base/errno_status.h"
#include "base/event_fd.h"
#include "base/guest_memory.h"
#include "base/memory_mapping.h"
#include "base/pid_fd.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

TEST(AccessMaskTest, HasTheBitsOfTheBytes) {
  EXPECT_EQ(AccessMask(0), 0u);
  EXPECT_EQ(AccessMask(1), 0xffu);
  EXPECT_EQ(AccessMask(3), 0xffffffu);
  EXPECT_EQ(AccessMask(4), 0xffffffffu);
  EXPECT_EQ(AccessMask(7), 0xffffffffffffffu);
  EXPECT_EQ(AccessMask(8), ~uint64_t{0});
  EXPECT_EQ(AccessMask(255), ~uint64_t{0});
}

TEST(ErrnoToStatusTest, MapsTheCodeAndNamesTheCall) {
  const absl::Status status = ErrnoToStatus(ENOENT, "open /x");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "open /x: No such file or directory");
}

TEST(UniqueFdTest, ClosesWhenItEndsAndNotAfterRelease) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  {
    UniqueFd read_end(fds[0]);
  }
  EXPECT_EQ(fcntl(fds[0], F_GETFD), -1);
  UniqueFd write_end(fds[1]);
  const int released = write_end.release();
  EXPECT_FALSE(write_end.ok());
  EXPECT_NE(fcntl(released, F_GETFD), -1);
  close(released);
}

TEST(EventFdTest, DrainTakesAllSignalsAtOnce) {
  const EventFd event = *EventFd::Create();
  EXPECT_FALSE(event.IsPending());
  event.Signal();
  event.Signal();
  EXPECT_TRUE(event.IsPending());
  EXPECT_TRUE(event.Drain());
  EXPECT_FALSE(event.Drain());
}

TEST(EventFdTest, DrainDoesNotBlockWhenAnotherHolderHasMadeTheEventfdBlocking) {
  const EventFd event = *EventFd::Create();
  ASSERT_EQ(fcntl(event.fd(), F_SETFL, 0), 0);
  EXPECT_FALSE(event.Drain());
  event.Signal();
  EXPECT_TRUE(event.Drain());
}

TEST(MemfdTest, AFutureWriteSealLeavesOlderMappingsWritableAndRefusesNewOnes) {
  const UniqueFd fd = *CreateMemfd("test", 4096);
  const MemoryMapping writer =
      *MemoryMapping::Map(fd.get(), 0, 4096, MemoryMapping::Protection::kReadWrite);
  ASSERT_TRUE(
      AddSeals(fd.get(), F_SEAL_FUTURE_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL).ok());
  EXPECT_FALSE(MemoryMapping::Map(fd.get(), 0, 4096, MemoryMapping::Protection::kReadWrite).ok());
  const MemoryMapping reader =
      *MemoryMapping::Map(fd.get(), 0, 4096, MemoryMapping::Protection::kRead);
  writer.data()[7] = 42;
  EXPECT_EQ(reader.data()[7], 42);
}

TEST(MemoryMappingTest, AlignedMappingsHaveTheirAlignmentAndTheirFileOffset) {
  const UniqueFd fd = *CreateMemfd("test", 5 << 20);
  const MemoryMapping whole =
      *MemoryMapping::Map(fd.get(), 0, 5 << 20, MemoryMapping::Protection::kReadWrite);
  whole.data()[(2 << 20) + 5] = 77;
  for (int i = 0; i < 8; ++i) {
    const MemoryMapping part = *MemoryMapping::Map(fd.get(), 2 << 20, 3 << 20,
                                                   MemoryMapping::Protection::kReadWrite, 2 << 20);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(part.data()) % (2 << 20), 0u);
    EXPECT_EQ(part.size(), 3u << 20);
    EXPECT_EQ(part.data()[5], 77);
  }
  EXPECT_FALSE(
      MemoryMapping::Map(fd.get(), 0, SIZE_MAX, MemoryMapping::Protection::kReadWrite, 2 << 20)
          .ok());
}

TEST(EventFdTest, DrainDoesNotBlockWhenAnotherHolderMadeTheFileBlocking) {
  const EventFd event = *EventFd::Create();
  ASSERT_EQ(fcntl(event.fd(), F_SETFL, 0), 0);
  EXPECT_FALSE(event.Drain());
}

absl::StatusOr<GuestMemory> MakeMemory(const std::vector<std::pair<GuestAddress, size_t>>& layout) {
  std::vector<GuestMemory::Range> ranges;
  for (const auto& [start, size] : layout) {
    const UniqueFd fd = *CreateMemfd("ram", size);
    ranges.push_back(
        {start, *MemoryMapping::Map(fd.get(), 0, size, MemoryMapping::Protection::kReadWrite)});
  }
  return GuestMemory::Create(std::move(ranges));
}

TEST(GuestMemoryTest, ReadsBackWhatWasWrittenInItsRange) {
  const GuestMemory memory = *MakeMemory({{0, 4096}, {0x100000, 8192}});
  ASSERT_TRUE(memory.WriteObject<uint64_t>(0x101ff8, 0x1122334455667788));
  uint64_t value = 0;
  ASSERT_TRUE(memory.ReadObject(0x101ff8, value));
  EXPECT_EQ(value, 0x1122334455667788u);
}

TEST(GuestMemoryTest, RefusesWhatIsNotWhollyInsideOneRange) {
  const GuestMemory memory = *MakeMemory({{0x1000, 4096}, {0x2000, 4096}});
  EXPECT_NE(memory.HostPointer(0x1000, 4096), nullptr);
  EXPECT_EQ(memory.HostPointer(0xfff, 1), nullptr);
  EXPECT_EQ(memory.HostPointer(0x1ff9, 8), nullptr) << "across two ranges";
  EXPECT_EQ(memory.HostPointer(0x3000, 0), nullptr) << "past the end";
  EXPECT_EQ(memory.HostPointer(0x2fff, UINT64_MAX), nullptr) << "wraps";
  EXPECT_EQ(memory.HostPointer(UINT64_MAX, 8), nullptr);
}

TEST(GuestMemoryTest, BytesAcrossAdjoiningRangesComeInParts) {
  const GuestMemory memory =
      *MakeMemory({{0x1000, 4096}, {0x2000, 4096}, {0x3000, 4096}, {0x5000, 4096}});
  EXPECT_TRUE(memory.has_adjoining_ranges());
  std::vector<std::pair<uint8_t*, uint64_t>> parts;
  const auto add = [&](uint8_t* host, uint64_t size) { parts.emplace_back(host, size); };
  ASSERT_TRUE(memory.ForEachPart(0x1ff0, 0x1020, add));
  const std::vector<std::pair<uint8_t*, uint64_t>> expected = {
      {memory.HostPointer(0x1ff0, 16), 16},
      {memory.HostPointer(0x2000, 4096), 4096},
      {memory.HostPointer(0x3000, 16), 16}};
  EXPECT_EQ(parts, expected);
  parts.clear();
  EXPECT_FALSE(memory.ForEachPart(0x3ff0, 0x1020, add)) << "a hole";
  EXPECT_FALSE(memory.ForEachPart(0x1ff0, UINT64_MAX, add)) << "wraps";
  EXPECT_FALSE(memory.ForEachPart(0x5ff0, 17, add)) << "past the end";
  EXPECT_TRUE(parts.empty());

  ASSERT_TRUE(memory.WriteObject<uint64_t>(0x2ffd, 0x1122334455667788));
  uint64_t value = 0;
  ASSERT_TRUE(memory.ReadObject(0x2ffd, value));
  EXPECT_EQ(value, 0x1122334455667788u);
  EXPECT_EQ(*memory.HostPointer(0x3000, 1), 0x55);
  EXPECT_FALSE(memory.WriteObject<uint64_t>(0x3ffd, 1));
  EXPECT_EQ(*memory.HostPointer(0x3ffd, 1), 0) << "nothing is copied";
}

TEST(GuestMemoryTest, RangesWithAHoleBetweenThemDoNotAdjoin) {
  EXPECT_FALSE(MakeMemory({{0, 4096}, {8192, 4096}})->has_adjoining_ranges());
  const GuestMemory top = *MakeMemory({{UINT64_MAX - 4095 - 4096, 4096}});
  EXPECT_FALSE(top.ForEachPart(UINT64_MAX - 4096, UINT64_MAX, [](uint8_t*, uint64_t) {}));
}

TEST(GuestMemoryTest, CopiesOfNothingAreChecksOfTheAddress) {
  const GuestMemory memory = *MakeMemory({{0, 4096}});
  EXPECT_TRUE(memory.Read(0, {}));
  EXPECT_TRUE(memory.Write(4095, {}));
  EXPECT_FALSE(memory.Read(4096, {}));
}

TEST(GuestMemoryTest, RefusesOverlappingAndWrappingTables) {
  EXPECT_FALSE(MakeMemory({{0, 8192}, {4096, 4096}}).ok());
  EXPECT_FALSE(MakeMemory({{UINT64_MAX - 4095, 8192}}).ok());
}

TEST(PidFdTest, WaitTellsHowTheChildEnded) {
  const pid_t child = fork();
  if (child == 0) _exit(3);
  const PidFd pid_fd = *PidFd::Open(child);
  const ExitInfo info = *pid_fd.Wait(absl::Seconds(10));
  EXPECT_FALSE(info.signalled);
  EXPECT_EQ(info.ToString(), "exit code 3");
}

TEST(PidFdTest, WaitEndsAtItsDeadlineAndSignalKills) {
  const pid_t child = fork();
  if (child == 0) {
    while (true) pause();
  }
  const PidFd pid_fd = *PidFd::Open(child);
  EXPECT_EQ(pid_fd.Wait(absl::Milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  ASSERT_TRUE(pid_fd.Signal(SIGKILL).ok());
  EXPECT_EQ(pid_fd.Wait(absl::Seconds(10))->ToString(), "killed by signal 9 (Killed)");
}

}  // namespace
}  // namespace bulkhead
