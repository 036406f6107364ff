#include "devices/virtio/config_window.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <utility>

#include "devices/virtio/pci_bar.h"

namespace bulkhead::devices::virtio {
namespace {

bool IsWritable(size_t at) { return at == kCapabilityBar || at >= kCapabilityOffset; }

}  // namespace

ConfigWindow::ConfigWindow(const std::string& body) {
  if (body.size() != kSize) abort();  // the caller's error
  std::copy(body.begin(), body.end(), initial_.begin());
  bytes_ = initial_;
}

uint64_t ConfigWindow::Read(uint64_t offset, uint8_t size_bytes) const {
  uint64_t value = 0;
  if (offset < kSize) {
    memcpy(&value, &bytes_[offset], std::min<uint64_t>(size_bytes, kSize - offset));
  }
  return value;
}

bool ConfigWindow::Write(uint64_t offset, uint8_t size_bytes, uint64_t value) {
  bool changed = false;
  for (uint64_t i = 0; i < size_bytes && offset < kSize - i; ++i) {
    const uint8_t byte = static_cast<uint8_t>(value >> (8 * i));
    if (IsWritable(offset + i)) changed |= std::exchange(bytes_[offset + i], byte) != byte;
  }
  return changed;
}

std::optional<ConfigWindow::Target> ConfigWindow::target() const {
  uint32_t place[2];
  memcpy(place, &bytes_[kCapabilityOffset], sizeof(place));
  const auto [offset, length] = place;
  // Section 4.1.4.9.2: 1, 2 or 4 bytes, a multiple of that as offset, within the BAR.
  if (bytes_[kCapabilityBar] != kBar) return std::nullopt;
  if (length != 1 && length != 2 && length != 4) return std::nullopt;
  if (offset % length != 0 || offset > kBarSize - length) return std::nullopt;
  return Target{offset, static_cast<uint8_t>(length)};
}

uint32_t ConfigWindow::data() const {
  uint32_t data;
  memcpy(&data, &bytes_[kData], sizeof(data));
  return data;
}

void ConfigWindow::set_data(uint32_t data) { memcpy(&bytes_[kData], &data, sizeof(data)); }

bool ConfigWindow::Restore(absl::Span<const uint8_t> bytes) {
  if (bytes.size() != kSize) return false;
  for (size_t i = 0; i < kSize; ++i) {
    if (!IsWritable(i) && bytes[i] != initial_[i]) return false;
  }
  std::copy(bytes.begin(), bytes.end(), bytes_.begin());
  return true;
}

}  // namespace bulkhead::devices::virtio
