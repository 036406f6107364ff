#ifndef BULKHEAD_VMM_CONTROL_LISTENING_SOCKET_H_
#define BULKHEAD_VMM_CONTROL_LISTENING_SOCKET_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// A unix stream socket in the file system that only its user may connect to (mode 0600), whatever
// the umask is, from its first moment on. Non-blocking. The file goes with the object, unless
// another one has taken its place. Thread-compatible.
class ListeningSocket {
 public:
  // Replaces a socket that nobody listens to any more. Of several that open one path at a time, in
  // whatever processes, one succeeds. Errors: InvalidArgument (the path's length), AlreadyExists
  // (a process listens, or it is no socket), DeadlineExceeded (another opens it, for seconds), as
  // bind(2).
  static absl::StatusOr<ListeningSocket> Open(const std::string& path);
  ListeningSocket(ListeningSocket&& other) noexcept = default;
  ListeningSocket& operator=(ListeningSocket&& other) = delete;
  ~ListeningSocket();

  int fd() const { return fd_.get(); }
  // Removes the file, as the destructor does: for a process that leaves without destructors.
  std::function<void()> FileRemover() const;
  // The next connection, non-blocking. Errors: Unavailable (there is none), as accept(2).
  absl::StatusOr<UniqueFd> Accept() const;

 private:
  ListeningSocket(UniqueFd fd, std::string path, dev_t device, ino_t inode)
      : fd_(std::move(fd)), path_(std::move(path)), device_(device), inode_(inode) {}

  UniqueFd fd_;  // not ok(): moved from
  std::string path_;
  dev_t device_;
  ino_t inode_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_LISTENING_SOCKET_H_
