#ifndef BULKHEAD_VMM_CONSOLE_CONSOLE_EXCHANGE_H_
#define BULKHEAD_VMM_CONSOLE_CONSOLE_EXCHANGE_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/event_fd.h"
#include "vmm/console/device_stream.h"
#include "vmm/console/recent_output.h"

namespace bulkhead::vmm {

// Output on its way to one client: what it has not taken of the last kMaxBytes, and how much was
// lost before that. Thread-compatible.
class ClientOutput {
 public:
  static constexpr size_t kMaxBytes = 256 * 1024;

  bool empty() const { return bytes_.empty(); }
  void Append(absl::string_view bytes);
  // As ConsoleHub::Client::Take().
  bool Take(size_t limit, std::string& output, uint64_t& lost_bytes);

 private:
  std::string bytes_;
  uint64_t lost_bytes_ = 0;
};

// What a hub's thread and the threads of its clients share: the device's stream, and what is on
// its way to each client. Outlives whichever ends first. Thread-safe.
class ConsoleExchange {
 public:
  // One client.
  class Listener {
   public:
    // As of ConsoleHub::Attach().
    explicit Listener(std::function<void()> on_change) : on_change_(std::move(on_change)) {}
    void Call();
    // No call is under way afterwards, and none follows. Not from within the call.
    void Silence();

   private:
    friend class ConsoleExchange;
    absl::Mutex mutex_;
    std::function<void()> on_change_ ABSL_GUARDED_BY(mutex_);
    // The exchange's, under its lock:
    ClientOutput output_;
    bool wants_room_ = false;  // a Type() did not take all
    bool changed_ = false;     // it is among changed_
  };
  using Listeners = std::vector<std::shared_ptr<Listener>>;

  // `wake` is signalled when there is something for the hub's thread.
  explicit ConsoleExchange(EventFd wake) : wake_(std::move(wake)) {}
  const EventFd& wake() const { return wake_; }

  // --- Clients' threads ------------------------------------------------------------------------
  // Gives it what was printed lately, and calls it.
  void Add(const std::shared_ptr<Listener>& listener);
  void Remove(const std::shared_ptr<Listener>& listener);
  size_t Type(Listener& listener, absl::string_view bytes);
  bool Take(Listener& listener, size_t limit, std::string& output, uint64_t& lost_bytes);

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
  // Calls the clients that something has changed for since the last time.
  void CallChanged();
  // There is no hub any more: from now on nothing can be typed.
  void Close();

 private:
  void AddChanged(const std::shared_ptr<Listener>& listener) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const EventFd wake_;
  absl::Mutex mutex_;
  DeviceStream stream_ ABSL_GUARDED_BY(mutex_);
  RecentOutput recent_ ABSL_GUARDED_BY(mutex_);
  Listeners listeners_ ABSL_GUARDED_BY(mutex_);
  Listeners changed_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONSOLE_CONSOLE_EXCHANGE_H_
