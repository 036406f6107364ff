#ifndef BULKHEAD_TOOLS_VMCTL_TESTING_CHILD_PROCESS_H_
#define BULKHEAD_TOOLS_VMCTL_TESTING_CHILD_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/pid_fd.h"
#include "base/unique_fd.h"

namespace bulkhead::vmctl {

// A program that a test drives by its standard streams. What goes wrong fails the test; every wait
// has a generous deadline. Used by one thread. The destructor kills what still runs.
class ChildProcess {
 public:
  enum class Streams {
    kPipes,     // one each
    kTerminal,  // a new pseudo-terminal, as its controlling one; both outputs are output()
  };

  // `environment`: "NAME=VALUE", all there is.
  static std::unique_ptr<ChildProcess> Start(const std::vector<std::string>& command,
                                             const std::vector<std::string>& environment,
                                             Streams streams = Streams::kPipes);
  ~ChildProcess();

  // Waits until standard output, beyond what earlier calls consumed, holds `text`; returns what
  // came before it.
  std::string WaitForOutput(absl::string_view text);
  // The same of standard error.
  std::string WaitForError(absl::string_view text);
  void Write(absl::string_view bytes);
  void CloseInput() { input_.reset(); }
  void Signal(int signal);

  // Reads both outputs to their end, and waits for the process's. "exit code 0".
  std::string WaitForEnd();

  // All that came so far.
  const std::string& output() const { return output_.text; }
  const std::string& error() const { return error_.text; }

  // The test's end of its terminal.
  int terminal() const { return input_.get(); }
  pid_t pid() const { return process_.pid(); }

 private:
  struct Stream {
    UniqueFd fd;
    std::string text;
    size_t consumed = 0;
  };

  explicit ChildProcess(PidFd process) : process_(std::move(process)) {}
  // Waits for more of either output. False: both have ended, or the time is over.
  bool ReadSome();
  std::string WaitFor(Stream& stream, absl::string_view text);

  PidFd process_;
  bool reaped_ = false;
  UniqueFd input_;
  Stream output_;
  Stream error_;
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TESTING_CHILD_PROCESS_H_
