#include "vmm/user_net/user_net.h"

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "vmm/user_net/keeper.h"

namespace bulkhead::vmm {
namespace {

// More than fit in a socket.
constexpr int kMaxLeftFrames = 4096;
constexpr size_t kMaxPacket = 12 + 65535 + 18;  // a virtio-net header, and the longest frame

// Listens at "ADDRESS/PORT:GUESTPORT", as passt does. Errors: as InvalidArgument, for people.
absl::StatusOr<UniqueFd> Listen(const std::string& forward) {
  const size_t slash = forward.find('/');
  const std::string address = forward.substr(0, slash);
  const std::string port = forward.substr(slash + 1, forward.find(':', slash) - slash - 1);
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* place = nullptr;
  if (getaddrinfo(address.c_str(), port.c_str(), &hints, &place) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"", forward, "\" is no port"));
  }
  UniqueFd fd(socket(place->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (fd.ok()) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  const bool listens =
      fd.ok() && bind(fd.get(), place->ai_addr, place->ai_addrlen) == 0 && listen(fd.get(), 1) == 0;
  const int error = errno;
  freeaddrinfo(place);
  if (listens) return fd;
  return absl::InvalidArgumentError(
      absl::StrCat("port ", port, " of ", address, " cannot be forwarded: ", strerror(error)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<UserNet>> UserNet::Create(const UserNetSpec& spec, bool confined,
                                                         std::vector<SideProcess>& processes) {
  ASSIGN_OR_RETURN(auto sockets, CreateSocketPair(SOCK_SEQPACKET));
  ASSIGN_OR_RETURN(std::shared_ptr<ProgramReport> report,
                   ProgramReport::Create(spec.program, /*passes_frames=*/true));
  auto net = absl::WrapUnique(new UserNet(std::move(report)));
  net->clients_ = std::move(sockets.first);
  processes.push_back(
      {.name = "vmm-net-keeper",
       .run = [spec, confined, report = net->report_](
                  const SideProcessStart& start) { RunKeeper(start, spec, confined, *report); },
       .clients = std::move(sockets.second)});
  return net;
}

int UserNet::SocketForProcess() {
  auto sockets = CreateSocketPair(SOCK_SEQPACKET | SOCK_NONBLOCK);
  if (!sockets.ok()) return -1;
  constexpr uint32_t kIndex = 0;
  const absl::string_view message(reinterpret_cast<const char*>(&kIndex), sizeof(kIndex));
  if (device_end_.ok()) PassOnLeftFrames(sockets->second);
  device_end_ = std::move(sockets->first);
  relay_end_ = std::move(sockets->second);
  if (!SendSocketMessage(clients_.get(), message, {relay_end_.get()}).ok()) return -1;
  return device_end_.get();
}

// What the relay had sent, and the dead process had not taken, is the next one's, before all that
// follows: passt takes the way to the guest for one that loses nothing, and does not acknowledge a
// segment a second time. The relay keeps what it can send no more.
void UserNet::PassOnLeftFrames(const UniqueFd& new_relay_end) {
  shutdown(device_end_.get(), SHUT_RDWR);
  std::string frame(kMaxPacket, '\0');
  for (int i = 0; i < kMaxLeftFrames; ++i) {
    const ssize_t size = ReceivePlainPacket(device_end_.get(), absl::MakeSpan(frame));
    if (size <= 0) return;
    const absl::string_view bytes(frame.data(), std::min<size_t>(frame.size(), size));
    if (SendSocketMessage(new_relay_end.get(), bytes, {}).ok()) continue;
    report_->lost().to_device.fetch_add(1, std::memory_order_relaxed);  // a counter
  }
}

absl::Status CheckForwards(const std::vector<DeviceSpec>& devices) {
  std::vector<UniqueFd> taken;  // until all are: two devices may want the same one
  for (const DeviceSpec& device : devices) {
    for (const ResourceSpec& resource : device.resources) {
      if (!resource.user_net.has_value()) continue;
      for (const std::string& forward : resource.user_net->forwards) {
        absl::StatusOr<UniqueFd> listener = Listen(forward);
        if (!listener.ok()) {
          return absl::InvalidArgumentError(
              absl::StrCat("device \"", device.name, "\": ", listener.status().message()));
        }
        taken.push_back(*std::move(listener));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status AddUserNets(std::vector<DeviceSpec>& devices, bool confined,
                         std::vector<SideProcess>& processes) {
  RETURN_IF_ERROR(CheckForwards(devices));
  for (DeviceSpec& device : devices) {
    for (ResourceSpec& resource : device.resources) {
      if (!resource.user_net.has_value()) continue;
      ASSIGN_OR_RETURN(std::unique_ptr<UserNet> created,
                       UserNet::Create(*resource.user_net, confined, processes));
      const std::shared_ptr<UserNet> net = std::move(created);
      resource.connect = [net] { return net->SocketForProcess(); };
      device.program = net->report();
    }
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
