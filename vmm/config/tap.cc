#include "vmm/config/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/mac_address.h"
#include "base/shared_file.h"
#include "base/status_macros.h"
#include "vmm/config/tap_queues.h"

namespace bulkhead::vmm {
namespace {

constexpr char kDevice[] = "/dev/net/tun";
constexpr uint32_t kMaxQueues = 16;
constexpr uint32_t kMinMtu = 68;
constexpr uint32_t kMaxMtu = 65521;
constexpr uint32_t kDefaultMtu = 1500;
constexpr int kHeaderBytes = 12;  // struct virtio_net_hdr_v1
constexpr uint16_t kKind = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
// Of the TAP's own address: a bridge takes the lowest of its ports'.
constexpr uint8_t kHighestMacByte = 0xfe;

template <typename... Parts>
absl::Status Wrong(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", text, "\""); }

ifreq Request(const std::string& name) {
  ifreq request = {};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

bool IsInterfaceName(const std::string& name) {
  return !name.empty() && name.size() < IFNAMSIZ && name != "." && name != ".." &&
         std::all_of(
             name.begin(), name.end(),
             [](char c) { return c > ' ' && c < 0x7f && c != '/' && c != ':' && c != '%'; });
}

bool Exists(const std::string& name) { return if_nametoindex(name.c_str()) != 0; }

absl::Status AttachError(const std::string& name, uint32_t queues, int error) {
  if (error == EPERM && (name.empty() || !Exists(name))) {
    return Wrong("making a TAP needs CAP_NET_ADMIN: have root make one (\"ip tuntap add ",
                 name.empty() ? "NAME" : name, " mode tap user USER",
                 queues > 1 ? " multi_queue" : "", "\"), and give its name");
  }
  if (error == EPERM) return Wrong("TAP ", Quoted(name), ": belongs to another user");
  if (error == EBUSY) return Wrong("TAP ", Quoted(name), ": is in use by another program");
  if (error == EINVAL) {
    return Wrong(Quoted(name), " is no TAP", queues > 1 ? " with" : " without",
                 " several queues; give another name, or make it with \"ip tuntap add ", name,
                 " mode tap", queues > 1 ? " multi_queue" : "", "\"");
  }
  return Wrong("TAP ", Quoted(name), ": ", strerror(error));
}

// One queue of the TAP `name`, which gets the name that the kernel has chosen if it was empty.
absl::StatusOr<UniqueFd> AttachQueue(std::string& name, uint32_t queues, bool makes) {
  UniqueFd fd(open(kDevice, O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd.ok()) {
    return Wrong("cannot open ", kDevice, ": ", strerror(errno),
                 errno == ENOENT ? "; load the kernel module tun" : "");
  }
  ifreq request = Request(name.empty() ? "tap%d" : name);
  uint16_t flags = kKind;
  if (queues > 1) flags |= IFF_MULTI_QUEUE;
  if (makes) flags |= IFF_TUN_EXCL;
  request.ifr_flags = static_cast<int16_t>(flags);
  if (ioctl(fd.get(), TUNSETIFF, &request) != 0) return AttachError(name, queues, errno);
  name = request.ifr_name;
  return fd;
}

// Of a TAP that existed before, one of whose queues is `queue`. One that does not persist exists
// only while somebody has it open: that is another program, or this one, if it was removed a moment
// ago and TUNSETIFF has made another one, which nobody has set up.
absl::Status CheckPersists(const UniqueFd& queue, const std::string& name) {
  ifreq request = {};
  if (ioctl(queue.get(), TUNGETIFF, &request) == 0 && (request.ifr_flags & IFF_PERSIST) != 0) {
    return absl::OkStatus();
  }
  return Wrong("TAP ", Quoted(name), ": was made by another program for itself, or removed just ",
               "now; give another name, or start again");
}

// The kernel gives several programs queues of the same TAP, among which it spreads the frames.
absl::Status CheckNoOtherQueues(const std::string& name, uint32_t own) {
  if (CountTapQueues(name).value_or(own) == own) return absl::OkStatus();
  return Wrong("TAP ", Quoted(name), ": is in use by another program, which has queues of it");
}

absl::StatusOr<UniqueFd> TakeInherited(int number, std::string& name) {
  ifreq request = {};
  UniqueFd fd(fcntl(number, F_DUPFD_CLOEXEC, 0));
  if (!fd.ok() || ioctl(fd.get(), TUNGETIFF, &request) != 0) {
    return Wrong("fd ", number, " is no queue of a TAP; inherit one that TUNSETIFF has attached");
  }
  if ((request.ifr_flags & kKind) != kKind) {
    return Wrong("fd ", number, " (", Quoted(request.ifr_name),
                 "): its TAP must have IFF_TAP, IFF_NO_PI and IFF_VNET_HDR");
  }
  if (!name.empty() && name != request.ifr_name) {
    return Wrong("fd ", number, " is a queue of ", Quoted(request.ifr_name), ", not of ",
                 Quoted(name));
  }
  name = request.ifr_name;
  fcntl(number, F_SETFD, FD_CLOEXEC);
  ResetSharedFile(fd.get(), O_NONBLOCK);
  return fd;
}

// Header, send buffer and filter are as the device needs them. What else a program may have set on
// a TAP stays: docs/virtio_net.md.
absl::Status SetUpQueue(const UniqueFd& fd) {
  const int header = kHeaderBytes;
  const int buffer = INT_MAX;
  sock_fprog none = {};
  ioctl(fd.get(), TUNDETACHFILTER, &none);  // of those that have one
  if (ioctl(fd.get(), TUNSETVNETHDRSZ, &header) == 0 &&
      ioctl(fd.get(), TUNSETSNDBUF, &buffer) == 0 && ioctl(fd.get(), TUNSETOFFLOAD, 0UL) == 0) {
    return absl::OkStatus();
  }
  return Wrong("the TAP cannot be set up: ", strerror(errno));
}

absl::StatusOr<uint32_t> MtuOf(int socket, const std::string& name) {
  ifreq request = Request(name);
  if (ioctl(socket, SIOCGIFMTU, &request) != 0) {
    return Wrong("the MTU of ", Quoted(name), ": ", strerror(errno));
  }
  return static_cast<uint32_t>(request.ifr_mtu);
}

// Of a TAP that was just made: address, MTU, bridge, up.
absl::Status SetUpInterface(int socket, const std::string& name, const v1::TapResource& config,
                            std::string& field) {
  ifreq request = Request(name);
  if (ioctl(socket, SIOCGIFHWADDR, &request) == 0) {
    request.ifr_hwaddr.sa_data[0] = static_cast<char>(kHighestMacByte);
    ioctl(socket, SIOCSIFHWADDR, &request);
  }
  uint32_t mtu = config.mtu();
  // A port with a lower MTU lowers that of the bridge.
  if (mtu == 0 && !config.bridge().empty()) {
    field = "bridge";
    ASSIGN_OR_RETURN(mtu, MtuOf(socket, config.bridge()));
  }
  field = "mtu";
  request = Request(name);
  request.ifr_mtu = static_cast<int>(mtu);
  // That of a bridge may be too large; what is no bridge is refused below.
  if (mtu != 0 && ioctl(socket, SIOCSIFMTU, &request) != 0 && config.mtu() != 0) {
    return Wrong("mtu ", mtu, ": ", strerror(errno));
  }
  if (!config.bridge().empty()) {
    field = "bridge";
    ifreq bridge = Request(config.bridge());
    bridge.ifr_ifindex = static_cast<int>(if_nametoindex(name.c_str()));
    if (ioctl(socket, SIOCBRADDIF, &bridge) != 0) {
      return Wrong("bridge ", Quoted(config.bridge()), ": ",
                   errno == EOPNOTSUPP ? "is no bridge" : strerror(errno));
    }
  }
  field = "name";
  request = Request(name);
  if (ioctl(socket, SIOCGIFFLAGS, &request) == 0) {
    request.ifr_flags = static_cast<int16_t>(request.ifr_flags | IFF_UP);
    if (ioctl(socket, SIOCSIFFLAGS, &request) == 0) return absl::OkStatus();
  }
  return Wrong("TAP ", Quoted(name), " cannot be brought up: ", strerror(errno));
}

// A locally administered address of one station, of the low 48 bits.
std::string LocalMac(uint64_t bits) {
  constexpr uint8_t kLocal = 2;
  constexpr uint8_t kGroup = 1;
  const auto byte = [&](int i) { return static_cast<uint8_t>(bits >> (8 * i)); };
  return absl::StrFormat("%02x:%02x:%02x:%02x:%02x:%02x", (byte(5) | kLocal) & ~kGroup, byte(4),
                         byte(3), byte(2), byte(1), byte(0));
}

}  // namespace

uint32_t TapQueues(const v1::TapResource& config) {
  if (config.fd_size() != 0) return static_cast<uint32_t>(config.fd_size());
  return std::max(config.queues(), 1u);
}

absl::Status Tap::Check(const v1::TapResource& config, std::string& field) {
  return CheckWith(config, !config.name().empty() && Exists(config.name()), field);
}

absl::Status Tap::CheckWith(const v1::TapResource& config, bool exists, std::string& field) {
  field = "name";
  if (!config.name().empty() && !IsInterfaceName(config.name())) {
    return Wrong(Quoted(config.name()), " is not an interface name: must be 1 to ", IFNAMSIZ - 1,
                 " printable characters without '/', ':', '%' and spaces");
  }
  field = "mac";
  if (!config.mac().empty() && !ParseMacAddress(config.mac()).has_value()) {
    return Wrong("mac ", Quoted(config.mac()),
                 " is no address of one station: give six bytes, the "
                 "first one even, such as 52:54:00:12:34:56");
  }
  field = "mtu";
  if (config.mtu() != 0 && (config.mtu() < kMinMtu || config.mtu() > kMaxMtu)) {
    return Wrong("mtu ", config.mtu(), " is out of range (", kMinMtu, " to ", kMaxMtu, ")");
  }
  field = "queues";
  if (TapQueues(config) > kMaxQueues) {
    return Wrong(TapQueues(config), " queues are out of range (1 to ", kMaxQueues, ")");
  }
  if (config.fd_size() != 0 && config.queues() != 0) {
    return Wrong("queues cannot be combined with fd: give one fd a queue");
  }
  field = "bridge";
  if (config.bridge().empty()) return absl::OkStatus();
  if (config.fd_size() != 0 || exists) {
    return Wrong(
        "bridge ", Quoted(config.bridge()), ": only a TAP that the vmm makes joins it, and ",
        config.fd_size() != 0 ? "this one is inherited" : Quoted(config.name()) + " exists",
        "; leave bridge out, and use \"ip link set TAP master BRIDGE\"");
  }
  if (!IsInterfaceName(config.bridge()) || !Exists(config.bridge())) {
    return Wrong("bridge ", Quoted(config.bridge()),
                 ": there is no such interface; make it with \"ip link add ", config.bridge(),
                 " type bridge\"");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Tap>> Tap::Open(const v1::TapResource& config, std::string& field) {
  std::string name = config.name();
  // Asked once: meanwhile others may make it, or remove it.
  const bool exists = !name.empty() && Exists(name);
  RETURN_IF_ERROR(CheckWith(config, exists, field));
  const uint32_t count = TapQueues(config);
  const bool makes = config.fd_size() == 0 && !exists;
  std::vector<UniqueFd> queues;
  for (uint32_t i = 0; i < count; ++i) {
    field = config.fd_size() != 0 ? "fd" : "name";
    absl::StatusOr<UniqueFd> queue = config.fd_size() != 0
                                         ? TakeInherited(config.fd(static_cast<int>(i)), name)
                                         : AttachQueue(name, count, makes && i == 0);
    RETURN_IF_ERROR(queue.status());
    if (config.fd_size() == 0 && exists) RETURN_IF_ERROR(CheckPersists(*queue, name));
    queues.push_back(*std::move(queue));
  }
  if (config.fd_size() == 0 && exists && count > 1) {
    RETURN_IF_ERROR(CheckNoOtherQueues(name, count));
  }
  for (const UniqueFd& queue : queues) RETURN_IF_ERROR(SetUpQueue(queue));
  if (config.fd_size() != 0) {  // the TAP may be in another network namespace
    return std::unique_ptr<Tap>(new Tap(std::move(queues), std::move(name), config.mtu()));
  }
  const UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.ok()) return Wrong("no socket to set the TAP up: ", strerror(errno));
  if (makes) RETURN_IF_ERROR(SetUpInterface(socket.get(), name, config, field));
  field = "mtu";
  ASSIGN_OR_RETURN(const uint32_t mtu, MtuOf(socket.get(), name));
  if (config.mtu() > mtu) {
    return Wrong("mtu ", config.mtu(), " is more than that of ", Quoted(name), ", ", mtu,
                 "; raise it with \"ip link set ", name, " mtu ", config.mtu(), "\"");
  }
  const uint32_t told = config.mtu() != 0 ? config.mtu() : mtu == kDefaultMtu ? 0 : mtu;
  return std::unique_ptr<Tap>(new Tap(std::move(queues), std::move(name), told));
}

int Tap::ForNextProcess(size_t queue) const {
  ResetSharedFile(queues_[queue].get(), O_NONBLOCK);
  return queues_[queue].get();
}

std::string MacFromNames(absl::string_view vm, absl::string_view device) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  const auto add = [&](absl::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  };
  add(vm);
  add("/");  // in no name
  add(device);
  return LocalMac(hash ^ hash >> 32);
}

absl::StatusOr<std::string> RandomMac() {
  uint64_t random = 0;
  if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
    return absl::InternalError(absl::StrCat("getrandom: ", strerror(errno)));
  }
  return LocalMac(random);
}

}  // namespace bulkhead::vmm
