#include "vmm/back_end/back_end_sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "vmm/launcher/landlock.h"

namespace bulkhead::vmm {
namespace {

constexpr char kRoot[] = "/tmp";  // where the new root is made

[[noreturn]] void Fail(absl::string_view what) {
  const std::string text = absl::StrCat("sandbox: ", what, ": ", strerror(errno), "\n");
  if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(2);
  _exit(1);
}

bool KeepsUsers(const BackEndSpec& spec, uid_t uid) { return spec.serves_folder && uid == 0; }

// All users and groups that this process has, as they are. `path`: of its own map.
std::string IdentityMap(const char* path) {
  std::string lines;
  FILE* const file = fopen(path, "re");
  unsigned inside, outside, count;
  while (file != nullptr && fscanf(file, "%u %u %u", &inside, &outside, &count) == 3) {
    absl::StrAppend(&lines, inside, " ", inside, " ", count, "\n");
  }
  if (file != nullptr) fclose(file);
  return lines;
}

int TryWriteFile(const std::string& path, const std::string& text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error =
      write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : errno;
  close(fd);
  return error;
}

void WriteFile(const char* path, const std::string& text) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    Fail(path);
  }
  close(fd);
}

// ---- Files

// A copy of a file or folder tree of the host, to be put into the new root.
struct Tree {
  std::string path;
  int fd = -1;
  bool is_folder = false;
};

Tree Clone(const std::string& path, uint64_t attributes) {
  Tree tree = {.path = path};
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) Fail(path);
  tree.is_folder = S_ISDIR(info.st_mode);
  tree.fd = static_cast<int>(syscall(SYS_open_tree, AT_FDCWD, path.c_str(),
                                     OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE));
  if (tree.fd < 0) Fail(absl::StrCat("open_tree of ", path));
  mount_attr attr = {};
  attr.attr_set = attributes;
  if (syscall(SYS_mount_setattr, tree.fd, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)) !=
      0) {
    Fail(absl::StrCat("mount_setattr of ", path));
  }
  return tree;
}

void MakeFolders(const std::string& path) {
  for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
    mkdir(path.substr(0, at).c_str(), 0755);
  }
}

