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
#include "base/argument_pointers.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "integration/testbed/launcher/tsc_frequency.h"
#include "integration/testbed/wire.h"

namespace bulkhead::testbed {
namespace {

constexpr char kQemu[] = "qemu-system-x86_64";
constexpr absl::Duration kReapTimeout = absl::Seconds(10);

// Trusting the emulated clock and leaving out what protects real machines only saves time.
// no_timer_check: where the emulation gets no processor for long, the kernel would find its
// timer broken and panic.
// nohz=off, highres=off: each processor's timer is periodic, not one shot after the other. QEMU
// loses interrupts: a #VMEXIT clears one bit of a word in which other threads set bits, without a
// lock. The processor then stands in HLT with an interrupt pending, until the next one. A periodic
// timer brings that within 4 ms; a one-shot timer whose interrupt was lost is never armed again.
constexpr char kKernelCommandLine[] =
    "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off init_on_alloc=0 "
    "no_timer_check nohz=off highres=off random.trust_cpu=on";
// What the emulation is slow at goes: string instructions byte by byte, a fifth level of page
// tables, switching access checks at every copy from user space. A quarter of the time.
// XSAVE goes because QEMU does not let the inner KVM intercept XSETBV: guests that use it find
// its CPUID leaf stale, and warn. All that needs XSAVE goes with it: Linux uses AVX if it sees it.
// CMPXCHG16B goes because QEMU 7.2 computes its flags from stale ones: kernels since 6.12 leave it
// with garbage in EFLAGS, which an exit to the inner KVM then carries back into the guest.
constexpr char kCpu[] =
    "max,+svm,-erms,-la57,-smap,-cx16,"
    "-xsave,-xsaveopt,-xgetbv1,-avx,-avx2,-f16c,-fma,-vaes,-vpclmulqdq,-mpx,-pku";

// The emulated time stamp counter is the host's. Left to itself the kernel measures it against an
// emulated timer: on a busy host the result was off by a factor of 3.7, and the clock of the
// testbed and of every guest in it ran as much too fast. A snapshot keeps what it was booted with.
std::string KernelCommandLine(bool boots) {
  if (!boots) return kKernelCommandLine;
  return absl::StrCat(kKernelCommandLine, " tsc_early_khz=", MeasureTscKhz());
}

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

struct Channels {
  SocketPair agent;
  SocketPair console;
  SocketPair control;
};

std::vector<std::string> QemuCommand(const VirtualMachineConfig& config, const Channels& channels,
                                     int snapshot_fd) {
  const auto socket = [](const char* id, const SocketPair& pair) {
    return absl::StrCat("socket,id=", id, ",fd=", pair.theirs.get());
  };
  std::vector<std::string> command = {
      // clang-format off
      kQemu, "-nodefaults", "-no-user-config", "-no-reboot",
      "-display", "none",
      "-machine", "q35",
      "-accel", "tcg,thread=multi",
      "-cpu", kCpu,
      "-smp", absl::StrCat(config.cpus),
      "-m", absl::StrCat(config.memory_mib),
      "-kernel", config.kernel,
      "-initrd", config.initramfs,
      "-append", KernelCommandLine(snapshot_fd < 0),
      "-chardev", socket("control", channels.control),
      "-mon", "chardev=control,mode=control",
      "-chardev", socket("console", channels.console),
      "-serial", "chardev:console",
      "-device", "virtio-serial-pci",
      "-chardev", socket("agent", channels.agent),
      "-device", absl::StrCat("virtserialport,chardev=agent,name=", kPortName),
      // clang-format on
  };
  if (snapshot_fd >= 0) {
    command.insert(command.end(), {"-incoming", absl::StrCat("fd:", snapshot_fd)});
  }
  AddShare(kRootTag, "/", ",readonly=on", command);
  for (size_t i = 0; i < kMaxShares; ++i) {
    if (i < config.writable_folders.size()) {
      AddShare(ShareTag(i), config.writable_folders[i], "", command);
    } else {
      AddShare(ShareTag(i), "/", ",readonly=on", command);  // never mounted
    }
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
  execvp(kQemu, ArgumentPointers(command).data());
  dprintf(2, "%s: %s; tools/setup installs it\n", kQemu, strerror(errno));
  _exit(127);
}

}  // namespace

absl::StatusOr<VirtualMachine> VirtualMachine::Start(const VirtualMachineConfig& config) {
  if (config.writable_folders.size() > kMaxShares) {
    return absl::InvalidArgumentError(
        absl::StrCat("no more than ", kMaxShares, " writable folders that lie apart"));
  }
  UniqueFd snapshot;
  if (!config.snapshot.empty()) {
    snapshot.reset(open(config.snapshot.c_str(), O_RDONLY));  // inherited
    if (!snapshot.ok()) return ErrnoToStatus(errno, absl::StrCat("open ", config.snapshot));
  }
  Channels channels;
  for (SocketPair* pair : {&channels.agent, &channels.console, &channels.control}) {
    ASSIGN_OR_RETURN(*pair, MakeSocketPair());
  }
  const std::vector<std::string> command = QemuCommand(config, channels, snapshot.get());
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return ErrnoToStatus(errno, "fork");
  if (child == 0) Exec(command, parent, channels.console.theirs.get());
  ASSIGN_OR_RETURN(PidFd process, PidFd::Open(child));
  return VirtualMachine(std::move(channels.agent.ours), std::move(channels.console.ours),
                        std::move(channels.control.ours), std::move(process));
}

VirtualMachine::~VirtualMachine() {
  if (process_.fd() < 0) return;           // moved from
  process_.Signal(SIGKILL).IgnoreError();  // it may have ended by itself
  process_.Wait(kReapTimeout).IgnoreError();
}

}  // namespace bulkhead::testbed
