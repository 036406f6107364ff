#include "vmm/config/host_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

#ifdef __SANITIZE_THREAD__
// A child that this test forks when it has threads starts threads itself.
extern "C" const char* __tsan_default_options() { return "die_after_fork=0"; }  // NOLINT
#endif

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

int Modes(int fd) { return fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK | O_DIRECT | O_ACCMODE); }

int SetLock(int fd, short type, off_t start, off_t length) {
  struct flock range = {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = start;
  range.l_len = length;
  return fcntl(fd, F_OFD_SETLK, &range);
}

class HostFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = MakeTempFolder();
    path_ = absl::StrCat(dir_, "/disk.img");
    UniqueFd disk(open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
    ASSERT_TRUE(disk.ok());
    ASSERT_EQ(write(disk.get(), "contents", 8), 8);
    ASSERT_EQ(ftruncate(disk.get(), 1 << 20), 0);
  }

  std::string dir_;
  std::string path_;
};

TEST_F(HostFileTest, WhatIsNoFileIsRefusedWithoutOpeningIt) {
  const std::string fifo = absl::StrCat(dir_, "/fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  for (const bool read_only : {true, false}) {
    for (const std::string& path :
         {fifo, dir_, std::string("/dev/null"), std::string("/dev/tty")}) {
      const auto file = HostFile::Open(path, {.read_only = read_only});
      EXPECT_THAT(Message(file.status()), HasSubstr("is neither a regular file nor a block device"))
          << path;
    }
  }
  EXPECT_THAT(Message(OpenHostFile(fifo, O_RDONLY, /*regular_only=*/true).status()),
              HasSubstr("is not a regular file"));
  EXPECT_THAT(Message(HostFile::Open("/no/such", {}).status()),
              HasSubstr("cannot open \"/no/such\" for writing: No such file"));
}

TEST_F(HostFileTest, AFileBelowOneSectorIsRefused) {
  for (const off_t size : {0, 511}) {
    ASSERT_EQ(truncate(path_.c_str(), size), 0);
    const auto file = HostFile::Open(path_, {});
    EXPECT_EQ(file.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(file.status()),
                HasSubstr(absl::StrCat("has ", size, " bytes, less than one sector of 512")));
  }
  ASSERT_EQ(truncate(path_.c_str(), 512), 0);
  EXPECT_TRUE(HostFile::Open(path_, {}).ok());
}

TEST_F(HostFileTest, AFileIsMadeLargerAndNeverSmaller) {
  constexpr off_t kBytes = 1 << 20;
  const auto size = [this] {
    struct stat info = {};
    EXPECT_EQ(stat(path_.c_str(), &info), 0);
    return info.st_size;
  };
  auto file = HostFile::Open(path_, {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->Resize(0).ok());
  EXPECT_TRUE((*file)->Resize(2 * kBytes).ok());
  EXPECT_EQ(size(), 2 * kBytes);
  EXPECT_TRUE((*file)->Resize(2 * kBytes).ok());

  const absl::Status smaller = (*file)->Resize(kBytes);
  EXPECT_EQ(smaller.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(smaller), HasSubstr("has 2097152 bytes, and 1048576 would cut off"));
  EXPECT_EQ((*file)->Resize(2 * kBytes + 1).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(size(), 2 * kBytes);

  // The host makes it larger, and that counts as well.
  ASSERT_EQ(truncate(path_.c_str(), 4 * kBytes), 0);
  EXPECT_TRUE((*file)->Resize(0).ok());
  ASSERT_EQ(truncate(path_.c_str(), 3 * kBytes), 0);
  for (const off_t bytes : {off_t{0}, 5 * kBytes}) {
    EXPECT_THAT(Message((*file)->Resize(static_cast<uint64_t>(bytes))),
                HasSubstr("has become smaller, 3145728 bytes instead of 4194304"));
  }
  EXPECT_EQ(size(), 3 * kBytes);
  (*file)->AcceptSize();
  EXPECT_TRUE((*file)->Resize(0).ok());
  // That size, and no smaller one.
  ASSERT_EQ(truncate(path_.c_str(), 2 * kBytes), 0);
  (*file)->AcceptSize();
  EXPECT_THAT(Message((*file)->Resize(2 * kBytes + 1)), HasSubstr("multiple"));  // it has looked
  ASSERT_EQ(truncate(path_.c_str(), kBytes), 0);
  EXPECT_THAT(Message((*file)->Resize(0)), HasSubstr("1048576 bytes instead of 2097152"));
}

TEST_F(HostFileTest, AReadOnlyFileIsNotMadeLarger) {
  auto file = HostFile::Open(path_, {.read_only = true});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(Message((*file)->Resize(2 << 20)), HasSubstr("is read-only"));
  EXPECT_TRUE((*file)->Resize(0).ok());
}

TEST_F(HostFileTest, NoDescriptionWaitsOrDoesNotWaitBeyondWhatAFileDoes) {
  const auto fd = OpenHostFile(path_, O_RDONLY, /*regular_only=*/true);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Modes(fd->get()), O_RDONLY);
  auto file = HostFile::Open(path_, {});
  ASSERT_TRUE(file.ok()) << file.status();
  for (int process = 0; process < 3; ++process) {
    const auto fd = (*file)->TakeForProcess();
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Modes(fd->get()), O_RDWR) << "O_NONBLOCK makes Linux 6.1 fail I/O on dm-crypt";
    EXPECT_NE(fcntl(fd->get(), F_GETFD) & FD_CLOEXEC, 0);
  }
}

