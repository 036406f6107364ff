#ifndef BULKHEAD_TOOLS_VMCTL_METRICS_ROUND_H_
#define BULKHEAD_TOOLS_VMCTL_METRICS_ROUND_H_

#include <stddef.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "tools/vmctl/discovery.h"
#include "tools/vmctl/metrics_page.h"
#include "tools/vmctl/vm_client.h"

namespace bulkhead::vmctl {

// Asks several VMs for their metrics, all at the same time. Thread-compatible.
class MetricsRound {
 public:
  // Starts the calls; none takes longer than `timeout`. Another thread is in
  // VmClient::ServeAnswers(answers). `finished` is signalled once all have ended. Both must outlive
  // this.
  MetricsRound(absl::Span<const VmAddress> vms, absl::Duration timeout,
               grpc::CompletionQueue& answers, const EventFd& finished);
  // Waits for calls that have not ended: for `timeout` at most.
  ~MetricsRound();

  bool is_finished() const;
  // Call once, when it is finished: in the order of the VMs.
  std::vector<VmAnswer> TakeAnswers();

 private:
  void OnAnswer(size_t vm, absl::StatusOr<v1::VmMetrics> metrics);

  const EventFd& finished_;
  const absl::Time begin_;
  std::vector<std::unique_ptr<VmClient>> clients_;  // null: it could not be connected to
  mutable absl::Mutex mutex_;
  std::vector<VmAnswer> answers_ ABSL_GUARDED_BY(mutex_);
  size_t missing_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_METRICS_ROUND_H_
