#ifndef BULKHEAD_VMM_CONTROL_REFUSED_CLIENTS_H_
#define BULKHEAD_VMM_CONTROL_REFUSED_CLIENTS_H_

#include <stdint.h>

#include <map>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::vmm {

// Counts the clients that were refused for what they are (client_check.h), by socket. Thread-safe.
class RefusedClients {
 public:
  // A socket that is served, with the label `socket`: its count appears from now on.
  void AddSocket(absl::string_view socket) { Add(socket, 0); }
  void Count(absl::string_view socket) { Add(socket, 1); }

  // Adds the family to those of the VM.
  void AppendTo(v1::VmMetrics& metrics) const {
    v1::MetricFamily& family = *metrics.add_families();
    family.set_name("bulkhead_vm_refused_clients_total");
    family.set_help("Connections that were closed because of the client's user or process");
    family.set_kind(v1::MetricFamily::COUNTER);
    absl::MutexLock lock(&mutex_);
    for (const auto& [socket, count] : counts_) {
      v1::Sample& sample = *family.add_samples();
      (*sample.mutable_labels())["socket"] = socket;
      sample.set_value(static_cast<double>(count));
    }
  }

 private:
  void Add(absl::string_view socket, uint64_t count) {
    absl::MutexLock lock(&mutex_);
    counts_[std::string(socket)] += count;
  }

  mutable absl::Mutex mutex_;
  std::map<std::string, uint64_t> counts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_REFUSED_CLIENTS_H_
