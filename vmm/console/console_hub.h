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

// Joins one console device (proto/console_stream.h) with an input and an output, this process's
// standard streams, if it is given them, and with any number of clients. Its own thread does the
// work.
//
// - Output goes to the output without loss: while that takes none, the device is told to
//   wait by its socket being full, as a slow terminal does. Clients never hold anybody up: one
//   that is too far behind loses output and is told how much.
// - Input of all comes in the order of its arrival; what the device has not acknowledged is kept,
//   and sent again to a successor. While too much is kept, no more is read or taken.
//
// Thread-safe. Expects SIGPIPE to be ignored.
class ConsoleHub {
 public:
  class Client {
   public:
    // Detaches; no callback is under way afterwards. Not from within the callback.
    virtual ~Client() = default;
    // Takes as much as there is room for; how many bytes that is.
    virtual size_t Type(absl::string_view bytes) = 0;
    // Moves what has come to `output`, at most `limit` bytes, and tells how many bytes were lost
    // before them. False: nothing has come.
    virtual bool Take(size_t limit, std::string& output, uint64_t& lost_bytes) = 0;
  };

  // What is joined besides clients. The descriptors are copied.
  struct Streams {
    int input_fd = -1;  // -1: none
    int output_fd = -1;
    // What a regular file can grow by: a guest cannot fill the host's disk.
    uint64_t max_file_bytes = uint64_t{256} << 20;
  };
  // Errors: as epoll_create1(2), eventfd(2), fstat(2).
  static absl::StatusOr<std::unique_ptr<ConsoleHub>> Create(const Streams& streams);
  // Clients may outlive it; nothing comes to them any more.
  virtual ~ConsoleHub() = default;

  // A new socket for the next process of the device, the resource that it is attached with. What
  // the last process has sent is still read; that process must be dead. The descriptor is the
  // hub's, until the next call. -1: the host has none left, or the sockets of earlier processes
  // cannot be closed; logged. Waits, for a second at most,
  // if many processes have died while the output was stuck.
  virtual int Connect() = 0;

  // Waits until what the device has sent is written to the output, for `limit` at most. For
  // the end of the VM.
  virtual void Drain(absl::Duration limit) = 0;

  // A client first gets what was printed lately (RecentOutput), then all that comes.
  //
  // `on_change` is called, on the hub's thread, when there is output to Take() after there was
  // none, and when there is room to Type() after a Type() did not take all. It must return at
  // once; it may call the client.
  virtual std::unique_ptr<Client> Attach(std::function<void()> on_change) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_CONSOLE_HUB_H_
