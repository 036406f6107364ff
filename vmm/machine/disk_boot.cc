#include "vmm/machine/disk_boot.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/errno_status.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/pipe.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/boot_report.pb.h"
#include "vmm/boot_loader/descriptors.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/process/device_log.h"
#include "vmm/process/printable.h"

namespace bulkhead::vmm {
namespace {

using boot_loader::kInitrdFd;
using boot_loader::kKernelFd;

// How long the boot loader may take: it reads some 100 MB.
constexpr absl::Duration kTimeout = absl::Minutes(2);
constexpr absl::Duration kKillTimeout = absl::Seconds(2);
constexpr int kCheckIntervalMs = 100;
constexpr size_t kMaxLogLines = 100;

// The boot loader's process, as the monitor's thread tells of it.
class Watcher final : public ProcessObserver {
 public:
  explicit Watcher(EventFd ended) : ended_(std::move(ended)), log_("boot_loader", [](auto) {}) {
    log_.Buffer();
  }

  void OnOutput(absl::string_view bytes) override { log_.Append(bytes); }
  void OnViolation(absl::string_view what) override {
    absl::MutexLock lock(&mutex_);
    violation_ = std::string(what);
  }
  void OnExit(const ExitInfo&) override {}
  void OnOutputEnd() override {
    log_.Finish();
    ended_.Signal();
  }

  // Readable once the process is dead.
  int fd() const { return ended_.fd(); }
  // Why it has failed.
  std::string Failure(const ExitInfo& exit) const {
    absl::MutexLock lock(&mutex_);
    const std::string lines = log_.LastLines();
    return absl::StrCat(violation_.empty() ? exit.ToString()
                                           : absl::StrCat("it violated its sandbox: ", violation_),
                        lines.empty() ? "" : "; its last lines:\n", lines);
  }