void Attach(const Tree& tree) {
  const std::string place = kRoot + tree.path;
  MakeFolders(place);
  if (tree.is_folder) {
    mkdir(place.c_str(), 0755);
  } else {
    const int file = open(place.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) Fail(absl::StrCat("making ", tree.path));
    close(file);
  }
  if (syscall(SYS_move_mount, tree.fd, "", AT_FDCWD, place.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    Fail(absl::StrCat("move_mount to ", tree.path));
  }
  close(tree.fd);
}

// Where Debian has programs and libraries. Links into /usr are copied as links.
constexpr const char* kSystemFolders[] = {"/usr", "/bin", "/lib", "/lib64"};
constexpr char kLinkerCache[] = "/etc/ld.so.cache";
constexpr char kMostFiles[] = "/proc/sys/fs/file-max";  // virtiofsd does not start without it
constexpr char kNull[] = "/dev/null";

// Of this PID namespace; by it virtiofsd opens a file again that it has. Not to be written: its
// owner would be the user of root's vmm.
void MountProc() {
  const std::string place = std::string(kRoot) + "/proc";
  if (mkdir(place.c_str(), 0755) != 0 ||
      mount("proc", place.c_str(), "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) !=
          0) {
    Fail("mounting /proc");
  }
}

void EnterNewRoot(const BackEndSpec& spec) {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    Fail("making mounts private");
  constexpr uint64_t kReadOnly = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  std::vector<Tree> trees;
  std::vector<std::pair<std::string, std::string>> links;
  for (const char* folder : kSystemFolders) {
    char target[256];
    const ssize_t size = readlink(folder, target, sizeof(target));
    if (size > 0) {
      links.emplace_back(folder, std::string(target, static_cast<size_t>(size)));
    } else if (access(folder, F_OK) == 0) {
      trees.push_back(Clone(folder, kReadOnly));
    }
  }
  if (access(kLinkerCache, F_OK) == 0) trees.push_back(Clone(kLinkerCache, kReadOnly));
  trees.push_back(Clone(kNull, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
  for (const BackEndSpec::File& file : spec.files) {
    trees.push_back(Clone(file.path, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |
                                         (file.read_only ? MOUNT_ATTR_RDONLY : 0)));
  }
  if (mount("tmpfs", kRoot, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=0755") != 0) {
    Fail("mounting a tmpfs");
  }
  for (const auto& [name, target] : links) {
    if (symlink(target.c_str(), (kRoot + name).c_str()) != 0) Fail(name);
  }
  for (const Tree& tree : trees) Attach(tree);
  if (spec.serves_folder) MountProc();
  if (chdir(kRoot) != 0 || syscall(SYS_pivot_root, ".", ".") != 0) Fail("pivot_root");
  if (umount2(".", MNT_DETACH) != 0) Fail("umount2");
  if (mount(nullptr, "/", nullptr,
            MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    Fail("making the root read-only");
  }
  if (chdir("/") != 0) Fail("chdir");
}

void RestrictFiles(const BackEndSpec& spec) {
  const int abi = static_cast<int>(
      syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION));
  if (abi < 0) Fail("Landlock (--sandbox-waive=landlock does without)");
  const LandlockRights rights = LandlockRightsOfAbi(abi);
  const int ruleset = static_cast<int>(
      syscall(SYS_landlock_create_ruleset, &rights.ruleset, rights.ruleset_bytes, 0));
  if (ruleset < 0) Fail("landlock_create_ruleset");
  const auto allow = [&](const char* path, uint64_t access) {
    const int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return;
    struct stat info = {};
    if (fd < 0 || fstat(fd, &info) != 0) Fail(path);
    // Rights of folders are refused for a file.
    if (!S_ISDIR(info.st_mode)) {
      access &= LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE |
                LANDLOCK_ACCESS_FS_READ_FILE | uint64_t{1} << 14;  // truncate
    }
    const landlock_path_beneath_attr rule = {
        .allowed_access = access & rights.ruleset.handled_access_fs, .parent_fd = fd};
    if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) {
      Fail(absl::StrCat("landlock_add_rule of ", path));
    }
    close(fd);
  };
  constexpr uint64_t kRead = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
  for (const char* folder : kSystemFolders) allow(folder, kRead | LANDLOCK_ACCESS_FS_EXECUTE);
  allow(kLinkerCache, kRead);
  allow(kNull, kRead | LANDLOCK_ACCESS_FS_WRITE_FILE);
  if (spec.serves_folder) allow(kMostFiles, kRead);
  for (const BackEndSpec::File& file : spec.files) {
    allow(file.path.c_str(), file.read_only ? kRead : ~uint64_t{LANDLOCK_ACCESS_FS_EXECUTE});
  }
  if (syscall(SYS_landlock_restrict_self, ruleset, 0) != 0) Fail("landlock_restrict_self");
  close(ruleset);
}

// ---- Rights

constexpr uint32_t Bit(int capability) { return uint32_t{1} << capability; }

// Rights to files of all users; SETPCAP: virtiofsd gives up the others by itself.
constexpr uint32_t kFolderCapabilities = Bit(CAP_CHOWN) | Bit(CAP_DAC_OVERRIDE) | Bit(CAP_FOWNER) |
                                         Bit(CAP_FSETID) | Bit(CAP_SETGID) | Bit(CAP_SETUID) |
                                         Bit(CAP_SETPCAP) | Bit(CAP_SYS_CHROOT);

// All but `kept`, which are below 32.
void DropCapabilities(uint32_t kept) {
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    if (capability < 32 && (kept & Bit(capability)) != 0) continue;
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 && errno != EPERM) Fail("PR_CAPBSET_DROP");
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  // Not inheritable: what root executes gets what the bounding set and these leave.
  __user_cap_data_struct sets[2] = {{.effective = kept, .permitted = kept, .inheritable = 0}, {}};
  if (syscall(SYS_capset, &header, sets) != 0) Fail("capset");
}

void LimitResources(const BackEndSpec& spec) {
  const auto limit = [](__rlimit_resource_t what, rlim_t value) {
    rlimit limits = {};
    if (getrlimit(what, &limits) != 0) Fail("getrlimit");
    limits.rlim_max = std::min(limits.rlim_max, value);
    limits.rlim_cur = limits.rlim_max;
    if (setrlimit(what, &limits) != 0) Fail("setrlimit");
  };
  limit(RLIMIT_CORE, 0);
  // virtiofsd holds each file that the guest knows: its limit is the supervisor's.
  if (!spec.serves_folder) limit(RLIMIT_NOFILE, 1024);
  limit(RLIMIT_MEMLOCK, 0);
  limit(RLIMIT_MSGQUEUE, 0);
}

// ---- System calls

constexpr uint32_t kForbidden[] = {SYS_acct,
                                   SYS_add_key,
                                   SYS_adjtimex,
                                   SYS_bpf,
                                   SYS_clock_adjtime,
                                   SYS_clock_settime,
                                   SYS_delete_module,
                                   SYS_execveat,
                                   SYS_fanotify_init,
                                   SYS_finit_module,
                                   SYS_fork,
                                   SYS_fsconfig,
                                   SYS_fsmount,
                                   SYS_fsopen,
                                   SYS_fspick,
                                   SYS_init_module,
                                   SYS_io_uring_enter,
                                   SYS_io_uring_register,
                                   SYS_io_uring_setup,
                                   SYS_ioperm,
                                   SYS_iopl,
                                   SYS_kcmp,
                                   SYS_kexec_file_load,
                                   SYS_kexec_load,
                                   SYS_keyctl,
                                   SYS_mbind,
                                   SYS_migrate_pages,
                                   SYS_modify_ldt,
                                   SYS_mount,
                                   SYS_mount_setattr,
                                   SYS_move_mount,
                                   SYS_move_pages,
                                   SYS_name_to_handle_at,
                                   SYS_open_by_handle_at,
                                   SYS_open_tree,
                                   SYS_perf_event_open,
                                   SYS_personality,
                                   SYS_pidfd_getfd,
                                   SYS_pidfd_open,
                                   SYS_pivot_root,
                                   SYS_process_madvise,
                                   SYS_process_vm_readv,
                                   SYS_process_vm_writev,
                                   SYS_ptrace,
                                   SYS_quotactl,
                                   SYS_reboot,
                                   SYS_request_key,
                                   SYS_setdomainname,
                                   SYS_sethostname,
                                   SYS_setns,
                                   SYS_settimeofday,
                                   SYS_swapoff,
                                   SYS_swapon,
                                   SYS_syslog,
                                   SYS_umount2,
                                   SYS_uselib,
                                   SYS_userfaultfd,
                                   SYS_vfork,
                                   SYS_vhangup};

void Install(std::vector<sock_filter>& filter) {
  const sock_fprog program = {.len = static_cast<unsigned short>(filter.size()),  // NOLINT
                              .filter = filter.data()};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) Fail("seccomp");
}

// `keeps_users`: it is in several groups, or none.
void RestrictSystemCalls(bool serves_folder, bool keeps_users) {
  constexpr uint32_t kX32Bit = 0x40000000;
  constexpr uint32_t kRefuse = SECCOMP_RET_ERRNO | EPERM;
  const auto argument = [](int index) {
    return static_cast<uint32_t>(offsetof(seccomp_data, args)) + 8 * index;
  };
  std::vector<sock_filter> filter = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      // glibc then takes clone(), whose flags are no pointer.
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS)};
  if (serves_folder) {
    filter.insert(filter.end(), {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_unshare, 0, 4),
                                 BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument(0)),
                                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLONE_FS, 1, 0),
                                 BPF_STMT(BPF_RET | BPF_K, kRefuse),
                                 BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)});
  }
  if (serves_folder && !keeps_users) {
    // virtiofsd insists on giving up its groups, which no user may in a user namespace of his own:
    // it keeps them, and believes that it has none.
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_setgroups, 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO));
  }
  std::vector<uint32_t> forbidden(std::begin(kForbidden), std::end(kForbidden));
  if (!serves_folder) forbidden.insert(forbidden.end(), {SYS_chroot, SYS_unshare});
  for (const uint32_t number : forbidden) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, kRefuse));
  }
  filter.insert(filter.end(),
                {// Threads, and no processes.
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4),
                 BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument(0)),
                 BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0),
                 BPF_STMT(BPF_RET | BPF_K, kRefuse), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 3),
                 BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument(0)),
                 BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 1, 0),
                 BPF_STMT(BPF_RET | BPF_K, kRefuse), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)});
  Install(filter);
}

}  // namespace

