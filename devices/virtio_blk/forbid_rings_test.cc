#include "devices/virtio_blk/forbid_rings.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "absl/time/time.h"
#include "base/memory_mapping.h"
#include "devices/virtio_blk/disk_file.h"
#include "devices/virtio_blk/io_ring.h"
#include "gtest/gtest.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr unsigned kEntries = 4;

// How a child process ends that has a ring and may have no other: as of waitpid(2).
int EndAfter(const std::function<int()>& body) {
  const DiskFile disk = *AdoptDisk(*CreateMemfd("disk", 8192), /*read_only=*/false);
  const pid_t child = fork();
  if (child == 0) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) _exit(101);
    const auto ring = IoRing::Create(disk, kEntries);
    if (!ring.ok() || !ForbidNewRings().ok()) _exit(102);
    (*ring)->Prepare({.kind = FileOperation::Kind::kSync}, 1);
    if (!(*ring)->Submit() || !(*ring)->Drain(absl::Seconds(20))) _exit(103);
    _exit(body());
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return status;
}

TEST(ForbidRingsTest, ThereIsNoOtherRing) {
  EXPECT_EQ(EndAfter([] { return 0; }), 0);
  io_uring_params parameters = {};
  for (const auto number : {SYS_io_uring_setup, SYS_io_uring_register}) {
    const int status =
        EndAfter([&] { return static_cast<int>(syscall(number, kEntries, &parameters, nullptr)); });
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << number << ": " << status;
  }
}

class RestrictedRingTest : public testing::TestWithParam<bool> {
 protected:
  RestrictedRingTest() {
    EXPECT_EQ(io_uring_queue_init(kEntries, &ring_, IORING_SETUP_R_DISABLED), 0);
    const int file = file_.get();
    EXPECT_EQ(io_uring_register_files(&ring_, &file, 1), 0);
    EXPECT_EQ(RestrictAndEnable(ring_, /*is_registered=*/GetParam()), absl::OkStatus());
  }
  ~RestrictedRingTest() override { io_uring_queue_exit(&ring_); }

  // The result of one operation.
  int Do(const std::function<void(io_uring_sqe*)>& prepare) {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    prepare(entry);
    io_uring_cqe* result = nullptr;
    EXPECT_EQ(io_uring_submit_and_wait(&ring_, 1), 1);
    EXPECT_EQ(io_uring_wait_cqe(&ring_, &result), 0);
    const int error = result->res;
    io_uring_cqe_seen(&ring_, result);
    return error;
  }

  const UniqueFd file_ = *CreateMemfd("file", 4096);
  io_uring ring_;
};

INSTANTIATE_TEST_SUITE_P(FileIsRegistered, RestrictedRingTest, testing::Bool());

TEST_P(RestrictedRingTest, OtherOperationsAreRefused) {
  const int file = GetParam() ? 0 : file_.get();
  const unsigned flags = GetParam() ? IOSQE_FIXED_FILE : 0;
  EXPECT_EQ(Do([&](io_uring_sqe* entry) {
              io_uring_prep_fsync(entry, file, 0);
              entry->flags |= flags;
            }),
            0);
  EXPECT_EQ(Do([&](io_uring_sqe* entry) {
              io_uring_prep_openat(entry, AT_FDCWD, "/", O_RDONLY, 0);
              entry->flags |= flags;
            }),
            -EACCES);
  EXPECT_EQ(Do([&](io_uring_sqe* entry) {
              io_uring_prep_nop(entry);
              entry->flags |= flags;
            }),
            -EACCES);
  EXPECT_EQ(Do([&](io_uring_sqe* entry) {
              io_uring_prep_fsync(entry, file, 0);
              entry->flags |= flags | IOSQE_IO_DRAIN;
            }),
            -EACCES);
}

TEST_P(RestrictedRingTest, ARegisteredFileIsTheOnlyOne) {
  EXPECT_EQ(Do([&](io_uring_sqe* entry) { io_uring_prep_fsync(entry, file_.get(), 0); }),
            GetParam() ? -EACCES : 0);
}

TEST_P(RestrictedRingTest, NothingCanBeRegistered) {
  EXPECT_EQ(io_uring_unregister_files(&ring_), -EACCES);
}

}  // namespace
}  // namespace bulkhead::devices::virtio
