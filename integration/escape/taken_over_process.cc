#include "integration/escape/taken_over_process.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/errno_status.h"

namespace bulkhead::integration {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(10);
constexpr absl::string_view kSyscall("\x0f\x05", 2);
constexpr absl::string_view kInterrupt80("\xcd\x80", 2);
// Below the red zone of the stopped code. The kernel maps at least 128 KiB of a main thread's
// stack.
constexpr uint64_t kRedZone = 256;
constexpr uint64_t kScratchBytes = 16 << 10;

bool Transfer(pid_t pid, uint64_t address, void* data, size_t size, bool write) {
  const iovec local = {.iov_base = data, .iov_len = size};
  const iovec remote = {.iov_base = reinterpret_cast<void*>(address), .iov_len = size};
  const ssize_t done = write ? process_vm_writev(pid, &local, 1, &remote, 1, 0)
                             : process_vm_readv(pid, &local, 1, &remote, 1, 0);
  return done == static_cast<ssize_t>(size);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TakenOverProcess>> TakenOverProcess::TakeOver(pid_t pid) {
  const long options = PTRACE_O_EXITKILL | PTRACE_O_TRACEFORK |  // NOLINT: ptrace's type
                       PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE;
  if (ptrace(PTRACE_SEIZE, pid, nullptr, options) != 0) {
    return ErrnoToStatus(errno, "PTRACE_SEIZE");
  }
  auto process = absl::WrapUnique(new TakenOverProcess(pid));
  if (absl::Status status = process->StopInSystemCall(); !status.ok()) return status;
  return process;
}

TakenOverProcess::~TakenOverProcess() {
  if (end_.has_value() || let_go_) return;
  // Its parent cannot reap it while it has a tracer.
  user_regs_struct registers = registers_;
  registers.rax = static_cast<uint64_t>(-EINTR);
  registers.orig_rax = ~0ull;
  ptrace(PTRACE_SETREGS, pid_, nullptr, &registers);
  ptrace(PTRACE_DETACH, pid_, nullptr, nullptr);
  kill(pid_, SIGKILL);
}

void TakenOverProcess::Release() {
  if (end_.has_value() || let_go_) return;
  let_go_ = true;
  ptrace(PTRACE_SETREGS, pid_, nullptr, &registers_);
  ptrace(PTRACE_DETACH, pid_, nullptr, nullptr);
}

absl::Status TakenOverProcess::StopInSystemCall() {
  const absl::Time deadline = absl::Now() + kTimeout;
  while (absl::Now() < deadline) {
    if (ptrace(PTRACE_INTERRUPT, pid_, nullptr, nullptr) != 0) {
      return ErrnoToStatus(errno, "PTRACE_INTERRUPT");
    }
    if (!AwaitStop().has_value()) return absl::UnavailableError("the process died");
    if (ptrace(PTRACE_GETREGS, pid_, nullptr, &registers_) != 0) {
      return ErrnoToStatus(errno, "PTRACE_GETREGS");
    }
    const uint64_t address = registers_.rip - kSyscall.size();
    char code[kSyscall.size()] = {};
    if (Transfer(pid_, address, code, sizeof(code), /*write=*/false) &&
        absl::string_view(code, sizeof(code)) == kSyscall) {
      syscall_instruction_ = address;
      return absl::OkStatus();
    }
    ptrace(PTRACE_CONT, pid_, nullptr, nullptr);
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::DeadlineExceededError("its main thread waits in no system call");
}

std::optional<int> TakenOverProcess::AwaitStop() {
  const absl::Time deadline = absl::Now() + kTimeout;
  bool killed = false;
  while (true) {
    int status = 0;
    const pid_t found = waitpid(pid_, &status, __WALL | WNOHANG);
    if (found == pid_ && WIFSTOPPED(status)) return status;
    if (found != 0) {
      end_ = found == pid_ ? status : 0;
      return std::nullopt;
    }
    if (!killed && absl::Now() > deadline) {
      kill(pid_, SIGKILL);
      killed = true;
    }
    absl::SleepFor(absl::Microseconds(20));
  }
}

void TakenOverProcess::OnChild() {
  unsigned long child = 0;  // NOLINT: ptrace's type
  if (ptrace(PTRACE_GETEVENTMSG, pid_, nullptr, &child) != 0) return;
  child_ = static_cast<pid_t>(child);
  int status = 0;
  if (!keep_children_) {
    kill(child_, SIGKILL);
    while (waitpid(child_, &status, __WALL) == child_ && WIFSTOPPED(status)) {
    }
    return;
  }
  if (waitpid(child_, &status, __WALL) != child_ || !WIFSTOPPED(status)) return;
  user_regs_struct registers = registers_;
  registers.rip = syscall_instruction_;
  registers.rax = SYS_pause;
  registers.orig_rax = ~0ull;
  ptrace(PTRACE_SETREGS, child_, nullptr, &registers);
  ptrace(PTRACE_DETACH, child_, nullptr, nullptr);
}

bool TakenOverProcess::Prepare(uint64_t address, int number,
                               const std::array<uint64_t, 6>& arguments) {
  user_regs_struct registers = registers_;
  registers.rip = address;
  registers.rax = static_cast<uint64_t>(number);
  registers.orig_rax = ~0ull;  // no system call to restart
  registers.rdi = arguments[0];
  registers.rsi = arguments[1];
  registers.rdx = arguments[2];
  registers.r10 = arguments[3];
  registers.r8 = arguments[4];
  registers.r9 = arguments[5];
  return ptrace(PTRACE_SETREGS, pid_, nullptr, &registers) == 0;
}

int64_t TakenOverProcess::Step(uint64_t address, int number,
                               const std::array<uint64_t, 6>& arguments) {
  Prepare(address, number, arguments);
  while (true) {
    if (ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr) != 0) AwaitStop();
    const std::optional<int> status = AwaitStop();
    if (!status.has_value()) return kDied;
    const int event = *status >> 16;
    if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK || event == PTRACE_EVENT_CLONE) {
      OnChild();
    } else if (event == 0 && WSTOPSIG(*status) == SIGTRAP) {
      break;
    }
  }
  user_regs_struct registers = {};
  ptrace(PTRACE_GETREGS, pid_, nullptr, &registers);
  return static_cast<int64_t>(registers.rax);
}

int64_t TakenOverProcess::CallWith(int number, const std::array<uint64_t, 6>& arguments) {
  return Step(syscall_instruction_, number, arguments);
}

void TakenOverProcess::CallAndLetGo(int number, const std::array<uint64_t, 6>& arguments) {
  Prepare(syscall_instruction_, number, arguments);
  ptrace(PTRACE_DETACH, pid_, nullptr, nullptr);
  let_go_ = true;
}

int64_t TakenOverProcess::Call32Bit(int number) {
  const uint64_t address = FindCode(kInterrupt80);
  return address == 0 ? -ENOEXEC : Step(address, number, {});
}

uint64_t TakenOverProcess::Put(absl::string_view bytes) {
  used_bytes_ += (bytes.size() + 15) / 16 * 16;
  if (used_bytes_ > kScratchBytes) return 0;
  const uint64_t address = (registers_.rsp - kRedZone - used_bytes_) & ~15ull;
  Transfer(pid_, address, const_cast<char*>(bytes.data()), bytes.size(), /*write=*/true);
  return address;
}

bool TakenOverProcess::Read(uint64_t address, void* data, size_t size) const {
  return Transfer(pid_, address, data, size, /*write=*/false);
}

bool TakenOverProcess::Write(uint64_t address, const void* data, size_t size) {
  return Transfer(pid_, address, const_cast<void*>(data), size, /*write=*/true);
}

uint64_t TakenOverProcess::FindCode(absl::string_view code) const {
  std::ifstream maps(absl::StrCat("/proc/", pid_, "/maps"));
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    uint64_t begin = 0;
    uint64_t end = 0;
    char dash = 0;
    std::string protection;
    fields >> std::hex >> begin >> dash >> end >> protection;
    if (protection.size() < 3 || protection[2] != 'x' || line.find('[') != line.npos) continue;
    std::string bytes(end - begin, '\0');
    if (!Transfer(pid_, begin, bytes.data(), bytes.size(), /*write=*/false)) continue;
    if (const size_t found = absl::string_view(bytes).find(code); found != absl::string_view::npos)
      return begin + found;
  }
  return 0;
}

}  // namespace bulkhead::integration
