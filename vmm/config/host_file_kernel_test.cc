// What HostFile relies on the kernel for: with loop devices and file systems of its own, so it
// needs root.

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "base/testing/files.h"
#include "base/testing/loop_device.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/config/host_file.h"

namespace bulkhead::vmm {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(60);

class HostFileKernelTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ASSERT_EQ(geteuid(), 0u) << "run this test as root: it mounts file systems";
    // Mounts end with the test, however it ends.
    ASSERT_EQ(unshare(CLONE_NEWNS), 0) << strerror(errno);
    ASSERT_EQ(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0) << strerror(errno);
  }

  void SetUp() override { dir_ = MakeTempFolder(); }
  void TearDown() override {
    for (auto path = mounted_.rbegin(); path != mounted_.rend(); ++path) {
      EXPECT_EQ(umount2(path->c_str(), MNT_DETACH), 0) << *path << ": " << strerror(errno);
    }
  }

  std::string Mount(const std::string& what, const std::string& type, const std::string& options) {
    std::string path = absl::StrCat(dir_, "/mount", mounted_.size());
    EXPECT_EQ(mkdir(path.c_str(), 0700), 0);
    EXPECT_EQ(mount(what.c_str(), path.c_str(), type.c_str(), 0, options.c_str()), 0)
        << type << ": " << strerror(errno);
    mounted_.push_back(path);
    return path;
  }
  void Unmount() {
    ASSERT_EQ(umount(mounted_.back().c_str()), 0) << strerror(errno);
    mounted_.pop_back();
  }

  static std::string MakeFile(const std::string& path, off_t size) {
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_EQ(ftruncate(fd.get(), size), 0);
    return path;
  }
  static void MakeExt4(const std::string& path) {
    ASSERT_EQ(system(absl::StrCat("/sbin/mkfs.ext4 -q -F ", path).c_str()), 0);
  }

  std::string dir_;
  std::vector<std::string> mounted_;
};

TEST_F(HostFileKernelTest, ABlockDeviceThatTheHostHasMountedIsRefused) {
  const LoopDevice loop(MakeFile(absl::StrCat(dir_, "/image"), 16 << 20));
  MakeExt4(loop.path());
  Mount(loop.path(), "ext4", "");
  const auto refused = HostFile::Open(loop.path(), {});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("it is mounted or otherwise in use"));
  EXPECT_TRUE(HostFile::Open(loop.path(), {.read_only = true}).ok());
  EXPECT_TRUE(HostFile::Open(loop.path(), {.shared = true}).ok()) << "as it says";
  Unmount();

  auto file = HostFile::Open(loop.path(), {});
  ASSERT_TRUE(file.ok()) << file.status();
  for (int process = 0; process < 3; ++process) {
    const auto fd = (*file)->TakeForProcess();
    ASSERT_TRUE(fd.ok()) << fd.status() << ": the vmm's own claim is no obstacle";
  }
  EXPECT_NE(mount(loop.path().c_str(), dir_.c_str(), "ext4", 0, ""), 0) << "while a VM has it";
  EXPECT_EQ(errno, EBUSY);
}

TEST_F(HostFileKernelTest, AFailedWritebackIsHeardOfOnceMore) {
  // Room for less than the disk's size.
  const std::string full = Mount("none", "tmpfs", "size=3m");
  const LoopDevice loop(MakeFile(absl::StrCat(full, "/image"), 32 << 20));
  auto file = HostFile::Open(loop.path(), {});
  ASSERT_TRUE(file.ok()) << file.status();
  const auto first = (*file)->TakeForProcess();
  ASSERT_TRUE(first.ok());
  EXPECT_FALSE((*file)->HasWritebackFailure());

  const std::vector<char> data(1 << 20, 'x');
  for (int i = 0; i < 8; ++i) {
    ASSERT_EQ(pwrite(first->get(), data.data(), data.size(), off_t{i} << 20),
              static_cast<ssize_t>(data.size()));
  }
  // What a process does that dies before it has told the guest.
  ASSERT_NE(fdatasync(first->get()), 0);
  EXPECT_EQ(fdatasync(first->get()), 0) << "the kernel tells it once";

  EXPECT_TRUE((*file)->HasWritebackFailure());
  EXPECT_TRUE((*file)->HasWritebackFailure()) << "until a process has taken it over";
  const auto second = (*file)->TakeForProcess();
  ASSERT_TRUE(second.ok());
  EXPECT_NE(fdatasync(second->get()), 0) << "opened before the first one served";
  (*file)->ForgetWritebackFailure();
  EXPECT_FALSE((*file)->HasWritebackFailure());
}

// Writes to the file past the page cache, by io_uring, and waits for its death.
[[noreturn]] void WriteAndWait(int file, int submitted, bool registered) {
  io_uring ring;
  if (io_uring_queue_init(4, &ring, 0) != 0) _exit(1);
  if (registered && io_uring_register_files(&ring, &file, 1) != 0) _exit(2);
  void* const data = aligned_alloc(4096, 4096);
  io_uring_sqe* const entry = io_uring_get_sqe(&ring);
  io_uring_prep_write(entry, registered ? 0 : file, data, 4096, 8 << 20);
  if (registered) entry->flags |= IOSQE_FIXED_FILE;
  if (io_uring_submit(&ring) != 1 || write(submitted, "x", 1) != 1) _exit(3);
  while (true) pause();
}

TEST_F(HostFileKernelTest, DirectIoIsWaitedForThatOutlivesItsProcess) {
  const LoopDevice outer(MakeFile(absl::StrCat(dir_, "/outer"), 64 << 20));
  MakeExt4(outer.path());
  const std::string mounted = Mount(outer.path(), "ext4", "");
  const LoopDevice disk(MakeFile(absl::StrCat(mounted, "/image"), 16 << 20));
  const UniqueFd file_system(open(mounted.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (const bool registered : {false, true}) {
    auto file = HostFile::Open(disk.path(), {.direct = true});
    ASSERT_TRUE(file.ok()) << file.status();
    auto process = (*file)->TakeForProcess();
    ASSERT_TRUE(process.ok());
    // Every writer to the file system has to wait, the kernel's thread of the disk too.
    ASSERT_EQ(ioctl(file_system.get(), FIFREEZE, 0), 0) << strerror(errno);
    int submitted[2];
    ASSERT_EQ(pipe(submitted), 0);
    const pid_t pid = fork();
    if (pid == 0) WriteAndWait(process->get(), submitted[1], registered);
    process->reset();
    char byte;
    EXPECT_EQ(read(submitted[0], &byte, 1), 1);

    const UniqueFd pid_fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    kill(pid, SIGKILL);
    pollfd dead = {.fd = pid_fd.get(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(poll(&dead, 1, 60'000), 1) << "the process is dead, its write is not";
    EXPECT_EQ(waitpid(pid, nullptr, 0), pid);
    EXPECT_FALSE((*file)->EarlierIoHasEnded());
    EXPECT_EQ(ioctl(file_system.get(), FITHAW, 0), 0) << strerror(errno);
    const absl::Time latest = SteadyNow() + kPatience;
    while (!(*file)->EarlierIoHasEnded() && SteadyNow() < latest) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    EXPECT_TRUE((*file)->EarlierIoHasEnded());
    for (const int end : submitted) close(end);
  }
}

}  // namespace
}  // namespace bulkhead::vmm
