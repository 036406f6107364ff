#ifndef BULKHEAD_VMM_SERVICE_NOTIFY_SOCKET_H_
#define BULKHEAD_VMM_SERVICE_NOTIFY_SOCKET_H_

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace bulkhead::vmm {

// The socket by which a service tells its manager how it is: sd_notify(3), Type=notify in
// systemd.service(5). The protocol is one datagram of "NAME=value" lines.
//
// Thread-safe.
class NotifySocket {
 public:
  // That of the environment variables NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, which it takes
  // away: no child process speaks for this one. Without them, or if nobody listens there (logged),
  // Send() does nothing. Call it while the process has one thread.
  static NotifySocket FromEnvironment();

  bool connected() const { return socket_.ok(); }
  // Never waits: what the manager does not take at once is lost. `state`: lines, as in
  // sd_notify(3).
  void Send(absl::string_view state) const;
  // How often the manager's watchdog is to hear "WATCHDOG=1": half of what it waits. Infinite: it
  // has none.
  absl::Duration watchdog_interval() const { return watchdog_interval_; }

 private:
  NotifySocket() = default;

  UniqueFd socket_;
  absl::Duration watchdog_interval_ = absl::InfiniteDuration();
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SERVICE_NOTIFY_SOCKET_H_
