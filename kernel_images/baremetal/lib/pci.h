#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_PCI_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_PCI_H_

#include <stdint.h>

// PCI of bus 0: configuration space, BARs, capabilities, MSI-X (PCI Local Bus Specification 3.0).

namespace bulkhead::guest {

// Registers of the standard header (type 0).
inline constexpr uint16_t kPciVendorId = 0x00;
inline constexpr uint16_t kPciDeviceId = 0x02;
inline constexpr uint16_t kPciCommand = 0x04;
inline constexpr uint16_t kPciStatus = 0x06;
inline constexpr uint16_t kPciRevisionAndClass = 0x08;
inline constexpr uint16_t kPciHeaderType = 0x0e;
inline constexpr uint16_t kPciFirstBar = 0x10;
inline constexpr uint16_t kPciSubsystemVendorId = 0x2c;
inline constexpr uint16_t kPciSubsystemId = 0x2e;
inline constexpr uint16_t kPciCapabilityPointer = 0x34;
inline constexpr uint16_t kPciInterruptLine = 0x3c;
inline constexpr uint16_t kPciInterruptPin = 0x3d;

inline constexpr uint16_t kCommandMemory = 1 << 1;
inline constexpr uint16_t kCommandBusMaster = 1 << 2;
inline constexpr uint16_t kCommandIntxDisable = 1 << 10;
inline constexpr uint16_t kStatusCapabilities = 1 << 4;

inline constexpr uint8_t kCapabilityVendor = 0x09;
inline constexpr uint8_t kCapabilityMsix = 0x11;

enum class ConfigMechanism { kPorts, kEcam };

// One function of bus 0. A value: copy it freely.
class PciFunction {
 public:
  constexpr PciFunction(uint8_t device, uint8_t function,
                        ConfigMechanism mechanism = ConfigMechanism::kPorts)
      : device_(device), function_(function), mechanism_(mechanism) {}

  // The same function by the other mechanism.
  PciFunction By(ConfigMechanism mechanism) const { return {device_, function_, mechanism}; }

  // One access of 1, 2 or 4 bytes; naturally aligned.
  template <typename T>
  T Read(uint16_t offset) const;
  template <typename T>
  void Write(uint16_t offset, T value) const;

  bool IsPresent() const { return Read<uint32_t>(kPciVendorId) != 0xffffffff; }
  void SetCommandBits(uint16_t bits) const;
  void ClearCommandBits(uint16_t bits) const;

  // The offset of the `nth` (from 0) capability of that ID; 0: there is none.
  uint16_t FindCapability(uint8_t id, uint32_t nth = 0) const;

  struct Bar {
    uint64_t address = 0;
    uint64_t size_bytes = 0;  // 0: not there
    bool is_port = false;
    bool is_64bit = false;
    bool is_prefetchable = false;
  };
  // Sizes the BAR by the method of section 6.2.5.1, decoding off meanwhile, and maps it so that
  // programs can touch it. A memory BAR that the machine's firmware left at 0 is placed first.
  Bar ReadBar(uint32_t index) const;
  // Moves it; decoding is off meanwhile. `address` is a multiple of its size.
  void MoveBar(uint32_t index, uint64_t address) const;

  uint8_t device() const { return device_; }

 private:
  uint8_t device_;
  uint8_t function_;
  ConfigMechanism mechanism_;
};

// Finds the first function of that vendor and device ID. Fails the program if there is none.
PciFunction FindFunction(uint16_t vendor, uint16_t device);
// The function that the options vendor=N and device=N name, or else the given one.
PciFunction FunctionFromOption(uint16_t vendor, uint16_t device);

// The MSI-X capability, table and pending bits of one function.
class Msix {
 public:
  // Fails the program if `function` has no MSI-X.
  explicit Msix(const PciFunction& function);

  uint32_t vectors() const { return vectors_; }
  // Entry `index` sends interrupt `vector` to `cpu`. Its mask bit stays as it is.
  void Route(uint32_t index, uint32_t cpu, uint8_t vector) const;
  void SetMasked(uint32_t index, bool masked) const;
  bool IsPending(uint32_t index) const;
  void SetEnabled(bool enabled) const;
  void SetFunctionMasked(bool masked) const;

  uint64_t table() const { return table_; }

 private:
  void SetControlBit(uint16_t bit, bool value) const;

  PciFunction function_;
  uint16_t capability_;
  uint32_t vectors_;
  uint64_t table_;
  uint64_t pending_;
};

}  // namespace bulkhead::guest

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_PCI_H_
