#ifndef BULKHEAD_VMM_CONFIG_BALLOON_SWITCH_H_
#define BULKHEAD_VMM_CONFIG_BALLOON_SWITCH_H_

#include <stdint.h>

#include "absl/status/status.h"
#include "vmm/config/process_setting.h"

namespace bulkhead::vmm {

// How much of its RAM the operator wants the guest to give up, which the processes of the VM's
// balloon hear through a pipe each (proto/balloon_link.h). Thread-safe.
class BalloonSwitch {
 public:
  // `most`: what may be asked for, in bytes.
  BalloonSwitch(uint64_t target, uint64_t most);

  uint64_t target() const;
  uint64_t most() const { return most_; }
  // Rounded down to whole pages of 4 KiB. Errors: InvalidArgument (more than there may be); as
  // ProcessSetting.
  absl::Status Set(uint64_t target);
  int ForNextProcess() { return setting_.ForNextProcess(); }

 private:
  const uint64_t most_;
  ProcessSetting setting_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_BALLOON_SWITCH_H_
