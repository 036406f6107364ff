#include "devices/virtio_vsock/vsock_device.h"

#include <string.h>

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "base/status_macros.h"
#include "devices/host/metrics.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio_vsock/vsock_packet.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint16_t kTypeSocket = 19;  // section 5
constexpr uint32_t kPciClassCommunication = 0x078000;
constexpr char kHostResource[] = "host";

}  // namespace

absl::StatusOr<std::unique_ptr<VsockDevice>> VsockDevice::Create(uint64_t guest_cid) {
  if (guest_cid < kMinGuestCid || guest_cid > kMaxGuestCid) {
    return absl::InvalidArgumentError(absl::StrCat("--cid: ", guest_cid, " is out of range (",
                                                   kMinGuestCid, " to ", kMaxGuestCid, ")"));
  }
  return absl::WrapUnique(new VsockDevice(static_cast<uint32_t>(guest_cid)));
}

VsockDevice::VsockDevice(uint32_t guest_cid)
    : guest_cid_(guest_cid), switch_(guest_cid, [this] { services_->ServeLater(kToGuest); }) {}

VirtioIdentity VsockDevice::Identify() const {
  return {.model = "virtio-vsock",
          .type = kTypeSocket,
          .pci_class = kPciClassCommunication,
          .config_size = sizeof(uint64_t),
          .queue_sizes = {kQueueSize, kQueueSize, kEventQueueSize},
          .required_resources = {kHostResource},
          .state_version = 1};
}

absl::Status VsockDevice::Start(VirtioServices& services) {
  services_ = &services;
  storage_.resize(Virtqueue::StorageSize(kQueueSize, services.host().memory()));
  ASSIGN_OR_RETURN(UniqueFd link, services.host().TakeResource(kHostResource));
  return switch_.Start(services.host(), std::move(link));
}

void VsockDevice::OnFeatures(uint64_t features) {
  reset_owed_ = false;
  if (features != 0) return;
  live_ = packets_held_ = false;
  switch_.SetLive(false);
}

absl::Status VsockDevice::RestoreState(absl::Span<const uint8_t>) {
  // Whatever connections the guest has are of an earlier process.
  reset_owed_ = true;
  switch_.OnTransportReset(/*sent=*/false);
  return absl::OkStatus();
}

void VsockDevice::BeginTurn(uint32_t) {
  // There are turns from DRIVER_OK on.
  if (!std::exchange(live_, true)) switch_.SetLive(true);
}

absl::Span<iovec> VsockDevice::Room(uint32_t queue) {
  bool has_room = reset_owed_;  // kEvents
  if (queue == kToGuest) has_room = switch_.HasOutput();
  if (queue == kFromGuest) {
    has_room = switch_.TakesPackets();
    packets_held_ = !has_room;
  }
  return has_room ? absl::MakeSpan(storage_) : absl::Span<iovec>();
}

void VsockDevice::OnChain(uint32_t queue, const DescriptorChain& chain) {
  uint32_t written = 0;
  if (queue == kFromGuest) {
    switch_.OnGuestPacket(chain.readable);
    CRASH_POINT("vsock_after_guest_packet");
  } else if (queue == kToGuest) {
    written = switch_.WriteOutput(chain.writable);
    small_buffers_ += written == 0;
    CRASH_POINT("vsock_after_output");
    if (packets_held_ && switch_.TakesPackets()) services_->ServeLater(kFromGuest);
  } else if (TotalBytes(chain.writable) >= sizeof(kEventTransportReset)) {
    written = static_cast<uint32_t>(
        CopyIn(chain.writable, &kEventTransportReset, sizeof(kEventTransportReset)));
    reset_owed_ = false;
    switch_.OnTransportReset(/*sent=*/true);
    ++transport_resets_;
    CRASH_POINT("vsock_after_transport_reset");
  }
  services_->Complete(queue, chain.head, written);
}

void VsockDevice::ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const {
  const uint64_t config = guest_cid_;
  memcpy(out.data(), reinterpret_cast<const uint8_t*>(&config) + offset, out.size());
}

void VsockDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  switch_.AppendMetrics(metrics);
  AddCounter(metrics, "transport_resets_total",
             "Times that the guest was told that all connections are gone", transport_resets_);
  AddCounter(metrics, "small_buffers_total", "Buffers of the guest that no packet fits into",
             small_buffers_);
}

}  // namespace bulkhead::devices::virtio
