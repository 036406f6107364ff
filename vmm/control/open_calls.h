#ifndef BULKHEAD_VMM_CONTROL_OPEN_CALLS_H_
#define BULKHEAD_VMM_CONTROL_OPEN_CALLS_H_

#include <stddef.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace bulkhead::vmm {

// A call that stays open for longer than its handler runs. Thread-safe.
class OpenCall {
 public:
  virtual ~OpenCall() = default;
  // Makes the call check for something to send. Returns at once.
  virtual void Pump() = 0;
  // Finishes the call with `why`, after it has sent the rest. Returns at once.
  virtual void End(const absl::Status& why) = 0;
};

// The open calls of one kind, a limited number. Thread-safe.
class OpenCalls {
 public:
  // `kind` for messages: "watch events or a console".
  OpenCalls(size_t limit, absl::string_view kind) : limit_(limit), kind_(kind) {}

  // Errors, for the client: ResourceExhausted (full), or `why` after EndAll().
  absl::Status Add(std::shared_ptr<OpenCall> call);
  void Remove(const OpenCall* call);

  void PumpAll();
  // Ends all calls and refuses further ones.
  void EndAll(const absl::Status& why);

 private:
  std::vector<std::shared_ptr<OpenCall>> All();

  const size_t limit_;
  const std::string kind_;
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<OpenCall>> calls_ ABSL_GUARDED_BY(mutex_);
  absl::Status ended_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONTROL_OPEN_CALLS_H_
