#include "vmm/supervisor/next_process.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {

void NextProcess::Set(Candidate candidate) {
  candidate_ = std::move(candidate);
  is_spare_ = false;
}

bool NextProcess::TakeSpare(const AttachedProcess& attached, bool discard_state) {
  candidate_ = spare_.Take();
  is_spare_ = true;
  if (!candidate_.has_value()) return false;
  const absl::Status compatible = attached.CheckCompatible(*candidate_, discard_state);
  if (compatible.ok()) return true;
  LogWarning(
      absl::StrCat("device '", starter_.device_name(), "': its spare: ", compatible.message()));
  candidate_.reset();
  return false;
}

absl::Status NextProcess::Start(const AttachedProcess& attached, bool discard_state,
                                Attention::Urgency least) {
  absl::StatusOr<Candidate> next =
      beside_.has_value() ? *std::move(beside_) : starter_.StartCandidate(binary_, least);
  beside_.reset();
  RETURN_IF_ERROR(next.status());
  const absl::Status compatible = attached.CheckCompatible(*next, discard_state);
  if (!compatible.ok()) return next->process->ExplainFailure(compatible);
  Set(*std::move(next));
  return absl::OkStatus();
}

absl::Status NextProcess::Attach(AttachedProcess& attached, Attention::Urgency least) {
  absl::Status status = attached.Attach(*std::exchange(candidate_, std::nullopt), least, binary_,
                                        is_spare_ ? &beside_ : nullptr);
  if (status.ok()) return status;
  // Not if a fresh process would have met with the same, or if this one keeps the descriptors.
  if (is_spare_ && !absl::IsCancelled(status) && !attached.exists() && !spare_.ready()) {
    LogWarning(absl::StrCat(status.message(), "; it was a spare, and another process follows"));
    return absl::NotFoundError(status.message());
  }
  beside_.reset();
  return status;
}

absl::Status NextProcess::StartSuccessor(const std::string& path) {
  Successor successor = {.binary = binary_, .candidate = {}, .deadline = {}};
  if (!path.empty()) {
    ASSIGN_OR_RETURN(successor.binary,
                     ProgramFile::OpenWithin(path, starter_.timeout(),
                                             path == first_path_ ? nullptr : folders_));
  }
  ASSIGN_OR_RETURN(successor.candidate.process, starter_.Start(successor.binary));
  successor.deadline = SteadyNow() + starter_.timeout();
  successor_ = std::move(successor);
  return absl::OkStatus();
}

absl::Status NextProcess::AwaitSuccessor(const AttachedProcess& attached, bool discard_state) {
  Candidate& candidate = successor_->candidate;
  absl::StatusOr<DeviceDescription> description = starter_.Ask(
      *candidate.process, successor_->deadline - SteadyNow(), Attention::Urgency::kNews);
  if (absl::IsCancelled(description.status())) {
    // A cancellation may cost the connection, through no fault of the process.
    if (!candidate.process->control().why_cut().empty()) {
      ASSIGN_OR_RETURN(candidate.process, starter_.Start(successor_->binary));
    }
    return description.status();
  }
  if (!description.ok()) {
    return candidate.process->ExplainFailure(AtStep("asked what it is", description.status()));
  }
  candidate.description = *std::move(description);
  const absl::Status compatible = attached.CheckCompatible(candidate, discard_state);
  return compatible.ok() ? compatible : candidate.process->ExplainFailure(compatible);
}

void NextProcess::AdoptSuccessor() {
  Set(std::move(successor_->candidate));
  previous_binary_ = std::exchange(binary_, std::move(successor_->binary));
  successor_.reset();
  spare_.Drop();  // it may be of another binary, or of what that was before
}

}  // namespace bulkhead::vmm