 private:
  const EventFd ended_;
  DeviceLog log_;
  mutable absl::Mutex mutex_;
  std::string violation_ ABSL_GUARDED_BY(mutex_);
};

// What the process writes to.
struct Results {
  UniqueFd report, kernel, initrd;
};

absl::StatusOr<UniqueFd> CreateResult(absl::string_view name, uint64_t size_bytes) {
  ASSIGN_OR_RETURN(UniqueFd fd, CreateMemfd(name, size_bytes));
  // What it holds counts against the host's memory.
  RETURN_IF_ERROR(AddSeals(fd.get(), F_SEAL_GROW | F_SEAL_SEAL));
  return fd;
}

absl::StatusOr<Results> CreateResults(uint64_t memory_bytes) {
  Results results;
  ASSIGN_OR_RETURN(results.report, CreateResult("boot report", boot_loader::kReportBytes));
  ASSIGN_OR_RETURN(results.kernel,
                   CreateResult("kernel", std::min(memory_bytes, boot_loader::kMaxKernelBytes)));
  ASSIGN_OR_RETURN(results.initrd,
                   CreateResult("initrd", std::min(memory_bytes, boot_loader::kMaxInitrdBytes)));
  return results;
}

// A memory file with these bytes.
absl::StatusOr<UniqueFd> FileWith(absl::Span<const sock_filter> filter) {
  const size_t size = filter.size() * sizeof(sock_filter);
  ASSIGN_OR_RETURN(UniqueFd fd, CreateMemfd("seccomp filter", 0));
  if (write(fd.get(), filter.data(), size) == static_cast<ssize_t>(size)) return fd;
  return ErrnoToStatus(errno, "writing a memfd");
}

// The process is dead: what it has written does not change any more. It may have been taken over.
absl::StatusOr<v1::BootReport> ReadReport(const UniqueFd& file) {
  std::string bytes(boot_loader::kReportBytes, '\0');
  const ssize_t n = pread(file.get(), bytes.data(), bytes.size(), 0);
  uint64_t size = 0;
  v1::BootReport report;
  if (n >= static_cast<ssize_t>(sizeof(size))) {
    memcpy(&size, bytes.data(), sizeof(size));
    if (size <= static_cast<size_t>(n) - sizeof(size) &&
        report.ParseFromArray(bytes.data() + sizeof(size), static_cast<int>(size))) {
      return report;
    }
  }
  return absl::InvalidArgumentError("the boot loader's report cannot be read");
}

bool IsEmpty(const UniqueFd& file) {
  struct stat info;
  return fstat(file.get(), &info) != 0 || info.st_size == 0;
}

std::string NothingFound(const v1::BootReport& report) {
  std::string text = Printable(report.error());
  for (int i = 0; i < std::min<int>(report.log_size(), kMaxLogLines); ++i) {
    absl::StrAppend(&text, "\n  ", Printable(report.log(i)));
  }
  return text;
}

// With what the configuration says of the command line.
absl::StatusOr<std::string> CommandLine(const DiskBootSpec& spec, const std::string& found) {
  std::string line = spec.cmdline.empty() ? found : spec.cmdline;
  if (!spec.cmdline_append.empty()) {
    absl::StrAppend(&line, line.empty() ? "" : " ", spec.cmdline_append);
  }
  // Without a screen there is nothing else that it could write to.
  if (spec.has_console && !absl::StrContains(absl::StrCat(" ", line), " console=")) {
    absl::StrAppend(&line, line.empty() ? "" : " ", "console=ttyS0");
  }
  if (line.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("the kernel's command line has a zero byte");
  }
  if (line.size() < layout::kCommandLineMaxBytes) return line;
  return absl::InvalidArgumentError(absl::StrCat("the kernel's command line has ", line.size(),
                                                 " bytes (at most ",
                                                 layout::kCommandLineMaxBytes - 1, ")"));
}

absl::StatusOr<FoundBoot> TakeResults(const DiskBootSpec& spec, Results results) {
  ASSIGN_OR_RETURN(const v1::BootReport report, ReadReport(results.report));
  if (!report.error().empty()) return absl::InvalidArgumentError(NothingFound(report));
  if (report.kernel().empty()) {
    return absl::InvalidArgumentError("the boot loader has reported no kernel");
  }
  const auto name = [&spec](absl::string_view path) {
    return absl::StrCat(spec.device, ":", Printable(path));
  };
  std::vector<std::string> initrds;
  for (const std::string& path : report.initrd()) initrds.push_back(name(path));
  const std::string kernel_name = name(report.kernel());
  const std::string initrd_name = absl::StrJoin(initrds, ", ").substr(0, 1024);
  ASSIGN_OR_RETURN(BootFile kernel,
                   BootFile::FromFd(std::move(results.kernel), "kernel", kernel_name));
  FoundBoot found{.sources = {.kernel = std::move(kernel)},
                  .kernel = kernel_name,
                  .initrd = initrd_name,
                  .title = Printable(report.title())};
  if (!IsEmpty(results.initrd)) {
    if (initrds.empty()) {
      return absl::InvalidArgumentError("the boot loader has written an initrd and reported none");
    }
    ASSIGN_OR_RETURN(found.sources.initrd,
                     BootFile::FromFd(std::move(results.initrd), "initrd", initrd_name));
  }
  ASSIGN_OR_RETURN(found.sources.command_line, CommandLine(spec, report.command_line()));
  return found;
}

absl::StatusOr<Results> RunBootLoader(const DiskBootSpec& spec, ProcessMonitor& monitor,
                                      BootWait wait) {
  ASSIGN_OR_RETURN(Results results, CreateResults(spec.memory_bytes));
  ASSIGN_OR_RETURN(Pipe output, CreatePipe());
  if (fcntl(output.read_end.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoToStatus(errno, "fcntl");
  ProcessSandbox sandbox = spec.sandbox;
  UniqueFd serving_filter;
  if (sandbox.layers.has(SandboxLayer::kSeccomp)) {
    ASSIGN_OR_RETURN(ProgramFile::SeccompFilters filters, spec.program.Filters());
    sandbox.filter = std::move(filters.starting);
    ASSIGN_OR_RETURN(serving_filter, FileWith(filters.serving));
  } else {
    ASSIGN_OR_RETURN(serving_filter, FileWith({}));
  }
  ASSIGN_OR_RETURN(EventFd ended, EventFd::Create());
  const auto watcher = std::make_shared<Watcher>(std::move(ended));
  static_assert(boot_loader::kDiskFd == 3 && boot_loader::kFilterFd == 4 &&
                boot_loader::kReportFd == 5 && kKernelFd == 6 && kInitrdFd == 7);
  const ProcessSpec process_spec = {
      .binary = spec.program,
      .args = {absl::StrCat("--entry=", spec.entry)},
      .environment = {},
      .descriptors = {monitor.null_device(), output.write_end.get(), output.write_end.get(),
                      spec.disk.get(), serving_filter.get(), results.report.get(),
                      results.kernel.get(), results.initrd.get()},
      .sandbox = std::move(sandbox)};
  ASSIGN_OR_RETURN(const auto process,
                   monitor.Start(process_spec, std::move(output.read_end), watcher));
  output.write_end.reset();

  const absl::Time deadline = SteadyNow() + kTimeout;
  absl::Status given_up;
  while (true) {
    pollfd dead = {.fd = watcher->fd(), .events = POLLIN, .revents = 0};
    if (poll(&dead, 1, 0) > 0) break;
    if (SteadyNow() >= deadline) {
      given_up = absl::InvalidArgumentError(absl::StrCat(
          "the boot loader was killed: it took more than ", absl::FormatDuration(kTimeout)));
    } else if (!wait(watcher->fd())) {
      given_up = absl::CancelledError("the VM is ending");
    }
    if (given_up.ok()) continue;
    process->Kill();
    process->WaitForExit(kKillTimeout).IgnoreError();
    return given_up;
  }
  ASSIGN_OR_RETURN(const ExitInfo exit, process->WaitForExit(kKillTimeout));
  if (!exit.signalled && exit.code == 0) return results;
  return absl::InvalidArgumentError(
      absl::StrCat("the boot loader failed: ", watcher->Failure(exit)));
}

}  // namespace

absl::StatusOr<FoundBoot> FindBootOnDisk(const DiskBootSpec& spec, ProcessMonitor& monitor,
                                         BootWait wait) {
  absl::StatusOr<Results> results = RunBootLoader(spec, monitor, wait);
  absl::StatusOr<FoundBoot> found =
      results.ok() ? TakeResults(spec, *std::move(results)) : results.status();
  if (found.ok() || !absl::IsInvalidArgument(found.status())) return found;
  return absl::InvalidArgumentError(absl::StrCat("booting from disk '", spec.device, "' (",
                                                 spec.path, "): ", found.status().message()));
}

bool WaitForBootLoader(int fd) {
  pollfd dead = {.fd = fd, .events = POLLIN, .revents = 0};
  (void)poll(&dead, 1, kCheckIntervalMs);
  return true;
}

}  // namespace bulkhead::vmm
