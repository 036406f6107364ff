#ifndef BULKHEAD_VMM_CONTROL_LISTENING_SOCKET_H_
#define BULKHEAD_VMM_CONTROL_LISTENING_SOCKET_H_

#include <sys/types.h>

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// A unix stream socket in the file system that only its user may connect to, or also one group: its
// mode is 0600 from the start, whatever the umask, and 0660 once the file has the group.
// Non-blocking. The destructor removes the file, unless another file has replaced it.
// Thread-compatible.
class ListeningSocket {
 public:
  // Replaces a socket without a listening process. If several processes or threads open one path at
  // the same time, exactly one succeeds. Errors: InvalidArgument (the path's length), AlreadyExists
  // (a process listens, or the file is not a socket), DeadlineExceeded (another caller is opening
  // the path, for seconds), as bind(2).
  struct Options {
    absl::string_view kind = "control socket";  // for messages
    std::optional<gid_t> group = std::nullopt;
  };
  static absl::StatusOr<ListeningSocket> Open(const std::string& path, const Options& options);
  static absl::StatusOr<ListeningSocket> Open(const std::string& path) { return Open(path, {}); }
  ListeningSocket(ListeningSocket&& other) noexcept = default;
  ListeningSocket& operator=(ListeningSocket&& other) = delete;
  ~ListeningSocket();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  // A function that removes the file as the destructor does, for a process that exits without
  // destructors.
  std::function<void()> FileRemover() const;
  // Accepts the next connection, non-blocking. Errors: Unavailable (there is none), as accept(2).
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
