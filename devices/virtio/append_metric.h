#ifndef BULKHEAD_DEVICES_VIRTIO_APPEND_METRIC_H_
#define BULKHEAD_DEVICES_VIRTIO_APPEND_METRIC_H_

#include <stdint.h>

#include <string>

#include "absl/strings/string_view.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices::virtio {

enum class MetricKind { kCounter, kGauge };

inline void AppendMetric(v1::DeviceMetrics& metrics, absl::string_view name, absl::string_view help,
                         uint64_t value, MetricKind kind = MetricKind::kCounter) {
  v1::DeviceMetric& metric = *metrics.add_metrics();
  metric.set_name(std::string(name));
  metric.set_help(std::string(help));
  metric.set_value(static_cast<double>(value));
  metric.set_is_gauge(kind == MetricKind::kGauge);
}

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_APPEND_METRIC_H_
