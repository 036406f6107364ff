#include "tools/vmctl/testing/exposition_format.h"

#include <stddef.h>

#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace bulkhead::vmctl {
namespace {

struct Sample {
  std::string name;
  std::map<std::string, std::string> labels;
  double value = 0;
};

// Takes [a-zA-Z_:][a-zA-Z0-9_:]* off the front; empty: there is none.
std::string TakeName(absl::string_view& text) {
  size_t length = 0;
  while (length < text.size() &&
         (absl::ascii_isalnum(text[length]) || text[length] == '_' || text[length] == ':')) {
    ++length;
  }
  if (length == 0 || absl::ascii_isdigit(text[0])) return "";
  std::string name(text.substr(0, length));
  text.remove_prefix(length);
  return name;
}

// Takes a quoted label value off the front.
std::optional<std::string> TakeQuoted(absl::string_view& text) {
  if (!absl::ConsumePrefix(&text, "\"")) return std::nullopt;
  std::string value;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') {
      text.remove_prefix(i + 1);
      return value;
    }
    if (text[i] == '\\') {
      ++i;
      if (i == text.size() || !absl::StrContains("\\\"n", text[i])) return std::nullopt;
    }
    value.push_back(text[i]);
  }
  return std::nullopt;
}

bool ParseValue(absl::string_view text, double& value) {
  if (text == "NaN") {
    value = NAN;
    return true;
  }
  if (text == "+Inf" || text == "-Inf") {
    value = text[0] == '+' ? INFINITY : -INFINITY;
    return true;
  }
  return absl::SimpleAtod(text, &value);
}

std::optional<Sample> ParseSample(absl::string_view line) {
  Sample sample;
  sample.name = TakeName(line);
  if (sample.name.empty()) return std::nullopt;
  if (absl::ConsumePrefix(&line, "{")) {
    do {
      const std::string label = TakeName(line);
      if (label.empty() || !absl::ConsumePrefix(&line, "=")) return std::nullopt;
      const std::optional<std::string> value = TakeQuoted(line);
      if (!value.has_value() || !sample.labels.emplace(label, *value).second) return std::nullopt;
    } while (absl::ConsumePrefix(&line, ","));
    if (!absl::ConsumePrefix(&line, "}")) return std::nullopt;
  }
  if (!absl::ConsumePrefix(&line, " ") || !ParseValue(line, sample.value)) return std::nullopt;
  return sample;
}

class Checker {
 public:
  std::vector<std::string> Check(absl::string_view text) {
    if (!text.empty() && !absl::EndsWith(text, "\n"))
      problems_.emplace_back("the last line is cut");
    absl::ConsumeSuffix(&text, "\n");
    for (const absl::string_view line : absl::StrSplit(text, '\n')) CheckLine(line);
    EndFamily();
    return std::move(problems_);
  }

 private:
  void Problem(absl::string_view what) { problems_.emplace_back(what); }

  void CheckLine(absl::string_view line) {
    absl::string_view rest = line;
    if (absl::ConsumePrefix(&rest, "# HELP ")) return Describe(rest, has_help_, line);
    if (absl::ConsumePrefix(&rest, "# TYPE ")) {
      Describe(rest, has_type_, line);
      type_ = std::string(absl::StripAsciiWhitespace(rest.substr(family_.size())));
      const bool is_counter = type_ == "counter";
      if (is_counter != absl::EndsWith(family_, "_total")) {
        Problem(absl::StrCat(family_, " is a ", type_));
      }
      return;
    }
    const std::optional<Sample> sample = ParseSample(line);
    if (!sample.has_value()) return Problem(absl::StrCat("no sample: ", line));
    Take(*sample, line);
  }

  // HELP or TYPE of a family: the one at hand, or a new one.
  void Describe(absl::string_view rest, bool& has, absl::string_view line) {
    const std::string name = TakeName(rest);
    if (name != family_) {
      EndFamily();
      family_ = name;
      if (!families_.insert(name).second) Problem(absl::StrCat(name, " stands in two places"));
    }
    if (std::exchange(has, true)) Problem(absl::StrCat("again: ", line));
    if (has_samples_) Problem(absl::StrCat("after samples: ", line));
  }

  void Take(const Sample& sample, absl::string_view line) {
    const bool histogram = type_ == "histogram";
    absl::string_view base = sample.name;
    const bool bucket = histogram && absl::ConsumeSuffix(&base, "_bucket");
    const bool sum = histogram && !bucket && absl::ConsumeSuffix(&base, "_sum");
    const bool count = histogram && !bucket && !sum && absl::ConsumeSuffix(&base, "_count");
    if (base != family_ || !has_type_ || (histogram && !bucket && !sum && !count)) {
      return Problem(absl::StrCat("not of the family ", family_, ": ", line));
    }
    has_samples_ = true;
    if (!series_.insert({sample.name, sample.labels}).second) {
      Problem(absl::StrCat("a second time: ", line));
    }
    if (type_ == "counter" && !(sample.value >= 0)) Problem(absl::StrCat("negative: ", line));
    if (!histogram) return;
    std::map<std::string, std::string> labels = sample.labels;
    labels.erase("le");
    Histogram& all = histograms_[labels];
    if (sum) all.has_sum = true;
    if (count) all.count = sample.value;
    if (!bucket) return;
    double bound = 0;
    const auto le = sample.labels.find("le");
    if (le == sample.labels.end() || !ParseValue(le->second, bound)) {
      return Problem(absl::StrCat("a bucket without bound: ", line));
    }
    if (bound <= all.bound || sample.value < all.last) {
      Problem(absl::StrCat("buckets do not rise: ", line));
    }
    all.bound = bound;
    all.last = sample.value;
  }

  void EndFamily() {
    for (const auto& [labels, histogram] : histograms_) {
      if (!std::isinf(histogram.bound) || histogram.count != histogram.last || !histogram.has_sum) {
        Problem(absl::StrCat("a histogram of ", family_, " is not complete"));
      }
    }
    histograms_.clear();
    if (!family_.empty() && !has_type_) Problem(absl::StrCat(family_, " has no TYPE"));
    family_.clear();
    has_help_ = has_type_ = has_samples_ = false;
  }

  struct Histogram {
    double bound = -INFINITY;
    double last = 0;
    double count = -1;
    bool has_sum = false;
  };

  std::vector<std::string> problems_;
  std::set<std::string> families_;
  std::set<std::pair<std::string, std::map<std::string, std::string>>> series_;
  // Of the family at hand.
  std::string family_;
  std::string type_;
  bool has_help_ = false, has_type_ = false, has_samples_ = false;
  std::map<std::map<std::string, std::string>, Histogram> histograms_;
};

}  // namespace

std::vector<std::string> ProblemsOfExposition(absl::string_view text) {
  return Checker().Check(text);
}

}  // namespace bulkhead::vmctl
