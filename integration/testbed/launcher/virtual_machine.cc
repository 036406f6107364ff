#include "integration/testbed/launcher/virtual_machine.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "integration/testbed/wire.h"

namespace bulkhead::testbed {
namespace {

constexpr char kQemu[] = "qemu-system-x86_64";
constexpr absl::Duration kReapTimeout = absl::Seconds(10);

// Trusting the emulated clock and leaving out what is for real hardware only saves time.
constexpr char kKernelCommandLine[] =
    "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off random.trust_cpu=on";

struct SocketPair {
  UniqueFd ours;    // non-blocking
  UniqueFd theirs;  // inherited by QEMU
};

absl::StatusOr<SocketPair> MakeSocketPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) return ErrnoToStatus(errno, "socketpair");
  SocketPair pair{UniqueFd(fds[0]), UniqueFd(fds[1])};
  if (fcntl(fds[0], F_SETFD, FD_CLOEXEC) != 0 || fcntl(fds[0], F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "fcntl");
  }
  return pair;
}

void AddShare(const std::string& tag, const std::string& path, const char* more,
              std::vector<std::string>& command) {
  command.insert(
      command.end(),
      {"-fsdev",
       absl::StrCat("local,id=", tag, ",path=", path, ",security_model=none,multidevs=remap", more),
       "-device", absl::StrCat("virtio-9p-pci,fsdev=", tag, ",mount_tag=", tag)});
}

std::vector<std::string> QemuCommand(const VirtualMachineConfig& config, int agent_fd,
                                     int console_fd) {
  std::vector<std::string> command = {
      kQemu,
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-no-reboot",
      "-machine",
      "q35",
      "-accel",
      "tcg,thread=multi",
      "-cpu",
      "max,+svm",
      "-smp",
      absl::StrCat(config.cpus),
      "-m",
      absl::StrCat(config.memory_mib),
      "-kernel",
      config.kernel,
      "-initrd",
      config.initramfs,
      "-append",
      kKernelCommandLine,
      "-chardev",
      absl::StrCat("socket,id=console,fd=", console_fd),
      "-serial",
      "chardev:console",
      "-device",
      "virtio-serial-pci",
      "-chardev",
      absl::StrCat("socket,id=agent,fd=", agent_fd),
      "-device",
      absl::StrCat("virtserialport,chardev=agent,name=", kPortName),
  };
  AddShare(kRootTag, "/", ",readonly=on", command);
  for (size_t i = 0; i < config.writable_folders.size(); ++i) {
    AddShare(ShareTag(i), config.writable_folders[i], "", command);
  }
  return command;
}

// In the child.
[[noreturn]] void Exec(const std::vector<std::string>& command, pid_t parent, int console_fd) {
  // No signal handler or exit path of the launcher is needed for QEMU to end with it.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // the launcher died before that
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(null, 1);
  dup2(console_fd, 2);
  std::vector<char*> arguments;
  for (const std::string& text : command) arguments.push_back(const_cast<char*>(text.c_str()));
  arguments.push_back(nullptr);
  execvp(kQemu, arguments.data());
  dprintf(2, "%s: %s; tools/setup installs it\n", kQemu, strerror(errno));
  _exit(127);
}

}  // namespace

absl::StatusOr<VirtualMachine> VirtualMachine::Start(const VirtualMachineConfig& config) {
  ASSIGN_OR_RETURN(SocketPair agent, MakeSocketPair());
  ASSIGN_OR_RETURN(SocketPair console, MakeSocketPair());
  const std::vector<std::string> command =
      QemuCommand(config, agent.theirs.get(), console.theirs.get());
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return ErrnoToStatus(errno, "fork");
  if (child == 0) Exec(command, parent, console.theirs.get());
  ASSIGN_OR_RETURN(PidFd process, PidFd::Open(child));
  return VirtualMachine(std::move(agent.ours), std::move(console.ours), std::move(process));
}

VirtualMachine::~VirtualMachine() {
  if (process_.fd() < 0) return;           // moved from
  process_.Signal(SIGKILL).IgnoreError();  // it may have ended by itself
  process_.Wait(kReapTimeout).IgnoreError();
}

}  // namespace bulkhead::testbed
