#include "tools/vmctl/prometheus.h"

#include <charconv>
#include <cmath>
#include <iterator>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"

namespace bulkhead::vmctl {
namespace {

// [a-zA-Z_:][a-zA-Z0-9_:]*, for labels without the colon.
std::string ValidName(absl::string_view name, bool colon_allowed) {
  std::string valid;
  for (const char c : name) {
    const bool fits = absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' ||
                      (colon_allowed && c == ':');
    valid.push_back(fits ? c : '_');
  }
  if (valid.empty() || absl::ascii_isdigit(static_cast<unsigned char>(valid[0]))) {
    valid.insert(0, "_");
  }
  return valid;
}

std::string EscapedHelp(absl::string_view help) {
  return absl::StrReplaceAll(help, {{"\\", "\\\\"}, {"\n", "\\n"}});
}

std::string EscapedLabel(absl::string_view value) {
  return absl::StrReplaceAll(value, {{"\\", "\\\\"}, {"\n", "\\n"}, {"\"", "\\\""}});
}

// The shortest text that reads back as the same number.
std::string Number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  // Counters are whole: "1000000", not "1e+06".
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    return absl::StrCat(static_cast<int64_t>(value));
  }
  char text[64];
  const std::to_chars_result end = std::to_chars(std::begin(text), std::end(text), value);
  return std::string(text, end.ptr);
}

using Labels = std::map<std::string, std::string>;

Labels LabelsOf(const v1::Sample& sample) {
  Labels labels;
  for (const auto& [name, value] : sample.labels()) labels[LabelName(name)] = value;
  return labels;
}

void AppendLine(std::string& text, absl::string_view name, const Labels& labels,
                absl::string_view value) {
  absl::StrAppend(&text, name);
  const char* separator = "{";
  for (const auto& [label, label_value] : labels) {
    absl::StrAppend(&text, separator, label, "=\"", EscapedLabel(label_value), "\"");
    separator = ",";
  }
  absl::StrAppend(&text, labels.empty() ? "" : "}", " ", value, "\n");
}

void AppendHistogram(std::string& text, absl::string_view name, const v1::Sample& sample) {
  const v1::Histogram& histogram = sample.histogram();
  Labels labels = LabelsOf(sample);
  for (const v1::Bucket& bucket : histogram.buckets()) {
    if (std::isinf(bucket.upper_bound())) continue;
    labels["le"] = Number(bucket.upper_bound());
    AppendLine(text, absl::StrCat(name, "_bucket"), labels, absl::StrCat(bucket.count()));
  }
  // The format asks for this one, and that it be the count.
  labels["le"] = "+Inf";
  AppendLine(text, absl::StrCat(name, "_bucket"), labels, absl::StrCat(histogram.count()));
  labels.erase("le");
  AppendLine(text, absl::StrCat(name, "_sum"), labels, Number(histogram.sum()));
  AppendLine(text, absl::StrCat(name, "_count"), labels, absl::StrCat(histogram.count()));
}

const char* TypeName(v1::MetricFamily::Kind kind) {
  switch (kind) {
    case v1::MetricFamily::COUNTER:
      return "counter";
    case v1::MetricFamily::GAUGE:
      return "gauge";
    case v1::MetricFamily::HISTOGRAM:
      return "histogram";
    default:
      return "untyped";
  }
}

}  // namespace

std::string MetricName(absl::string_view name) { return ValidName(name, true); }
std::string LabelName(absl::string_view name) { return ValidName(name, false); }

std::string PrometheusText(const v1::VmMetrics& metrics) {
  std::string text;
  for (const v1::MetricFamily& family : metrics.families()) {
    const std::string name = MetricName(family.name());
    if (!family.help().empty()) {
      absl::StrAppend(&text, "# HELP ", name, " ", EscapedHelp(family.help()), "\n");
    }
    absl::StrAppend(&text, "# TYPE ", name, " ", TypeName(family.kind()), "\n");
    for (const v1::Sample& sample : family.samples()) {
      if (family.kind() == v1::MetricFamily::HISTOGRAM) {
        AppendHistogram(text, name, sample);
      } else {
        AppendLine(text, name, LabelsOf(sample), Number(sample.value()));
      }
    }
  }
  return text;
}

}  // namespace bulkhead::vmctl