TEST_F(HostFileTest, AReadOnlyFileCannotBeWrittenByAProcess) {
  auto file = HostFile::Open(path_, {.read_only = true});
  ASSERT_TRUE(file.ok()) << file.status();
  for (int process = 0; process < 2; ++process) {
    const auto fd = (*file)->TakeForProcess();
    ASSERT_TRUE(fd.ok()) << fd.status();
    EXPECT_EQ(Modes(fd->get()), O_RDONLY);
    EXPECT_LT(write(fd->get(), "x", 1), 0);
  }
}

TEST_F(HostFileTest, WhatOneProcessDoesToItsDescriptionIsNotItsSuccessors) {
  auto file = HostFile::Open(path_, {});
  ASSERT_TRUE(file.ok()) << file.status();
  const auto first = (*file)->TakeForProcess();
  ASSERT_TRUE(first.ok());
  ASSERT_EQ(fcntl(first->get(), F_SETFL, O_APPEND | O_NONBLOCK), 0);
  ASSERT_EQ(lseek(first->get(), 5, SEEK_SET), 5);
  const auto second = (*file)->TakeForProcess();
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(Modes(second->get()), O_RDWR);
  EXPECT_EQ(lseek(second->get(), 0, SEEK_CUR), 0);
}

TEST_F(HostFileTest, AProcessCannotReleaseTheLock) {
  auto file = HostFile::Open(path_, {});
  ASSERT_TRUE(file.ok()) << file.status();
  const auto process = (*file)->TakeForProcess();
  ASSERT_TRUE(process.ok());
  ASSERT_EQ(SetLock(process->get(), F_UNLCK, 0, 0), 0);
  const auto second = HostFile::Open(path_, {});
  EXPECT_THAT(Message(second.status()), HasSubstr("is in use by another VM or device"));
  const auto reader = HostFile::Open(path_, {.read_only = true});
  EXPECT_THAT(Message(reader.status()), HasSubstr("in use by another VM or device that writes it"));
  file->reset();
  EXPECT_TRUE(HostFile::Open(path_, {}).ok()) << "it released its own, too";
}

TEST_F(HostFileTest, ReadersShareAndSoDoThoseThatSaySo) {
  const auto a = HostFile::Open(path_, {.read_only = true});
  const auto b = HostFile::Open(path_, {.read_only = true, .direct = false});
  EXPECT_TRUE(a.ok() && b.ok());
  EXPECT_FALSE(HostFile::Open(path_, {}).ok());

  const std::string cluster = absl::StrCat(dir_, "/cluster");
  const UniqueFd made(open(cluster.c_str(), O_WRONLY | O_CREAT, 0600));
  ASSERT_EQ(ftruncate(made.get(), 512), 0);
  auto c = HostFile::Open(cluster, {.shared = true});
  auto d = HostFile::Open(cluster, {.shared = true});
  EXPECT_TRUE(c.ok() && d.ok());
  EXPECT_FALSE(HostFile::Open(cluster, {}).ok()) << "one that did not say so";
}

TEST_F(HostFileTest, WithoutALockNothingIsTaken) {
  const auto running = HostFile::Open(path_, {});
  ASSERT_TRUE(running.ok());
  EXPECT_TRUE(HostFile::Open(path_, {.lock = false}).ok());
}

TEST_F(HostFileTest, ASuccessorGetsTheFileThatTheVmStartedWith) {
  auto file = HostFile::Open(path_, {});
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->TakeForProcess().ok());
  // An editor, or `mv new.img disk.img`, while the VM runs.
  ASSERT_EQ(unlink(path_.c_str()), 0);
  const UniqueFd other(open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600));
  for (int process = 0; process < 2; ++process) {
    const auto fd = (*file)->TakeForProcess();
    ASSERT_TRUE(fd.ok()) << fd.status();
    char text[9] = {};
    EXPECT_EQ(pread(fd->get(), text, 8, 0), 8);
    EXPECT_STREQ(text, "contents");
  }
}

