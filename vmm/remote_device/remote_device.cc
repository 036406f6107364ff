#include "vmm/remote_device/remote_device.h"

#include <unistd.h>

#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/numeric/bits.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "base/access_mask.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/channel/channel_layout.h"
#include "proto/contract.h"
#include "vmm/remote_device/device_log.h"

namespace bulkhead::vmm {
namespace {

using channel::Operation;

// How long a process may take to end once it was asked to, and once it was killed.
constexpr absl::Duration kEndTimeout = absl::Milliseconds(500);
constexpr absl::Duration kKillTimeout = absl::Seconds(2);

std::string WithLastLines(std::string text, absl::string_view last_lines) {
  if (last_lines.empty()) return absl::StrCat(text, "; it printed nothing");
  absl::StrAppend(&text, "; its last lines:");
  absl::StrAppend(&text, "\n", absl::StripTrailingAsciiWhitespace(last_lines));
  return text;
}

// Says at which step of the start `status` arose. A wrong answer of the process is no mistake in
// the configuration: InvalidArgument is for that.
absl::Status AtStep(absl::string_view step, const absl::Status& status) {
  if (status.ok()) return status;
  const absl::StatusCode code =
      absl::IsInvalidArgument(status) ? absl::StatusCode::kInternal : status.code();
  return absl::Status(code, absl::StrCat(step, ": ", status.message()));
}

}  // namespace

std::string DeviceFailure::ToString() const {
  return WithLastLines(absl::StrCat("device '", device, "' (process ", pid, "): ", reason),
                       last_lines);
}

// What the monitor's thread, the vCPU threads and the owner share about one process.
class RemoteDevice::Watcher final : public ProcessObserver {
 public:
  Watcher(absl::string_view name, std::function<void(const DeviceFailure&)> on_failure)
      : name_(name), log_(name, STDERR_FILENO), on_failure_(std::move(on_failure)) {
    log_.HoldBack();
  }

  void OnOutput(absl::string_view bytes) override { log_.Append(bytes); }

  void OnExit(const ExitInfo& exit) override {
    std::shared_ptr<DeviceEndpoints> endpoints;
    absl::Status why;
    {
      absl::MutexLock lock(&mutex_);
      exited_ = true;
      if (reason_.empty()) reason_ = exit.ToString();
      why = absl::UnavailableError(absl::StrCat("device '", name_, "': ", reason_));
      endpoints = endpoints_;
    }
    if (endpoints != nullptr) endpoints->channel().Fail(why);
  }

  void OnOutputEnd() override {
    log_.Finish();
    DeviceFailure failure;
    failure.device = name_;
    failure.last_lines = log_.LastLines();
    {
      absl::MutexLock lock(&mutex_);
      if (!serving_ || stopping_) return;
      failure.pid = pid_;
      failure.generation = generation_;
      failure.reason = reason_;
    }
    if (on_failure_) on_failure_(failure);
  }

