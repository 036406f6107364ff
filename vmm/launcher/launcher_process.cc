#include "vmm/launcher/launcher_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/send_packet.h"
#include "vmm/launcher/confined_child.h"
#include "vmm/launcher/launch_message.h"
#include "vmm/launcher/leftovers.h"
#include "vmm/launcher/net_namespaces.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {
namespace {

// The namespaces, and their layers.
struct Namespace {
  SandboxLayer layer;
  uint64_t flag;
};
constexpr Namespace kNamespaces[] = {
    {SandboxLayer::kUser, CLONE_NEWUSER},    {SandboxLayer::kPid, CLONE_NEWPID},
    {SandboxLayer::kMount, CLONE_NEWNS},     {SandboxLayer::kNet, CLONE_NEWNET},
    {SandboxLayer::kIpc, CLONE_NEWIPC},      {SandboxLayer::kUts, CLONE_NEWUTS},
    {SandboxLayer::kCgroup, CLONE_NEWCGROUP}};
// Those that the launcher makes and the process inherits, so that it has no rights over them.
constexpr uint64_t kInherited = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;

uint64_t NamespacesOf(SandboxLayers layers) {
  uint64_t flags = 0;
  for (const Namespace& each : kNamespaces) {
    if (layers.has(each.layer)) flags |= each.flag;
  }
  return flags;
}

// As fork(2), with clone3(2)'s flags. The result: 0 in the new process, its pid, or -1.
// `cgroup`: the folder of the new process's control group; -1: that of this process.
pid_t Clone(uint64_t flags, int* pid_fd, int cgroup = -1) {
  clone_args arguments = {};
  arguments.flags = flags | (pid_fd != nullptr ? CLONE_PIDFD : 0);
  if (cgroup >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<uint64_t>(cgroup);
  }
  arguments.pidfd = reinterpret_cast<uint64_t>(pid_fd);
  // A child of the parent sends what its sibling sends.
  arguments.exit_signal = (flags & CLONE_PARENT) != 0 ? 0 : SIGCHLD;
  const int64_t pid = syscall(SYS_clone3, &arguments, sizeof(arguments));
  if (pid >= 0 || errno != ENOSYS || cgroup >= 0) return static_cast<pid_t>(pid);
  // Containers forbid clone3(2) so, whose flags their seccomp filter cannot see.
  return static_cast<pid_t>(
      syscall(SYS_clone, arguments.flags | arguments.exit_signal, nullptr, pid_fd, nullptr, 0));
}

// Overwrites the command line, which is the vmm's.
void SetName(const char* name, char** argv) {
  prctl(PR_SET_NAME, name);
  if (argv == nullptr || argv[0] == nullptr) return;
  char* end = argv[0];
  for (char** each = argv; *each == end; ++each) end += strlen(*each) + 1;
  const size_t size = static_cast<size_t>(end - argv[0]);
  memset(argv[0], 0, size);
  memcpy(argv[0], name, std::min(strlen(name), size - 1));
}

void DieWithParent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

bool WriteFile(int folder, const char* path, const char* text) {
  const int fd = openat(folder, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool written = write(fd, text, strlen(text)) == static_cast<ssize_t>(strlen(text));
  const int error = errno;
  close(fd);
  errno = error;
  return written;
}

// Maps one id of the parent user namespace onto itself.
bool MapId(int folder, const char* path, uint32_t id) {
  char line[48];
  snprintf(line, sizeof(line), "%u %u 1", id, id);
  return WriteFile(folder, path, line);
}

// ---- The launcher

class LauncherProcess {
 public:
  LauncherProcess(int socket, int proc) : socket_(socket), proc_(proc), net_namespaces_(proc) {}

  // Until the vmm has closed its end of the socket.
  void Run();

 private:
  // What was received with one request.
  struct Received {
    ConfinedChild child;
    int descriptors[kMaxLaunchDescriptors + 3];
    int cgroup = -1;
    size_t descriptor_count = 0;
    char* argv[kMaxLaunchStrings + 1];
    char* envp[kMaxLaunchStrings + 1];
  };

  // False: the vmm is gone.
  bool Receive();
  bool HasRequest() const;
  bool Parse(size_t size);
  // False: the vmm, which may have been taken over, asks for less than it has sealed.
  bool IsConfined(const LaunchRequest& request) const;
  void Launch();
  void CloseDescriptors();
  LaunchReport MakeChild(int& pid_fd, int& go);
  bool EnterNamespaces(SandboxLayers layers);
  bool MapUser(int pid);
  bool MakeEmptyRoot();
  pid_t PidOutside(int pid_fd) const;
  uint32_t MissingLayers(SandboxLayers layers) const;

  const int socket_;
  const int proc_;  // the folder /proc of the vmm
  bool has_empty_root_ = false;
  NetNamespaces net_namespaces_;
  bool sealed_ = false;
  SealRequest seal_;
  Received received_;
  alignas(16) char bytes_[kMaxLaunchBytes];
};

void LauncherProcess::Run() {
  while (Receive()) {
    // Sealed processes each have a network namespace, which takes longest: made while none is asked
    // for, mainly while the vmm prepares its first devices.
    const SandboxLayers layers(seal_.layers);
    if (!layers.has(SandboxLayer::kNet) || !layers.has(SandboxLayer::kPid)) continue;
    while (!HasRequest() && net_namespaces_.Prepare(seal_.uids)) {
    }
  }
}

bool LauncherProcess::HasRequest() const {
  pollfd request = {.fd = socket_, .events = POLLIN, .revents = 0};
  return poll(&request, 1, 0) != 0;
}

bool LauncherProcess::Receive() {
  iovec data = {.iov_base = bytes_, .iov_len = sizeof(bytes_)};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(received_.descriptors))];
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t size = recvmsg(socket_, &message, MSG_CMSG_CLOEXEC);
  if (size < 0 && (errno == EINTR || errno == EMFILE || errno == ENOMEM)) return true;
  if (size <= 0) return false;
  received_.descriptor_count = 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(received_.descriptors, CMSG_DATA(header), count * sizeof(int));
    received_.descriptor_count = count;
  }
  const bool whole = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0;
  // What is not launched: the status socket is closed without a report, which the vmm takes for a
  // failure.
  if (whole && !sealed_ && size == sizeof(seal_)) {
    memcpy(&seal_, bytes_, sizeof(seal_));
    sealed_ = true;
  } else if (whole && Parse(static_cast<size_t>(size)) && IsConfined(received_.child.request)) {
    Launch();
  }
  CloseDescriptors();
  return true;
}

