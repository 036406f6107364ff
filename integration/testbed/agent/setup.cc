#include "integration/testbed/agent/setup.h"

#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace bulkhead::testbed {
namespace {

// cache=loose trusts that no one changes the host's files under us: right for the system and
// for a finished build. cache=mmap reads and writes through, and still allows shared mappings.
constexpr char kReadOptions[] = "trans=virtio,version=9p2000.L,msize=1048576,cache=loose";
constexpr char kWriteOptions[] = "trans=virtio,version=9p2000.L,msize=1048576,cache=mmap";

absl::Status MakeFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoToStatus(errno, absl::StrCat("mkdir ", path));
  }
  return absl::OkStatus();
}

absl::Status Mount(const char* type, const std::string& source, const std::string& folder,
                   unsigned long flags = 0, const std::string& options = "") {
  if (mount(source.c_str(), folder.c_str(), type, flags, options.c_str()) != 0) {
    return ErrnoToStatus(errno,
                         absl::StrCat("mount ", type == nullptr ? source : type, " on ", folder));
  }
  return absl::OkStatus();
}

absl::Status MakeAndMount(const char* type, const std::string& folder,
                          const std::string& options = "") {
  RETURN_IF_ERROR(MakeFolder(folder));
  return Mount(type, type, folder, 0, options);
}

// The links that udev would make.
absl::Status LinkStandardStreams(const std::string& folder) {
  static constexpr const char* kLinks[][2] = {
      {"/proc/self/fd", "/fd"}, {"fd/0", "/stdin"}, {"fd/1", "/stdout"}, {"fd/2", "/stderr"}};
  for (const auto& [target, name] : kLinks) {
    if (symlink(target, (folder + name).c_str()) != 0) {
      return ErrnoToStatus(errno, absl::StrCat("symlink ", folder, name));
    }
  }
  return absl::OkStatus();
}

// QEMU's emulation of nested paging loses guests: under load each ends in a triple fault within a
// minute or two. With shadow paging none does.
const char* ParametersOf(absl::string_view module) {
  return absl::EndsWith(module, "/kvm-amd.ko") ? "npt=0" : "";
}

absl::Status LoadModule(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.ok()) return ErrnoToStatus(errno, absl::StrCat("open ", path));
  if (syscall(SYS_finit_module, file.get(), ParametersOf(path), 0) != 0) {
    return ErrnoToStatus(errno, absl::StrCat("load ", path));
  }
  return absl::OkStatus();
}

// Of the running kernel, in the initramfs.
std::string ModulesFolder() {
  std::string release;
  std::ifstream("/proc/sys/kernel/osrelease") >> release;
  return absl::StrCat("/lib/modules/", release);
}

// Lets the command load what the initramfs has, with modprobe.
absl::Status BindModules(const std::string& root) {
  const std::string folder = ModulesFolder();
  RETURN_IF_ERROR(MakeFolder(absl::StrCat(root, "/lib/modules")));
  RETURN_IF_ERROR(MakeFolder(root + folder));
  return Mount(nullptr, folder, root + folder, MS_BIND);
}

void Warn(const char* what) { std::fprintf(stderr, "agent: %s: %s\n", what, strerror(errno)); }

// Mixes fresh entropy into the kernel's random generator and has it used at once.
void Reseed(absl::string_view entropy) {
  struct {  // as rand_pool_info, which ends in an array of unknown size
    int entropy_bits;
    int size;
    char bytes[256];
  } pool = {};
  pool.size = static_cast<int>(std::min(entropy.size(), sizeof(pool.bytes)));
  pool.entropy_bits = pool.size * 8;
  std::memcpy(pool.bytes, entropy.data(), pool.size);
  UniqueFd random(open("/dev/urandom", O_RDWR | O_CLOEXEC));
  if (ioctl(random.get(), RNDADDENTROPY, &pool) != 0) Warn("RNDADDENTROPY");
  if (ioctl(random.get(), RNDRESEEDCRNG, 0) != 0) Warn("RNDRESEEDCRNG");
}

}  // namespace

