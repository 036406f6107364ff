#ifndef BULKHEAD_DEVICES_VIRTIO_PCI_BAR_H_
#define BULKHEAD_DEVICES_VIRTIO_PCI_BAR_H_

#include <stdint.h>

namespace bulkhead::devices::virtio {

// Where PciTransport puts the structures of the specification: a choice of ours, which drivers find
// out from the capabilities. One BAR, with a page for each structure, so that a guest can map each
// with the caching and protection that suit it.
inline constexpr uint8_t kBar = 0;
inline constexpr uint64_t kBarCommon = 0x0000;
inline constexpr uint64_t kBarIsr = 0x1000;
inline constexpr uint64_t kBarDevice = 0x2000;
inline constexpr uint64_t kBarNotify = 0x3000;
inline constexpr uint64_t kBarSize = 0x4000;
inline constexpr uint64_t kBarStructureSize = 0x1000;
inline constexpr uint32_t kNotifyMultiplier = 4;
inline constexpr uint32_t kMaxPciQueues = kBarStructureSize / kNotifyMultiplier;

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_PCI_BAR_H_
