#ifndef BULKHEAD_DEVICES_HOST_POLLER_H_
#define BULKHEAD_DEVICES_HOST_POLLER_H_

#include <stdint.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace bulkhead::devices {

// Calls back when descriptors become ready (epoll). Single-threaded. Callbacks may add and
// remove descriptors, their own too.
class Poller {
 public:
  enum class Trigger {
    kLevel,  // calls for as long as the descriptor is readable
    kEdge,   // calls once each time it is made readable anew: an eventfd needs no read then
  };

  // Errors: as epoll_create1(2).
  static absl::StatusOr<std::unique_ptr<Poller>> Create();

  // `fd` stays the caller's and must outlive the registration. Errors: as epoll_ctl(2).
  absl::Status Add(int fd, Trigger trigger, absl::AnyInvocable<void()> on_readable);
  void Remove(int fd);
  // Stops calling back for `fd`, or begins again: if it is readable then, that counts as an edge.
  // Unlike Remove() and Add() it cannot fail. Edge-triggered descriptors only.
  void SetPaused(int fd, bool paused);

  // Calls back for what is ready, first waiting for up to `timeout` if nothing is, and calls
  // `after_each` after each callback. True if anything was ready. A signal ends the wait early.
  bool Wait(absl::Duration timeout, absl::FunctionRef<void()> after_each = [] {});

 private:
  struct Registration {
    int fd;
    uint32_t events;
    absl::AnyInvocable<void()> on_readable;
    bool active = true;
  };

  explicit Poller(UniqueFd epoll) : epoll_(std::move(epoll)) {}

  std::vector<std::unique_ptr<Registration>>::iterator Find(int fd);

  UniqueFd epoll_;
  // Boxed: the kernel holds their addresses.
  std::vector<std::unique_ptr<Registration>> registrations_;
  // Removed while Wait() may still hold an event for them; freed once it cannot.
  std::vector<std::unique_ptr<Registration>> removed_;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_POLLER_H_
