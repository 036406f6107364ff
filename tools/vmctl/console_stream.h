#ifndef BULKHEAD_TOOLS_VMCTL_CONSOLE_STREAM_H_
#define BULKHEAD_TOOLS_VMCTL_CONSOLE_STREAM_H_

#include <stdint.h>

#include <optional>
#include <string>

#include "absl/status/status.h"

namespace bulkhead::vmctl {

// One attachment to a guest's console, for a loop that polls. No call waits; the stream works on
// threads of gRPC's. Used by one thread. The destructor detaches.
class ConsoleStream {
 public:
  virtual ~ConsoleStream() = default;

  // Readable when one of the answers below may have changed; Drain() first, then ask.
  virtual int fd() const = 0;
  virtual void Drain() = 0;

  // Whether the VM has taken the client in; if it refuses it, the stream ends instead.
  virtual bool attached() const = 0;

  // Whether the former input has gone out.
  virtual bool can_send() const = 0;
  // Only if can_send().
  virtual void Send(std::string bytes) = 0;
  // No more input follows; the VM may end the stream. Only if can_send(), and no Send() after it.
  virtual void SendEnd() = 0;

  // The next output, and how many bytes were lost before it. False: nothing has come. Until it is
  // taken no more is received: the VM then counts what is lost.
  virtual bool Take(std::string& bytes, uint64_t& lost_bytes) = 0;

  // How the stream ended, once it has and all output is taken. Errors: as VmClient's.
  virtual std::optional<absl::Status> ended() const = 0;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_CONSOLE_STREAM_H_
