// `vmctl trace` of a VM under disk load, of which a device process is killed meanwhile: the file is
// whole, and shows accesses, doorbells, interrupts, requests and the restart, at times that agree.

#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/child_process.h"
#include "base/testing/files.h"
#include "base/testing/run_command.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"
#include "tools/vmctl/testing/trace_check.h"

namespace bulkhead::integration {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using vmctl::CheckedTrace;
using vmctl::CheckTrace;
using Event = CheckedTrace::Event;

constexpr absl::Duration kTimeout = absl::Seconds(90);
constexpr size_t kDepth = 16;

std::string Describe(const Event& event) {
  return absl::StrCat(event.name, " on ", event.track, " of ", event.process, ", ", event.begin_ns,
                      " to ", event.end_ns);
}

class TraceTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string disk = WriteTempFile("traced.img", "");
    ASSERT_EQ(truncate(disk.c_str(), 4 << 20), 0);
    absl::StatusOr<std::unique_ptr<VmProcess>> vm = VmProcess::Start(
        {absl::StrCat("--kernel=", DataFile("kernel_images/baremetal/guest.elf")),
         absl::StrCat("--cmdline=run=disk_storm until_key=1 progress=200 depth=", kDepth),
         "--name=traced", "--control=" + socket_, "--disk=path=" + disk, "--no-reboot"});
    ASSERT_TRUE(vm.ok()) << vm.status();
    vm_ = *std::move(vm);
    AwaitProgress(1);
  }

  // The guest prints for each 200 requests.
  void AwaitProgress(int lines) {
    for (int i = 0; i < lines; ++i) {
      ASSERT_TRUE(vm_->WaitForOutput("\n", kTimeout).ok()) << vm_->output() << vm_->log();
    }
  }

  // The disk's process completes so many more requests.
  static bool AwaitRequests(const VmClient& client, double count) {
    const auto completed = [&client] {
      return client.DeviceMetric("disk0", "reads_total") +
             client.DeviceMetric("disk0", "writes_total");
    };
    const double before = completed();
    const absl::Time deadline = absl::Now() + kTimeout;
    while (completed() < before + count) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(200));  // each asks the devices
    }
    return true;
  }

  // Returns once it records. It goes on until it gets SIGINT, or the VM ends.
  std::unique_ptr<ChildProcess> StartTrace(const std::string& path) {
    signal(SIGINT, SIG_DFL);  // a shell may have this program ignore it, and its children inherit
    absl::StatusOr<std::unique_ptr<ChildProcess>> trace =
        ChildProcess::Start({DataFile("tools/vmctl/vmctl"), "trace", "--socket=" + socket_,
                             "--seconds=600", "-o", path},
                            {absl::StrCat("PATH=", getenv("PATH"))});
    EXPECT_TRUE(trace.ok()) << trace.status();
    EXPECT_TRUE(vm_->WaitForLog("a client traces the VM", kTimeout).ok()) << vm_->log();
    return trace.ok() ? *std::move(trace) : nullptr;
  }

  const std::string socket_ = absl::StrCat(testing::TempDir(), "/traced.sock");
  std::unique_ptr<VmProcess> vm_;
};