bool LauncherProcess::Parse(size_t size) {
  ConfinedChild& child = received_.child;
  child = ConfinedChild();
  LaunchRequest& request = child.request;
  if (size < sizeof(request) || bytes_[size - 1] != '\0') return false;
  memcpy(&request, bytes_, sizeof(request));
  if (request.filter_instructions > BPF_MAXINSNS || request.arguments > kMaxLaunchStrings ||
      request.environment > kMaxLaunchStrings || request.has_cgroup > 1 ||
      request.descriptors + 2 + request.has_cgroup != received_.descriptor_count) {
    return false;
  }
  size_t position = sizeof(request);
  child.filter = reinterpret_cast<const sock_filter*>(bytes_ + position);
  position += request.filter_instructions * sizeof(sock_filter);
  const auto strings = [&](uint32_t count, char** out) {
    for (uint32_t i = 0; i < count; ++i) {
      if (position >= size) return false;
      out[i] = bytes_ + position;
      position += strlen(out[i]) + 1;
    }
    out[count] = nullptr;
    return true;
  };
  if (position > size || !strings(request.arguments, received_.argv) ||
      !strings(request.environment, received_.envp)) {
    return false;
  }
  child.argv = received_.argv;
  child.envp = received_.envp;
  child.status = received_.descriptors[0];
  child.binary = received_.descriptors[1];
  received_.cgroup = request.has_cgroup != 0 ? received_.descriptors[2] : -1;
  child.descriptors = received_.descriptors + 2 + request.has_cgroup;
  return true;
}

bool LauncherProcess::IsConfined(const LaunchRequest& request) const {
  if (!sealed_) return true;
  const SandboxLayers needed(seal_.layers);
  if (!needed.Without(SandboxLayers(request.layers)).empty()) return false;
  if (needed.has(SandboxLayer::kSeccomp) && request.filter_instructions == 0) return false;
  return !needed.has(SandboxLayer::kUid) ||
         (request.uid - seal_.first_uid < seal_.uids && request.gid == request.uid);
}

void LauncherProcess::CloseDescriptors() {
  // None of them can block: those of files are O_PATH descriptors, the others are sockets and pipes
  // that the vmm holds as well.
  for (size_t i = 0; i < received_.descriptor_count; ++i) close(received_.descriptors[i]);
}

