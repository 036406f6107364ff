#include "vmm/connector/connector.h"

#include <errno.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/memory/memory.h"
#include "base/errno_status.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "vmm/connector/connector_process.h"

namespace bulkhead::vmm {

absl::StatusOr<std::unique_ptr<Connector>> Connector::Start(std::vector<SocketPlace> places,
                                                            bool confined) {
  ASSIGN_OR_RETURN(auto sockets, CreateSocketPair(SOCK_SEQPACKET));
  const size_t count = places.size();
  const pid_t process = fork();
  if (process < 0) return ErrnoToStatus(errno, "starting the connector: fork");
  if (process == 0) RunConnector(sockets.second.get(), places, confined);
  return absl::WrapUnique(new Connector(std::move(sockets.first), process, count));
}

Connector::~Connector() {
  shutdown(control_.get(), SHUT_RDWR);
  while (waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

int Connector::SocketForProcess(size_t place) {
  auto sockets = CreateSocketPair(SOCK_SEQPACKET);
  if (!sockets.ok()) return -1;
  // A device has none to send.
  RefuseDescriptors(sockets->second.get());
  const uint32_t index = static_cast<uint32_t>(place);
  const absl::string_view message(reinterpret_cast<const char*>(&index), sizeof(index));
  if (!SendSocketMessage(control_.get(), message, {sockets->second.get()}).ok()) return -1;
  offered_[place] = std::move(sockets->first);
  return offered_[place].get();
}

absl::Status ConnectSockets(std::vector<DeviceSpec>& devices, bool confined) {
  std::vector<SocketPlace> places;
  const auto is_socket = [](const ResourceSpec& resource) {
    return !resource.socket_path.empty() || resource.socket_anchor != nullptr;
  };
  for (const DeviceSpec& device : devices) {
    for (const ResourceSpec& resource : device.resources) {
      if (!is_socket(resource)) continue;
      const UniqueFd* const anchor = resource.socket_anchor.get();
      places.push_back(
          {.path = resource.socket_path, .anchor = anchor != nullptr ? anchor->get() : -1});
    }
  }
  if (places.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::unique_ptr<Connector> started,
                   Connector::Start(std::move(places), confined));
  const std::shared_ptr<Connector> connector = std::move(started);
  size_t index = 0;
  for (DeviceSpec& device : devices) {
    for (ResourceSpec& resource : device.resources) {
      if (!is_socket(resource)) continue;
      resource.connect = [connector, index] { return connector->SocketForProcess(index); };
      ++index;
    }
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
