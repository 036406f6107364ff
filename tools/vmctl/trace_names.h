#ifndef BULKHEAD_TOOLS_VMCTL_TRACE_NAMES_H_
#define BULKHEAD_TOOLS_VMCTL_TRACE_NAMES_H_

#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"
#include "proto/vm_control.pb.h"
#include "tools/vmctl/text.h"

// How a trace calls what it shows. A viewer cuts off names that are longer than their spans, and
// colours and groups spans by name: what matters most comes first. Pure functions.
namespace bulkhead::vmctl {

// The register that an access is for: "bar0+0x14", "port0+0x3", "cap0+0x0".
std::string PlaceName(const v1::TraceRecord& record, const v1::Device& device);

// "RUNNING, pid 77, generation 1", "RESTARTING: killed by signal 9 (Killed)".
std::string DeviceStateName(v1::Device::State state, int32_t pid, uint64_t generation,
                            absl::string_view reason);
std::string VmStateName(v1::VmStatus::State state, absl::string_view reason);

// A request by the sizes of its buffers, which is all that the trace knows of it. Of a disk, "read
// 64 KiB", "write 4 KiB", "flush"; of a network's queue to send, "send 98 bytes": without virtio's
// header and status. Any other: "64 bytes from the device", or "to", whichever is more.
std::string RequestName(absl::string_view model, uint32_t queue, uint64_t readable_bytes,
                        uint64_t writable_bytes);

// Of a queue that the driver fills with empty buffers ahead of what is to come: frames of a
// network, packets and events of a vsock. Such a buffer is no request: it waits, for how long says
// nothing.
bool IsReceiveQueue(absl::string_view model, uint32_t queue);

// What Chrome's viewer calls that colour. Empty: the viewer chooses one by the name.
absl::string_view TraceColor(Color color);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TRACE_NAMES_H_
