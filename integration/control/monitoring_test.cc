// What operators see of a real VM: the endpoint for Prometheus, the names in docs/monitoring.md,
// the dashboard and the alerts, and `vmctl top`.

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/files.h"
#include "base/testing/network_namespace.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_process.h"
#include "tools/vmctl/testing/exposition_format.h"

namespace bulkhead::integration {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr char kModelPrefix[] = "bulkhead_device_model_";

CommandResult Vmctl(const std::string& arguments) {
  return RunCommand(absl::StrCat(DataFile("tools/vmctl/vmctl"), " ", arguments));
}

// A VM with each device that needs no other program, and the endpoint beside it.
class MonitoringTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ASSERT_EQ(EnterNetworkNamespace(), "");
    OutputOf("PATH=$PATH:/usr/sbin:/sbin ip link set lo up");
  }

  void SetUp() override {
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
        {absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
         "--cmdline=run=idle", "--name=watched", "--cpus=2", "--rng", "--balloon", "--pvpanic",
         "--watchdog", "--net=tap",
         absl::StrCat("--disk=path=", WriteTempFile("disk.img", std::string(4096, '\0'))),
         absl::StrCat("--vsock=cid=42,socket=", TempPath("vsock"))});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    ASSERT_TRUE(vm_->WaitForOutput("idle", kTimeout).ok()) << vm_->log();

    absl::StatusOr<std::unique_ptr<ChildProcess>> exporter = ChildProcess::Start(
        {DataFile("tools/vmctl/vmctl"), "metrics", "--listen=127.0.0.1:0", "--timeout=1m"},
        {absl::StrCat("PATH=", getenv("PATH")), RuntimeFolder()});
    ASSERT_TRUE(exporter.ok()) << exporter.status();
    exporter_ = *std::move(exporter);
    ASSERT_TRUE(exporter_->WaitForError("/metrics\n", kTimeout).ok()) << exporter_->error();
    std::smatch match;
    const std::string said = exporter_->error();
    ASSERT_TRUE(std::regex_search(said, match, std::regex("127\\.0\\.0\\.1:([0-9]+)"))) << said;
    port_ = match[1];
  }

  void TearDown() override {
    EXPECT_EQ(Vmctl("stop --vm watched").exit_code, 0);
    EXPECT_TRUE(vm_->WaitForExit(kTimeout).ok());
  }

  // Where vmm and vmctl look; empty if that does not depend on the environment.
  static std::string RuntimeFolder() {
    for (const char* name : {"BULKHEAD_RUNTIME_DIR", "XDG_RUNTIME_DIR"}) {
      if (const char* value = getenv(name)) return absl::StrCat(name, "=", value);
    }
    return "NONE=";
  }

  std::string Scrape() const {
    const CommandResult answer =
        RunCommand(absl::StrCat("bash -c 'exec 3<>/dev/tcp/127.0.0.1/", port_,
                                "; printf \"GET /metrics HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'"));
    EXPECT_EQ(answer.exit_code, 0);
    const size_t end = answer.output.find("\r\n\r\n");
    return end == std::string::npos ? answer.output : answer.output.substr(end + 4);
  }

  // Of a page on which every device has reported its own figures.
  std::set<std::string> NamesInOutput() const {
    std::string page;
    bool all_have_reported = false;
    for (int i = 0; i < 60 && !all_have_reported; ++i) {
      page = Scrape();
      EXPECT_THAT(vmctl::ProblemsOfExposition(page), IsEmpty());
      all_have_reported =
          std::all_of(std::begin(kDevices), std::end(kDevices), [&page](const char* device) {
            return absl::StrContains(
                page, absl::StrCat(kModelPrefix, "sleeps_total{device=\"", device, "\""));
          });
    }
    EXPECT_TRUE(all_have_reported) << page;
    std::set<std::string> names;
    for (absl::string_view line : absl::StrSplit(page, '\n')) {
      if (!absl::ConsumePrefix(&line, "# TYPE ")) continue;
      names.emplace(line.substr(0, line.find(' ')));
    }
    EXPECT_FALSE(names.empty()) << page;
    return names;
  }

  static constexpr const char* kDevices[] = {"console", "disk0",    "rng0",   "balloon",
                                             "pvpanic", "i6300esb", "vsock0", "net0"};

  std::unique_ptr<VmProcess> vm_;
  std::unique_ptr<ChildProcess> exporter_;
  std::string port_;
};

