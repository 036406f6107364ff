#include "vmm/machine/device_resets.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"

namespace bulkhead::vmm {

void DeviceResets::Done(const std::string& device, const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!status.ok() && failure_.ok()) {
    failure_ = absl::Status(status.code(),
                            absl::StrCat("device '", device, "' is not reset: ", status.message()));
  }
  left_.erase(device);
  if (left_.empty()) all_done_.Signal();
}

bool DeviceResets::MustWait(absl::Duration passed) {
  absl::MutexLock lock(&mutex_);
  if (left_.empty()) return false;
  if (passed >= kLimit) {
    if (failure_.ok()) {
      failure_ = absl::DeadlineExceededError(
          absl::StrCat(Left(), " is not reset within ", absl::FormatDuration(kLimit)));
    }
    return false;
  }
  if (passed >= kSlow && !said_) {
    said_ = true;
    LogWarning(absl::StrCat("the guest's reboot waits for ", Left()));
  }
  return true;
}

absl::Status DeviceResets::status() const {
  absl::MutexLock lock(&mutex_);
  if (!failure_.ok() || left_.empty()) return failure_;
  return absl::CancelledError("the VM is to end");
}

std::string DeviceResets::Left() const {
  return absl::StrCat("device '", absl::StrJoin(left_, "', '"), "'");
}

}  // namespace bulkhead::vmm
