#include "vmm/connector/connector.h"

#include <stdint.h>
#include <sys/socket.h>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "vmm/connector/connector_process.h"

namespace bulkhead::vmm {

absl::StatusOr<std::unique_ptr<Connector>> Connector::Create(std::vector<SocketPlace> places,
                                                             bool confined,
                                                             std::vector<SideProcess>& processes) {
  ASSIGN_OR_RETURN(auto sockets, CreateSocketPair(SOCK_SEQPACKET));
  const size_t count = places.size();
  if (count > kMaxSideClients) {
    return absl::InvalidArgumentError(
        absl::StrCat(count, " devices use sockets, at most ", kMaxSideClients, " can"));
  }
  SideProcess process = {.name = "vmm-connector", .run = {}, .clients = std::move(sockets.second)};
  for (const SocketPlace& place : places) {
    if (place.anchor != nullptr) process.descriptors.push_back(place.anchor);
  }
  process.run = [places = std::move(places), confined](const SideProcessStart& start) {
    RunConnector(start, places, confined);
  };
  processes.push_back(std::move(process));
  return absl::WrapUnique(new Connector(std::move(sockets.first), count));
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

absl::Status ConnectSockets(std::vector<DeviceSpec>& devices, bool confined,
                            std::vector<SideProcess>& processes) {
  std::vector<SocketPlace> places;
  const auto is_socket = [](const ResourceSpec& resource) {
    return !resource.socket_path.empty() || resource.socket_anchor != nullptr;
  };
  for (const DeviceSpec& device : devices) {
    for (const ResourceSpec& resource : device.resources) {
      if (!is_socket(resource)) continue;
      places.push_back({.path = resource.socket_path, .anchor = resource.socket_anchor});
    }
  }
  if (places.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::unique_ptr<Connector> created,
                   Connector::Create(std::move(places), confined, processes));
  const std::shared_ptr<Connector> connector = std::move(created);
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
