// What of a NetDevice outlives its process, and what people see of it.
#include <stddef.h>
#include <string.h>

#include "absl/strings/str_cat.h"
#include "devices/host/metrics.h"
#include "devices/virtio_net/net_device.h"

namespace bulkhead::devices::virtio {

void NetDevice::ReadConfig(uint32_t offset, absl::Span<uint8_t> out) const {
  const NetControl::State& state = control_.state();
  NetConfig config = {};
  config.mac = state.mac;
  config.status = static_cast<uint16_t>((state.link_up != 0 ? kNetLinkUp : 0) |
                                        (state.announce != 0 ? kNetAnnounce : 0));
  config.max_pairs = static_cast<uint16_t>(options_.pairs);
  config.mtu = static_cast<uint16_t>(options_.mtu);
  memcpy(out.data(), reinterpret_cast<const uint8_t*>(&config) + offset, out.size());
}

size_t NetDevice::SaveState(absl::Span<uint8_t> out) const {
  memcpy(out.data(), &control_.state(), sizeof(NetControl::State));
  return sizeof(NetControl::State);
}

absl::Status NetDevice::RestoreState(absl::Span<const uint8_t> bytes) {
  NetControl::State state;
  if (bytes.size() != sizeof(state)) {
    return absl::InvalidArgumentError(
        absl::StrCat("net: saved state of ", bytes.size(), " bytes instead of ", sizeof(state)));
  }
  memcpy(&state, bytes.data(), sizeof(state));
  absl::Status status = control_.Restore(state, control_.state().features);
  if (!status.ok()) return status;
  send_limits_.Resume();
  receive_limits_.Resume();
  ApplyOffloads();
  // Switches may have forgotten the guest meanwhile.
  if (control_.Announce()) {
    host_->StateChanged();
    services_->ConfigChanged();
  }
  return absl::OkStatus();
}

void NetDevice::SetLink(bool up) {
  if ((control_.state().link_up != 0) == up) return;
  if (up && !DropWaitingFrames()) return;  // they came while it was down
  control_.SetLink(up);
  host_->StateChanged();
  services_->ConfigChanged();
  for (uint32_t i = 0; i < options_.pairs; ++i) UpdateWatch(i);
}

void NetDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  const Counters& c = counters_;
  AddCounter(metrics, "sent_frames_total", "Frames from the guest", c.sent_frames);
  AddCounter(metrics, "sent_bytes_total", "Bytes of frames from the guest", c.sent_bytes);
  AddCounter(metrics, "received_frames_total", "Frames to the guest", c.received_frames);
  AddCounter(metrics, "received_bytes_total", "Bytes of frames to the guest", c.received_bytes);
  static constexpr const char* kFaults[kHeaderFaults] = {nullptr,         "length",   "feature",
                                                         "header_length", "checksum", "segment"};
  for (int i = 1; i < kHeaderFaults; ++i) {
    AddCounter(metrics, absl::StrCat("malformed_", kFaults[i], "_total"),
               "Frames from the guest that were not sent: malformed", c.faults[i]);
  }
  AddCounter(metrics, "send_failures_total", "Frames from the guest that the TAP did not take",
             c.send_failures);
  AddCounter(metrics, "held_total",
             "Frames from the guest that waited for room in the network's socket", c.held);
  AddCounter(metrics, "link_down_total", "Frames from the guest while the link was down",
             c.link_down);
  AddCounter(metrics, "receive_failures_total", "Frames to the guest that the TAP did not give",
             c.receive_failures);
  AddCounter(metrics, "filtered_total", "Frames to the guest that it did not want", c.filtered);
  AddCounter(metrics, "no_room_total", "Frames to the guest that did not fit its buffers",
             c.no_room);
  AddCounter(metrics, "dropped_total",
             "Frames to the guest that waited at a reset or while the link was down", c.dropped);
  AddCounter(metrics, "not_accepted_total",
             "Frames to the guest with offloads that it did not negotiate", c.not_accepted);
  AddCounter(metrics, "maybe_repeated_total",
             "Frames that were being sent when a process ended: they may have been sent twice",
             durable_ == nullptr ? 0 : durable_->maybe_repeated);
  AddCounter(metrics, "maybe_lost_total",
             "Frames that were being received when a process ended: they may be lost",
             durable_ == nullptr ? 0 : durable_->maybe_lost);
  AddCounter(metrics, "send_limited_total", "Times that a rate limit held frames of the guest back",
             send_limits_.times_limited());
  AddCounter(metrics, "receive_limited_total",
             "Times that a rate limit held frames to the guest back",
             receive_limits_.times_limited());
  AddGauge(metrics, "link_up", "1: the link is up; 0: it was taken down, or the TAP is gone",
           control_.state().link_up);
  AddGauge(metrics, "pairs", "Pairs of queues that the driver uses", control_.state().pairs);
}

}  // namespace bulkhead::devices::virtio
