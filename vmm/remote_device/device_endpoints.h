#ifndef BULKHEAD_VMM_REMOTE_DEVICE_DEVICE_ENDPOINTS_H_
#define BULKHEAD_VMM_REMOTE_DEVICE_DEVICE_ENDPOINTS_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "base/unique_fd.h"
#include "proto/channel/channel_client.h"
#include "vmm/config/host_file.h"
#include "vmm/config/vm_spec.h"
#include "vmm/device/device_description.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/attach_offer.h"

namespace bulkhead::vmm {

// Whether the configuration gives a device what it needs. Errors: InvalidArgument.
absl::Status CheckResources(const DeviceDescription& description,
                            const std::vector<ResourceSpec>& resources);

// Every memory file and eventfd of one device, and its resources: made once, owned by the vmm,
// and handed to each process that serves the device, one after the other (files: opened anew). What
// KVM is told about them stays true while processes come and go; a doorbell rung or an interrupt
// raised in between is still counted.
//
// Immutable after Create(), so thread-safe where nothing else is said; the channel is thread-safe
// itself.
class DeviceEndpoints {
 public:
  // `ram` is borrowed. Errors: InvalidArgument (a required resource is missing), Internal (the
  // device takes more descriptors than one message carries), else as memfd_create(2) and
  // eventfd(2).
  static absl::StatusOr<DeviceEndpoints> Create(const DeviceDescription& description,
                                                std::vector<ResourceSpec> resources,
                                                const GuestRam& ram,
                                                const channel::ChannelOptions& channel_options);

  channel::ChannelClient& channel() const { return *channel_; }
  absl::Span<const EventFd> doorbells() const { return doorbells_; }        // by doorbell index
  absl::Span<const EventFd> msix_vectors() const { return msix_vectors_; }  // by vector
  // The interrupt line, and the event by which KVM tells that the guest acknowledged it. -1:
  // the device has no line; or no resample event, its line being edge-triggered.
  int intx_fd() const { return intx_.fd(); }
  int intx_resample_fd() const { return intx_resample_.fd(); }

  // Takes all signals that nobody has taken yet. For a guest's reboot: nothing is bound to the
  // events, and the device is at rest.
  void DrainEvents() const;

  // False: the kernel still does direct I/O of a process that is dead, into the guest's memory or
  // the file. No successor may be attached yet. Not thread-safe. Does not block.
  bool EarlierIoHasEnded() const;

  // For the next process, the `generation`-th; the one before it is dead. `function_state`: as in
  // proto/contract.h. Modes that the dead one has given to an event that it shares with its
  // successors (blocking) are taken back; files are opened anew for each process. Not thread-safe.
  // Errors: Unavailable (a console could not be connected anew), or as open(2).
  absl::StatusOr<AttachOffer> MakeOffer(absl::string_view device_name, uint64_t generation,
                                        uint64_t function_state) const;
  // The process took the last offer and serves: it answers for failed writeback that it was told.
  void OnAttached() const;

  // Zeroes the durable state: the next process starts as after power-on, but for failed
  // writeback that the guest has yet to be told of. No process is attached. Errors: as
  // fallocate(2).
  absl::Status DiscardDurableState() const;

 private:
  DeviceEndpoints(std::unique_ptr<channel::ChannelClient> channel,
                  std::vector<ResourceSpec> resources, const GuestRam& ram);

  std::unique_ptr<channel::ChannelClient> channel_;
  std::vector<ResourceSpec> resources_;
  const GuestRam* ram_;
  UniqueFd durable_state_;  // not ok(): the device keeps none
  uint64_t durable_state_bytes_ = 0;
  std::vector<EventFd> doorbells_;
  std::vector<EventFd> msix_vectors_;
  EventFd intx_{UniqueFd()};
  EventFd intx_resample_{UniqueFd()};
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_DEVICE_ENDPOINTS_H_
