#include "devices/virtio_blk/disk_engine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/falloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "devices/virtio_blk/direct_engine.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/file_operation.h"
#include "devices/virtio_blk/io_threads.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

using Kind = FileOperation::Kind;

std::unique_ptr<DiskEngine> Engine(EngineKind kind, const DiskFile& disk, uint32_t operations) {
  absl::StatusOr<ChosenEngine> chosen = CreateEngine(kind, disk, operations);
  EXPECT_TRUE(chosen.ok()) << chosen.status();
  return std::move(chosen->engine);
}

DiskFile TemporaryDisk() {
  std::string path = testing::TempDir() + "/engineXXXXXX";
  UniqueFd file(mkstemp(path.data()));
  unlink(path.c_str());
  EXPECT_EQ(pwrite(file.get(), "abcdefgh", 8, 0), 8);
  EXPECT_EQ(ftruncate(file.get(), 4096), 0);
  return AdoptDisk(std::move(file), /*read_only=*/false).value();
}

class DiskEngineTest : public testing::TestWithParam<EngineKind> {
 protected:
  // Runs what is prepared. By id.
  std::vector<int32_t> Results(DiskEngine& engine, size_t count) {
    std::vector<int32_t> results(count, INT32_MIN);
    size_t reaped = 0;
    const auto reap = [&] {
      DiskEngine::Result result;
      while (engine.Reap(result)) {
        if (result.is_aside) engine.Release(result, /*copy=*/true);
        results.at(result.id) = result.result;
        ++reaped;
      }
    };
    EXPECT_TRUE(engine.Submit());
    reap();
    while (reaped < count) {
      pollfd entry{.fd = engine.fd(), .events = POLLIN, .revents = 0};
      if (poll(&entry, 1, 60000) != 1) {
        ADD_FAILURE() << reaped << " results of " << count;
        break;
      }
      reap();
    }
    pollfd entry{.fd = engine.fd(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(poll(&entry, 1, 0), 0) << "all are reaped";
    EXPECT_EQ(engine.in_flight(), 0u);
    return results;
  }

  const DiskFile disk_ = TemporaryDisk();
};

TEST_P(DiskEngineTest, CarriesOutABatchAndTellsEachResult) {
  const auto engine = Engine(GetParam(), disk_, 8);
  char read[8] = {}, split[4] = {}, end[8] = {}, write[] = {'X', 'Y'};
  const iovec read_buffer{read, sizeof(read)};
  const iovec split_buffers[] = {{split, 1}, {split + 1, 3}};
  const iovec write_buffer{write, sizeof(write)};
  const iovec end_buffer{end, sizeof(end)};
  engine->Prepare({.kind = Kind::kRead, .offset = 4092, .buffers = {&read_buffer, 1}}, 0);
  engine->Prepare({.kind = Kind::kRead, .offset = 0, .buffers = split_buffers}, 1);
  engine->Prepare(
      {.kind = Kind::kWrite, .durable = true, .offset = 100, .buffers = {&write_buffer, 1}}, 2);
  engine->Prepare({.kind = Kind::kSync}, 3);
  engine->Prepare({.kind = Kind::kRead, .offset = 4096, .buffers = {&end_buffer, 1}}, 4);
  engine->Prepare({.kind = Kind::kSyncRange, .offset = 0, .length = uint64_t{8} << 30}, 5);
  engine->Prepare({.kind = Kind::kAllocate,
                   .mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE,
                   .offset = 2048,
                   .length = 1024},
                  6);
  const std::vector<int32_t> results = Results(*engine, 7);
  EXPECT_EQ(results[0], 4) << "the file ends: a short read";
  EXPECT_EQ(results[1], 4);
  EXPECT_EQ(std::string(split, 4), "abcd");
  EXPECT_EQ(results[2], 2);
  EXPECT_EQ(results[3], 0);
  EXPECT_EQ(results[4], 0) << "the end of the file";
  EXPECT_EQ(results[5], 0);
  EXPECT_EQ(results[6], 0);
  char written[2];
  ASSERT_EQ(pread(disk_.fd.get(), written, 2, 100), 2);
  EXPECT_EQ(std::string(written, 2), "XY");
}

TEST_P(DiskEngineTest, TellsErrors) {
  const int descriptor = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  const DiskFile read_only = AdoptDisk(UniqueFd(descriptor), false).value();
  const auto engine = Engine(GetParam(), read_only, 4);
  char data[512] = {};
  const iovec buffer{data, sizeof(data)};
  engine->Prepare({.kind = Kind::kWrite, .offset = 0, .buffers = {&buffer, 1}}, 0);
  const iovec nowhere{reinterpret_cast<void*>(8), sizeof(data)};
  engine->Prepare({.kind = Kind::kRead, .offset = 0, .buffers = {&nowhere, 1}}, 1);
  const std::vector<int32_t> results = Results(*engine, 2);
  EXPECT_EQ(results[0], -EBADF);
  EXPECT_EQ(results[1], -EFAULT);
}

TEST_P(DiskEngineTest, FullBatchesComeOutRightAgainAndAgain) {
  constexpr uint32_t kMany = 256;
  const auto engine = Engine(GetParam(), disk_, kMany);
  std::vector<uint32_t> data(kMany);
  std::vector<iovec> buffers(kMany);
  for (uint32_t round = 0; round < 40; ++round) {
    for (uint32_t i = 0; i < kMany; ++i) {
      const bool write = round % 2 == 0;
      data[i] = write ? round * kMany + i : 0;
      buffers[i] = {&data[i], 4};
      engine->Prepare({.kind = write ? Kind::kWrite : Kind::kRead,
                       .blocking = i % 3 == 0,
                       .offset = 4 * i,
                       .buffers = {&buffers[i], 1}},
                      i);
    }
    const std::vector<int32_t> results = Results(*engine, kMany);
    for (uint32_t i = 0; i < kMany; ++i) {
      ASSERT_EQ(results[i], 4) << i;
      ASSERT_EQ(data[i], (round - round % 2) * kMany + i) << round;
    }
  }
}

TEST_P(DiskEngineTest, DrainWaitsForWhatIsInFlight) {
  const auto engine = Engine(GetParam(), disk_, 64);
  for (int i = 0; i < 64; ++i) engine->Prepare({.kind = Kind::kSync}, i);
  EXPECT_TRUE(engine->Drain(absl::Seconds(60)));
  EXPECT_EQ(engine->in_flight(), 0u);
  DiskEngine::Result result;
  EXPECT_FALSE(engine->Reap(result));
}

int CountThreads(const std::string& prefix) {
  int count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (name.rfind(prefix, 0) == 0) ++count;
  }
  return count;
}

// Recovery relies on it: they end with the process, before its pidfd tells of its death.
TEST_P(DiskEngineTest, WorkersAreThreadsOfThisProcessAndBounded) {
  const auto engine = Engine(GetParam(), disk_, 256);
  for (int i = 0; i < 256; ++i) engine->Prepare({.kind = Kind::kSync}, i);  // always a worker's
  ASSERT_TRUE(engine->Submit());
  ASSERT_TRUE(engine->Drain(absl::Seconds(60)));
  // They linger for some seconds. The kernel has two kinds, 16 of each at most.
  const int workers = CountThreads(GetParam() == EngineKind::kThreads ? "disk-io" : "iou-wrk");
  EXPECT_GT(workers, 0);
  EXPECT_LE(workers, 32);
}

INSTANTIATE_TEST_SUITE_P(All, DiskEngineTest,
                         testing::Values(EngineKind::kIoUring, EngineKind::kThreads),
                         [](const auto& test) {
                           return test.param == EngineKind::kThreads ? "Threads" : "IoUring";
                         });

TEST(IoThreadsTest, AThreadThatTakesSeveralOperationsReportsEach) {
  constexpr uint32_t kMany = 50;
  const DiskFile disk = TemporaryDisk();
  const int threads = CountThreads("disk-io");
  const auto engine = IoThreads::Create(disk, kMany, {.max_threads = 1, .at_once = 4}).value();
  std::vector<uint32_t> data(kMany);
  std::vector<iovec> buffers(kMany);
  for (uint32_t round = 0; round < 40; ++round) {
    for (uint32_t i = 0; i < kMany; ++i) {
      const bool fails = i % 3 == 2;
      data[i] = round * kMany + i;
      buffers[i] = {fails ? reinterpret_cast<void*>(8) : &data[i], 4};
      engine->Prepare({.kind = Kind::kWrite, .offset = 4 * i, .buffers = {&buffers[i], 1}}, i);
      ASSERT_TRUE(i % 7 != 0 || engine->Submit());
    }
    EXPECT_TRUE(engine->Submit());
    for (std::vector<int32_t> results(kMany); engine->in_flight() != 0;) {
      DiskEngine::Result result;
      if (!engine->Reap(result)) {
        pollfd entry{.fd = engine->fd(), .events = POLLIN, .revents = 0};
        ASSERT_EQ(poll(&entry, 1, 60000), 1);
        continue;
      }
      ASSERT_EQ(result.result, result.id % 3 == 2 ? -EFAULT : 4);
      ASSERT_EQ(std::exchange(results.at(result.id), 1), 0) << "reported twice";
    }
    uint32_t written = 0;
    ASSERT_EQ(pread(disk.fd.get(), &written, 4, 4 * 49), 4);
    ASSERT_EQ(written, round * kMany + 49);
  }
  EXPECT_LE(CountThreads("disk-io"), threads + 1);
}

TEST(DiskEngineInMemoryTest, OperationsAreDoneWhenTheyAreSubmittedAndStartNoThread) {
  const DiskFile disk = AdoptDisk(CreateMemfd("disk", 8192).value(), /*read_only=*/false).value();
  const ChosenEngine chosen = CreateEngine(EngineKind::kAuto, disk, 8).value();
  EXPECT_FALSE(chosen.is_io_uring);
  DiskEngine& engine = *chosen.engine;
  char read[4] = {}, write[] = "abcd", end[4];
  const iovec write_buffer{write, 4}, read_buffer{read, 4}, end_buffer{end, 4};
  const FileOperation operations[] = {
      {.kind = Kind::kWrite, .durable = true, .offset = 100, .buffers = {&write_buffer, 1}},
      {.kind = Kind::kRead, .blocking = true, .offset = 100, .buffers = {&read_buffer, 1}},
      {.kind = Kind::kSync},
      {.kind = Kind::kSyncRange, .offset = 0, .length = 8192},
      {.kind = Kind::kRead, .offset = 8192, .buffers = {&end_buffer, 1}}};
  const int threads = CountThreads("");
  for (size_t i = 0; i < std::size(operations); ++i) engine.Prepare(operations[i], i);
  EXPECT_TRUE(engine.Submit());
  std::vector<int32_t> results(std::size(operations), -1);
  DiskEngine::Result result;
  while (engine.Reap(result)) results.at(result.id) = result.result;
  EXPECT_EQ(results, (std::vector<int32_t>{4, 4, 0, 0, 0}));
  EXPECT_EQ(engine.in_flight(), 0u);
  EXPECT_EQ(std::string(read, 4), "abcd");
  EXPECT_LE(CountThreads(""), threads);
  // To free many pages takes long: a thread does it.
  engine.Prepare(
      {.kind = Kind::kAllocate, .mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, .length = 4096},
      0);
  EXPECT_TRUE(engine.Drain(absl::Seconds(60)));
}

// --- Direct I/O ----------------------------------------------------------------------------------

TEST(DirectEngineTest, BuffersOfAnyAlignmentComeOutRight) {
  std::string path = testing::TempDir() + "/directXXXXXX";
  close(mkstemp(path.data()));
  UniqueFd file(open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  unlink(path.c_str());
  ASSERT_TRUE(file.ok()) << "the file system of the tests knows no direct I/O";
  constexpr size_t kFileBytes = 8 << 20;
  ASSERT_EQ(ftruncate(file.get(), kFileBytes), 0);
  const DiskFile disk = AdoptDisk(std::move(file), false).value();
  ASSERT_TRUE(disk.is_direct());
  for (const EngineKind kind : {EngineKind::kIoUring, EngineKind::kThreads}) {
    constexpr uint32_t kMany = 40;  // more than there are buffers of the engine's own
    constexpr size_t kBytes = 160 << 10;
    const auto engine = Engine(kind, disk, kMany);
    std::vector<std::vector<uint8_t>> data(kMany, std::vector<uint8_t>(kBytes + 8192));
    std::vector<std::vector<iovec>> buffers(kMany);
    for (const bool write : {true, false}) {
      uint32_t turns = 0;
      for (uint32_t i = 0; i < kMany; ++i) {
        uint8_t* const begin = data[i].data();
        uint8_t* const aligned = begin + 4096 - reinterpret_cast<uintptr_t>(begin) % 4096;
        uint8_t* const start = i % 4 == 0 ? aligned : aligned + i * 3;
        for (size_t k = 0; k < kBytes; ++k) {
          start[k] = write ? static_cast<uint8_t>(k * 7 + k / 512 + i) : 0;
        }
        buffers[i] = i % 2 == 0 ? std::vector<iovec>{{start, kBytes}}
                                : std::vector<iovec>{{start, 1000}, {start + 1000, kBytes - 1000}};
        engine->Prepare({.kind = write ? Kind::kWrite : Kind::kRead,
                         .offset = i * kBytes,
                         .length = kBytes,
                         .buffers = buffers[i]},
                        i);
      }
      std::vector<int32_t> moved(kMany);
      for (uint32_t reaped = 0; reaped < kMany;) {
        ASSERT_TRUE(engine->Submit());
        DiskEngine::Result result;
        while (engine->Reap(result)) {
          if (result.is_aside) engine->Release(result, /*copy=*/true);
          moved.at(result.id) = result.result;
          ++reaped;
        }
        pollfd entry{.fd = engine->fd(), .events = POLLIN, .revents = 0};
        if (reaped < kMany && engine->in_flight() != 0) poll(&entry, 1, 1000);
        ASSERT_LT(++turns, 100'000u);
      }
      for (uint32_t i = 0; i < kMany; ++i) {
        const bool whole = i % 4 == 0;
        ASSERT_EQ(moved[i], whole ? kBytes : size_t{DirectEngine::kBounceBytes}) << i;
        if (write) continue;
        const uint8_t* const start = static_cast<const uint8_t*>(buffers[i][0].iov_base);
        for (size_t k = 0; k < static_cast<size_t>(moved[i]); ++k) {
          ASSERT_EQ(start[k], static_cast<uint8_t>(k * 7 + k / 512 + i)) << i << " " << k;
        }
      }
      EXPECT_EQ(engine->in_flight(), 0u);
    }
  }
}

// A registered file outlives its ring by 20 ms and more, and the vmm waits for that.
TEST(DirectEngineTest, TheFileIsReleasedWithTheEngine) {
  std::string path = testing::TempDir() + "/releasedXXXXXX";
  const UniqueFd witness(mkstemp(path.data()));
  ASSERT_EQ(ftruncate(witness.get(), 4096), 0);
  const auto lock = [](const UniqueFd& fd) {
    struct flock range = {};
    range.l_type = F_WRLCK;
    range.l_whence = SEEK_SET;
    return fcntl(fd.get(), F_OFD_SETLK, &range);
  };
  for (const EngineKind kind : {EngineKind::kIoUring, EngineKind::kThreads}) {
    UniqueFd file(open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    ASSERT_EQ(lock(file), 0);
    {
      const DiskFile disk = AdoptDisk(std::move(file), false).value();
      const auto engine = Engine(kind, disk, 4);
      alignas(4096) static uint8_t bytes[4096];
      const iovec buffer{bytes, sizeof(bytes)};
      engine->Prepare({.kind = Kind::kRead, .length = 4096, .buffers = {&buffer, 1}}, 0);
      ASSERT_TRUE(engine->Submit());
      ASSERT_NE(lock(witness), 0);
      ASSERT_TRUE(engine->Drain(absl::Seconds(60)));
    }
    EXPECT_EQ(lock(witness), 0) << strerror(errno);
    struct flock range = {};
    range.l_type = F_UNLCK;
    range.l_whence = SEEK_SET;
    ASSERT_EQ(fcntl(witness.get(), F_OFD_SETLK, &range), 0);
  }
  unlink(path.c_str());
}

// Makes io_uring_setup fail with `error_number` in this process, for good.
void ForbidIoUring(int error_number) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error_number)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter = {.len = 4, .filter = program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    _exit(100);
  }
}

TEST(EngineChoiceTest, WhereIoUringIsNotPermittedThreadsDoItsWorkOrTheErrorNamesIt) {
  const DiskFile disk = TemporaryDisk();
  for (const int error_number : {EPERM, EACCES, ENOSYS}) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ForbidIoUring(error_number);
      const absl::Status status = CreateEngine(EngineKind::kIoUring, disk, 8).status();
      const absl::StatusCode expected = error_number == ENOSYS
                                            ? absl::StatusCode::kUnimplemented
                                            : absl::StatusCode::kPermissionDenied;
      if (status.code() != expected) _exit(1);
      if (std::string(status.message()).find("io_uring") == std::string::npos) _exit(2);
      absl::StatusOr<ChosenEngine> chosen = CreateEngine(EngineKind::kAuto, disk, 8);
      if (!chosen.ok() || chosen->is_io_uring) _exit(3);
      char data[4] = {};
      const iovec buffer{data, sizeof(data)};
      chosen->engine->Prepare({.kind = Kind::kRead, .offset = 4, .buffers = {&buffer, 1}}, 1);
      if (!chosen->engine->Drain(absl::Seconds(60))) _exit(4);
      _exit(std::string(data, 4) == "efgh" ? 0 : 5);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0) << strerror(error_number);
  }
}

TEST(EngineChoiceTest, IoUringIsPreferred) {
  const DiskFile disk = TemporaryDisk();
  EXPECT_TRUE(CreateEngine(EngineKind::kAuto, disk, 8)->is_io_uring);
  EXPECT_FALSE(CreateEngine(EngineKind::kThreads, disk, 8)->is_io_uring);
  EXPECT_EQ(ParseEngineKind("threads").value(), EngineKind::kThreads);
  EXPECT_EQ(ParseEngineKind("aio").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
