#ifndef BULKHEAD_BASE_SHARED_STREAM_H_
#define BULKHEAD_BASE_SHARED_STREAM_H_

#include <stddef.h>
#include <sys/types.h>

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace bulkhead {

// Reads and writes a descriptor that other processes use too (a terminal, a pipe, a log file), and
// never waits. It must not set O_NONBLOCK on the descriptor: that would change it for those other
// processes too, the user's shell among them, and last longer than this process. So it opens a
// terminal or pipe anew, with O_NONBLOCK; if that is not possible, it asks poll(2) what would not
// block. Expects SIGPIPE to be ignored.
class SharedStream {
 public:
  enum class Kind {
    kFile,      // never blocks; epoll refuses it; it has an offset, so it is not opened anew
    kSocket,    // MSG_DONTWAIT with each call
    kOwn,       // opened anew, O_NONBLOCK
    kPipe,      // as it was given
    kTerminal,  // as it was given
  };

  // Copies `fd`. `direction`: O_RDONLY or O_WRONLY. Errors: as fstat(2), fcntl(2).
  static absl::StatusOr<SharedStream> Create(int fd, int direction);
  // The same, but does not open it anew: Create() falls back to this.
  static absl::StatusOr<SharedStream> CreateAsGiven(int fd);

  int fd() const { return fd_.get(); }
  Kind kind() const { return kind_; }
  // As read(2) and write(2), but may transfer less, and fail with EAGAIN instead of waiting.
  ssize_t Read(char* bytes, size_t size) const;
  ssize_t Write(absl::string_view bytes) const;

 private:
  SharedStream(UniqueFd fd, Kind kind) : fd_(std::move(fd)), kind_(kind) {}

  UniqueFd fd_;
  Kind kind_;
};

// Writes all of `bytes` without waiting for room, as SharedStream::CreateAsGiven() would; allocates
// nothing. If others write to the same blocking descriptor, they may take the room first, and then
// this waits; base/log_queue.h never does. False: the rest is lost. Thread-safe.
bool WriteNow(int fd, absl::string_view bytes);

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_SHARED_STREAM_H_
