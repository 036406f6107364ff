#ifndef BULKHEAD_VMM_VM_VM_METRICS_H_
#define BULKHEAD_VMM_VM_VM_METRICS_H_

#include <stdint.h>

#include "absl/types/span.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/channel_metrics.h"
#include "proto/device_control.pb.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::vmm {

// What is known of one device.
struct DeviceFigures {
  v1::Device description;
  channel::ChannelMetrics channel;                     // counted by the vmm
  channel::ChannelClient::DeviceReport device_report;  // as the process says
  uint64_t timed_out_accesses = 0;
  uint64_t dropped_accesses = 0;
  v1::DeviceMetrics model;  // as the process says; its names and values are possible ones
};

// All figures as families of samples: bulkhead_vm_*, bulkhead_device_*, and bulkhead_device_model_*
// for what a device's process says of its model. No process can change what is said of the vmm or
// of another device: its figures have a prefix of their own; the name of a family says its kind (a
// counter ends in _total, a gauge does not); where two devices explain one family differently, the
// vmm's own text stands. Of repeats within one device the first counts. Pure.
v1::VmMetrics MakeMetrics(const v1::VmStatus& status, uint64_t unclaimed_accesses,
                          absl::Span<const DeviceFigures> devices);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_VM_METRICS_H_
