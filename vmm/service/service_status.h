#ifndef BULKHEAD_VMM_SERVICE_SERVICE_STATUS_H_
#define BULKHEAD_VMM_SERVICE_SERVICE_STATUS_H_

#include <stdint.h>

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "proto/vm_control.pb.h"
#include "vmm/service/notify_socket.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {

// Tells the service manager what `systemctl status` shows: that the VM is ready, one line about the
// VM and those devices that do not run, and that it ends.
//
// Thread-safe.
class ServiceStatus {
 public:
  // Both must outlive this. The VM runs.
  ServiceStatus(const NotifySocket& socket, EventLog& events);
  ~ServiceStatus();
  ServiceStatus(const ServiceStatus&) = delete;
  ServiceStatus& operator=(const ServiceStatus&) = delete;

 private:
  void OnAppend();
  void Take(const v1::Event& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string Line() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const NotifySocket& socket_;
  EventLog& events_;
  absl::Mutex mutex_;
  uint64_t seen_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::VmStatus::State vm_ ABSL_GUARDED_BY(mutex_) = v1::VmStatus::RUNNING;
  std::string reason_ ABSL_GUARDED_BY(mutex_);  // of vm_
  std::map<std::string, v1::Device::State> not_running_ ABSL_GUARDED_BY(mutex_);
  std::string sent_ ABSL_GUARDED_BY(mutex_);
  uint64_t listener_ = 0;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SERVICE_SERVICE_STATUS_H_
