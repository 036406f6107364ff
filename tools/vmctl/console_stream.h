#ifndef BULKHEAD_TOOLS_VMCTL_CONSOLE_STREAM_H_
#define BULKHEAD_TOOLS_VMCTL_CONSOLE_STREAM_H_

#include <stdint.h>

#include <optional>
#include <string>

#include "absl/status/status.h"

namespace bulkhead::vmctl {

// One attachment to a guest's console, for a loop that polls. No call waits: gRPC's threads do the
// work. Used by one thread. The destructor detaches.
class ConsoleStream {
 public:
  virtual ~ConsoleStream() = default;

  // Readable when a result of the functions below may have changed: call Drain(), then them.
  virtual int fd() const = 0;
  virtual void Drain() = 0;

  // Whether the VM has accepted the client; if it refuses, the stream ends.
  virtual bool attached() const = 0;

  // Whether the last input has been sent.
  virtual bool can_send() const = 0;
  // Only if can_send().
  virtual void Send(std::string bytes) = 0;
  // No more input follows; the VM may end the stream. Only if can_send(), and no Send() after it.
  virtual void SendEnd() = 0;

  // The next output, and how many bytes were lost before it. False: there is none. No more output
  // is received until this is taken; the VM counts what is lost meanwhile.
  virtual bool Take(std::string& bytes, uint64_t& lost_bytes) = 0;

  // How the stream ended, once it has and all output is taken. Errors: as VmClient's.
  virtual std::optional<absl::Status> ended() const = 0;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_CONSOLE_STREAM_H_
