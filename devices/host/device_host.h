#ifndef BULKHEAD_DEVICES_HOST_DEVICE_HOST_H_
#define BULKHEAD_DEVICES_HOST_DEVICE_HOST_H_

#include <stdint.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/event_fd.h"
#include "base/guest_memory.h"
#include "base/unique_fd.h"
#include "devices/host/attachment.h"
#include "devices/host/device_model.h"
#include "devices/host/interrupt_lines.h"
#include "devices/host/poller.h"
#include "devices/host/region_table.h"
#include "proto/channel/channel_server.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {

// The data plane of a device process: feeds one model with the guest's accesses from the
// channel, its doorbells and its watched descriptors, all on one thread.
//
// Order: a doorbell comes by another path than a posted write and may overtake it, so before a
// doorbell is served, every request that was in the ring when it was seen is applied.
//
// Owns what the vmm handed over; the model is the caller's and ends first.
class DeviceHost : public DeviceServices {
 public:
  // Maps guest memory and the channel. `info` describes the model. Errors: what was handed
  // over does not fit together, or as mmap(2) and epoll_ctl(2).
  static absl::StatusOr<std::unique_ptr<DeviceHost>> Create(const v1::PciInfo& info,
                                                            Attachment attachment);

  // Starts the model. Errors: the model's; InvalidArgument if it left a resource untaken.
  absl::Status Start(DeviceModel& model);

  // Serves the model that Start() started. Begins with a call of OnDoorbell() for every
  // doorbell: an earlier process may have taken one and died. Returns OK once the peer has
  // closed `attach_socket`. Errors: InvalidArgument (the vmm sent what nobody awaits).
  absl::Status Run(int attach_socket);

  // DeviceServices, for the model.
  const GuestMemory& memory() const override { return memory_; }
  void SignalMsix(uint32_t vector) override { interrupts_.SignalMsix(vector); }
  void SetIntx(bool level) override { interrupts_.SetIntx(level); }
  absl::StatusOr<UniqueFd> TakeResource(absl::string_view name) override;
  absl::Status Watch(int fd, absl::AnyInvocable<void()> on_readable) override;
  void Unwatch(int fd) override;

 private:
  DeviceHost(const v1::PciInfo& info, Attachment attachment, GuestMemory memory,
             std::unique_ptr<channel::ChannelServer> channel, std::unique_ptr<Poller> poller);

  absl::Status RegisterEvents();
  // Applies the requests that are in the ring, `limit` at most. How many.
  uint32_t ServeRequests(uint32_t limit);
  // The effect of one request on the model: what it is answered with.
  uint64_t Apply(const channel::ChannelServer::Request& request);
  // Serves the doorbells that have been rung, or leaves them for the next time.
  void ServeDoorbells();
  // Applies every request that may have been sent before a doorbell that was seen. False: one is
  // not complete yet.
  bool ServeRequestsBeforeDoorbell();
  // Calls back for ready descriptors. True if there were any.
  bool CheckEvents();
  void Sleep();
  absl::Status OnAttachSocket(int attach_socket);

  const RegionTable regions_;
  const bool is_pci_;
  const uint32_t ring_slots_;
  const GuestMemory memory_;
  InterruptLines interrupts_;
  std::vector<Attachment::Resource> resources_;
  const std::vector<EventFd> doorbells_;
  const std::unique_ptr<channel::ChannelServer> channel_;
  const std::unique_ptr<Poller> poller_;

  DeviceModel* model_ = nullptr;
  std::vector<bool> rung_;  // by doorbell: to be served
  bool any_rung_ = false;
  bool asleep_ = false;
  uint32_t requests_since_check_ = 0;  // since descriptors were last looked at
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_DEVICE_HOST_H_
