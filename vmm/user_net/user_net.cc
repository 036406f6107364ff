#include "vmm/user_net/user_net.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "absl/memory/memory.h"
#include "absl/time/time.h"
#include "base/errno_status.h"
#include "base/message_socket.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "vmm/user_net/keeper.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::Duration kEndTimeout = absl::Seconds(1);
constexpr absl::Duration kTick = absl::Milliseconds(2);

}  // namespace

absl::StatusOr<std::unique_ptr<UserNet>> UserNet::Start(const UserNetSpec& spec, bool confined) {
  ASSIGN_OR_RETURN(auto sockets, CreateSocketPair(SOCK_SEQPACKET));
  const pid_t keeper = fork();
  if (keeper < 0) return ErrnoToStatus(errno, "starting the keeper of a user network: fork");
  if (keeper == 0) RunKeeper(sockets.second.get(), spec, confined);
  // kill(2) is not for a vmm that is locked down.
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, keeper, 0)));
  const int error = errno;
  std::unique_ptr<UserNet> net =
      absl::WrapUnique(new UserNet(std::move(sockets.first), keeper, std::move(pidfd)));
  if (!net->keeper_pidfd_.ok())
    return ErrnoToStatus(error, "pidfd_open of a user network's keeper");
  return net;
}

UserNet::~UserNet() {
  shutdown(control_.get(), SHUT_RDWR);
  // A keeper that is stopped does not end of itself. What it has started ends with it.
  const absl::Time begin = SteadyNow();
  while (waitpid(keeper_, nullptr, WNOHANG) == 0 && SteadyNow() - begin < 2 * kEndTimeout) {
    if (SteadyNow() - begin >= kEndTimeout) {
      syscall(SYS_pidfd_send_signal, keeper_pidfd_.get(), SIGKILL, nullptr, 0);
    }
    const timespec tick = absl::ToTimespec(kTick);
    nanosleep(&tick, nullptr);
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
