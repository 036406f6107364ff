#ifndef BULKHEAD_BASE_UNIQUE_FD_H_
#define BULKHEAD_BASE_UNIQUE_FD_H_

#include <unistd.h>

#include <utility>

namespace bulkhead {

// Owns one file descriptor and closes it. Movable. Thread-compatible.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(std::exchange(other.fd_, -1));
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }
  // Returns the descriptor, which the caller then owns.
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_UNIQUE_FD_H_
