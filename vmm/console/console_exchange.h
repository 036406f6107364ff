#ifndef BULKHEAD_VMM_CONSOLE_CONSOLE_EXCHANGE_H_
#define BULKHEAD_VMM_CONSOLE_CONSOLE_EXCHANGE_H_

#include <stddef.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/event_fd.h"
#include "vmm/console/console_hub.h"
#include "vmm/console/device_stream.h"
#include "vmm/console/recent_output.h"

namespace bulkhead::vmm {

// What a hub's thread and the threads of its clients share: the device's stream, its recent output,
// and the output for each client. The clients keep it alive after the hub. Thread-safe.
class ConsoleExchange : public std::enable_shared_from_this<ConsoleExchange> {
 public:
  // A client that is further behind than this loses output.
  static constexpr size_t kMaxClientBytes = 256 * 1024;

  // `wake` is signalled when the hub's thread has work. `device_name`: for the log.
  ConsoleExchange(EventFd wake, std::string device_name)
      : wake_(std::move(wake)), stream_(std::move(device_name)) {}
  const EventFd& wake() const { return wake_; }

  // As ConsoleHub::Attach(). On any thread.
  std::unique_ptr<ConsoleHub::Client> Attach(std::function<void()> on_change);

  // --- The hub's thread ------------------------------------------------------------------------
  // Takes a packet of the device. Its new output goes to every client, and to the end of
  // `output`.
  void Receive(absl::string_view packet, std::string& output);
  // Returns use(stream).
  template <typename Use>
  auto WithStream(const Use& use) {
    absl::MutexLock lock(&mutex_);
    return use(stream_);
  }
  // Calls `on_change` of the clients for which something has changed since the last time.
  void CallChanged();
  // The hub ends: from now on nothing can be typed.
  void Close();

 private:
  class Client;
  struct Attached;
  using Clients = std::vector<std::shared_ptr<Attached>>;

  void AddChanged(const std::shared_ptr<Attached>& client) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EventFd wake_;
  absl::Mutex mutex_;
  DeviceStream stream_ ABSL_GUARDED_BY(mutex_);
  RecentOutput recent_ ABSL_GUARDED_BY(mutex_);
  Clients clients_ ABSL_GUARDED_BY(mutex_);
  Clients changed_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_CONSOLE_EXCHANGE_H_
