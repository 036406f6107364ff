#include "devices/virtio_rng/rng_device.h"

#include <errno.h>
#include <sys/random.h>

#include <algorithm>

#include "base/errno_status.h"
#include "devices/host/metrics.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint32_t kPciClassOther = 0xff0000;  // no class fits an entropy source

// Fills [data, +size) and returns how many bytes it got. Does not block: Start() has seen the
// generator seeded, and that is for ever. A signal can cut a long read short: it goes on.
uint32_t Fill(uint8_t* data, uint32_t size) {
  uint32_t filled = 0;
  while (filled < size) {
    const ssize_t n = getrandom(data + filled, size - filled, GRND_NONBLOCK);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    filled += static_cast<uint32_t>(n);
  }
  return filled;
}

}  // namespace

VirtioIdentity RngDevice::Identify() const {
  return {.model = "virtio-rng",
          .type = kTypeEntropy,
          .pci_class = kPciClassOther,
          .config_size = 0,
          .queue_sizes = {kQueueSize},
          .chains_per_turn = kMaxRequestsPerTurn,
          .times_requests = true,
          .required_resources = {}};
}

absl::Status RngDevice::Start(VirtioServices& services) {
  services_ = &services;
  storage_.resize(Virtqueue::StorageSize(kQueueSize, services.host().memory()));
  uint8_t probe;
  if (getrandom(&probe, 1, GRND_NONBLOCK) != 1) {
    return ErrnoToStatus(errno, "getrandom: the host has no entropy yet");
  }
  return absl::OkStatus();
}

void RngDevice::OnChain(uint32_t queue, const DescriptorChain& chain) {
  uint32_t written = 0;
  for (const iovec& buffer : chain.writable) {
    const uint32_t wanted =
        static_cast<uint32_t>(std::min<size_t>(buffer.iov_len, kMaxRequestBytes - written));
    const uint32_t filled = Fill(static_cast<uint8_t*>(buffer.iov_base), wanted);
    written += filled;
    if (filled != buffer.iov_len) break;  // `written` counts from the start, without gaps
  }
  services_->Complete(queue, chain.head, written);
  ++requests_;
  bytes_ += written;
}

void RngDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddCounter(metrics, "requests_total", "Requests answered", requests_);
  AddCounter(metrics, "bytes_total", "Random bytes given", bytes_);
}

}  // namespace bulkhead::devices::virtio