int MapUsersOf(pid_t process, const BackEndSpec& spec, SandboxLayers layers) {
  if (!layers.has(SandboxLayer::kUser) || !KeepsUsers(spec, geteuid())) return 0;
  for (const char* map : {"uid_map", "gid_map"}) {
    const std::string own = absl::StrCat("/proc/self/", map);
    if (const int error =
            TryWriteFile(absl::StrCat("/proc/", process, "/", map), IdentityMap(own.c_str()));
        error != 0) {
      return error;
    }
  }
  return 0;
}

void ConfineKeeper(SandboxLayers layers) {
  constexpr uint32_t kAllowed[] = {
      SYS_accept4, SYS_brk,     SYS_close,      SYS_exit,         SYS_exit_group,     SYS_futex,
      SYS_listen,  SYS_madvise, SYS_mmap,       SYS_mremap,       SYS_munmap,         SYS_poll,
      SYS_recvmsg, SYS_sendmsg, SYS_setsockopt, SYS_rt_sigreturn, SYS_restart_syscall};
  if (layers.has(SandboxLayer::kCaps)) DropCapabilities(0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Fail("PR_SET_NO_NEW_PRIVS");
  if (!layers.has(SandboxLayer::kSeccomp)) return;
  std::vector<sock_filter> filter = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))};
  for (const uint32_t number : kAllowed) {
    filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  Install(filter);
}

