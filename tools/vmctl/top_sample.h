#ifndef BULKHEAD_TOOLS_VMCTL_TOP_SAMPLE_H_
#define BULKHEAD_TOOLS_VMCTL_TOP_SAMPLE_H_

#include "absl/time/time.h"
#include "proto/vm_control.pb.h"
#include "tools/vmctl/top.pb.h"

namespace bulkhead::vmctl {

// What a VM has answered at one time.
struct TopReading {
  absl::Time time;         // of day
  absl::Time steady_time;  // SteadyNow()
  v1::VmStatus status;
  v1::ListDevicesReply devices;
  v1::VmMetrics metrics;
};

// What happened between two readings. A counter that has fallen has begun anew, at a reboot of the
// guest or with another process of a device: it counts from 0. Pure.
TopSample MakeTopSample(const TopReading& before, const TopReading& now);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TOP_SAMPLE_H_
