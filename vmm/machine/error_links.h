#ifndef BULKHEAD_VMM_MACHINE_ERROR_LINKS_H_
#define BULKHEAD_VMM_MACHINE_ERROR_LINKS_H_

#include <stdint.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "base/unique_fd.h"
#include "proto/error_link.h"
#include "vmm/config/vm_spec.h"

namespace bulkhead::vmm {

// The vmm's ends of the links over which disks have their VM paused (proto/error_link.h). Must
// outlive the devices.
//
// A device is not trusted: after one report its link is not looked at before the next Continue(),
// so it costs nothing that a client has not asked for.
//
// Thread-safe.
class ErrorLinks {
 public:
  // Sets `connect` of each such resource of `devices`. Errors: as epoll_create1(2).
  static absl::StatusOr<std::unique_ptr<ErrorLinks>> Create(std::vector<DeviceSpec>& devices);

  ~ErrorLinks();

  // Readable: a device has reported something.
  int fd() const { return epoll_.get(); }
  // Calls `on_error` with each device that has, and what went wrong: "a write at byte 4096: No
  // space left on device".
  void Take(absl::FunctionRef<void(const std::string& device, const std::string& what)> on_error);
  // All devices try again what waits, or answer it with its error. Earlier reports are dropped.
  void Continue(ErrorOrder order);

 private:
  struct Link {
    std::string device;
    UniqueFd own;
    UniqueFd for_process;  // the other end, until the next process
  };

  // False: there is none, or no valid one.
  static bool Receive(int own, ErrorReport& report);

  explicit ErrorLinks(UniqueFd epoll) : epoll_(std::move(epoll)) {}

  // A new link for the next process of that device: its end, which stays this object's. -1: the
  // host is short of something (logged).
  int Connect(size_t index);

  const UniqueFd epoll_;
  absl::Mutex mutex_;
  std::vector<Link> links_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_MACHINE_ERROR_LINKS_H_
