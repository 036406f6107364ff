#ifndef BULKHEAD_VMM_VM_VM_METRICS_H_
#define BULKHEAD_VMM_VM_VM_METRICS_H_

#include <stdint.h>

#include "absl/types/span.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_metrics.h"
#include "proto/device_control.pb.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::vmm {

// The figures of one device.
struct DeviceFigures {
  v1::Device description;
  channel::ChannelMetrics channel;                     // counted by the vmm
  channel::ChannelClient::DeviceReport device_report;  // as its process reports
  uint64_t timed_out_accesses = 0;
  uint64_t dropped_accesses = 0;
  v1::DeviceMetrics model;  // as its process reports; names and values are validated
};

// All figures as families of samples: bulkhead_vm_*, bulkhead_device_*, and bulkhead_device_model_*
// for what a device's process reports of its model. A process cannot change figures of the vmm or
// of another device: its own have a prefix, and the name of a family decides its kind (a counter
// ends in _total, a gauge does not). If two devices give one family different help texts, the vmm's
// text replaces both. If one device reports a family twice, the first sample counts. Pure.
v1::VmMetrics MakeMetrics(const v1::VmStatus& status, uint64_t unclaimed_accesses,
                          absl::Span<const DeviceFigures> devices);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_VM_METRICS_H_
