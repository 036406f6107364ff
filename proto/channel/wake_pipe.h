#ifndef BULKHEAD_PROTO_CHANNEL_WAKE_PIPE_H_
#define BULKHEAD_PROTO_CHANNEL_WAKE_PIPE_H_

#include <utility>

#include "absl/status/statusor.h"
#include "base/pipe.h"

namespace bulkhead::channel {

// Wakes an untrusted process, which polls the read end. The vmm keeps the write end. Thread-safe.
//
// Why not an eventfd: O_NONBLOCK belongs to the open file, and both processes would share the one
// file of an eventfd. A hostile device could clear the flag and fill the counter, and the vmm would
// hang in write(2). The two ends of a pipe are two open files, so the vmm's end stays non-blocking.
// Both cost the same (5.8 us a round trip on one CPU). One way to block remains: a reader whose
// buffer faults holds the pipe's lock. Only a process that serves kernel page faults itself
// (privileged userfaultfd, FUSE) can prolong that, and a sandboxed device cannot.
class WakePipe {
 public:
  static absl::StatusOr<WakePipe> Create();

  WakePipe() = default;

  // Makes the read end readable. Never blocks: a full pipe is readable already.
  void Signal() const;

  // For the other process. The vmm keeps it too, so that no signal is lost while that process is
  // replaced.
  int read_fd() const { return pipe_.read_end.get(); }

 private:
  explicit WakePipe(Pipe pipe) : pipe_(std::move(pipe)) {}

  Pipe pipe_;
};

// Empties the read end. Never blocks, as long as the end is non-blocking.
void DrainWakePipe(int read_fd);

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_WAKE_PIPE_H_
