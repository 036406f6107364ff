#ifndef BULKHEAD_DEVICES_HOST_TESTING_VMM_SIDE_H_
#define BULKHEAD_DEVICES_HOST_TESTING_VMM_SIDE_H_

#include <fcntl.h>
#include <stdint.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "devices/host/attachment.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/connect_server.h"
#include "proto/device_control.pb.h"
#include "proto/durable_layout.h"

namespace bulkhead::devices {

// For tests: what the vmm owns of one device and hands to each process that serves it, one after
// the other.
struct VmmSide {
  static constexpr size_t kRamBytes = 64 * 1024;  // from guest-physical address 0

  explicit VmmSide(const v1::DeviceInfo& device, const channel::ChannelOptions& options)
      : info(device), client(channel::ChannelClient::Create(options).value()) {
    for (int i = 0; i < info.doorbells_size(); ++i) doorbells.push_back(EventFd::Create().value());
    for (uint32_t i = 0; i < info.pci().msix_vectors(); ++i) {
      vectors.push_back(EventFd::Create().value());
    }
  }

  static UniqueFd Duplicate(int fd) { return UniqueFd(fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

  Attachment MakeAttachment(uint64_t generation = 1) const {
    return MakeAttachment(channel::DuplicateDescriptors(*client),
                          channel::ParametersFor(*client, generation, absl::ZeroDuration()));
  }
  Attachment MakeAttachment(channel::ServerDescriptors descriptors,
                            const channel::ServerParameters& parameters) const {
    Attachment attachment;
    attachment.generation = parameters.generation;
    attachment.channel.set_slots(parameters.slots);
    attachment.channel.set_waiters(parameters.waiters);
    attachment.request_memory = std::move(descriptors.request_memory);
    attachment.response_memory = std::move(descriptors.response_memory);
    attachment.request_event = std::move(descriptors.request_event);
    attachment.completion_events = std::move(descriptors.completion_events);
    attachment.guest_memory.push_back(
        {.start = 0, .offset = 0, .size_bytes = kRamBytes, .memfd = Duplicate(ram_file.get())});
    for (const EventFd& doorbell : doorbells) {
      attachment.doorbells.emplace_back(Duplicate(doorbell.fd()));
    }
    for (const EventFd& vector : vectors) {
      attachment.msix_vectors.emplace_back(Duplicate(vector.fd()));
    }
    if (info.pci().has_intx()) {
      attachment.intx = Duplicate(line.fd());
      attachment.intx_resample = Duplicate(resample.fd());
    }
    attachment.durable_state = Duplicate(durable_state.get());
    return attachment;
  }

  const v1::DeviceInfo info;
  const std::unique_ptr<channel::ChannelClient> client;
  std::vector<EventFd> doorbells;
  std::vector<EventFd> vectors;
  const EventFd line = EventFd::Create().value();
  const EventFd resample = EventFd::Create().value();
  const UniqueFd ram_file = CreateMemfd("ram", kRamBytes).value();
  const MemoryMapping ram =
      MemoryMapping::Map(ram_file.get(), 0, kRamBytes, MemoryMapping::Protection::kReadWrite)
          .value();
  const UniqueFd durable_state =
      CreateMemfd("state",
                  durable::SizeBytes(info.saved_state_bytes(), info.durable_memory_bytes()))
          .value();
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_TESTING_VMM_SIDE_H_