void LauncherProcess::Launch() {
  int pid_fd = -1;
  int go = -1;
  LaunchReport report = MakeChild(pid_fd, go);
  const bool mapped = report.error == 0 && MapUser(report.pid);
  if (report.error == 0 && !mapped) {
    report.error = errno;
    report.layers = static_cast<uint32_t>(SandboxLayer::kUser);
    strncpy(report.call, "writing uid_map", sizeof(report.call) - 1);
  }
  const bool reported = SendPacket(received_.child.status, &report, sizeof(report), pid_fd);
  if (go >= 0) {
    // Without this byte the process ends.
    if (mapped && reported) (void)!write(go, "", 1);
    close(go);
  }
  if (pid_fd >= 0) net_namespaces_.SetProcess(pid_fd);
}

LaunchReport LauncherProcess::MakeChild(int& pid_fd, int& go) {
  LaunchReport report;
  const auto failed = [&report](const char* call, uint32_t layers) {
    report.error = errno;
    report.layers = layers;
    strncpy(report.call, call, sizeof(report.call) - 1);
    return report;
  };
  const SandboxLayers layers(received_.child.request.layers);
  if (layers.has(SandboxLayer::kMount) && !has_empty_root_) {
    if (!MakeEmptyRoot()) {
      return failed("making an empty root",
                    MissingLayers(layers) | static_cast<uint32_t>(SandboxLayer::kMount));
    }
    has_empty_root_ = true;
  }
  if (!EnterNamespaces(layers)) return failed("unshare", MissingLayers(layers));
  const uint64_t flags = (NamespacesOf(layers) & ~kInherited) | CLONE_PARENT;
  int pipe_ends[2];
  if (pipe2(pipe_ends, O_CLOEXEC) != 0) return failed("pipe2", 0);
  const pid_t pid = Clone(flags, &pid_fd, received_.cgroup);
  if (pid == 0) {
    close(pipe_ends[1]);
    received_.child.go = pipe_ends[0];
    RunConfinedChild(received_.child);
  }
  const int error = errno;
  close(pipe_ends[0]);
  go = pipe_ends[1];
  errno = error;
  if (pid < 0) return failed("clone3", MissingLayers(layers));
  report.pid = PidOutside(pid_fd);
  return report;
}

// Those of kInherited, but for the mount namespace: that is one for all processes, since the kernel
// takes milliseconds to end one, before it reports the death of the process.
bool LauncherProcess::EnterNamespaces(SandboxLayers layers) {
  const uint64_t made = NamespacesOf(layers) & kInherited & ~(CLONE_NEWNS | CLONE_NEWNET);
  // A container forbids the call, whatever it asks for.
  if (made != 0 && unshare(static_cast<int>(made)) != 0) return false;
  // With the layer "pid" nothing that a process has forked outlives it.
  return !layers.has(SandboxLayer::kNet) || net_namespaces_.Enter(layers.has(SandboxLayer::kPid));
}

bool LauncherProcess::MapUser(int pid) {
  const LaunchRequest& request = received_.child.request;
  if (!SandboxLayers(request.layers).has(SandboxLayer::kUser)) return true;
  char path[32];
  snprintf(path, sizeof(path), "%d/uid_map", pid);
  if (!MapId(proc_, path, request.uid)) return false;
  snprintf(path, sizeof(path), "%d/gid_map", pid);
  return MapId(proc_, path, request.gid);
}

// For all processes to come, which share this mount namespace.
bool LauncherProcess::MakeEmptyRoot() {
  if (unshare(CLONE_NEWNS) != 0) return false;
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  // Any folder will do.
  const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;  // NOLINT: the kernel's type
  if (mount("none", "/proc", "tmpfs", flags, "size=4k,nr_inodes=2,mode=555") != 0) return false;
  if (mkdir("/proc/chroot", 0555) != 0) return false;  // for RunConfinedChild()
  if (chdir("/proc") != 0 || syscall(SYS_pivot_root, ".", ".") != 0) return false;
  return umount2(".", MNT_DETACH) == 0 && chdir("/") == 0 &&
         mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, nullptr) == 0;
}

