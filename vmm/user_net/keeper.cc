#include "vmm/user_net/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/receive_packet.h"
#include "base/send_packet.h"
#include "vmm/side_process/allow_list.h"
#include "vmm/side_process/side_log.h"
#include "vmm/user_net/relay.h"

namespace bulkhead::vmm {
namespace {

constexpr int64_t kFirstPauseMs = 100;
constexpr int64_t kLongestPauseMs = 5000;
constexpr int64_t kQuietMs = 60'000;  // between log lines, once the pause is the longest
constexpr int64_t kEndMs = 20;        // of the VM: the relay ends a little after the program
constexpr int64_t kLastsMs = 10'000;  // a program that ends later begins with the first pause again
constexpr int kProgramSocket = 3;     // of passt

// The relay's system calls.
constexpr AllowedCall kRelayCalls[] = {
    {SYS_poll},    {SYS_recvfrom}, {SYS_recvmsg},         {SYS_sendto},
    {SYS_sendmsg}, {SYS_close},    {SYS_restart_syscall}, {SYS_exit_group}};

// A socket from a keeper, with a packet of `bytes`. -1: none now, or this process has too many.
// Ends the process when the sender has ended.
int TakeSocket(int from, size_t bytes) {
  uint32_t packet;
  int socket = -1;
  const ssize_t size = ReceivePacket(from, &packet, bytes, &socket);
  if (size < 0 && errno == EAGAIN) return -1;
  if (size <= 0) _exit(0);
  return socket;
}

// The relay needs no right, and reads what untrusted processes send.
void GiveUpRights() {
  constexpr uid_t kNobody = 65534;
  // In a user namespace there may be no such user.
  if (geteuid() == 0) {
    (void)!(setgroups(0, nullptr) == 0 && setresgid(kNobody, kNobody, kNobody) == 0 &&
            setresuid(kNobody, kNobody, kNobody) == 0);
  }
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
  if (syscall(SYS_capset, &header, none) != 0) _exit(1);
}

// The device's sockets come from `clients`; it had `device` before, -1: none.
[[noreturn]] void RunRelay(int clients, int device, int keeper, bool confined,
                           ProgramReport& report) {
  GiveUpRights();
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // after that, which undoes it
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  prctl(PR_SET_NAME, "vmm-net-relay");
  Relay relay(report.lost());
  if (device >= 0) relay.SetDevice(device);
  if (confined && !AllowOnly(kRelayCalls)) _exit(1);
  while (true) {
    pollfd ready[] = {{.fd = clients, .events = POLLIN, .revents = 0},
                      {.fd = keeper, .events = POLLIN, .revents = 0},
                      {.fd = relay.device(), .events = relay.device_events(), .revents = 0},
                      {.fd = relay.program(), .events = relay.program_events(), .revents = 0}};
    if (poll(ready, std::size(ready), -1) < 0) continue;
    relay.Serve(ready[2].revents, ready[3].revents);
    if (ready[0].revents != 0) {
      if (const int socket = TakeSocket(clients, sizeof(uint32_t)); socket >= 0) {
        relay.SetDevice(socket);
      }
    }
    if (ready[1].revents != 0) {
      if (const int socket = TakeSocket(keeper, 1); socket >= 0) relay.SetProgram(socket);
    }
  }
}

// Closes all descriptors but the standard streams and `kept`, of which -1 stays; says what their
// numbers are then.
bool KeepOnly(absl::Span<int> kept) {
  int next = STDERR_FILENO + 1;
  // First beyond all that they are to become.
  for (int& fd : kept) {
    if (fd >= 0 && (fd = fcntl(fd, F_DUPFD_CLOEXEC, 64)) < 0) return false;
  }
  for (int& fd : kept) {
    if (fd < 0) continue;
    if (dup3(fd, next, O_CLOEXEC) < 0) return false;
    fd = next++;
  }
  return close_range(static_cast<unsigned>(next), ~0u, 0) == 0;
}

[[noreturn]] void RunProgram(int socket, const std::vector<char*>& arguments) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (dup2(socket, kProgramSocket) != kProgramSocket) _exit(1);
  syscall(SYS_close_range, kProgramSocket + 1, ~0u, 0);
  execv(arguments[0], arguments.data());
  _exit(127);
}

// The program's arguments.
std::vector<std::string> ArgumentsOf(const UserNetSpec& spec) {
  std::vector<std::string> arguments = {
      spec.program, "--foreground", "--stderr", "--quiet", "--fd", std::to_string(kProgramSocket)};
  if (!spec.host_loopback) arguments.push_back("--no-map-gw");
  for (const std::string& forward : spec.forwards) {
    arguments.insert(arguments.end(), {"--tcp-ports", forward});
  }
  return arguments;
}

// Waits until `program` has ended, and says how. If the relay ends, all does. Reports when somebody
// has stopped one of both.
std::string AwaitEnd(pid_t relay, bool& is_relay_stopped, pid_t program, const std::string& path,
                     ProgramReport& report) {
  bool is_program_stopped = false;
  while (true) {
    int status = 0;
    const pid_t pid = waitpid(-1, &status, WUNTRACED | WCONTINUED);
    if (pid > 0 && (WIFSTOPPED(status) || WIFCONTINUED(status))) {
      if (pid != relay && pid != program) continue;
      (pid == relay ? is_relay_stopped : is_program_stopped) = WIFSTOPPED(status);
      report.OnStop(is_relay_stopped || is_program_stopped);
      WriteLogLine(absl::StrCat(
          "warning: ", pid == relay ? "the relay of " : "", path, ", process ", pid,
          WIFSTOPPED(status) ? ", was stopped: the network waits for it" : ", goes on"));
      continue;
    }
    if (pid == relay || (pid < 0 && errno != EINTR)) {
      kill(program, SIGKILL);
      _exit(1);
    }
    if (pid != program) continue;
    if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
    return "exit code " + std::to_string(WEXITSTATUS(status));
  }
}

// Sleeps, but for the end of the relay.
void Pause(pid_t relay, int64_t ms) {
  for (const int64_t end = NowMs() + ms; NowMs() < end;) {
    const timespec tick = {.tv_sec = 0, .tv_nsec = 10'000'000};
    nanosleep(&tick, nullptr);
    if (waitpid(relay, nullptr, WNOHANG) != 0) _exit(1);
  }
}

[[noreturn]] void KeepProgram(int relay_socket, pid_t relay, const UserNetSpec& spec,
                              ProgramReport& report) {
  std::vector<std::string> arguments = ArgumentsOf(spec);
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  bool is_relay_stopped = false;
  int64_t pause_ms = kFirstPauseMs;
  int64_t said_ms = -kQuietMs;
  while (true) {
    // The host may be short of descriptors or processes for a while.
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
      Pause(relay, kFirstPauseMs);
      continue;
    }
    const pid_t program = fork();
    if (program < 0) {
      close(ends[0]);
      close(ends[1]);
      Pause(relay, kFirstPauseMs);
      continue;
    }
    if (program == 0) RunProgram(ends[1], pointers);
    const int64_t started_ms = NowMs();
    report.OnStart(program);
    report.OnStop(is_relay_stopped);
    SendPacket(relay_socket, "p", 1, ends[0]);
    close(ends[0]);
    close(ends[1]);
    const std::string how = AwaitEnd(relay, is_relay_stopped, program, spec.program, report);
    report.OnEnd();
    Pause(relay, kEndMs);
    if (NowMs() - started_ms >= kLastsMs) pause_ms = kFirstPauseMs;
    // Seldom of a program that never lasts.
    if (pause_ms < kLongestPauseMs || NowMs() - said_ms >= kQuietMs) {
      said_ms = NowMs();
      WriteLogLine(absl::StrCat("warning: ", spec.program, " has ended (", how,
                                "); starting it again in ", pause_ms, " ms"));
    }
    Pause(relay, pause_ms);
    pause_ms = std::min(2 * pause_ms, kLongestPauseMs);
  }
}

}  // namespace

void RunKeeper(const SideProcessStart& start, const UserNetSpec& spec, bool confined,
               ProgramReport& report) {
  prctl(PR_SET_NAME, "vmm-net-keeper");
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  for (const int signal : {SIGCHLD, SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGQUIT}) {
    ::signal(signal, SIG_DFL);
  }
  report.OnEnd();  // the keeper before may have died
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) _exit(1);
  const pid_t relay = fork();
  if (relay < 0) _exit(1);
  if (relay == 0) {
    const int device = start.earlier_clients.empty() ? -1 : start.earlier_clients[0];
    int kept[] = {device, start.clients, ends[0]};
    if (!KeepOnly(kept)) _exit(1);
    RunRelay(kept[1], kept[0], kept[2], confined, report);
  }
  int kept[] = {ends[1]};
  if (!KeepOnly(kept)) _exit(1);
  KeepProgram(kept[0], relay, spec, report);
}

}  // namespace bulkhead::vmm
