#ifndef BULKHEAD_VMM_CONFIG_LINK_SWITCH_H_
#define BULKHEAD_VMM_CONFIG_LINK_SWITCH_H_

#include "absl/status/status.h"
#include "vmm/config/process_setting.h"

namespace bulkhead::vmm {

// Whether the operator wants a network device's link to be up, which its processes hear through a
// pipe each (proto/net_link.h). Thread-safe.
class LinkSwitch {
 public:
  LinkSwitch();

  bool up() const;
  // Errors: as ProcessSetting.
  absl::Status Set(bool up);
  int ForNextProcess() { return setting_.ForNextProcess(); }

 private:
  ProcessSetting setting_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_LINK_SWITCH_H_
