#include "base/shared_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/memory_mapping.h"
#include "base/pipe.h"
#include "base/testing/hostile_flags.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

volatile sig_atomic_t signals = 0;

TEST(SharedFileTest, ASignalThatAProcessOrderedIsNotSentAfterItsDeath) {
  signal(SIGUSR1, [](int) { signals = signals + 1; });
  const Pipe pipe = *CreatePipe(O_NONBLOCK);
  ASSERT_TRUE(LeaveHostileFlags({pipe.read_end.get()}, SIGUSR1));
  ASSERT_EQ(write(pipe.write_end.get(), "x", 1), 1);
  EXPECT_EQ(signals, 1) << "the dead process has ordered it";
  ResetSharedFile(pipe.read_end.get(), O_NONBLOCK);
  ASSERT_EQ(write(pipe.write_end.get(), "x", 1), 1);
  EXPECT_EQ(signals, 1);
  EXPECT_EQ(HostileFlagsOf(pipe.read_end.get()), "");
  EXPECT_NE(fcntl(pipe.read_end.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(SharedFileTest, AMemoryFileCanBeMappedAndZeroedAgain) {
  const UniqueFd memfd = *CreateMemfd("test", 4096);
  ASSERT_TRUE(LeaveHostileFlags({memfd.get()}, SIGKILL));
  // Needs privileges, and a kernel that knows attributes of memory files.
  const int attributes = FS_APPEND_FL | FS_IMMUTABLE_FL;
  if (ioctl(memfd.get(), FS_IOC_SETFLAGS, &attributes) == 0) {
    EXPECT_FALSE(
        MemoryMapping::Map(memfd.get(), 0, 4096, MemoryMapping::Protection::kReadWrite).ok());
  }
  ResetSharedMemfd(memfd.get());
  EXPECT_EQ(HostileFlagsOf(memfd.get()), "");
  EXPECT_TRUE(MemoryMapping::Map(memfd.get(), 0, 4096, MemoryMapping::Protection::kReadWrite).ok());
  EXPECT_EQ(fallocate(memfd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), 0);
}

}  // namespace
}  // namespace bulkhead
