#ifndef BULKHEAD_TOOLS_VMCTL_DEVICE_TEXT_H_
#define BULKHEAD_TOOLS_VMCTL_DEVICE_TEXT_H_

#include <stddef.h>

#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::vmctl {

// `vmctl devices`: one line a device. `now` is what heartbeats are compared with; `width` and
// `color` as in Table::Text().
std::string DeviceTable(const google::protobuf::RepeatedPtrField<v1::Device>& devices,
                        absl::Time now, size_t width, bool color);

// `vmctl device show`: all there is to know, one "Name  value" a line.
std::string DeviceDetails(const v1::Device& device, absl::Time now, absl::TimeZone zone,
                          bool color);

// The figures that the device's process reports of itself, in the same form: for a disk its engine,
// and of each how often it polled. Empty if `metrics` have none of that device.
std::string DeviceFigures(const v1::VmMetrics& metrics, absl::string_view device);

// "disk0 is RUNNING: pid 4711, generation 3": what a change has led to.
std::string DeviceOutcome(const v1::Device& device);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_DEVICE_TEXT_H_
