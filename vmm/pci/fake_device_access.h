#ifndef BULKHEAD_VMM_PCI_FAKE_DEVICE_ACCESS_H_
#define BULKHEAD_VMM_PCI_FAKE_DEVICE_ACCESS_H_

#include <stdint.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "vmm/device/device_access.h"

namespace bulkhead::vmm {

// A device process that records its requests. Thread-safe.
class FakeDeviceAccess final : public DeviceAccess {
 public:
  uint64_t Read(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes) override {
    return Note(absl::StrFormat("read %d+0x%x/%d", region, offset, size_bytes), waiter);
  }
  void PostWrite(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                 uint64_t value) override {
    Note(absl::StrFormat("post %d+0x%x/%d=0x%x", region, offset, size_bytes, value), waiter);
  }
  void WriteAndWait(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                    uint64_t value) override {
    Note(absl::StrFormat("write %d+0x%x/%d=0x%x", region, offset, size_bytes, value), waiter);
  }
  void Reset(Waiter waiter) override { Note("reset", waiter); }
  void SetFunctionState(Waiter waiter, const FunctionState& state) override {
    Note(absl::StrFormat("state master=%d msix=%d intx_off=%d", state.bus_master,
                         state.msix_enabled, state.intx_disabled),
         waiter);
    absl::MutexLock lock(&mutex_);
    state_ = state;
  }

  // The calls since the last Take, as "read 16+0xe/4".
  std::vector<std::string> TakeCalls() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(calls_, {});
  }
  FunctionState state() const {
    absl::MutexLock lock(&mutex_);
    return state_;
  }
  void set_answer(uint64_t answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = answer;
  }
  // Every later call first notifies `entered` (once) and then waits for `leave`.
  void HangUntil(absl::Notification* entered, absl::Notification* leave) {
    absl::MutexLock lock(&mutex_);
    entered_ = entered;
    leave_ = leave;
  }

 private:
  uint64_t Note(std::string call, Waiter) {
    absl::Notification* leave = nullptr;
    uint64_t answer = 0;
    {
      absl::MutexLock lock(&mutex_);
      calls_.push_back(std::move(call));
      if (entered_ != nullptr) std::exchange(entered_, nullptr)->Notify();
      leave = leave_;
      answer = answer_;
    }
    if (leave != nullptr) leave->WaitForNotification();
    return answer;
  }

  mutable absl::Mutex mutex_;
  std::vector<std::string> calls_ ABSL_GUARDED_BY(mutex_);
  FunctionState state_ ABSL_GUARDED_BY(mutex_);
  uint64_t answer_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Notification* entered_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::Notification* leave_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_PCI_FAKE_DEVICE_ACCESS_H_
