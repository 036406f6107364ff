#include "base/seccomp_filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/testing/processes.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

TEST(SeccompFilterTest, HoldsInAllThreads) {
  const sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const absl::string_view bytes(reinterpret_cast<const char*>(filter), sizeof(filter));
  EXPECT_TRUE(HoldsInChild([bytes] {
    int ends[2];
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || pipe(ends) != 0) return false;
    bool other_fails = false;
    std::thread other([&] {
      char byte;
      other_fails = read(ends[0], &byte, 1) == 1 && syscall(SYS_getppid) == -1 && errno == EPERM;
    });
    const bool installed = InstallSeccompFilter(bytes).ok();
    if (write(ends[1], "", 1) != 1) return false;
    other.join();
    return installed && other_fails && syscall(SYS_getppid) == -1 && errno == EPERM;
  }));
}

TEST(SeccompFilterTest, ANonsensicalSizeIsAnError) {
  EXPECT_TRUE(InstallSeccompFilter("").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(InstallSeccompFilter("seven..")));
  EXPECT_TRUE(absl::IsInvalidArgument(
      InstallSeccompFilter(std::string((BPF_MAXINSNS + 1) * sizeof(sock_filter), '\0'))));
}

}  // namespace
}  // namespace bulkhead
