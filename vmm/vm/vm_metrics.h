#ifndef BULKHEAD_VMM_VM_VM_METRICS_H_
#define BULKHEAD_VMM_VM_VM_METRICS_H_

#include <stdint.h>

#include <optional>

#include "absl/time/time.h"
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
  // As its process reports. Names and values of `metrics` are validated.
  v1::DeviceMetrics model;
};

// The figures of one vCPU since the guest last booted, as the host's kernel counts them.
struct VcpuFigures {
  // Exits from guest code, whether KVM or the vmm handles them.
  struct Exits {
    uint64_t all = 0;
    uint64_t mmio = 0;                             // to the vmm: a register in memory
    uint64_t port = 0;                             // I/O ports
    uint64_t halt = 0;                             // the guest has nothing to do
    uint64_t interrupt = 0;                        // of the host
    uint64_t signal = 0;                           // the vmm interrupted it
    absl::Duration halted = absl::ZeroDuration();  // asleep, the guest having nothing to do
  };
  std::optional<Exits> exits;  // empty: this kernel does not count them

  std::optional<absl::Duration> processor_time;  // of its thread
  std::optional<absl::Duration> guest_time;      // the part of it in guest code
};

// All figures as families of samples: bulkhead_vm_*, bulkhead_vcpu_*, bulkhead_device_*, and
// bulkhead_device_model_* for what a device's process reports of its model. A process cannot change
// figures of the vmm or of another device: its own have a prefix, and the name of a family decides
// its kind (a counter ends in _total, a gauge does not). If two devices give one family different
// help texts, the vmm's text replaces both. If one device reports a family twice, the first sample
// counts. Pure.
v1::VmMetrics MakeMetrics(const v1::VmStatus& status, uint64_t unclaimed_accesses,
                          absl::Span<const VcpuFigures> vcpus,
                          absl::Span<const DeviceFigures> devices);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_VM_METRICS_H_
