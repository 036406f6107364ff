#include "vmm/user_net/user_net.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/memory/memory.h"
#include "base/errno_status.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "vmm/user_net/keeper.h"

namespace bulkhead::vmm {

absl::StatusOr<std::unique_ptr<UserNet>> UserNet::Start(const UserNetSpec& spec, bool confined) {
  ASSIGN_OR_RETURN(auto sockets, CreateSocketPair(SOCK_SEQPACKET));
  const pid_t keeper = fork();
  if (keeper < 0) return ErrnoToStatus(errno, "starting the keeper of a user network: fork");
  if (keeper == 0) RunKeeper(sockets.second.get(), spec, confined);
  return absl::WrapUnique(new UserNet(std::move(sockets.first), keeper));
}

UserNet::~UserNet() {
  shutdown(control_.get(), SHUT_RDWR);
  while (waitpid(keeper_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

int UserNet::SocketForProcess() {
  auto sockets = CreateSocketPair(SOCK_SEQPACKET | SOCK_NONBLOCK);
  if (!sockets.ok()) return -1;
  if (!SendSocketMessage(control_.get(), "d", {sockets->second.get()}).ok()) return -1;
  offered_ = std::move(sockets->first);
  return offered_.get();
}

absl::Status StartUserNets(std::vector<DeviceSpec>& devices, bool confined) {
  for (DeviceSpec& device : devices) {
    for (ResourceSpec& resource : device.resources) {
      if (!resource.user_net.has_value()) continue;
      ASSIGN_OR_RETURN(std::unique_ptr<UserNet> started,
                       UserNet::Start(*resource.user_net, confined));
      const std::shared_ptr<UserNet> net = std::move(started);
      resource.connect = [net] { return net->SocketForProcess(); };
    }
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