uint64_t NamespacesOf(SandboxLayers layers) {
  uint64_t flags = 0;
  if (layers.has(SandboxLayer::kUser)) flags |= CLONE_NEWUSER;
  if (layers.has(SandboxLayer::kPid)) flags |= CLONE_NEWPID;
  if (layers.has(SandboxLayer::kMount)) flags |= CLONE_NEWNS;
  if (layers.has(SandboxLayer::kNet)) flags |= CLONE_NEWNET;
  if (layers.has(SandboxLayer::kIpc)) flags |= CLONE_NEWIPC;
  if (layers.has(SandboxLayer::kUts)) flags |= CLONE_NEWUTS;
  if (layers.has(SandboxLayer::kCgroup)) flags |= CLONE_NEWCGROUP;
  return flags;
}

void ExecuteConfined(const BackEndSpec& spec, SandboxLayers layers, uid_t uid, gid_t gid) {
  if (layers.has(SandboxLayer::kUser)) {
    if (!KeepsUsers(spec, uid)) {
      // virtiofsd wants to be root.
      WriteFile("/proc/self/setgroups", "deny");
      WriteFile("/proc/self/uid_map", absl::StrCat(spec.serves_folder ? 0 : uid, " ", uid, " 1\n"));
      WriteFile("/proc/self/gid_map", absl::StrCat(spec.serves_folder ? 0 : gid, " ", gid, " 1\n"));
    }
  }
  if (layers.has(SandboxLayer::kMount)) EnterNewRoot(spec);
  if (layers.has(SandboxLayer::kRlimits)) LimitResources(spec);
  if (layers.has(SandboxLayer::kCaps))
    DropCapabilities(spec.serves_folder ? kFolderCapabilities : 0);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) Fail("PR_SET_NO_NEW_PRIVS");
  if (layers.has(SandboxLayer::kLandlock)) RestrictFiles(spec);
  if (layers.has(SandboxLayer::kSeccomp)) {
    RestrictSystemCalls(spec.serves_folder, KeepsUsers(spec, uid));
  }
  std::vector<char*> arguments = {const_cast<char*>(spec.binary.c_str())};
  for (const std::string& argument : spec.args) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  char* const environment[] = {nullptr};
  execve(spec.binary.c_str(), arguments.data(), environment);
  Fail(absl::StrCat("execve of ", spec.binary));
}

}  // namespace bulkhead::vmm
