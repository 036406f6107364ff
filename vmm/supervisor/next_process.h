#ifndef BULKHEAD_VMM_SUPERVISOR_NEXT_PROCESS_H_
#define BULKHEAD_VMM_SUPERVISOR_NEXT_PROCESS_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/config/program_file.h"
#include "vmm/config/program_folders.h"
#include "vmm/supervisor/attached_process.h"
#include "vmm/supervisor/attention.h"
#include "vmm/supervisor/process_starter.h"
#include "vmm/supervisor/spare.h"

namespace bulkhead::vmm {

// The process that is to have the device's descriptors next: the spare, a new one, or the successor
// that a restart command asks for; and the binary that it runs. Used by the supervisor's thread.
class NextProcess {
 public:
  // Borrows `starter` and `spare`. Other binaries must be in `folders`, but for the path of
  // `binary`.
  NextProcess(const ProcessStarter& starter, Spare& spare, ProgramFile binary,
              std::shared_ptr<const ProgramFolders> folders)
      : starter_(starter),
        spare_(spare),
        first_path_(binary.path()),
        folders_(std::move(folders)),
        binary_(std::move(binary)) {}

  const ProgramFile& binary() const { return binary_; }

  // The first process, which has been started already.
  void Set(Candidate candidate);
  // Of these two `discard_state` and errors are as AttachedProcess::CheckCompatible(). False: there
  // is no spare, or none that is compatible.
  bool TakeSpare(const AttachedProcess& attached, bool discard_state);
  // Starts one, or takes the one that was started beside the spare. Errors: also as
  // ProcessStarter::StartCandidate().
  absl::Status Start(const AttachedProcess& attached, bool discard_state, Attention::Urgency least);
  // Hands it to `attached`. Errors: as AttachedProcess::Attach(); NotFound: it was the spare that
  // failed, and another process may do better.
  absl::Status Attach(AttachedProcess& attached, Attention::Urgency least);
  // It could not be attached through no fault of its own, and waits as the spare.
  void PutBack() { spare_.PutBack(*std::exchange(candidate_, std::nullopt)); }
  // Forgets a process that was started beside a spare which then attached.
  void DropBeside() { beside_.reset(); }

  // Starts a successor of the binary at `path` (empty: as it is), of which AwaitSuccessor() is to
  // be called next. Errors: as ProgramFile::OpenWithin() and ProcessStarter::Start().
  absl::Status StartSuccessor(const std::string& path);
  bool has_successor() const { return successor_.has_value(); }
  // Waits until it has described itself. Cancelled: there was a demand; it may be called again.
  absl::Status AwaitSuccessor(const AttachedProcess& attached, bool discard_state);
  void DropSuccessor() { successor_.reset(); }
  // The successor is the next process, and its binary that of further ones; there is no spare.
  void AdoptSuccessor();
  // Back to the binary before that.
  void RevertBinary() { binary_ = previous_binary_; }

 private:
  struct Successor {
    ProgramFile binary;
    Candidate candidate;
    absl::Time deadline;  // to describe itself
  };

  const ProcessStarter& starter_;
  Spare& spare_;
  const std::string first_path_;
  const std::shared_ptr<const ProgramFolders> folders_;
  ProgramFile binary_;
  ProgramFile previous_binary_;
  std::optional<Candidate> candidate_;
  bool is_spare_ = false;
  std::optional<absl::StatusOr<Candidate>> beside_;  // started while a spare did not attach
  std::optional<Successor> successor_;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_NEXT_PROCESS_H_
