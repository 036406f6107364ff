#include "base/standard_descriptors.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "base/testing/processes.h"
#include "gtest/gtest.h"

namespace bulkhead {
namespace {

bool IsNull(int fd) {
  struct stat null;
  struct stat info;
  return stat("/dev/null", &null) == 0 && fstat(fd, &info) == 0 && info.st_rdev == null.st_rdev &&
         (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR && fcntl(fd, F_GETFD) == 0;
}

TEST(StandardDescriptorsTest, ClosedOnesBecomeTheNullDevice) {
  for (int closed = 1; closed < 8; ++closed) {
    EXPECT_TRUE(HoldsInChild([closed] {
      for (int fd = 0; fd < 3; ++fd) {
        if ((closed >> fd & 1) != 0) close(fd);
      }
      OpenStandardDescriptors();
      for (int fd = 0; fd < 3; ++fd) {
        if ((closed >> fd & 1) != 0 && !IsNull(fd)) return false;
      }
      return open("/dev/zero", O_RDONLY) > STDERR_FILENO;
    })) << closed;
  }
}

TEST(StandardDescriptorsTest, OpenOnesAndTheirModesAreLeftAlone) {
  EXPECT_TRUE(HoldsInChild([] {
    int ends[2];
    if (pipe(ends) != 0 || dup2(ends[0], 0) != 0 || dup2(ends[1], 2) != 2) return false;
    close(1);
    OpenStandardDescriptors();
    struct stat info;
    return fstat(0, &info) == 0 && S_ISFIFO(info.st_mode) && IsNull(1) && fstat(2, &info) == 0 &&
           S_ISFIFO(info.st_mode);
  }));
}

TEST(StandardDescriptorsTest, WithoutTheNullDeviceTheNumbersAreTakenAllTheSame) {
  std::string empty = testing::TempDir() + "/empty-root-XXXXXX";
  ASSERT_NE(mkdtemp(empty.data()), nullptr);
  const auto takes_them = [&empty] {
    if (chroot(empty.c_str()) != 0 || chdir("/") != 0) return false;
    for (int fd = 0; fd < 3; ++fd) close(fd);
    OpenStandardDescriptors();
    char byte = 0;
    return read(0, &byte, 1) < 0 && write(2, &byte, 1) < 0 && open("/", O_PATH) > STDERR_FILENO;
  };
  // chroot(2) is for root.
  EXPECT_TRUE(HoldsInChild(takes_them, geteuid() == 0 ? 0 : CLONE_NEWUSER));
  rmdir(empty.c_str());
}

}  // namespace
}  // namespace bulkhead
