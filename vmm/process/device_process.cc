#include "vmm/process/device_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/message_socket.h"
#include "base/pipe.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "proto/attach.pb.h"
#include "proto/contract.h"
#include "vmm/process/device_log.h"
#include "vmm/process/printable.h"

namespace bulkhead::vmm {
namespace {

constexpr size_t kMaxReplyBytes = 4096;
constexpr absl::string_view kPrintedNothing = "; it printed nothing";
constexpr absl::string_view kLastLines = "; its last lines:";
// How long a process may take to be dead after it was killed, and after it closed its sockets.
constexpr absl::Duration kKillTimeout = absl::Seconds(2);
constexpr absl::Duration kExitTimeout = absl::Milliseconds(500);

// A device's environment is empty, except for the options of sanitizers.
std::vector<std::string> DeviceEnvironment() {
  std::vector<std::string> environment;
  for (const char* name : {"ASAN_OPTIONS", "TSAN_OPTIONS", "UBSAN_OPTIONS"}) {
    if (const char* value = getenv(name)) environment.push_back(absl::StrCat(name, "=", value));
  }
  return environment;
}

// Keeps DeadlineExceeded and Unavailable; any other error of a process is Internal. A process must
// not choose the code: InvalidArgument, for one, means a mistake in the configuration.
absl::Status AsDeviceError(const absl::Status& status) {
  if (absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status)) return status;
  return absl::InternalError(status.message());
}

// What a device process says of its own line, "disk0| virtio_blk: warning: text". Not trusted: it
// is for people, and a process may write any number of errors in any case.
LogLevel LevelOf(absl::string_view line) {
  if (absl::StrContains(line, ": error: ")) return LogLevel::kError;
  return absl::StrContains(line, ": warning: ") ? LogLevel::kWarning : LogLevel::kInfo;
}

}  // namespace

// The state of one process that the monitor's thread and the owner share.
class DeviceProcess::Watcher final : public ProcessObserver {
 public:
  Watcher(const DeviceProgram& program, std::function<void()> on_exit)
      : has_filter_(program.sandbox.layers.has(SandboxLayer::kSeccomp)),
        log_(program.device_name, [](absl::string_view line) { LogQuoted(LevelOf(line), line); }),
        cgroup_(program.sandbox.cgroup),
        oom_kills_before_(OomKills()),
        on_exit_(std::move(on_exit)) {
    log_.Buffer();
  }

  void OnOutput(absl::string_view bytes) override { log_.Append(bytes); }
  void OnViolation(absl::string_view what) override {
    absl::MutexLock lock(&mutex_);
    violation_ = std::string(what);
  }
  void OnExit(const ExitInfo& exit) override {
    const bool out_of_memory = exit.signalled && OomKills() != oom_kills_before_;
    {
      absl::MutexLock lock(&mutex_);
      exit_time_ = SteadyNow();
      if (out_of_memory) {
        kill_reason_ = "killed by the kernel: it exceeded the limit of memory of its control group";
      }
    }
    on_exit_();
  }
  void OnOutputEnd() override { log_.Finish(); }

  DeviceLog& log() { return log_; }

  void SetKillReason(absl::string_view reason) {
    absl::MutexLock lock(&mutex_);
    if (kill_reason_.empty()) kill_reason_ = std::string(reason);
  }
  bool exited() const {
    absl::MutexLock lock(&mutex_);
    return exit_time_.has_value();
  }
  DeviceProcessEnd End(const ExitInfo& exit) const {
    absl::MutexLock lock(&mutex_);
    // The process may have ended by itself before the kill.
    const bool killed = exit.signalled && exit.code == SIGKILL && !kill_reason_.empty();
    std::string reason = exit.ToString();
    std::string violation = violation_;
    if (!violation.empty()) {
      reason = absl::StrCat("killed, because it violated its sandbox: ", violation);
    } else if (has_filter_ && exit.signalled && exit.code == SIGSYS) {
      violation = "a system call that it may only make at its start";
      absl::StrAppend(&reason, ", because it violated its sandbox: ", violation);
    } else if (killed) {
      reason = kill_reason_;
    }
    return {.exit = exit,
            .reason = std::move(reason),
            .violation = std::move(violation),
            .time = exit_time_.value_or(SteadyNow()),
            .last_lines = log_.LastLines()};
  }

 private:
  uint64_t OomKills() const { return cgroup_ == nullptr ? 0 : cgroup_->OomKills(); }

  const bool has_filter_;
  DeviceLog log_;
  const std::shared_ptr<const Cgroup> cgroup_;  // null: none
  const uint64_t oom_kills_before_;
  const std::function<void()> on_exit_;

