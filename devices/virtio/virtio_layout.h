#ifndef BULKHEAD_DEVICES_VIRTIO_VIRTIO_LAYOUT_H_
#define BULKHEAD_DEVICES_VIRTIO_VIRTIO_LAYOUT_H_

#include <stdint.h>

#include <bit>

// Numbers and memory layouts of "Virtual I/O Device (VIRTIO) Version 1.2". All fields are
// little-endian.

namespace bulkhead::devices::virtio {

static_assert(std::endian::native == std::endian::little);

// --- Device status, section 2.1 ------------------------------------------------------------
inline constexpr uint8_t kStatusAcknowledge = 1;
inline constexpr uint8_t kStatusDriver = 2;
inline constexpr uint8_t kStatusDriverOk = 4;
inline constexpr uint8_t kStatusFeaturesOk = 8;
inline constexpr uint8_t kStatusNeedsReset = 64;
inline constexpr uint8_t kStatusFailed = 128;

// --- Feature bits that belong to no device type, section 6 -----------------------------------
inline constexpr uint64_t kFeatureIndirectDescriptors = uint64_t{1} << 28;
inline constexpr uint64_t kFeatureEventIndex = uint64_t{1} << 29;
inline constexpr uint64_t kFeatureVersion1 = uint64_t{1} << 32;
inline constexpr uint64_t kFeatureRingReset = uint64_t{1} << 40;

// --- Split virtqueue, section 2.7 ------------------------------------------------------------
inline constexpr uint16_t kMaxQueueSize = 32768;

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

inline constexpr uint16_t kDescriptorNext = 1;
inline constexpr uint16_t kDescriptorWrite = 2;
inline constexpr uint16_t kDescriptorIndirect = 4;

// Available ring: flags (16 bits), idx (16), ring[size] (16 each), used_event (16).
inline constexpr uint32_t kAvailableIdx = 2;
inline constexpr uint32_t kAvailableRing = 4;
inline constexpr uint16_t kAvailableNoInterrupt = 1;  // flags

// Used ring: flags (16 bits), idx (16), ring[size] {id (32), len (32)}, avail_event (16).
inline constexpr uint32_t kUsedIdx = 2;
inline constexpr uint32_t kUsedRing = 4;
inline constexpr uint32_t kUsedElementSize = 8;
inline constexpr uint16_t kUsedNoNotify = 1;  // flags

// True if the step from `old_idx` to `new_idx` passes the index that the other side asked to be
// told about. Section 2.7.10.
constexpr bool PassesEvent(uint16_t event, uint16_t new_idx, uint16_t old_idx) {
  return static_cast<uint16_t>(new_idx - event - 1) < static_cast<uint16_t>(new_idx - old_idx);
}

// --- PCI transport, section 4.1 ----------------------------------------------------------------
inline constexpr uint16_t kPciVendor = 0x1af4;
inline constexpr uint16_t kPciDeviceBase = 0x1040;  // + device type
inline constexpr uint8_t kPciCapabilityVendorSpecific = 0x09;

// cfg_type of struct virtio_pci_cap.
enum class CapabilityType : uint8_t {
  kCommon = 1,
  kNotify = 2,
  kIsr = 3,
  kDevice = 4,
  kPciConfig = 5,
};

inline constexpr uint16_t kNoVector = 0xffff;
inline constexpr uint8_t kIsrQueue = 1;
inline constexpr uint8_t kIsrConfig = 2;

// Offsets in struct virtio_pci_common_cfg.
enum CommonConfig : uint32_t {
  kDeviceFeatureSelect = 0,
  kDeviceFeature = 4,
  kDriverFeatureSelect = 8,
  kDriverFeature = 12,
  kConfigMsixVector = 16,
  kNumQueues = 18,
  kDeviceStatus = 20,
  kConfigGeneration = 21,
  kQueueSelect = 22,
  kQueueSize = 24,
  kQueueMsixVector = 26,
  kQueueEnable = 28,
  kQueueNotifyOffset = 30,
  kQueueDescriptors = 32,
  kQueueDriver = 40,
  kQueueDevice = 48,
  kQueueNotifyData = 56,
  kQueueReset = 58,
  kCommonConfigSize = 60,
};

// --- Device types, section 5 -------------------------------------------------------------------
inline constexpr uint16_t kTypeNet = 1;
inline constexpr uint16_t kTypeBlock = 2;
inline constexpr uint16_t kTypeEntropy = 4;

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_VIRTIO_LAYOUT_H_
