#include "tools/vmctl/prometheus.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/json_util.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

// JSON, because text format cannot parse maps under ThreadSanitizer: Debian's libprotobuf has
// another layout of them there.
std::string TextOf(const std::string& families) {
  v1::VmMetrics metrics;
  const auto status = google::protobuf::util::JsonStringToMessage(
      absl::StrCat("{\"families\": [", families, "]}"), &metrics);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return PrometheusText(metrics);
}

std::string Value(double value) {
  v1::VmMetrics metrics;
  metrics.add_families()->set_name("x");
  metrics.mutable_families(0)->add_samples()->set_value(value);
  const std::string text = PrometheusText(metrics);
  return text.substr(text.find("\nx ") + 3);
}

TEST(PrometheusTest, AFamilyBeginsWithItsHelpAndType) {
  EXPECT_EQ(TextOf(R"({"name": "a_total", "help": "Things.", "kind": "COUNTER",
                       "samples": [{"value": 2}, {"labels": {"k": "v"}}]},
                      {"name": "b", "kind": "GAUGE", "samples": [{"value": -1.5}]})"),
            "# HELP a_total Things.\n"
            "# TYPE a_total counter\n"
            "a_total 2\n"
            "a_total{k=\"v\"} 0\n"
            "# TYPE b gauge\n"
            "b -1.5\n");
}

TEST(PrometheusTest, TextsAreEscapedEachInItsWay) {
  EXPECT_EQ(TextOf(R"({"name": "a", "help": "line\nnext \\ \"q\"", "kind": "GAUGE",
                       "samples": [{"labels": {"k": "line\nnext \\ \"q\""}}]})"),
            "# HELP a line\\nnext \\\\ \"q\"\n"
            "# TYPE a gauge\n"
            "a{k=\"line\\nnext \\\\ \\\"q\\\"\"} 0\n");
}

TEST(PrometheusTest, LabelsAreSorted) {
  EXPECT_EQ(TextOf(R"({"name": "a", "samples": [{"labels": {"z": "1", "b": "2", "m": "3"}}]})"),
            "# TYPE a untyped\n"
            "a{b=\"2\",m=\"3\",z=\"1\"} 0\n");
}

TEST(PrometheusTest, NamesHoldNothingThatWouldBreakALine) {
  EXPECT_EQ(TextOf(R"({"name": "1 a\n:b", "samples": [{"labels": {"x:y z": ""}}]})"),
            "# TYPE _1_a_:b untyped\n"
            "_1_a_:b{x_y_z=\"\"} 0\n");
}

TEST(PrometheusTest, NumbersReadBackAsTheSame) {
  EXPECT_EQ(Value(123456789012), "123456789012\n");
  EXPECT_EQ(Value(0.1), "0.1\n");
  EXPECT_EQ(Value(1.0 / 3), "0.3333333333333333\n");
  EXPECT_EQ(Value(1e300), "1e+300\n");
  EXPECT_EQ(Value(std::numeric_limits<double>::infinity()), "+Inf\n");
  EXPECT_EQ(Value(-std::numeric_limits<double>::infinity()), "-Inf\n");
  EXPECT_EQ(Value(std::numeric_limits<double>::quiet_NaN()), "NaN\n");
}

TEST(PrometheusTest, AHistogramHasBucketsSumAndCount) {
  EXPECT_EQ(TextOf(R"({"name": "h", "kind": "HISTOGRAM", "samples": [{"labels": {"d": "x"},
                       "histogram": {"buckets": [{"upperBound": 0.001, "count": 1},
                                                 {"upperBound": 10, "count": 4},
                                                 {"upperBound": "Infinity", "count": 5}],
                                     "sum": 12.5, "count": 5}}]})"),
            "# TYPE h histogram\n"
            "h_bucket{d=\"x\",le=\"0.001\"} 1\n"
            "h_bucket{d=\"x\",le=\"10\"} 4\n"
            "h_bucket{d=\"x\",le=\"+Inf\"} 5\n"
            "h_sum{d=\"x\"} 12.5\n"
            "h_count{d=\"x\"} 5\n");
}

TEST(PrometheusTest, TheInfiniteBucketIsThereEvenIfItWasNotGiven) {
  EXPECT_EQ(TextOf(R"({"name": "h", "kind": "HISTOGRAM", "samples": [{
                       "histogram": {"buckets": [{"upperBound": 1, "count": 1}],
                                     "sum": 0.5, "count": 2}}]})"),
            "# TYPE h histogram\n"
            "h_bucket{le=\"1\"} 1\n"
            "h_bucket{le=\"+Inf\"} 2\n"
            "h_sum 0.5\n"
            "h_count 2\n");
}

}  // namespace
}  // namespace bulkhead::vmctl
