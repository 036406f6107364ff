#include "devices/virtio_blk/io_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
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
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

using Kind = FileOperation::Kind;

class IoRingTest : public testing::Test {
 protected:
  IoRingTest() {
    std::string path = testing::TempDir() + "/ringXXXXXX";
    file_.reset(mkstemp(path.data()));
    unlink(path.c_str());
    EXPECT_EQ(pwrite(file_.get(), "abcdefgh", 8, 0), 8);
  }
  UniqueFd file_;
};

TEST_F(IoRingTest, CarriesOutABatchAndTellsEachResult) {
  const auto ring = IoRing::Create(file_.get(), 8).value();
  char read[8] = {}, split[4] = {}, write[] = {'X', 'Y'};
  const iovec read_buffer{read, sizeof(read)};
  const iovec split_buffers[] = {{split, 1}, {split + 1, 3}};
  const iovec write_buffer{write, sizeof(write)};
  ring->Prepare({.kind = Kind::kRead, .offset = 4, .buffers = {&read_buffer, 1}}, 10);
  ring->Prepare({.kind = Kind::kRead, .offset = 0, .buffers = split_buffers}, 11);
  ring->Prepare(
      {.kind = Kind::kWrite, .durable = true, .offset = 100, .buffers = {&write_buffer, 1}}, 12);
  ring->Prepare({.kind = Kind::kSync}, 13);
  ASSERT_TRUE(ring->Submit());
  int32_t results[14] = {};
  for (int reaped = 0; reaped < 4;) {
    pollfd entry{.fd = ring->fd(), .events = POLLIN, .revents = 0};
    ASSERT_EQ(poll(&entry, 1, 10000), 1);
    IoRing::Result result;
    while (ring->Reap(result)) {
      ASSERT_LT(result.id, 14u);
      results[result.id] = result.result;
      ++reaped;
    }
  }
  EXPECT_EQ(results[10], 4) << "the file ends: a short read";
  EXPECT_EQ(std::string(read, 4), "efgh");
  EXPECT_EQ(results[11], 4);
  EXPECT_EQ(std::string(split, 4), "abcd");
  EXPECT_EQ(results[12], 2);
  EXPECT_EQ(results[13], 0);
  char written[2];
  ASSERT_EQ(pread(file_.get(), written, 2, 100), 2);
  EXPECT_EQ(std::string(written, 2), "XY");
  pollfd entry{.fd = ring->fd(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&entry, 1, 0), 0) << "all are reaped";
}

TEST_F(IoRingTest, DrainWaitsForWhatIsInFlight) {
  const auto ring = IoRing::Create(file_.get(), 64).value();
  for (int i = 0; i < 64; ++i) ring->Prepare({.kind = Kind::kSync}, i);
  EXPECT_TRUE(ring->Drain(absl::Seconds(20)));
  IoRing::Result result;
  EXPECT_FALSE(ring->Reap(result));
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

TEST_F(IoRingTest, WhereItIsNotPermittedTheErrorNamesIoUring) {
  for (const int error_number : {EPERM, ENOSYS}) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ForbidIoUring(error_number);
      const absl::Status status = IoRing::Create(file_.get(), 8).status();
      const absl::StatusCode expected = error_number == EPERM ? absl::StatusCode::kPermissionDenied
                                                              : absl::StatusCode::kUnimplemented;
      const bool named = std::string(status.message()).find("io_uring") != std::string::npos;
      _exit(status.code() == expected && named ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0) << strerror(error_number);
  }
}

// Recovery relies on it: they end with the process, before its pidfd tells of its death.
TEST_F(IoRingTest, TheKernelsWorkersAreThreadsOfThisProcess) {
  const auto ring = IoRing::Create(file_.get(), 8).value();
  ring->Prepare({.kind = Kind::kSync}, 1);  // always a worker's
  ASSERT_TRUE(ring->Submit());
  ASSERT_TRUE(ring->Drain(absl::Seconds(20)));
  int workers = 0;  // they linger for some seconds
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (name.rfind("iou-wrk", 0) == 0) ++workers;
  }
  EXPECT_GT(workers, 0);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
