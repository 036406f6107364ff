#include "tools/vmctl/metrics_page.h"

#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/vmctl/prometheus.h"
#include "tools/vmctl/testing/exposition_format.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

v1::MetricFamily& AddFamily(VmAnswer& answer, const std::string& name,
                            v1::MetricFamily::Kind kind = v1::MetricFamily::GAUGE) {
  if (!answer.metrics.has_value()) answer.metrics.emplace();
  v1::MetricFamily& family = *answer.metrics->add_families();
  family.set_name(name);
  family.set_help("Help");
  family.set_kind(kind);
  return family;
}

void AddSample(v1::MetricFamily& family, double value,
               const std::vector<std::pair<std::string, std::string>>& labels = {}) {
  v1::Sample& sample = *family.add_samples();
  for (const auto& [name, label] : labels) (*sample.mutable_labels())[name] = label;
  sample.set_value(value);
}

std::string PageOf(const std::vector<VmAnswer>& answers) {
  const std::string page = PrometheusText(MergeMetrics(answers));
  EXPECT_THAT(ProblemsOfExposition(page), IsEmpty()) << page;
  return page;
}

TEST(MetricsPageTest, SamplesOfSeveralVmsShareAFamilyAndDifferByTheLabelVm) {
  std::vector<VmAnswer> answers = {{.label = "a", .answer_time = absl::Milliseconds(5)},
                                   {.label = "b", .answer_time = absl::Milliseconds(7)}};
  AddSample(AddFamily(answers[0], "bulkhead_x"), 1, {{"device", "disk0"}});
  AddSample(AddFamily(answers[1], "bulkhead_x"), 2, {{"device", "disk0"}});
  AddSample(AddFamily(answers[1], "bulkhead_y"), 3);
  EXPECT_EQ(PageOf(answers),
            "# HELP bulkhead_vm_up 1: the VM has answered; 0: it runs, but did not answer in time\n"
            "# TYPE bulkhead_vm_up gauge\n"
            "bulkhead_vm_up{vm=\"a\"} 1\n"
            "bulkhead_vm_up{vm=\"b\"} 1\n"
            "# HELP bulkhead_vm_answer_seconds How long the VM took to answer, or was waited for\n"
            "# TYPE bulkhead_vm_answer_seconds gauge\n"
            "bulkhead_vm_answer_seconds{vm=\"a\"} 0.005\n"
            "bulkhead_vm_answer_seconds{vm=\"b\"} 0.007\n"
            "# HELP bulkhead_x Help\n"
            "# TYPE bulkhead_x gauge\n"
            "bulkhead_x{device=\"disk0\",vm=\"a\"} 1\n"
            "bulkhead_x{device=\"disk0\",vm=\"b\"} 2\n"
            "# HELP bulkhead_y Help\n"
            "# TYPE bulkhead_y gauge\n"
            "bulkhead_y{vm=\"b\"} 3\n");
}

TEST(MetricsPageTest, AVmWithoutAnswerIsDown) {
  const std::string page = PageOf({{.label = "a", .answer_time = absl::Seconds(3)}});
  EXPECT_THAT(page, HasSubstr("bulkhead_vm_up{vm=\"a\"} 0\n"));
  EXPECT_THAT(page, HasSubstr("bulkhead_vm_answer_seconds{vm=\"a\"} 3\n"));
}

TEST(MetricsPageTest, WithoutVmsThePageIsEmpty) { EXPECT_EQ(PrometheusText(MergeMetrics({})), ""); }

// A vmm may have been taken over by its guest.
TEST(MetricsPageTest, AVmCannotSpoilOrFakeWhatOthersHave) {
  std::vector<VmAnswer> answers = {{.label = "good"}, {.label = "evil"}};
  AddSample(AddFamily(answers[0], "bulkhead_x_total", v1::MetricFamily::COUNTER), 1);
  v1::MetricFamily& histogram = AddFamily(answers[0], "bulkhead_h", v1::MetricFamily::HISTOGRAM);
  histogram.add_samples()->mutable_histogram()->set_count(0);
  AddSample(AddFamily(answers[1], "bulkhead_x_total", v1::MetricFamily::GAUGE), 666);
  AddSample(AddFamily(answers[1], "bulkhead_h_count"), 666);
  AddSample(AddFamily(answers[1], "bulkhead_h_bucket"), 666, {{"le", "1"}});
  AddSample(AddFamily(answers[1], "bulkhead_vm_up"), 666, {{"vm", "good"}});
  AddSample(AddFamily(answers[1], "node_load1"), 666);
  AddSample(AddFamily(answers[1], "bulkhead_a\n# TYPE b gauge"), 5, {{"x\ny", "1\n2"}});
  v1::MetricFamily& twice = AddFamily(answers[1], "bulkhead_twice");
  AddSample(twice, 5, {{"vm", "good"}});
  AddSample(twice, 666, {{"vm", "good"}});
  AddSample(twice, 666);
  AddSample(AddFamily(answers[1], "bulkhead_twice"), 666);
  const std::string page = PageOf(answers);
  EXPECT_THAT(page, Not(HasSubstr("666")));
  EXPECT_THAT(page, HasSubstr("bulkhead_x_total{vm=\"good\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("bulkhead_twice{vm=\"evil\"} 5\n"));
  EXPECT_THAT(page, HasSubstr("bulkhead_a___TYPE_b_gauge{vm=\"evil\",x_y=\"1\\n2\"} 5\n"));
}

TEST(MetricsPageTest, AFamilyHasTheKindThatMostVmsGiveIt) {
  std::vector<VmAnswer> answers = {{.label = "a"}, {.label = "b"}, {.label = "c"}};
  AddSample(AddFamily(answers[0], "bulkhead_x_total", v1::MetricFamily::GAUGE), 666);
  AddSample(AddFamily(answers[0], "bulkhead_x_total", v1::MetricFamily::GAUGE), 666);
  AddSample(AddFamily(answers[1], "bulkhead_x_total", v1::MetricFamily::COUNTER), 1);
  AddSample(AddFamily(answers[2], "bulkhead_x_total", v1::MetricFamily::COUNTER), 2);
  const std::string page = PageOf(answers);
  EXPECT_THAT(page, Not(HasSubstr("666")));
  EXPECT_THAT(page, HasSubstr("bulkhead_x_total{vm=\"b\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("bulkhead_x_total{vm=\"c\"} 2\n"));
}

TEST(MetricsPageTest, ALabelIsTheNameOrForASecondVmOfThatNameThePath) {
  EXPECT_THAT(LabelsOf(std::vector<VmAddress>{{"web", "/run/bulkhead/web.sock"},
                                              {"web", "/tmp/bulkhead-0/web.sock"},
                                              {"b\xff\n", "/run/bulkhead/b.sock"}}),
              ElementsAre("web", "/tmp/bulkhead-0/web.sock", "b\\xff\\n"));
}

}  // namespace
}  // namespace bulkhead::vmctl
