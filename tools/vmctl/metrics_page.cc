#include "tools/vmctl/metrics_page.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "tools/vmctl/prometheus.h"

namespace bulkhead::vmctl {
namespace {

constexpr absl::string_view kPrefix = "bulkhead_";
constexpr char kUp[] = "bulkhead_vm_up";
constexpr char kAnswerSeconds[] = "bulkhead_vm_answer_seconds";

using Kind = v1::MetricFamily::Kind;

// The kind that most VMs have for a family; of as many, that of the first VM.
class Kinds {
 public:
  explicit Kinds(absl::Span<const VmAnswer> answers) {
    for (const VmAnswer& answer : answers) {
      if (!answer.metrics.has_value()) continue;
      std::set<std::string> seen;
      for (const v1::MetricFamily& family : answer.metrics->families()) {
        std::string name = MetricName(family.name());
        if (seen.insert(name).second) Count(counts_[std::move(name)], family.kind());
      }
    }
  }

  Kind Of(const std::string& name) const {
    const auto counts = counts_.find(name);
    if (counts == counts_.end()) return v1::MetricFamily::KIND_UNSPECIFIED;
    // max_element() finds the first of several.
    return std::max_element(counts->second.begin(), counts->second.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; })
        ->first;
  }

 private:
  using Counts = std::vector<std::pair<Kind, int>>;

  static void Count(Counts& counts, Kind kind) {
    for (auto& [known, count] : counts) {
      if (known != kind) continue;
      ++count;
      return;
    }
    counts.emplace_back(kind, 1);
  }

  std::map<std::string, Counts> counts_;
};

class Merger {
 public:
  explicit Merger(const Kinds& kinds) : kinds_(kinds) {}

  v1::Sample& Own(const char* name, const char* help, const std::string& vm) {
    v1::MetricFamily& family = Family(name, help, v1::MetricFamily::GAUGE);
    v1::Sample& sample = *family.add_samples();
    (*sample.mutable_labels())["vm"] = vm;
    return sample;
  }

  void Add(const std::string& vm, const v1::MetricFamily& family) {
    const std::string name = MetricName(family.name());
    if (!absl::StartsWith(name, kPrefix) || name == kUp || name == kAnswerSeconds) return;
    // The parts of another VM's histogram would be series of this name.
    for (const absl::string_view part : {"_bucket", "_sum", "_count"}) {
      if (absl::EndsWith(name, part)) return;
    }
    if (family.kind() != kinds_.Of(name)) return;
    v1::MetricFamily& merged = Family(name, family.help(), family.kind());
    for (const v1::Sample& sample : family.samples()) {
      std::map<std::string, std::string> labels;
      for (const auto& [label, value] : sample.labels()) labels[LabelName(label)] = value;
      labels["vm"] = vm;
      labels.erase("le");
      if (!series_.emplace(name, labels).second) continue;
      v1::Sample& copy = *merged.add_samples();
      copy.mutable_labels()->insert(labels.begin(), labels.end());
      copy.set_value(sample.value());
      if (sample.has_histogram()) *copy.mutable_histogram() = sample.histogram();
    }
  }

  v1::VmMetrics Take() { return std::move(metrics_); }

 private:
  v1::MetricFamily& Family(const std::string& name, const std::string& help, Kind kind) {
    const auto [place, is_new] = places_.try_emplace(name, metrics_.families_size());
    if (!is_new) return *metrics_.mutable_families(place->second);
    v1::MetricFamily& family = *metrics_.add_families();
    family.set_name(name);
    family.set_help(help);
    family.set_kind(kind);
    return family;
  }

  const Kinds& kinds_;
  v1::VmMetrics metrics_;
  std::map<std::string, int> places_;  // of families
  std::set<std::pair<std::string, std::map<std::string, std::string>>> series_;
};

// Prometheus takes UTF-8 only; the name of a file may be anything.
std::string PlainText(const std::string& text) {
  const bool is_plain = std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isprint(static_cast<unsigned char>(c));
  });
  return is_plain ? text : absl::CHexEscape(text);
}

}  // namespace

v1::VmMetrics MergeMetrics(absl::Span<const VmAnswer> answers) {
  const Kinds kinds(answers);
  Merger merger(kinds);
  for (const VmAnswer& answer : answers) {
    merger.Own(kUp, "1: the VM has answered; 0: it runs, but did not answer in time", answer.label)
        .set_value(answer.metrics.has_value() ? 1 : 0);
  }
  for (const VmAnswer& answer : answers) {
    merger.Own(kAnswerSeconds, "How long the VM took to answer, or was waited for", answer.label)
        .set_value(absl::ToDoubleSeconds(answer.answer_time));
  }
  for (const VmAnswer& answer : answers) {
    if (!answer.metrics.has_value()) continue;
    for (const v1::MetricFamily& family : answer.metrics->families()) {
      merger.Add(answer.label, family);
    }
  }
  return merger.Take();
}

std::vector<std::string> LabelsOf(absl::Span<const VmAddress> vms) {
  std::vector<std::string> labels;
  std::set<std::string> taken;
  for (const VmAddress& vm : vms) {
    std::string label = PlainText(vm.name);
    if (!taken.insert(label).second) label = PlainText(vm.socket_path);
    labels.push_back(std::move(label));
  }
  return labels;
}

}  // namespace bulkhead::vmctl
