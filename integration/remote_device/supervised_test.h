#ifndef BULKHEAD_INTEGRATION_REMOTE_DEVICE_SUPERVISED_TEST_H_
#define BULKHEAD_INTEGRATION_REMOTE_DEVICE_SUPERVISED_TEST_H_

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/testing/files.h"
#include "base/testing/processes.h"
#include "base/unique_fd.h"
#include "gtest/gtest.h"
#include "proto/vm_control.pb.h"
#include "vmm/config/host_file.h"
#include "vmm/config/program_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/process_monitor.h"
#include "vmm/supervisor/device_supervisor.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {

// All waits end much sooner; the machine may be busy.
inline constexpr absl::Duration kTestTimeout = absl::Seconds(60);

inline std::string DeviceBinary() {
  return absl::StrCat(getenv("TEST_SRCDIR"), "/", getenv("TEST_WORKSPACE"),
                      "/devices/host/testdata/misbehaving_device");
}

// Children of this process, running or zombies, without the launcher and its init.
inline std::set<pid_t> Children() {
  std::set<pid_t> children;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::istringstream text(ReadFile(task.path() / "children"));
    for (pid_t pid; text >> pid;) {
      if (ReadFile(absl::StrCat("/proc/", pid, "/comm")).rfind("vmm-", 0) != 0)
        children.insert(pid);
    }
  }
  return children;
}

// A descriptor of `path` that process `pid` has, for this process, too.
inline UniqueFd DescriptorOf(pid_t pid, const std::string& path) {
  const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ignored)) {
    if (std::filesystem::read_symlink(entry.path(), ignored) != path) continue;
    const int number = std::stoi(entry.path().filename().string());
    return UniqueFd(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), number, 0)));
  }
  return UniqueFd();
}

// While this lives, this process can open nothing: it is at its limit of descriptors. (It could
// not poll(2) with a limit below what it has open, so the numbers below the limit are taken.)
class ShortageOfDescriptors {
 public:
  ShortageOfDescriptors() {
    getrlimit(RLIMIT_NOFILE, &before_);
    rlimit lower = before_;
    lower.rlim_cur = 256;
    setrlimit(RLIMIT_NOFILE, &lower);
    for (int fd; (fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0)) >= 0;) taken_.emplace_back(fd);
  }
  ~ShortageOfDescriptors() {
    taken_.clear();
    setrlimit(RLIMIT_NOFILE, &before_);
  }
  ShortageOfDescriptors(const ShortageOfDescriptors&) = delete;
  ShortageOfDescriptors& operator=(const ShortageOfDescriptors&) = delete;

 private:
  rlimit before_ = {};
  std::vector<UniqueFd> taken_;
};

// Starts misbehaving_device under supervision, and hears what happens to it.
class SupervisedTest : public testing::Test {
 protected:
  ~SupervisedTest() override { events_.Unlisten(listener_); }

  // For binaries that are there.
  static ProgramFile Program(const std::string& path) {
    absl::StatusOr<ProgramFile> program = ProgramFile::Open(path);
    EXPECT_TRUE(program.ok()) << program.status();
    return *std::move(program);
  }

  // Binaries for commands may be anywhere.
  static std::shared_ptr<const ProgramFolders> AllFolders() {
    auto folders = std::make_shared<ProgramFolders>();
    EXPECT_TRUE(folders->Add("/").ok());
    return folders;
  }

  DeviceSpec Spec(const std::string& misbehaviour) {
    DeviceSpec spec;
    spec.name = "disk0";
    spec.binary = Program(DeviceBinary());
    spec.binary_folders = AllFolders();
    if (!misbehaviour.empty()) spec.args = {absl::StrCat("--misbehaviour=", misbehaviour)};
    spec.resources.push_back(
        {.name = "input", .file = *HostFile::Open(DeviceBinary(), {.read_only = true})});
    spec.access_timeout = absl::Seconds(30);
    return spec;
  }

  SupervisorOptions Options() {
    SupervisorOptions options;
    options.vcpus = 4;
    options.events = &events_;
    return options;
  }

  absl::StatusOr<std::unique_ptr<DeviceSupervisor>> Supervise(DeviceSpec spec) {
    return DeviceSupervisor::Create(std::move(spec), ram_, *monitor_, Options());
  }

  // Another name of the device's binary, by which it misbehaves so.
  std::string BinaryThat(const std::string& misbehaviour) {
    const std::string link =
        absl::StrCat(testing::TempDir(), "/", getpid(), "-device.", misbehaviour);
    unlink(link.c_str());
    EXPECT_EQ(symlink(DeviceBinary().c_str(), link.c_str()), 0);
    return link;
  }