TEST_F(TraceTest, ShowsWhatHappenedWhileADeviceDied) {
  const VmClient client(socket_);
  const std::string path = absl::StrCat(testing::TempDir(), "/trace.json");
  const std::unique_ptr<ChildProcess> tracer = StartTrace(path);
  ASSERT_NE(tracer, nullptr);
  EXPECT_TRUE(AwaitRequests(client, 400));
  const pid_t pid = client.PidOf("disk0");
  EXPECT_EQ(kill(pid, SIGKILL), 0);
  EXPECT_TRUE(client.AwaitGeneration("disk0", 2));
  EXPECT_TRUE(AwaitRequests(client, 400));
  const CommandResult second =
      RunCommand(absl::StrCat(DataFile("tools/vmctl/vmctl"), " trace --socket=", socket_, " -o ",
                              testing::TempDir(), "/second.json"));
  EXPECT_EQ(second.exit_code, 1) << second.output;
  EXPECT_THAT(second.output, HasSubstr("another trace"));
  EXPECT_TRUE(tracer->Signal(SIGINT).ok());
  const absl::StatusOr<ExitInfo> end = tracer->WaitForExit(kTimeout);
  ASSERT_TRUE(end.ok()) << end.status();
  ASSERT_EQ(end->ToString(), "exit code 0") << tracer->error() << vm_->log();
  EXPECT_THAT(tracer->output(), HasSubstr("disk0"));
  EXPECT_THAT(tracer->error(), Not(HasSubstr("too fast")));

  const CheckedTrace trace = CheckTrace(path);
  ASSERT_THAT(trace.errors, IsEmpty());

  // The process that died, and the one that followed.
  const std::vector<Event> ends = trace.Find("disk0 (virtio-blk)", "event", "process ");
  ASSERT_THAT(ends, SizeIs(1));
  EXPECT_THAT(ends[0].name, HasSubstr(absl::StrCat("process ", pid, " ")));
  const int64_t death = ends[0].begin_ns;
  const std::vector<Event> states = trace.Find("disk0 (virtio-blk)", "state");
  ASSERT_THAT(states, SizeIs(testing::Ge(3u)));
  EXPECT_THAT(states.front().name, HasSubstr(absl::StrCat("RUNNING, pid ", pid, ", generation 1")));
  EXPECT_THAT(states[1].name, HasSubstr("RESTARTING"));
  EXPECT_THAT(states.back().name, HasSubstr("generation 2"));
  EXPECT_EQ(states.front().begin_ns, 0);
  for (size_t i = 1; i < states.size(); ++i) {
    EXPECT_EQ(states[i].begin_ns, states[i - 1].end_ns) << Describe(states[i]);
  }
  const int64_t end_of_trace = states.back().end_ns;
  const int64_t served_again = states.back().begin_ns;
  EXPECT_LE(states.front().end_ns, served_again);
  EXPECT_LE(death, served_again);

  // Requests before and after, none of which outlives its process.
  const std::vector<Event> requests = trace.Find("disk0 (virtio-blk)", "request");
  size_t before = 0;
  size_t after = 0;
  size_t given_up = 0;
  for (const Event& request : requests) {
    EXPECT_LE(request.end_ns, end_of_trace) << Describe(request);
    if (request.begin_ns <= death) {
      EXPECT_LE(request.end_ns, death) << Describe(request);
      ++before;
      if (request.unfinished) {
        EXPECT_EQ(request.end_ns, death) << Describe(request);
        ++given_up;
      }
    } else {
      ++after;
      if (request.unfinished) {
        EXPECT_EQ(request.end_ns, end_of_trace) << Describe(request);
      }
    }
  }
  EXPECT_GE(before, 200u);
  EXPECT_GE(after, 200u);
  EXPECT_LE(given_up, kDepth);

  // The other kinds, before and after.
  for (const char* category : {"doorbell", "interrupt"}) {
    const std::vector<Event> events = trace.Find("disk0 (virtio-blk)", category);
    ASSERT_FALSE(events.empty()) << category;
    EXPECT_LT(events.front().begin_ns, death) << category;
    EXPECT_GT(events.back().begin_ns, death) << category;
    EXPECT_LE(events.back().begin_ns, end_of_trace) << category;
    // Each of the disk's requests is announced by the same vector.
    if (std::string(category) == "interrupt") {
      EXPECT_THAT(events[0].name, HasSubstr("vector "));
    }
  }
  const std::vector<Event> accesses = trace.Find("VM traced", "access", "console ");
  ASSERT_THAT(accesses, SizeIs(testing::Ge(100u)));  // the guest's lines
  for (const Event& access : accesses) {
    EXPECT_EQ(access.track, "vCPU 0");
    EXPECT_THAT(access.name, HasSubstr("1 byte at port0+0x"));
    EXPECT_LE(access.end_ns, end_of_trace + absl::ToInt64Nanoseconds(absl::Seconds(1)));
  }

  // The guest has lost nothing by all of that.
  ASSERT_TRUE(vm_->Type("x").ok());
  const absl::StatusOr<ExitInfo> exit = vm_->WaitForExit(kTimeout);
  ASSERT_TRUE(exit.ok()) << exit.status() << vm_->log();
  EXPECT_EQ(exit->ToString(), "exit code 0") << vm_->output() << vm_->log();
}

TEST_F(TraceTest, AVmThatEndsLeavesAWholeFile) {
  const std::string path = absl::StrCat(testing::TempDir(), "/ended.json");
  const std::unique_ptr<ChildProcess> tracer = StartTrace(path);
  ASSERT_NE(tracer, nullptr);
  AwaitProgress(2);
  EXPECT_TRUE(VmClient(socket_).Stop().ok());
  const absl::StatusOr<ExitInfo> end = tracer->WaitForExit(kTimeout);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->ToString(), "exit code 3") << tracer->error() << vm_->log();
  const CheckedTrace trace = CheckTrace(path);
  EXPECT_THAT(trace.errors, IsEmpty());
  EXPECT_THAT(trace.Find("disk0 (virtio-blk)", "request"), Not(IsEmpty()));
}

}  // namespace
}  // namespace bulkhead::integration
