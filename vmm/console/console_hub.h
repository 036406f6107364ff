#ifndef BULKHEAD_VMM_CONSOLE_CONSOLE_HUB_H_
#define BULKHEAD_VMM_CONSOLE_CONSOLE_HUB_H_

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmm {

// Joins one console device (proto/console_stream.h) with this process's standard streams, if it
// has them, and with any number of clients. Its own thread does the work.
//
// - Output goes to standard output without loss: while that takes none, the device is told to
//   wait by its socket being full, as a slow terminal does. Clients never hold anybody up: one
//   that is too far behind loses output and is told how much.
// - Input of all comes in the order of its arrival; what the device has not acknowledged is kept,
//   and sent again to a successor. While too much is kept, no more is read or taken.
//
// Thread-safe.
class ConsoleHub {
 public:
  class Client {
   public:
    virtual ~Client() = default;  // detaches; no callback is under way afterwards
    // Takes as much as there is room for; how many bytes that is.
    virtual size_t Type(absl::string_view bytes) = 0;
    // Moves what has come to `output`, at most `limit` bytes, and tells how many bytes were lost
    // before them. False: nothing has come.
    virtual bool Take(size_t limit, std::string& output, uint64_t& lost_bytes) = 0;
  };

  // Errors: as socketpair(2), epoll_create1(2).
  static absl::StatusOr<std::unique_ptr<ConsoleHub>> Create(bool standard_streams);
  // What the guest has sent before is still written to standard output, for a moment at most.
  virtual ~ConsoleHub() = default;

  // The device's end: its resource. The hub's.
  virtual int device_fd() const = 0;

  // `on_change` is called, on the hub's thread, when there is output to Take() after there was
  // none, and when there is room to Type() after there was none. It must return at once.
  virtual std::unique_ptr<Client> Attach(std::function<void()> on_change) = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_CONSOLE_HUB_H_
