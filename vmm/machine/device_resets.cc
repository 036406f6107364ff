#include "vmm/machine/device_resets.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"

namespace bulkhead::vmm {

void DeviceResets::Done(const std::string& device, const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (!status.ok() && failure_.ok()) {
    failure_ = absl::Status(status.code(),
                            absl::StrCat("resetting device '", device, "': ", status.message()));
  }
  remaining_.erase(device);
  if (remaining_.empty()) all_done_.Signal();
}

bool DeviceResets::MustWait(absl::Duration passed) {
  absl::MutexLock lock(&mutex_);
  if (remaining_.empty()) return false;
  if (passed >= kLimit) {
    if (failure_.ok()) {
      failure_ = absl::DeadlineExceededError(absl::StrCat(
          "resetting ", Remaining(), ": not done within ", absl::FormatDuration(kLimit)));
    }
    return false;
  }
  if (passed >= kSlow && !warned_) {
    warned_ = true;
    LogWarning(absl::StrCat("the guest's reboot waits for the reset of ", Remaining()));
  }
  return true;
}

absl::Status DeviceResets::status() const {
  absl::MutexLock lock(&mutex_);
  if (!failure_.ok() || remaining_.empty()) return failure_;
  return absl::CancelledError("the VM is ending");
}

std::string DeviceResets::Remaining() const {
  return absl::StrCat("device '", absl::StrJoin(remaining_, "', '"), "'");
}

}  // namespace bulkhead::vmm
