#include "tools/vmctl/prometheus.h"

#include <limits>

#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

std::string TextOf(const std::string& metrics_text) {
  v1::VmMetrics metrics;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(metrics_text, &metrics));
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
  EXPECT_EQ(TextOf(R"(families { name: "a_total" help: "Things." kind: COUNTER
                                 samples { value: 2 } samples { labels { key: "k" value: "v" } } }
                      families { name: "b" kind: GAUGE samples { value: -1.5 } })"),
            "# HELP a_total Things.\n"
            "# TYPE a_total counter\n"
            "a_total 2\n"
            "a_total{k=\"v\"} 0\n"
            "# TYPE b gauge\n"
            "b -1.5\n");
}

TEST(PrometheusTest, TextsAreEscapedEachInItsWay) {
  EXPECT_EQ(TextOf(R"(families { name: "a" help: "line\nnext \\ \"q\"" kind: GAUGE
                                 samples { labels { key: "k" value: "line\nnext \\ \"q\"" } } })"),
            "# HELP a line\\nnext \\\\ \"q\"\n"
            "# TYPE a gauge\n"
            "a{k=\"line\\nnext \\\\ \\\"q\\\"\"} 0\n");
}

TEST(PrometheusTest, LabelsAreSorted) {
  EXPECT_EQ(TextOf(R"(families { name: "a" samples { labels { key: "z" value: "1" }
                                                      labels { key: "b" value: "2" }
                                                      labels { key: "m" value: "3" } } })"),
            "# TYPE a untyped\n"
            "a{b=\"2\",m=\"3\",z=\"1\"} 0\n");
}

TEST(PrometheusTest, NamesHoldNothingThatWouldBreakALine) {
  EXPECT_EQ(TextOf(R"(families { name: "1 a\n:b" samples { labels { key: "x:y z" value: "" } } })"),
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
  EXPECT_EQ(TextOf(R"(families { name: "h" kind: HISTOGRAM
                        samples { labels { key: "d" value: "x" } histogram {
                            buckets { upper_bound: 0.001 count: 1 }
                            buckets { upper_bound: 10 count: 4 }
                            buckets { upper_bound: inf count: 5 }
                            sum: 12.5 count: 5 } } })"),
            "# TYPE h histogram\n"
            "h_bucket{d=\"x\",le=\"0.001\"} 1\n"
            "h_bucket{d=\"x\",le=\"10\"} 4\n"
            "h_bucket{d=\"x\",le=\"+Inf\"} 5\n"
            "h_sum{d=\"x\"} 12.5\n"
            "h_count{d=\"x\"} 5\n");
}

TEST(PrometheusTest, TheInfiniteBucketIsThereEvenIfItWasNotGiven) {
  EXPECT_EQ(TextOf(R"(families { name: "h" kind: HISTOGRAM samples { histogram {
                            buckets { upper_bound: 1 count: 1 } sum: 0.5 count: 2 } } })"),
            "# TYPE h histogram\n"
            "h_bucket{le=\"1\"} 1\n"
            "h_bucket{le=\"+Inf\"} 2\n"
            "h_sum 0.5\n"
            "h_count 2\n");
}

}  // namespace
}  // namespace bulkhead::vmctl
