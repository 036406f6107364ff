#include "vmm/control/open_calls.h"

#include "absl/strings/str_cat.h"

namespace bulkhead::vmm {

absl::Status OpenCalls::Add(std::shared_ptr<OpenCall> call) {
  absl::MutexLock lock(&mutex_);
  if (!ended_.ok()) return ended_;
  if (calls_.size() >= limit_) {
    return absl::ResourceExhaustedError(
        absl::StrCat(limit_, " clients ", kind_,
                     " already, which is the limit: end one of them, then try again"));
  }
  calls_.push_back(std::move(call));
  return absl::OkStatus();
}

void OpenCalls::Remove(const OpenCall* call) {
  std::shared_ptr<OpenCall> removed;  // released after the lock
  absl::MutexLock lock(&mutex_);
  for (std::shared_ptr<OpenCall>& candidate : calls_) {
    if (candidate.get() != call) continue;
    removed = std::move(candidate);
    candidate = std::move(calls_.back());
    calls_.pop_back();
    return;
  }
}

std::vector<std::shared_ptr<OpenCall>> OpenCalls::All() {
  absl::MutexLock lock(&mutex_);
  return calls_;
}

void OpenCalls::PumpAll() {
  for (const std::shared_ptr<OpenCall>& call : All()) call->Pump();
}

void OpenCalls::EndAll(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    ended_ = why;
  }
  for (const std::shared_ptr<OpenCall>& call : All()) call->End(why);
}

}  // namespace bulkhead::vmm