// Runs in a child that has no /proc.
bool ServesWithoutProc(const std::string& path, const std::string& fifo) {
  EXPECT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0) << strerror(errno);
  EXPECT_EQ(mount("none", "/proc", "tmpfs", 0, nullptr), 0) << strerror(errno);
  EXPECT_NE(access("/proc/self", F_OK), 0);
  auto file = HostFile::Open(path, {});
  EXPECT_TRUE(file.ok()) << file.status();
  if (!file.ok()) return false;
  for (int process = 0; process < 2; ++process) {
    const auto fd = (*file)->TakeForProcess();
    EXPECT_TRUE(fd.ok() && Modes(fd->get()) == O_RDWR) << fd.status();
  }
  // Another file by the same name must not be taken for it, and a FIFO not be waited for. One was
  // opened ahead.
  EXPECT_EQ(rename(fifo.c_str(), path.c_str()), 0);
  EXPECT_TRUE((*file)->TakeForProcess().ok());
  EXPECT_FALSE((*file)->TakeForProcess().ok());
  return !testing::Test::HasFailure();
}

TEST_F(HostFileTest, WithoutProcAPathMustLeadToTheSameFile) {
  const std::string fifo = absl::StrCat(dir_, "/fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_TRUE(
      HoldsInChild([&] { return ServesWithoutProc(path_, fifo); }, CLONE_NEWUSER | CLONE_NEWNS));
}

TEST_F(HostFileTest, DirectIoOfADeadProcessIsWaitedFor) {
  auto file = HostFile::Open(path_, {.direct = true});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->EarlierIoHasEnded());
  auto process = (*file)->TakeForProcess();
  ASSERT_TRUE(process.ok());
  EXPECT_EQ(Modes(process->get()), O_RDWR | O_DIRECT);
  // What the kernel holds for I/O in flight.
  UniqueFd in_flight(fcntl(process->get(), F_DUPFD_CLOEXEC, 0));
  process->reset();
  EXPECT_FALSE((*file)->EarlierIoHasEnded());
  in_flight.reset();
  EXPECT_TRUE((*file)->EarlierIoHasEnded());
}

TEST_F(HostFileTest, ProcessesThatOutliveTheirVmmAreWaitedForByTheNextVm) {
  for (const bool direct : {false, true}) {
    auto file = HostFile::Open(path_, {.direct = direct});
    ASSERT_TRUE(file.ok()) << file.status();
    auto process = (*file)->TakeForProcess();
    ASSERT_TRUE(process.ok());
    EXPECT_EQ((*file)->EarlierIoHasEnded(), !direct) << "buffered I/O ends before its process";
    file->reset();
    EXPECT_EQ(SetLock(process->get(), F_WRLCK, 0, 1), 0) << "the vmm's own lock has gone";
    ASSERT_EQ(SetLock(process->get(), F_UNLCK, 0, 1), 0);
    int release[2];
    ASSERT_EQ(pipe(release), 0);
    const pid_t survivor = fork();
    if (survivor == 0) {
      char byte;
      _exit(read(release[0], &byte, 1) == 1 ? 0 : 1);
    }
    process->reset();
    const UniqueFd other(open(path_.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_NE(SetLock(other.get(), F_WRLCK, 0, 0), 0) << "of the survivor";
    std::thread next([this] { EXPECT_TRUE(HostFile::Open(path_, {}).ok()); });
    EXPECT_EQ(write(release[1], "x", 1), 1);
    ASSERT_EQ(waitpid(survivor, nullptr, 0), survivor);
    next.join();
    for (const int end : release) close(end);
  }
}

TEST_F(HostFileTest, TwoReadersWithDirectIoDoNotWaitForEachOther) {
  auto a = HostFile::Open(path_, {.read_only = true, .direct = true});
  auto b = HostFile::Open(path_, {.read_only = true, .direct = true});
  ASSERT_TRUE(a.ok() && b.ok());
  const auto of_a = (*a)->TakeForProcess();
  ASSERT_TRUE(of_a.ok());
  ASSERT_TRUE((*b)->TakeForProcess().ok());
  EXPECT_TRUE((*b)->EarlierIoHasEnded());
  EXPECT_FALSE((*a)->EarlierIoHasEnded());
}

TEST_F(HostFileTest, AFileWithoutTroubleHasNoWritebackFailure) {
  auto file = HostFile::Open(path_, {});
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE((*file)->HasWritebackFailure());
}

}  // namespace
}  // namespace bulkhead::vmm