// 0: unknown.
pid_t LauncherProcess::PidOutside(int pid_fd) const {
  char path[40];
  snprintf(path, sizeof(path), "self/fdinfo/%d", pid_fd);
  const int fd = openat(proc_, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[512];
  const ssize_t size = read(fd, text, sizeof(text) - 1);
  close(fd);
  if (size <= 0) return 0;
  text[size] = '\0';
  const char* const line = strstr(text, "Pid:");
  return line == nullptr ? 0 : atoi(line + 4);
}

// Which namespaces this host does not allow, by layer; 0: each of them by itself is possible. Keeps
// errno.
uint32_t LauncherProcess::MissingLayers(SandboxLayers layers) const {
  const int error = errno;
  uint32_t missing = 0;
  for (const Namespace& each : kNamespaces) {
    if (!layers.has(each.layer)) continue;
    const pid_t pid = Clone(each.flag, nullptr);
    if (pid == 0) _exit(0);
    if (pid > 0) {
      waitpid(pid, nullptr, 0);
    } else {
      missing |= static_cast<uint32_t>(each.layer);
    }
  }
  errno = error;
  return missing;
}

[[noreturn]] void RunLauncher(int socket, int proc, char** argv) {
  SetName("vmm-launcher", argv);
  // Static: it is large. The new processes copy it on write.
  static LauncherProcess launcher(socket, proc);
  launcher.Run();
  _exit(0);
}

// ---- The init of the launcher's PID namespace

void KillAllOthers() {
  // Of the PID namespace: this process is its init.
  if (getpid() == 1) kill(-1, SIGKILL);
}

[[noreturn]] void RunInit(int lifeline, int launcher_lives, char** argv) {
  SetName("vmm-init", argv);
  signal(SIGCHLD, SIG_IGN);  // the kernel reaps what is left to this process
  static Leftovers leftovers;
  pollfd ends[] = {{.fd = lifeline, .events = POLLIN, .revents = 0},
                   {.fd = launcher_lives, .events = POLLIN, .revents = 0}};
  do {
    poll(ends, 2, -1);
    if (ends[1].revents != 0) {
      KillAllOthers();
      ends[1].fd = -1;  // the vmm ends by itself
    }
  } while (ends[0].revents == 0 || leftovers.Receive(lifeline));
  KillAllOthers();
  leftovers.Remove();
  _exit(0);
}

// Keeps its user and group, so that its access to files does not change.
bool EnterUserNamespace(int proc) {
  const uint32_t uid = geteuid();
  const uint32_t gid = getegid();
  return unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0 && WriteFile(proc, "self/setgroups", "deny") &&
         MapId(proc, "self/gid_map", gid) && MapId(proc, "self/uid_map", uid);
}

}  // namespace

void MakeLauncher(int socket, int lifeline, char** argv) {
  LauncherReport report;
  const auto fail = [&](const char* call) {
    report.error = errno;
    strncpy(report.call, call, sizeof(report.call) - 1);
    SendPacket(socket, &report, sizeof(report), -1);
    _exit(1);
  };
  // Both processes have a name of ours from their beginning: who looks for devices among the vmm's
  // children leaves these out.
  SetName("vmm-launcher", nullptr);
  setsid();  // the terminal's signals are for the vmm
  // An empty one, so that no device possesses the keys of the vmm's session. Fails where the kernel
  // has no keys, or this user too many of them.
  syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
  const int proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (proc < 0) fail("open /proc");
  if (unshare(CLONE_NEWPID) == 0) {
    report.has_pid_namespace = 1;
  } else if (EnterUserNamespace(proc)) {
    report.has_pid_namespace = 1;
    report.has_user_namespace = 1;
  } else {
    report.obstacle = errno;
  }
  int launcher_lives[2];
  if (pipe2(launcher_lives, O_CLOEXEC) != 0) fail("pipe2");
  int pid_fds[2] = {-1, -1};
  pid_t init = 0;
  if (report.has_pid_namespace != 0) {
    init = Clone(CLONE_PARENT, &pid_fds[1]);
    if (init == 0) {
      close(socket);
      close(proc);
      close(launcher_lives[1]);
      RunInit(lifeline, launcher_lives[0], argv);
    }
    if (init < 0) fail("clone3");
  }
  const pid_t launcher = Clone(CLONE_PARENT, &pid_fds[0]);
  if (launcher == 0) {
    DieWithParent();
    close(lifeline);
    close(launcher_lives[0]);
    if (pid_fds[1] >= 0) close(pid_fds[1]);
    RunLauncher(socket, proc, argv);
  }
  if (launcher < 0) fail("clone3");
  report.pid = launcher;
  if (!SendPacket(socket, &report, sizeof(report), pid_fds[0])) _exit(1);
  report.pid = init;
  if (pid_fds[1] >= 0) SendPacket(socket, &report, sizeof(report), pid_fds[1]);
  _exit(0);
}

}  // namespace bulkhead::vmm
