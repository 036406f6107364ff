#ifndef BULKHEAD_INTEGRATION_ESCAPE_TAKEN_OVER_PROCESS_H_
#define BULKHEAD_INTEGRATION_ESCAPE_TAKEN_OVER_PROCESS_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include <array>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bulkhead::integration {

// A process that makes the system calls that the test wants: what an attacker can do who executes
// code in it. The test traces its main thread (ptrace(2)), which goes on only for these calls; the
// kernel treats them as the process's own. To be used by one thread, as root.
class TakenOverProcess {
 public:
  // The result of a call that the process did not survive.
  static constexpr int64_t kDied = std::numeric_limits<int64_t>::min();

  // `pid`: that of a process, or of a thread, which is then the one that is taken over; Release()
  // it. Errors: as ptrace(2); DeadlineExceeded (the thread waits in no system call).
  static absl::StatusOr<std::unique_ptr<TakenOverProcess>> TakeOver(pid_t pid);
  // Kills the process, unless Release() was called.
  ~TakenOverProcess();
  // Lets it go on as if nothing had been.
  void Release();

  // Makes the process call. Returns the call's result, -errno, or kDied. Children that it makes so
  // are killed at once, unless `keep_children` was called: then they wait for ever.
  template <typename... Arguments>
  int64_t Call(int number, Arguments... arguments) {
    return CallWith(number, {static_cast<uint64_t>(arguments)...});
  }
  int64_t CallWith(int number, const std::array<uint64_t, 6>& arguments);
  // Makes the process call and lets go of it: nothing more can be asked of it.
  void CallAndLetGo(int number, const std::array<uint64_t, 6>& arguments);
  // The same through the entry for 32-bit programs. Without arguments.
  int64_t Call32Bit(int number);

  // Copies `bytes` into the process and returns their address there. Valid until ForgetBytes().
  uint64_t Put(absl::string_view bytes);
  void ForgetBytes() { used_bytes_ = 0; }

  // Of the process's memory. False: it cannot be accessed there.
  bool Read(uint64_t address, void* data, size_t size) const;
  bool Write(uint64_t address, const void* data, size_t size);

  void keep_children() { keep_children_ = true; }
  // The last child that it made; 0: none.
  pid_t child() const { return child_; }
  pid_t pid() const { return pid_; }
  // How it died while it was traced, as of waitpid(2).
  std::optional<int> end() const { return end_; }

 private:
  explicit TakenOverProcess(pid_t pid) : pid_(pid) {}

  absl::Status StopInSystemCall();
  // The next stop of the process. None: it is dead, or was killed because it did not stop in time.
  std::optional<int> AwaitStop();
  // The process executes the system call at `address` next.
  bool Prepare(uint64_t address, int number, const std::array<uint64_t, 6>& arguments);
  int64_t Step(uint64_t address, int number, const std::array<uint64_t, 6>& arguments);
  void OnChild();
  // The address of these bytes in the program's code; 0: they are not there.
  uint64_t FindCode(absl::string_view code) const;

  const pid_t pid_;
  user_regs_struct registers_ = {};  // when it was stopped
  uint64_t syscall_instruction_ = 0;
  size_t used_bytes_ = 0;
  bool let_go_ = false;
  bool keep_children_ = false;
  pid_t child_ = 0;
  std::optional<int> end_;
};

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_ESCAPE_TAKEN_OVER_PROCESS_H_
