#ifndef BULKHEAD_DEVICES_VIRTIO_CONFIG_WINDOW_H_
#define BULKHEAD_DEVICES_VIRTIO_CONFIG_WINDOW_H_

#include <stddef.h>
#include <stdint.h>

#include <array>
#include <optional>
#include <string>

#include "absl/types/span.h"

namespace bulkhead::devices::virtio {

// The body of a struct virtio_pci_cap (virtio 1.2, section 4.1.4): the bytes after its ID and next
// pointer. Offsets count from the first of them.
inline constexpr size_t kCapabilityBar = 2;
inline constexpr size_t kCapabilityOffset = 6;  // and the length behind it
inline constexpr size_t kCapabilityBody = 14;

// The bytes of VIRTIO_PCI_CAP_PCI_CFG, a window into the BAR for guests that cannot map it.
// Section 4.1.4.9.
class ConfigWindow {
 public:
  static constexpr size_t kData = kCapabilityBody;  // pci_cfg_data
  static constexpr size_t kSize = kData + 4;

  // What the capability's bytes are at first.
  explicit ConfigWindow(const std::string& body);

  // Guest accesses; beyond the capability they read 0 and change nothing.
  uint64_t Read(uint64_t offset, uint8_t size_bytes) const;
  // True: a byte has changed.
  bool Write(uint64_t offset, uint8_t size_bytes, uint64_t value);
  static bool TouchesData(uint64_t offset, uint8_t size_bytes) {
    return offset < kSize && offset + size_bytes > kData;
  }

  // Where in the BAR the guest has pointed it; 1, 2 or 4 bytes.
  struct Target {
    uint64_t offset = 0;
    uint8_t size_bytes = 0;
  };
  // nullopt: it points nowhere.
  std::optional<Target> target() const;
  uint32_t data() const;
  void set_data(uint32_t data);

  absl::Span<const uint8_t> bytes() const { return bytes_; }
  void Reset() { bytes_ = initial_; }
  // False, and nothing changes: no guest can have written these bytes.
  bool Restore(absl::Span<const uint8_t> bytes);

 private:
  std::array<uint8_t, kSize> initial_;
  std::array<uint8_t, kSize> bytes_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_CONFIG_WINDOW_H_
