#ifndef BULKHEAD_BASE_SHARED_STREAM_H_
#define BULKHEAD_BASE_SHARED_STREAM_H_

#include <stddef.h>
#include <sys/types.h>

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace bulkhead {

// A descriptor that other processes use too (a terminal, a pipe, a log file), without ever
// waiting for it. O_NONBLOCK on it is not the means: it would change it for those other
// processes, the user's shell among them, and outlive this one. A terminal or pipe is therefore
// opened anew, and only that is non-blocking; where that is not possible, poll says what would
// not block.
class SharedStream {
 public:
  enum class Kind {
    kFile,    // never blocks, and is not for epoll; has an offset, so is never opened anew
    kSocket,  // is asked not to block at each call
    kOwn,     // opened anew: O_NONBLOCK
    kPipe,    // as it was given
    kTerminal,
  };

  // Takes a copy of `fd`. `direction`: O_RDONLY or O_WRONLY. Errors: as fstat(2), fcntl(2).
  static absl::StatusOr<SharedStream> Create(int fd, int direction);
  // What Create() falls back to.
  static absl::StatusOr<SharedStream> CreateAsGiven(int fd);

  int fd() const { return fd_.get(); }
  Kind kind() const { return kind_; }
  // As read(2) and write(2), but of less, and with EAGAIN instead of waiting.
  ssize_t Read(char* bytes, size_t size) const;
  ssize_t Write(absl::string_view bytes) const;

 private:
  SharedStream(UniqueFd fd, Kind kind) : fd_(std::move(fd)), kind_(kind) {}

  UniqueFd fd_;
  Kind kind_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_SHARED_STREAM_H_
