#include "devices/host/vm_link.h"

#include <errno.h>
#include <sys/socket.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/receive_packet.h"
#include "base/send_packet.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

namespace bulkhead::devices {

absl::StatusOr<std::unique_ptr<VmLink>> VmLink::Take(DeviceServices& services) {
  ASSIGN_OR_RETURN(UniqueFd socket, services.TakeResource(kVmLinkResource));
  VmNews news;
  if (ReceivePacket(socket.get(), &news, sizeof(news), nullptr) != sizeof(news)) {
    return absl::UnavailableError("the resource \"vm\" has no first packet of the vmm");
  }
  return std::unique_ptr<VmLink>(new VmLink(std::move(socket), news));
}

void VmLink::Restore(uint64_t number) {
  const uint64_t taken = news_.reports_taken;
  number_ = std::clamp(number, taken - std::min(taken, kMaxUnsavedVmReports), taken);
}

bool VmLink::Receive() {
  VmNews news;
  ssize_t size;
  while ((size = ReceivePacket(fd_.get(), &news, sizeof(news), nullptr)) == sizeof(news)) {
    news_ = news;
  }
  return size < 0 && errno == EAGAIN;
}

int64_t VmLink::GuestNowNs() const {
  const int64_t now = clock_runs() ? absl::ToUnixNanos(SteadyNow())
                                   : static_cast<int64_t>(news_.clock_stops_since_ns);
  return now - static_cast<int64_t>(news_.clock_stopped_ns);
}

int64_t VmLink::SteadyOf(int64_t guest_ns) const {
  return guest_ns + static_cast<int64_t>(news_.clock_stopped_ns);
}

uint64_t VmLink::Ask() { return SendPacket(VmReport::kAsk, asked_ + 1) ? ++asked_ : 0; }

bool VmLink::Send(VmReport::Kind kind) {
  if (!SendPacket(kind, number_ + 1)) return false;
  ++number_;
  CRASH_POINT("vm_link_after_send");
  return true;
}

bool VmLink::SendPacket(VmReport::Kind kind, uint64_t number) const {
  const VmReport report = {.kind = kind, .reserved = 0, .number = number};
  return bulkhead::SendPacket(fd_.get(), &report, sizeof(report), -1, MSG_DONTWAIT);
}

}  // namespace bulkhead::devices
