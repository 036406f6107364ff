#include "base/shared_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

namespace bulkhead {

void ResetSharedFile(int fd, int flags) {
  fcntl(fd, F_SETFL, flags);
  fcntl(fd, F_SETOWN, 0);
  fcntl(fd, F_SETSIG, 0);
}

void ResetSharedMemfd(int memfd) {
  ResetSharedFile(memfd, 0);
  const int no_attributes = 0;
  ioctl(memfd, FS_IOC_SETFLAGS, &no_attributes);  // fails where the kernel knows none
}

}  // namespace bulkhead
