#ifndef BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SESSION_H_
#define BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SESSION_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "integration/testbed/launcher/options.h"
#include "integration/testbed/launcher/virtual_machine.h"
#include "integration/testbed/wire.h"

namespace bulkhead::testbed {

inline constexpr int kTimedOut = 124;  // as timeout(1)

// Runs one command in a virtual machine and passes its standard streams through those of this
// process. Single-threaded; `signals`: see TakeSignals().
class Session {
 public:
  // Those that end or resize a session. Taken before the machine is started: one that came earlier
  // would end the launcher, and QEMU some time after it.
  static absl::StatusOr<UniqueFd> TakeSignals();

  Session(const Options& options, VirtualMachine& machine, UniqueFd signals);

  // Returns the exit code for the shell: the command's, kTimedOut after the time limit, 128 + N
  // when this process got signal N.
  // Errors: the testbed failed; see the message and console().
  absl::StatusOr<int> Run();

  // The last kernel messages.
  absl::string_view console() const { return console_; }

 private:
  absl::StatusOr<int> Loop();
  absl::Status SendStart();
  absl::Status FlushToAgent();
  absl::Status ReadAgent();
  absl::Status HandleFrame(const Frame& frame);
  absl::Status WriteOutput(int fd, std::string& pending);
  void ReadInput();
  void ReadConsole();
  void SendWindowSize();

  const Options& options_;
  VirtualMachine& machine_;
  const UniqueFd signals_;
  const absl::Time start_;
  const bool terminal_;
  FrameReader reader_;
  std::string to_agent_;
  std::string to_stdout_;
  std::string to_stderr_;
  std::string console_;
  size_t unacknowledged_input_ = 0;
  bool input_open_ = true;
  bool started_ = false;
  bool exited_ = false;
  int exit_code_ = 0;
};

}  // namespace bulkhead::testbed

#endif  // BULKHEAD_INTEGRATION_TESTBED_LAUNCHER_SESSION_H_
