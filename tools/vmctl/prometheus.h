#ifndef BULKHEAD_TOOLS_VMCTL_PROMETHEUS_H_
#define BULKHEAD_TOOLS_VMCTL_PROMETHEUS_H_

#include <string>

#include "absl/strings/string_view.h"
#include "proto/vm_control.pb.h"

namespace bulkhead::vmctl {

// `metrics` in Prometheus's text exposition format 0.0.4, as node_exporter's textfile collector
// and promtool read it. Labels are sorted; what no name may hold becomes '_'.
std::string PrometheusText(const v1::VmMetrics& metrics);

// The name under which it has a family, and a label.
std::string MetricName(absl::string_view name);
std::string LabelName(absl::string_view name);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_PROMETHEUS_H_
