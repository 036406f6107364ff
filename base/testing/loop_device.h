#ifndef BULKHEAD_BASE_TESTING_LOOP_DEVICE_H_
#define BULKHEAD_BASE_TESTING_LOOP_DEVICE_H_

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <string.h>
#include <sys/ioctl.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"

namespace bulkhead {

// A loop device over a file. The kernel detaches it at the last close. Needs root,
// and a test that is not sandboxed.
class LoopDevice {
 public:
  explicit LoopDevice(const std::string& file) {
    const UniqueFd backing(open(file.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(backing.ok()) << file;
    const UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(control.ok()) << "needs root and loop devices: " << strerror(errno);
    // Others look for free ones, too.
    for (int tries = 0; tries < 100 && !fd_.ok(); ++tries) {
      const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
      path_ = absl::StrCat("/dev/loop", number);
      fd_ = UniqueFd(open(path_.c_str(), O_RDWR | O_CLOEXEC));
      loop_config config;
      memset(&config, 0, sizeof(config));
      config.fd = static_cast<uint32_t>(backing.get());
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      if (!fd_.ok() || ioctl(fd_.get(), LOOP_CONFIGURE, &config) != 0) fd_.reset();
    }
    EXPECT_TRUE(fd_.ok()) << path_ << ": " << strerror(errno);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  UniqueFd fd_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_LOOP_DEVICE_H_
