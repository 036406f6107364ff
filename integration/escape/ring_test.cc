// The ring of a disk's process that was taken over: what a ring executes passes no seccomp filter,
// so the ring itself refuses all but the disk's operations.
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "gtest/gtest.h"
#include "integration/escape/surroundings.h"
#include "integration/escape/taken_over_process.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(30);

// Where the kernel has what in a ring's memory (struct io_rings). io_uring_setup(2) tells it to the
// process alone.
constexpr uint64_t kSubmissionTail = 4;
constexpr uint64_t kCompletionHead = 8;
constexpr uint64_t kCompletionTail = 12;
constexpr uint64_t kSubmissionMask = 16;
constexpr uint64_t kCompletionMask = 20;
constexpr uint64_t kSubmissionEntries = 24;
constexpr uint64_t kCompletionEntries = 28;
constexpr uint64_t kCompletions = 64;

// The ring of a process.
class Ring {
 public:
  explicit Ring(TakenOverProcess& process) : process_(process) {
    for (const Descriptor& each : DescriptorsOf(process.pid())) {
      if (each.what == "anon_inode:[io_uring]") fd_ = each.number;
    }
    std::istringstream maps(ReadFile(absl::StrCat("/proc/", process.pid(), "/maps")));
    for (std::string line; std::getline(maps, line);) {
      if (!absl::EndsWith(line, "anon_inode:[io_uring]")) continue;
      std::istringstream fields(line);
      uint64_t begin = 0;
      uint64_t offset = 0;
      std::string skipped;
      fields >> std::hex >> begin >> skipped >> skipped >> offset;
      (offset == IORING_OFF_SQES ? entries_ : rings_) = begin;
    }
  }

  bool exists() const { return fd_ >= 0; }
  // This test knows how the kernel lays it out, and can reach it.
  bool is_known() const {
    const uint32_t submissions = Word(kSubmissionEntries);
    const uint32_t completions = Word(kCompletionEntries);
    return submissions != 0 && Word(kSubmissionMask) == submissions - 1 && completions != 0 &&
           Word(kCompletionMask) == completions - 1;
  }

  // Has the kernel execute the entry; returns its result.
  int Execute(const io_uring_sqe& entry) {
    const uint32_t tail = Word(kSubmissionTail);
    const uint32_t index = tail & Word(kSubmissionMask);
    const uint64_t array = kCompletions + Word(kCompletionEntries) * sizeof(io_uring_cqe);
    const uint32_t next = tail + 1;
    const uint32_t completed = Word(kCompletionTail);
    EXPECT_TRUE(process_.Write(entries_ + index * sizeof(entry), &entry, sizeof(entry)) &&
                process_.Write(rings_ + array + index * sizeof(index), &index, sizeof(index)) &&
                process_.Write(rings_ + kSubmissionTail, &next, sizeof(next)));
    // Nobody takes the completions: it waits for one more.
    const uint32_t wanted = completed + 1 - Word(kCompletionHead);
    EXPECT_EQ(process_.Call(SYS_io_uring_enter, fd_, 1, wanted, IORING_ENTER_GETEVENTS, 0, 0), 1);
    io_uring_cqe result = {};
    EXPECT_TRUE(
        process_.Read(rings_ + kCompletions + (completed & Word(kCompletionMask)) * sizeof(result),
                      &result, sizeof(result)));
    EXPECT_EQ(Word(kCompletionTail), completed + 1);
    EXPECT_EQ(result.user_data, entry.user_data);
    return result.res;
  }

 private:
  uint32_t Word(uint64_t offset) const {
    uint32_t word = 0;
    return process_.Read(rings_ + offset, &word, sizeof(word)) ? word : 0;
  }

  TakenOverProcess& process_;
  int fd_ = -1;
  uint64_t rings_ = 0;
  uint64_t entries_ = 0;
};

TEST(RingTest, RefusesAllButTheDisksOperations) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, for ptrace(2)";
  const std::string name = absl::StrCat("ring-", getpid());
  const std::string disk = WriteTempFile(absl::StrCat(name, ".disk"), std::string(1 << 20, 'd'));
  const absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
      {absl::StrCat("--name=", name), "--memory=64M", "--console=stdio",
       absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
       "--cmdline=run=idle", absl::StrCat("--device-dir=", DataFile("devices/uart16550")),
       absl::StrCat("--device=name=disk,binary=", DataFile("devices/virtio_blk/virtio_blk"),
                    ",heartbeat=0,file:disk=", disk)});
  ASSERT_TRUE(vm.ok()) << vm.status();
  ASSERT_TRUE((*vm)->WaitForOutput("idle", kTimeout).ok()) << (*vm)->log();
  const absl::StatusOr<std::unique_ptr<TakenOverProcess>> process =
      TakenOverProcess::TakeOver(VmClient(ControlSocketOf(name)).PidOf("disk"));
  ASSERT_TRUE(process.ok()) << process.status();
  Ring ring(**process);
  if (!ring.exists()) GTEST_SKIP() << "this host has no io_uring";
  if (!ring.is_known()) GTEST_SKIP() << "this kernel's rings look otherwise";

  const std::pair<const char*, int> operations[] = {
      {"no operation", IORING_OP_NOP},
      {"openat", IORING_OP_OPENAT},
      {"openat2", IORING_OP_OPENAT2},
      {"socket", IORING_OP_SOCKET},
      {"connect", IORING_OP_CONNECT},
      {"accept", IORING_OP_ACCEPT},
      {"sendmsg", IORING_OP_SENDMSG},
      {"recvmsg", IORING_OP_RECVMSG},
      {"send", IORING_OP_SEND},
      {"statx", IORING_OP_STATX},
      {"unlinkat", IORING_OP_UNLINKAT},
      {"renameat", IORING_OP_RENAMEAT},
      {"linkat", IORING_OP_LINKAT},
      {"mkdirat", IORING_OP_MKDIRAT},
      {"splice", IORING_OP_SPLICE},
      {"madvise", IORING_OP_MADVISE},
      {"setxattr", IORING_OP_SETXATTR},
      {"message to a ring", IORING_OP_MSG_RING},
      {"a command", IORING_OP_URING_CMD},
      {"provide buffers", IORING_OP_PROVIDE_BUFFERS},
      {"update files", IORING_OP_FILES_UPDATE},
  };
  uint64_t id = 0x657363;
  for (const auto& [what, operation] : operations) {
    io_uring_sqe entry = {};
    entry.opcode = static_cast<uint8_t>(operation);
    entry.fd = AT_FDCWD;
    entry.user_data = ++id;
    EXPECT_EQ(ring.Execute(entry), -EACCES) << what;
  }
  // An allowed operation, on another file than the disk, which is registered.
  io_uring_sqe entry = {};
  entry.opcode = IORING_OP_WRITE;
  entry.fd = 2;
  entry.user_data = ++id;
  EXPECT_EQ(ring.Execute(entry), -EACCES);
  // And one on the disk, to show that this test makes its entries right.
  entry.opcode = IORING_OP_FSYNC;
  entry.fd = 0;
  entry.flags = IOSQE_FIXED_FILE;
  entry.user_data = ++id;
  EXPECT_EQ(ring.Execute(entry), 0);
}

}  // namespace
}  // namespace bulkhead::integration