  // From now on the channel fails when the process ends.
  void SetEndpoints(std::shared_ptr<DeviceEndpoints> endpoints) {
    absl::MutexLock lock(&mutex_);
    endpoints_ = std::move(endpoints);
  }
  // From now on the end of the process is reported. False: it has ended already.
  bool SetServing(pid_t pid, uint64_t generation) {
    absl::MutexLock lock(&mutex_);
    if (exited_) return false;
    serving_ = true;
    log_.PassOnAll();
    pid_ = pid;
    generation_ = generation;
    return true;
  }
  void SetStopping() {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  // The process is to be killed for this. The first reason counts.
  void SetReason(absl::string_view reason) {
    absl::MutexLock lock(&mutex_);
    if (reason_.empty()) reason_ = std::string(reason);
  }
  std::string LastLines() const { return log_.LastLines(); }

 private:
  const std::string name_;
  DeviceLog log_;
  const std::function<void(const DeviceFailure&)> on_failure_;

  absl::Mutex mutex_;
  std::shared_ptr<DeviceEndpoints> endpoints_ ABSL_GUARDED_BY(mutex_);
  std::string reason_ ABSL_GUARDED_BY(mutex_);
  pid_t pid_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  bool exited_ ABSL_GUARDED_BY(mutex_) = false;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::StatusOr<std::unique_ptr<RemoteDevice>> RemoteDevice::Start(
    DeviceSpec spec, const GuestRam& ram, ProcessMonitor& monitor,
    const RemoteDeviceOptions& options) {
  std::unique_ptr<RemoteDevice> device(new RemoteDevice(spec, options));
  const absl::Status status = device->StartProcess(std::move(spec), ram, monitor, options);
  if (!status.ok()) return device->ExplainStartFailure(status);
  return device;
}

RemoteDevice::RemoteDevice(const DeviceSpec& spec, const RemoteDeviceOptions& options)
    : name_(spec.name),
      binary_(spec.binary),
      access_timeout_(spec.access_timeout),
      watcher_(std::make_shared<Watcher>(spec.name, options.on_failure)) {}

RemoteDevice::~RemoteDevice() { Stop(); }

absl::Status RemoteDevice::StartProcess(DeviceSpec spec, const GuestRam& ram,
                                        ProcessMonitor& monitor,
                                        const RemoteDeviceOptions& options) {
  ASSIGN_OR_RETURN(process_, DeviceProcess::Start(monitor, binary_, spec.args, watcher_));
  absl::StatusOr<DeviceDescription> description = process_->Describe(options.start_timeout);
  RETURN_IF_ERROR(AtStep("asked what it is", description.status()));
  description_ = *std::move(description);
  described_ = true;
  ASSIGN_OR_RETURN(
      DeviceEndpoints endpoints,
      DeviceEndpoints::Create(description_, std::move(spec.resources), ram,
                              {.waiters = options.vcpus + 1, .max_poll = spec.max_poll}));
  endpoints_ = std::make_shared<DeviceEndpoints>(std::move(endpoints));
  watcher_->SetEndpoints(endpoints_);
  RETURN_IF_ERROR(
      AtStep("attached", process_->Attach(*endpoints_, name_, generation_, options.start_timeout)));
  if (!watcher_->SetServing(process_->pid(), generation_)) {
    return absl::UnavailableError("it ended right after its start");
  }
  return absl::OkStatus();
}

absl::Status RemoteDevice::ExplainStartFailure(const absl::Status& status) {
  std::string what(status.message());
  if (process_ != nullptr) {
    absl::StatusOr<ExitInfo> exit = absl::DeadlineExceededError("");
    // The socket closes a moment before the process is dead, and that says more.
    if (absl::IsUnavailable(status)) exit = process_->WaitForExit(absl::Seconds(1));
    if (exit.ok() && !exit->signalled && exit->code == kDeviceExitUsage && !described_) {
      const std::vector<std::string> lines =
          absl::StrSplit(watcher_->LastLines(), '\n', absl::SkipEmpty());
      return absl::InvalidArgumentError(absl::StrCat(
          "device '", name_, "': its flags are wrong: ",
          lines.empty() ? "it does not say how" : lines.back(), "; see ", binary_, " --help"));
    }
    if (exit.ok()) {
      what = absl::StrCat("it ended during its start: ", exit->ToString());
    } else {
      process_->Kill();
      process_->WaitForExit(kKillTimeout).status().IgnoreError();
    }
  }
  return absl::Status(status.code(),
                      WithLastLines(absl::StrCat("device '", name_, "' (", binary_, "): ", what),
                                    watcher_->LastLines()));
}

uint64_t RemoteDevice::Read(Requester requester, uint8_t region, uint64_t offset,
                            uint8_t size_bytes) {
  const absl::StatusOr<uint64_t> value = endpoints_->channel().Call(
      Operation::kRead, requester, region, offset, size_bytes, 0, access_timeout_);
  if (value.ok()) return *value;
  OnAccessError(value.status());
  return AccessMask(size_bytes);
}

void RemoteDevice::PostWrite(Requester requester, uint8_t region, uint64_t offset,
                             uint8_t size_bytes, uint64_t value) {
  const absl::Status status =
      endpoints_->channel().Post(requester, region, offset, size_bytes, value, access_timeout_);
  if (!status.ok()) OnAccessError(status);
}

void RemoteDevice::WriteAndWait(Requester requester, uint8_t region, uint64_t offset,
                                uint8_t size_bytes, uint64_t value) {
  const absl::Status status =
      endpoints_->channel()
          .Call(Operation::kWrite, requester, region, offset, size_bytes, value, access_timeout_)
          .status();
  if (!status.ok()) OnAccessError(status);
}

void RemoteDevice::Reset(Requester requester) {
  const absl::Status status = endpoints_->channel()
                                  .Call(Operation::kReset, requester, /*region=*/0, /*offset=*/0,
                                        /*size_bytes=*/8, /*value=*/0, access_timeout_)
                                  .status();
  if (!status.ok()) OnAccessError(status);
}

void RemoteDevice::SetFunctionState(Requester requester, const FunctionState& state) {
  const uint64_t data = (state.bus_master ? kFunctionStateBusMaster : 0) |
                        (state.msix_enabled ? kFunctionStateMsixEnabled : 0) |
                        (state.intx_disabled ? kFunctionStateIntxDisabled : 0);
  const absl::Status status = endpoints_->channel()
                                  .Call(Operation::kSetFunctionState, requester, /*region=*/0,
                                        /*offset=*/0, /*size_bytes=*/8, data, access_timeout_)
                                  .status();
  if (!status.ok()) OnAccessError(status);
}

void RemoteDevice::OnAccessError(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return;
    case absl::StatusCode::kUnavailable:
      dropped_accesses_.fetch_add(1, std::memory_order_relaxed);
      return;
    case absl::StatusCode::kDeadlineExceeded: {
      const uint64_t count = timed_out_accesses_.fetch_add(1, std::memory_order_relaxed) + 1;
      // The 1st, 2nd, 4th, 8th ...: a guest that goes on trying does not flood the log.
      if (absl::has_single_bit(count)) {
        LogWarning(absl::StrCat("device '", name_, "' (process ", pid(), ") did not answer in ",
                                absl::FormatDuration(access_timeout_), ", ", count,
                                " times so far; the guest's access reads all ones"));
      }
      return;
    }
    default:
      // It answered wrongly. The channel has failed, and its process serves nobody any more.
      dropped_accesses_.fetch_add(1, std::memory_order_relaxed);
      watcher_->SetReason(absl::StrCat("killed, because ", status.message()));
      process_->Kill();
  }
}

void RemoteDevice::AskToStop() {
  watcher_->SetStopping();
  if (process_ != nullptr) process_->AskToEnd();
}

void RemoteDevice::Stop() {
  AskToStop();
  if (process_ == nullptr) return;
  if (process_->WaitForExit(kEndTimeout).ok()) return;
  process_->Kill();
  if (!process_->WaitForExit(kKillTimeout).ok()) {
    LogError(
        absl::StrCat("device '", name_, "': process ", pid(), " does not end, although killed"));
  }
}

absl::StatusOr<std::vector<std::unique_ptr<RemoteDevice>>> StartDevices(
    std::vector<DeviceSpec> specs, const GuestRam& ram, ProcessMonitor& monitor,
    const RemoteDeviceOptions& options) {
  using Result = absl::StatusOr<std::unique_ptr<RemoteDevice>>;
  std::vector<std::optional<Result>> results(specs.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < specs.size(); ++i) {
    threads.emplace_back(
        [&, i] { results[i] = RemoteDevice::Start(std::move(specs[i]), ram, monitor, options); });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::unique_ptr<RemoteDevice>> devices;
  for (std::optional<Result>& result : results) {
    ASSIGN_OR_RETURN(devices.emplace_back(), *std::move(result));
  }
  return devices;
}

}  // namespace bulkhead::vmm
