#ifndef BULKHEAD_VMM_CONSOLE_CONSOLE_HUB_H_
#define BULKHEAD_VMM_CONSOLE_CONSOLE_HUB_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bulkhead::vmm {

// Connects one console device (proto/console_stream.h) to an optional input and output, which are
// this process's standard streams, and to any number of clients. Its own thread does the work.
//
// - The output loses nothing: while it takes no bytes, the device's socket fills up and the device
//   waits, as for a slow terminal. Clients delay nobody: a client that is too far behind loses
//   output and gets the number of lost bytes.
// - Input from all sources is sent in the order of arrival. What the device has not acknowledged is
//   kept, and sent again to a successor. While too much is kept, no more is read or taken.
//
// Thread-safe. Expects SIGPIPE to be ignored.
class ConsoleHub {
 public:
  class Client {
   public:
    // Detaches; no callback is under way afterwards. Not from within the callback.
    virtual ~Client() = default;
    // Takes as many bytes as there is room for, and returns their number.
    virtual size_t Type(absl::string_view bytes) = 0;
    // Moves output, at most `limit` bytes, to `output`; `lost_bytes` were lost before it. False:
    // there is none.
    virtual bool Take(size_t limit, std::string& output, uint64_t& lost_bytes) = 0;
  };

  // The streams besides clients. The descriptors are copied.
  struct Streams {
    std::string device_name = {};  // for the log
    int input_fd = -1;             // -1: none
    int output_fd = -1;
    // An output that is a regular file grows by this at most: a guest cannot fill the host's disk.
    uint64_t max_file_bytes = uint64_t{256} << 20;
  };
  // Errors: as epoll_create1(2), eventfd(2), fstat(2).
  static absl::StatusOr<std::unique_ptr<ConsoleHub>> Create(const Streams& streams);
  // Clients may outlive it; they get nothing more.
  virtual ~ConsoleHub() = default;

  // Creates the socket for the next process of the device, and returns the device's end, which
  // stays the hub's until the next call. The last process must be dead; what it wrote is read to
  // its end all the same. -1: no descriptor is left, or the sockets of earlier processes cannot be
  // closed (logged). Waits, for a second at most, if many processes have died while the output was
  // stuck.
  virtual int Connect() = 0;

  // Waits until all that the device has sent is written to the output, for `limit` at most. For the
  // end of the VM.
  virtual void Drain(absl::Duration limit) = 0;

  // A client first gets the recent output (RecentOutput), then all further output.
  //
  // The hub's thread calls `on_change` when there is output to Take() after there was none, and
  // when there is room to Type() after a Type() did not take all. It must return at once, and may
  // call the client.
  virtual std::unique_ptr<Client> Attach(std::function<void()> on_change) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_CONSOLE_HUB_H_
