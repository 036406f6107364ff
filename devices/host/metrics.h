#ifndef BULKHEAD_DEVICES_HOST_METRICS_H_
#define BULKHEAD_DEVICES_HOST_METRICS_H_

#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {

// For DeviceModel::AppendMetrics(). What a name may be: see proto/device_control.proto.
inline void AddMetric(v1::DeviceMetrics& metrics, absl::string_view name, absl::string_view help,
                      uint64_t value, bool is_gauge) {
  v1::DeviceMetric& metric = *metrics.add_metrics();
  metric.set_name(std::string(name));
  metric.set_help(std::string(help));
  metric.set_value(static_cast<double>(value));
  metric.set_is_gauge(is_gauge);
}

// `value` only grows, from the start of this process on.
inline void AddCounter(v1::DeviceMetrics& metrics, absl::string_view name, absl::string_view help,
                       uint64_t value) {
  AddMetric(metrics, name, help, value, /*is_gauge=*/false);
}

inline void AddGauge(v1::DeviceMetrics& metrics, absl::string_view name, absl::string_view help,
                     uint64_t value) {
  AddMetric(metrics, name, help, value, /*is_gauge=*/true);
}

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_METRICS_H_