  // A program that is the device while the file `needed` exists; else it runs, but does not say
  // what device it is.
  static std::string ProgramThatNeeds(const std::string& needed) {
    const std::string script =
        WriteTempFile("script", absl::StrCat("#!/bin/sh\n[ -e ", needed,
                                             " ] || exec sleep 1000\nexec ", DeviceBinary(), "\n"));
    EXPECT_EQ(chmod(script.c_str(), 0700), 0);
    return script;
  }

  // A device whose process has this file open for direct I/O.
  DeviceSpec DirectSpec(const std::string& path) {
    DeviceSpec spec = Spec("");
    absl::StatusOr<std::unique_ptr<HostFile>> file = HostFile::Open(path, {.direct = true});
    EXPECT_TRUE(file.ok()) << file.status();
    spec.resources[0].file = *std::move(file);
    return spec;
  }
  // The path of the file as /proc has it.
  static std::string DirectFile() {
    WriteTempFile("direct.img", std::string(4096, 'x'));
    return std::filesystem::canonical(testing::TempDir()) / "direct.img";
  }

  // Waits until `reached`, which is asked again whenever anything happens. False: never.
  bool WaitUntil(const std::function<bool()>& reached) {
    const absl::Time deadline = absl::Now() + kTestTimeout;
    while (!reached()) {
      if (absl::Now() > deadline) return false;
      absl::MutexLock lock(&mutex_);
      // A process's state and what clients see change without an event, too.
      changed_.WaitWithTimeout(&mutex_, absl::Milliseconds(5));
    }
    return true;
  }
  bool WaitForState(const DeviceSupervisor& device, v1::Device::State state) {
    return WaitUntil([&] { return device.Describe().state() == state; });
  }
  // Another process than `old` serves.
  bool WaitForSuccessor(const DeviceSupervisor& device, pid_t old) {
    return WaitUntil([&] {
      const v1::Device now = device.Describe();
      return now.state() == v1::Device::RUNNING && now.pid() != old;
    });
  }
  std::vector<v1::Event> Events() { return events_.EventsAfter(0, EventLog::kKeptEvents); }
  int CountEvents(const std::function<bool(const v1::Event&)>& matches) {
    int count = 0;
    for (const v1::Event& event : Events()) count += matches(event) ? 1 : 0;
    return count;
  }
  // The states that the device went through, as "RUNNING RESTARTING RUNNING".
  std::string States() {
    std::string states;
    for (const v1::Event& event : Events()) {
      if (!event.has_device_state()) continue;
      absl::StrAppend(&states, states.empty() ? "" : " ",
                      v1::Device::State_Name(event.device_state().to()));
    }
    return states;
  }

  GuestRam ram_ = *GuestRam::Create(16 << 20);
  EventLog events_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  const uint64_t listener_ = events_.Listen([this] { changed_.SignalAll(); });
  // After what its thread uses.
  std::unique_ptr<ProcessMonitor> monitor_ = *ProcessMonitor::Create(*Launcher::Start());
};

// Gives a command and waits for its result.
inline absl::Status Await(const std::function<void(DeviceSupervisor::Done)>& give) {
  struct Result {
    absl::Notification came;
    absl::Status status;
  };
  auto result = std::make_shared<Result>();
  give([result](absl::Status status) {
    result->status = std::move(status);
    result->came.Notify();
  });
  if (!result->came.WaitForNotificationWithTimeout(kTestTimeout)) {
    return absl::UnknownError("the command's result never came");
  }
  return result->status;
}
inline absl::Status Restart(DeviceSupervisor& device, const std::string& binary = "",
                            bool discard_state = false) {
  return Await([&](auto done) { device.Restart(binary, discard_state, std::move(done)); });
}
inline void RefreshMetrics(DeviceSupervisor& device) {
  const absl::Status done =
      Await([&](auto result) { device.RefreshMetrics([result] { result(absl::OkStatus()); }); });
  EXPECT_TRUE(done.ok()) << done;
}
// -1: it has none of that name.
inline double MetricOf(const DeviceSupervisor& device, const std::string& name) {
  const v1::DeviceMetrics metrics = device.Metrics();
  for (const v1::DeviceMetric& metric : metrics.metrics()) {
    if (metric.name() == name) return metric.value();
  }
  return -1;
}
inline absl::Status Reset(DeviceSupervisor& device) {
  return Await([&](auto done) { device.Reset(std::move(done)); });
}
inline absl::Status StopDevice(DeviceSupervisor& device) {
  return Await([&](auto done) { device.Stop(std::move(done)); });
}
inline absl::Status StartDevice(DeviceSupervisor& device) {
  return Await([&](auto done) { device.Start(std::move(done)); });
}
inline absl::Status ResetForReboot(DeviceSupervisor& device) {
  return Await([&](auto done) { device.ResetForReboot(std::move(done)); });
}

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_INTEGRATION_REMOTE_DEVICE_SUPERVISED_TEST_H_
