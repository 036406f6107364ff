#include "vmm/supervisor/process_starter.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace bulkhead::vmm {
namespace {

// Starts of a device fail while so many sockets of its earlier processes cannot be closed: a device
// that keeps them open must not use up the vmm's descriptors.
constexpr size_t kMaxPendingCloses = 4;
// A close that does not block takes microseconds.
constexpr absl::Duration kCloseTimeout = absl::Milliseconds(100);

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceProcess>> ProcessStarter::Start(
    const ProgramFile& binary) const {
  const auto shortage = [&](const absl::Status& why) {
    return absl::ResourceExhaustedError(
        absl::StrCat("device '", device_name_, "' (", binary.path(), "): ", why.message()));
  };
  if (!closes_->WaitForFewerThan(kMaxPendingCloses, kCloseTimeout)) {
    return shortage(absl::ResourceExhaustedError(
        absl::StrCat(kMaxPendingCloses,
                     " sockets of its earlier processes cannot be closed, because of "
                     "descriptors that these have sent")));
  }
  // The start of a program may hang in its file system.
  const Attention::Interruptible wait(*attention_, Attention::Urgency::kEnd, [] {});
  absl::StatusOr<std::unique_ptr<DeviceProcess>> process = DeviceProcess::Start(
      monitor_, {.device_name = device_name_, .binary = binary, .args = args_, .sandbox = sandbox_},
      [attention = attention_] { attention->Demand(Attention::Urgency::kNews); }, closes_,
      {.timeout = timeout_, .cancelled = [&wait] { return wait.interrupted(); }});
  if (process.ok() || absl::IsCancelled(process.status())) return process;
  return shortage(process.status());
}

absl::StatusOr<DeviceDescription> ProcessStarter::Ask(DeviceProcess& process, absl::Duration limit,
                                                      Attention::Urgency least) const {
  ControlCall call(limit);
  const Attention::Interruptible wait(*attention_, least, [&call] { call.Cancel(); });
  absl::StatusOr<DeviceDescription> description = process.Describe(call);
  // Whatever the call says: on a slow host its cancellation may be cut, and with it the connection.
  if (!description.ok() && call.cancelled())
    return absl::CancelledError("the call was interrupted");
  return description;
}

absl::Status ProcessStarter::CheckLiveness(DeviceProcess& process, absl::Duration limit) const {
  ControlCall call(limit);
  const Attention::Interruptible wait(*attention_, Attention::Urgency::kNews,
                                      [&call] { call.Cancel(); });
  absl::Status status = process.control().Heartbeat(call).status();
  if (!status.ok() && call.cancelled())
    return absl::CancelledError("the heartbeat was interrupted");
  return status;
}

absl::StatusOr<Candidate> ProcessStarter::StartCandidate(const ProgramFile& binary,
                                                         Attention::Urgency least) const {
  Candidate candidate;
  ASSIGN_OR_RETURN(candidate.process, Start(binary));
  absl::StatusOr<DeviceDescription> description = Ask(*candidate.process, timeout_, least);
  if (absl::IsCancelled(description.status())) return description.status();
  if (!description.ok()) {
    return candidate.process->ExplainFailure(AtStep("asked what it is", description.status()));
  }
  candidate.description = *std::move(description);
  return candidate;
}

absl::Status AtStep(absl::string_view step, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(step, ": ", status.message()));
}

}  // namespace bulkhead::vmm
