#ifndef BULKHEAD_BASE_TESTING_CHILD_PROCESS_H_
#define BULKHEAD_BASE_TESTING_CHILD_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/pid_fd.h"
#include "base/unique_fd.h"

namespace bulkhead {

// A program that a test drives by its standard streams. Every wait has a deadline. Single-threaded.
// The destructor kills the process if it still runs.
class ChildProcess {
 public:
  enum class Streams {
    kPipes,     // one each
    kTerminal,  // a new pseudo-terminal, as its controlling one; both outputs are output()
  };

  // Runs command[0], a path. `environment`: "NAME=VALUE", all there is. Exit code 127: no such
  // program. Errors: as pipe2(2), fork(2).
  static absl::StatusOr<std::unique_ptr<ChildProcess>> Start(
      const std::vector<std::string>& command, const std::vector<std::string>& environment,
      Streams streams = Streams::kPipes);
  ~ChildProcess();

  // Waits until standard output, beyond what earlier calls have consumed, holds `text`; returns
  // what came before it. Errors: DeadlineExceeded, Aborted (both outputs have ended), each with the
  // end of both outputs.
  absl::StatusOr<std::string> WaitForOutput(absl::string_view text, absl::Duration timeout) {
    return WaitFor(output_, text, timeout);
  }
  // The same of standard error.
  absl::StatusOr<std::string> WaitForError(absl::string_view text, absl::Duration timeout) {
    return WaitFor(error_, text, timeout);
  }

  // Errors: as write(2).
  absl::Status Write(absl::string_view bytes);
  void CloseInput() { input_.reset(); }
  absl::Status Signal(int signal) const { return process_.Signal(signal); }

  // Reads both outputs to their end, and waits for the end of the process. Errors:
  // DeadlineExceeded.
  absl::StatusOr<ExitInfo> WaitForExit(absl::Duration timeout);

  // All that came so far.
  const std::string& output() const { return output_.text; }
  const std::string& error() const { return error_.text; }

  // The test's end of the terminal.
  int terminal() const { return input_.get(); }
  pid_t pid() const { return process_.pid(); }

 private:
  struct Stream {
    UniqueFd fd;
    std::string text;
    size_t consumed = 0;
  };

  explicit ChildProcess(PidFd process) : process_(std::move(process)) {}
  // Reads what both streams have; waits for it until `deadline`. False: both have ended.
  bool ReadSome(absl::Time deadline);
  absl::StatusOr<std::string> WaitFor(Stream& stream, absl::string_view text,
                                      absl::Duration timeout);
  std::string EndOfOutputs() const;

  PidFd process_;
  bool reaped_ = false;
  UniqueFd input_;
  Stream output_;
  Stream error_;
};

}  // namespace bulkhead

#endif  // BULKHEAD_BASE_TESTING_CHILD_PROCESS_H_