// Names of metrics in a text; those of a histogram's parts as that of the histogram.
std::set<std::string> NamesIn(const std::string& text) {
  std::set<std::string> names;
  const std::regex pattern("bulkhead_(vm|vcpu|device)_[a-z0-9_]+");
  for (std::sregex_iterator match(text.begin(), text.end(), pattern), end; match != end; ++match) {
    const std::string found = match->str();
    absl::string_view name = found;
    absl::ConsumeSuffix(&name, "_bucket");
    names.emplace(name);
  }
  EXPECT_FALSE(names.empty());
  return names;
}

std::vector<std::string> Missing(const std::set<std::string>& wanted,
                                 const std::set<std::string>& there) {
  std::vector<std::string> missing;
  std::set_difference(wanted.begin(), wanted.end(), there.begin(), there.end(),
                      std::back_inserter(missing));
  return missing;
}

TEST_F(MonitoringTest, DocumentationDashboardAndAlertsHaveTheNamesThatThereAre) {
  const std::set<std::string> there = NamesInOutput();
  // A VM in which nothing has happened, without passt and vhost-user, does not have all of them.
  static const auto* const kOfOthers = new std::set<std::string>{
      "bulkhead_device_last_downtime_seconds",
      "bulkhead_device_program_lost_frames_total",
      "bulkhead_device_program_running",
      "bulkhead_device_program_starts_total",
      "bulkhead_device_sandbox_waived",
      "bulkhead_device_model_back_end_connected",
      "bulkhead_device_model_back_end_silent",
      "bulkhead_device_model_back_end_connections_total",
      "bulkhead_device_model_back_end_losses_total",
      "bulkhead_device_model_queues_lost_total",
      "bulkhead_device_model_queues_served",
      "bulkhead_device_model_requests_passed_on_again_total",
  };
  std::set<std::string> possible = there;
  possible.insert(kOfOthers->begin(), kOfOthers->end());
  for (const char* file :
       {"tools/packaging/monitoring/grafana-dashboard.json",
        "tools/packaging/monitoring/prometheus-rules.yml", "docs/monitoring.md"}) {
    EXPECT_THAT(Missing(NamesIn(ReadFile(DataFile(file))), possible), IsEmpty()) << file;
  }
  const std::set<std::string> documented = NamesIn(ReadFile(DataFile("docs/monitoring.md")));
  EXPECT_THAT(Missing(there, documented), IsEmpty()) << "not in docs/monitoring.md";
}

TEST_F(MonitoringTest, NoDeviceReportsAFigureTwice) {
  (void)NamesInOutput();  // all have reported
  const std::string page = Scrape();
  for (const char* device : kDevices) {
    EXPECT_THAT(page, HasSubstr(absl::StrCat("bulkhead_device_repeated_metrics{device=\"", device,
                                             "\",vm=\"watched\"} 0\n")));
  }
}

TEST_F(MonitoringTest, VcpusHaveExitsAndTimes) {
  const std::string page = Scrape();
  EXPECT_THAT(page, HasSubstr("bulkhead_vm_up{vm=\"watched\"} 1\n"));
  for (const char* vcpu : {"0", "1"}) {
    for (const char* name : {"processor", "guest"}) {
      EXPECT_THAT(page, ContainsRegex(absl::StrCat("bulkhead_vcpu_", name, "_seconds_total.vcpu=\"",
                                                   vcpu, "\",vm=\"watched\". [0-9]")));
    }
  }
  // It has printed text.
  EXPECT_THAT(page, ContainsRegex("bulkhead_vcpu_exits_total.vcpu=\"0\",vm=\"watched\". [1-9]"));
  EXPECT_THAT(page, ContainsRegex("bulkhead_vcpu_exits_by_reason_total.reason=\"port\",vcpu=\"0\","
                                  "vm=\"watched\". [1-9]"));
}

TEST_F(MonitoringTest, TopShowsEachVcpuAndDevice) {
  const CommandResult top = Vmctl("top --vm watched --once");
  EXPECT_EQ(top.exit_code, 0) << top.output;
  EXPECT_THAT(top.output, HasSubstr("watched  RUNNING  up "));
  for (const char* vcpu : {"0", "1"}) {
    EXPECT_THAT(top.output, ContainsRegex(absl::StrCat("\n", vcpu, "  +[0-9]")));
  }
  for (const char* device : kDevices) {
    EXPECT_THAT(top.output, ContainsRegex(absl::StrCat("\n", device, " +RUNNING "))) << top.output;
  }
}

}  // namespace
}  // namespace bulkhead::integration
