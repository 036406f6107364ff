#ifndef BULKHEAD_TOOLS_VMCTL_EVENT_TEXT_H_
#define BULKHEAD_TOOLS_VMCTL_EVENT_TEXT_H_

#include <string>

#include "absl/time/time.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::vmctl {

// One event for people: "TIME  SUBJECT  what happened", and indented lines with details, if there
// are any. The subject is a device or "vm".
std::string EventText(const v1::Event& event, absl::TimeZone zone, bool color);

// The same without time and details.
struct EventLine {
  std::string subject;
  std::string text;
};
EventLine LineOfEvent(const v1::Event& event);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_EVENT_TEXT_H_
