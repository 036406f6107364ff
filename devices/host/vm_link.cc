#include "devices/host/vm_link.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>

#include "absl/status/status.h"
#include "base/crash_point.h"
#include "base/status_macros.h"

namespace bulkhead::devices {
namespace {

bool Receive(int socket, VmNews& news) {
  VmNews packet;
  iovec part = {.iov_base = &packet, .iov_len = sizeof(packet)};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ssize_t size;
  do {
    size = recvmsg(socket, &message, MSG_DONTWAIT);
  } while (size < 0 && errno == EINTR);
  if (size != sizeof(packet)) return false;
  news = packet;
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<VmLink>> VmLink::Take(DeviceServices& services) {
  ASSIGN_OR_RETURN(UniqueFd socket, services.TakeResource(kVmLinkResource));
  VmNews news;
  if (!Receive(socket.get(), news)) {
    return absl::UnavailableError("the resource \"vm\" has no first packet of the vmm");
  }
  return std::unique_ptr<VmLink>(new VmLink(std::move(socket), news));
}

void VmLink::Restore(uint64_t number) {
  const uint64_t taken = news_.reports_taken;
  number_ = std::clamp(number, taken - std::min(taken, kMaxUnsavedVmReports), taken);
}

bool VmLink::Send(VmReport::Kind kind) {
  VmReport report = {.kind = kind, .reserved = 0, .number = number_ + 1};
  iovec part = {.iov_base = &report, .iov_len = sizeof(report)};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ssize_t sent;
  do {
    sent = sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return false;
  ++number_;
  CRASH_POINT("vm_link_after_send");
  return true;
}

}  // namespace bulkhead::devices
