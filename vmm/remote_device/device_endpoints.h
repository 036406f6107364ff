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

// Checks that the configuration has every resource that the device requires. Errors:
// InvalidArgument.
absl::Status CheckResources(const DeviceDescription& description,
                            const std::vector<ResourceSpec>& resources);

// All memory files, eventfds and resources of one device. The vmm creates and owns them, and gives
// them to each process that serves the device, one after the other; files are opened again for each
// process. Their bindings in KVM stay valid when a process is replaced: a doorbell or interrupt
// that is signalled in between is still counted.
//
// Immutable after Create(), so thread-safe unless a function says otherwise. The channel is itself
// thread-safe.
class DeviceEndpoints {
 public:
  // `ram` is borrowed. Errors: InvalidArgument (a required resource is missing), else as
  // memfd_create(2) and eventfd(2).
  static absl::StatusOr<DeviceEndpoints> Create(const DeviceDescription& description,
                                                std::vector<ResourceSpec> resources,
                                                const GuestRam& ram,
                                                const channel::ChannelOptions& channel_options);

  channel::ChannelClient& channel() const { return *channel_; }
  absl::Span<const EventFd> doorbells() const { return doorbells_; }        // by doorbell index
  absl::Span<const EventFd> msix_vectors() const { return msix_vectors_; }  // by vector
  // The interrupt line, and the event that KVM signals when the guest acknowledges it. -1: the
  // device has no line, or no resample event because its line is edge-triggered.
  int intx_fd() const { return intx_.fd(); }
  int intx_resample_fd() const { return intx_resample_.fd(); }

  // Consumes all pending signals. For a guest's reboot: the events must be unbound and the device
  // idle.
  void DrainEvents() const;

  // False: the kernel still does direct I/O of a dead process into the guest's memory or the file,
  // so no successor may be attached yet. Not thread-safe. Does not block.
  bool EarlierIoHasEnded() const;

  // Makes the offer for the next process, the `generation`-th; the one before it must be dead.
  // `function_state`: as in proto/contract.h. Undoes what the dead process may have set on the
  // shared events and memory files. Opens files for this process. Not thread-safe. Errors:
  // Unavailable (a console could not be connected), or as open(2).
  absl::StatusOr<AttachOffer> MakeOffer(absl::string_view device_name, uint64_t generation,
                                        uint64_t function_state) const;
  // Call when the process serves with the last offer: it now has the duty to report the failed
  // writeback that the offer contains.
  void OnAttached() const;

  // HostFile::Resize() and AcceptSize(). Not thread-safe. FailedPrecondition: also if the device
  // has no file, or several.
  absl::Status ResizeFile(uint64_t bytes) const;
  void AcceptFileSizes() const;

  // Zeroes the durable state: the next process starts as after power-on, except that a failed
  // writeback is kept until it is reported to the guest. No process may be attached. Errors: as
  // fallocate(2).
  absl::Status DiscardDurableState() const;

 private:
  DeviceEndpoints(std::unique_ptr<channel::ChannelClient> channel,
                  std::vector<ResourceSpec> resources, const GuestRam* ram);

  // All but the channel's.
  void ResetSharedFiles() const;

  std::unique_ptr<channel::ChannelClient> channel_;
  std::vector<ResourceSpec> resources_;
  const GuestRam* ram_;     // nullptr: the device does no DMA
  UniqueFd durable_state_;  // not ok(): the device has none
  uint64_t durable_state_bytes_ = 0;
  std::vector<EventFd> doorbells_;
  std::vector<EventFd> msix_vectors_;
  EventFd intx_{UniqueFd()};
  EventFd intx_resample_{UniqueFd()};
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_DEVICE_ENDPOINTS_H_