absl::Status StartKernelServices() {
  RETURN_IF_ERROR(MakeAndMount("proc", "/proc"));
  RETURN_IF_ERROR(MakeAndMount("sysfs", "/sys"));
  RETURN_IF_ERROR(MakeAndMount("devtmpfs", "/dev"));
  std::ifstream list("/modules.load");
  if (!list) return absl::NotFoundError("/modules.load is missing");
  const std::string folder = ModulesFolder();
  for (std::string path; std::getline(list, path);) {
    RETURN_IF_ERROR(LoadModule(absl::StrCat(folder, "/", path)));
  }
  return absl::OkStatus();
}

absl::Status EnterHostRoot(const StartRequest& request) {
  for (const char* folder : {"/host", "/memory", "/root"}) RETURN_IF_ERROR(MakeFolder(folder));
  RETURN_IF_ERROR(Mount("9p", kRootTag, "/host", MS_RDONLY, kReadOptions));
  RETURN_IF_ERROR(Mount("tmpfs", "tmpfs", "/memory", 0, "mode=0755"));
  RETURN_IF_ERROR(MakeFolder("/memory/upper"));
  RETURN_IF_ERROR(MakeFolder("/memory/work"));
  RETURN_IF_ERROR(Mount("overlay", "overlay", "/root", 0,
                        "lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work"));
  RETURN_IF_ERROR(MakeAndMount("proc", "/root/proc"));
  RETURN_IF_ERROR(MakeAndMount("sysfs", "/root/sys"));
  RETURN_IF_ERROR(MakeAndMount("devtmpfs", "/root/dev"));
  RETURN_IF_ERROR(LinkStandardStreams("/root/dev"));
  RETURN_IF_ERROR(MakeAndMount("devpts", "/root/dev/pts", "ptmxmode=0666,mode=0620"));
  RETURN_IF_ERROR(MakeAndMount("tmpfs", "/root/dev/shm", "mode=1777"));
  RETURN_IF_ERROR(Mount("cgroup2", "cgroup2", "/root/sys/fs/cgroup"));
  RETURN_IF_ERROR(BindModules("/root"));
  for (size_t i = 0; i < request.writable_folders.size(); ++i) {
    RETURN_IF_ERROR(
        Mount("9p", ShareTag(i), "/root" + request.writable_folders[i], 0, kWriteOptions));
  }
  // Moved onto "/" rather than only chrooted into: a chrooted process may not create user
  // namespaces.
  if (chdir("/root") != 0) return ErrnoToStatus(errno, "chdir /root");
  RETURN_IF_ERROR(Mount(nullptr, ".", "/", MS_MOVE));
  if (chroot(".") != 0) return ErrnoToStatus(errno, "chroot");
  return absl::OkStatus();
}

void SetUpEnvironment(const StartRequest& request) {
  static constexpr char kHostName[] = "testbed";
  if (sethostname(kHostName, sizeof(kHostName) - 1) != 0) Warn("sethostname");

  const timespec now = absl::ToTimespec(absl::FromUnixNanos(request.unix_time_ns));
  if (clock_settime(CLOCK_REALTIME, &now) != 0) Warn("clock_settime");

  Reseed(request.entropy);

  UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq loopback = {};
  std::strcpy(loopback.ifr_name, "lo");
  loopback.ifr_flags = IFF_UP | IFF_RUNNING;
  if (ioctl(socket_fd.get(), SIOCSIFFLAGS, &loopback) != 0) Warn("loopback interface");

  const rlimit files = {65536, 65536};
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) Warn("RLIMIT_NOFILE");
  const rlimit locked = {RLIM_INFINITY, RLIM_INFINITY};
  if (setrlimit(RLIMIT_MEMLOCK, &locked) != 0) Warn("RLIMIT_MEMLOCK");
}

absl::Status FlushWritableFolders(const StartRequest& request) {
  for (const std::string& path : request.writable_folders) {
    UniqueFd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder.ok()) return ErrnoToStatus(errno, absl::StrCat("open ", path));
    if (syncfs(folder.get()) != 0) return ErrnoToStatus(errno, absl::StrCat("syncfs ", path));
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::testbed
