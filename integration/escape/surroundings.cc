#include "integration/escape/surroundings.h"

#include <linux/keyctl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/testing/files.h"
#include "gtest/gtest.h"

namespace bulkhead::integration {
namespace {

constexpr int kSoPassRights = 83;  // SO_PASSRIGHTS, which Debian 12's headers lack

template <typename Address>
UniqueFd Listen(int family, Address& address, socklen_t size) {
  UniqueFd fd(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr* const generic = reinterpret_cast<sockaddr*>(&address);
  if (!fd.ok() || bind(fd.get(), generic, size) != 0 || listen(fd.get(), 16) != 0 ||
      getsockname(fd.get(), generic, &size) != 0) {
    return UniqueFd();
  }
  return fd;
}

}  // namespace

Host::Host() {
  sockaddr_in tcp = {};
  tcp.sin_family = AF_INET;
  tcp.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  tcp_ = Listen(AF_INET, tcp, sizeof(tcp));
  EXPECT_TRUE(tcp_.ok());
  tcp_port_ = ntohs(tcp.sin_port);

  abstract_name_ = absl::StrCat("bulkhead-escape-", getpid());
  sockaddr_un abstract = {.sun_family = AF_UNIX, .sun_path = {}};
  memcpy(abstract.sun_path + 1, abstract_name_.data(), abstract_name_.size());
  abstract_ =
      Listen(AF_UNIX, abstract,
             static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + abstract_name_.size()));
  EXPECT_TRUE(abstract_.ok());

  ipc_key_ = 0x62750000 | (getpid() & 0xffff);
  ipc_id_ = shmget(ipc_key_, 4096, IPC_CREAT | 0666);
  EXPECT_GE(ipc_id_, 0);

  // Ignored where the kernel has no keys: then there is none to read.
  syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr);
  key_ = static_cast<int>(
      syscall(SYS_add_key, "user", kKeyName, "secret", 6, KEY_SPEC_SESSION_KEYRING));
}

Host::~Host() {
  if (ipc_id_ >= 0) shmctl(ipc_id_, IPC_RMID, nullptr);
}

void Host::Describe(Surroundings& around) const {
  around.tcp_port = tcp_port_;
  around.abstract_socket = abstract_name_;
  around.ipc_key = ipc_key_;
  around.key = key_;
}

std::vector<Descriptor> DescriptorsOf(pid_t pid) {
  std::vector<Descriptor> found;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/fd"), ignored)) {
    struct stat link = {};
    if (lstat(entry.path().c_str(), &link) != 0) continue;
    found.push_back({.number = std::stoi(entry.path().filename()),
                     .what = std::filesystem::read_symlink(entry.path(), ignored),
                     .can_read = (link.st_mode & S_IRUSR) != 0,
                     .can_write = (link.st_mode & S_IWUSR) != 0});
  }
  std::sort(found.begin(), found.end(),
            [](const Descriptor& a, const Descriptor& b) { return a.number < b.number; });
  return found;
}

void DescribeProcess(pid_t pid, const std::string& disk, Surroundings& around) {
  for (const Descriptor& each : DescriptorsOf(pid)) {
    if (each.number == around.next_descriptor) ++around.next_descriptor;
    around.descriptors.push_back(each.number);
    if (absl::StartsWith(each.what, "socket:")) around.sockets.push_back(each.number);
    if (each.what == "anon_inode:[eventfd]") around.events.push_back(each.number);
    if (absl::StartsWith(each.what, "pipe:")) {
      (each.can_read ? around.inputs : around.outputs).push_back(each.number);
    }
    if (absl::StartsWith(each.what, "/memfd:")) around.memory.push_back(each.number);
    if (absl::StartsWith(each.what, "/memfd:bulkhead-requests")) {
      around.requests.push_back(each.number);
    }
    if (!disk.empty() && each.what == disk) around.disk.push_back(each.number);
    if (each.what == "/dev/net/tun") around.taps.push_back(each.number);
  }
  std::istringstream maps(ReadFile(absl::StrCat("/proc/", pid, "/maps")));
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    uint64_t begin = 0;
    char dash = 0;
    uint64_t end = 0;
    std::string protection;
    fields >> std::hex >> begin >> dash >> end >> protection;
    if (absl::StrContains(line, "memfd:bulkhead-requests")) around.requests_address = begin;
    if (protection == "r-xp" && around.code_address == 0) around.code_address = begin;
    // Its last page has the arguments.
    if (absl::StrContains(line, "[stack]")) around.stack_address = end - 4096;
  }
}

bool KernelRefusesDescriptors() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return false;
  const UniqueFd one(ends[0]);
  const UniqueFd other(ends[1]);
  const int off = 0;
  return setsockopt(ends[0], SOL_SOCKET, kSoPassRights, &off, sizeof(off)) == 0;
}

}  // namespace bulkhead::integration