  mutable absl::Mutex mutex_;
  std::string kill_reason_ ABSL_GUARDED_BY(mutex_);
  std::string violation_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Time> exit_time_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<DeviceProcess>> DeviceProcess::Start(
    ProcessMonitor& monitor, const DeviceProgram& program, std::function<void()> on_exit,
    std::shared_ptr<PendingCloses> closes, const Launcher::Limits& limits) {
  static_assert(kAttachSocketFd == 3 && kControlSocketFd == 4);
  ASSIGN_OR_RETURN(Pipe output, CreatePipe());
  // The write end stays blocking: a device's write waits until the vmm reads.
  if (fcntl(output.read_end.get(), F_SETFL, O_NONBLOCK) != 0) return ErrnoToStatus(errno, "fcntl");
  ASSIGN_OR_RETURN(auto attach, CreateSocketPair(SOCK_SEQPACKET));
  RefuseDescriptors(attach.first.get());
  ASSIGN_OR_RETURN(auto control, CreateSocketPair(SOCK_STREAM | SOCK_NONBLOCK));

  ProcessSandbox sandbox = program.sandbox;
  if (sandbox.layers.has(SandboxLayer::kSeccomp)) {
    ASSIGN_OR_RETURN(ProgramFile::SeccompFilters filters, program.binary.Filters());
    sandbox.filter = std::move(filters.starting);
  }
  const ProcessSpec spec = {
      .binary = program.binary,
      .args = program.args,
      .environment = DeviceEnvironment(),
      .descriptors = {monitor.null_device(), output.write_end.get(), output.write_end.get(),
                      attach.second.get(), control.second.get()},
      .sandbox = std::move(sandbox)};
  auto watcher = std::make_shared<Watcher>(program, std::move(on_exit));
  ASSIGN_OR_RETURN(auto process, monitor.Start(spec, std::move(output.read_end), watcher, limits));
  // While the program starts, since gRPC takes a millisecond.
  absl::StatusOr<std::unique_ptr<ControlClient>> client =
      ControlClient::Create(std::move(control.first), closes);
  if (!client.ok()) {
    process->Kill();
    process->WaitForExit(kKillTimeout).IgnoreError();
    return client.status();
  }
  return std::unique_ptr<DeviceProcess>(
      new DeviceProcess(program, std::move(watcher), std::move(process), std::move(attach.first),
                        *std::move(client), std::move(closes)));
}

DeviceProcess::DeviceProcess(const DeviceProgram& program, std::shared_ptr<Watcher> watcher,
                             std::shared_ptr<MonitoredProcess> process, UniqueFd attach_socket,
                             std::unique_ptr<ControlClient> control,
                             std::shared_ptr<PendingCloses> closes)
    : title_(absl::StrCat("device '", program.device_name, "' (", program.binary.path(), ")")),
      program_(program),
      watcher_(std::move(watcher)),
      process_(std::move(process)),
      attach_socket_(std::move(attach_socket)),
      control_(std::move(control)),
      closes_(std::move(closes)) {}

DeviceProcess::~DeviceProcess() {
  process_->Kill();
  CloseElsewhere(std::move(attach_socket_), closes_);
}

void DeviceProcess::RequestExit() {
  // The process must see the end of the socket now; the close may happen later.
  shutdown(attach_socket_.get(), SHUT_RDWR);
  CloseElsewhere(std::move(attach_socket_), closes_);
  control_.reset();  // else the process waits a moment for further calls
}

absl::StatusOr<DeviceDescription> DeviceProcess::Describe(ControlCall& call) {
  const absl::StatusOr<v1::DeviceInfo> info = control_->Describe(call);
  if (!info.ok() && call.cancelled()) return absl::CancelledError("the call was cancelled");
  if (!info.ok()) return AsDeviceError(info.status());
  absl::StatusOr<DeviceDescription> description = ValidateDeviceInfo(*info);
  if (!description.ok()) return AsDeviceError(description.status());
  described_ = true;
  return description;
}

absl::Status DeviceProcess::Attach(const AttachOffer& offer, absl::Duration timeout) {
  v1::AttachRequest request = offer.request;
  if (program_.sandbox.layers.has(SandboxLayer::kSeccomp)) {
    ASSIGN_OR_RETURN(const ProgramFile::SeccompFilters filters, program_.binary.Filters());
    request.set_seccomp_filter(filters.serving.data(),
                               filters.serving.size() * sizeof(sock_filter));
  }
  std::string bytes = request.SerializeAsString();
  absl::Span<const int> unsent = offer.descriptors;
  do {
    const auto packet = unsent.subspan(0, kMaxMessageDescriptors);
    absl::Status sent = SendSocketMessage(attach_socket_.get(), bytes, packet);
    if (absl::IsUnavailable(sent)) return sent;
    if (!sent.ok()) return absl::ResourceExhaustedError(sent.message());
    ++offer_packets_;
    unsent.remove_prefix(packet.size());
    bytes.assign(1, '+');  // no packet is empty
  } while (!unsent.empty());
  return AwaitAttached(offer.request.generation(), timeout);
}

absl::Status DeviceProcess::AwaitAttached(uint64_t generation, absl::Duration timeout) {
  const absl::StatusOr<std::string> message =
      ReceivePlainMessage(attach_socket_.get(), kMaxReplyBytes, timeout);
  if (!message.ok()) return AsDeviceError(message.status());
  v1::AttachReply reply;
  if (!reply.ParseFromString(*message)) {
    return absl::InternalError("its reply to the attach request does not parse");
  }
  if (!reply.error().empty()) {
    return absl::FailedPreconditionError(Printable(reply.error()));
  }
  if (reply.generation() != generation) {
    return absl::InternalError(
        absl::StrCat("it replied for generation ", reply.generation(), " instead of ", generation));
  }
  return absl::OkStatus();
}

bool DeviceProcess::has_taken_offer() const {
  int unread_bytes = 0;
  // Of several packets it may have read the first.
  return offer_packets_ > 1 || ioctl(attach_socket_.get(), SIOCOUTQ, &unread_bytes) != 0 ||
         unread_bytes == 0;
}

void DeviceProcess::ForwardOutput() { watcher_->log().ForwardAll(); }

absl::Status DeviceProcess::ExplainFailure(const absl::Status& why) {
  // The socket closes a moment before the process is dead. Wait for its exit code, which says more.
  absl::StatusOr<DeviceProcessEnd> end = absl::DeadlineExceededError("");
  if (absl::IsUnavailable(why)) end = WaitForEnd(kExitTimeout);
  const bool ended_by_itself = end.ok();
  if (!ended_by_itself) {
    Kill("killed, because its start failed");
    end = WaitForEnd(kKillTimeout);
  }
  // A shortage of the vmm is not the process's fault: report it without the last lines.
  if (absl::IsResourceExhausted(why)) {
    return absl::ResourceExhaustedError(absl::StrCat(title_, ": ", why.message()));
  }
  const std::string last_lines = end.ok() ? end->last_lines : watcher_->log().LastLines();
  if (ended_by_itself && !end->exit.signalled) {
    const std::vector<std::string> lines = absl::StrSplit(last_lines, '\n', absl::SkipEmpty());
    if (end->exit.code == kDeviceExitUsage && !described_) {
      return absl::InvalidArgumentError(absl::StrCat(
          "device '", program_.device_name,
          "': its flags are wrong: ", lines.empty() ? "it printed no reason" : lines.back(),
          "; see ", program_.binary.path(), " --help"));
    }
    if (end->exit.code == kDeviceExitShortage) {
      return absl::ResourceExhaustedError(absl::StrCat(
          title_, ": ",
          lines.empty() ? "it reports a shortage but printed no reason" : lines.back()));
    }
  }
  const std::string what = ended_by_itself
                               ? absl::StrCat("it ended during its start: ", end->reason)
                               : std::string(why.message());
  return absl::Status(why.code(), WithLastLines(absl::StrCat(title_, ": ", what),
                                                program_.device_name, last_lines));
}

void DeviceProcess::Kill(absl::string_view reason) const {
  watcher_->SetKillReason(reason);
  process_->Kill();
}

bool DeviceProcess::exited() const { return watcher_->exited(); }

absl::StatusOr<DeviceProcessEnd> DeviceProcess::WaitForEnd(absl::Duration timeout) const {
  ASSIGN_OR_RETURN(const ExitInfo exit, process_->WaitForExit(timeout));
  return watcher_->End(exit);
}

std::string WithLastLines(std::string text, absl::string_view device_name,
                          absl::string_view last_lines) {
  if (last_lines.empty()) return absl::StrCat(text, kPrintedNothing);
  absl::StrAppend(&text, kLastLines);
  for (const absl::string_view line :
       absl::StrSplit(absl::StripTrailingAsciiWhitespace(last_lines), '\n')) {
    absl::StrAppend(&text, "\n", device_name, "| ", line);
  }
  return text;
}

std::string WithoutLastLines(absl::string_view text) {
  return std::string(text.substr(0, std::min(text.find(kPrintedNothing), text.find(kLastLines))));
}

}  // namespace bulkhead::vmm
