#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_FUNCTIONS_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_FUNCTIONS_H_

#include <stdint.h>

#include "devices/example/registers.h"
#include "kernel_images/baremetal/lib/pci.h"

// The PCI functions that hostile_driver treats badly, and how they are brought back and checked.

namespace bulkhead::guest::hostile {

inline constexpr uint32_t kVirtioBlock = 0x1042'1af4;
inline constexpr uint32_t kVirtioEntropy = 0x1044'1af4;
inline constexpr uint32_t kExample =
    uint32_t{devices::example::kDeviceId} << 16 | devices::example::kVendorId;

inline constexpr uint32_t kMaxFunctions = 8;
inline constexpr uint32_t kBars = 6;
inline constexpr uint32_t kQueues = 2;

// What the program remembers of a queue: not what the device believes.
struct Queue {
  uint64_t descriptors;
  uint64_t available;
  uint64_t used;
  uint16_t size;
  uint16_t index;
};

struct Function {
  PciFunction pci{0, 0};
  uint32_t id = 0;
  uint16_t command = 0;
  uint16_t msix = 0;  // the offset of the capability
  uint8_t msix_bar = 0;
  uint8_t common_bar = 0;
  uint32_t notify_offset = 0;
  uint32_t bar_registers[kBars] = {};
  PciFunction::Bar bars[kBars];
  Queue queues[kQueues] = {};
};

extern Function functions[kMaxFunctions];
extern uint32_t function_count;
extern bool displaced;  // BARs may be where others were

inline bool IsVirtio(const Function& function) { return (function.id & 0xffff) == 0x1af4; }

// Fills the table above. Call once, first.
void FindFunctions();

// BARs and commands are as they were found, with bus mastering on.
void RestoreFunctions();

// As a driver does it: resets each device and the UART, and uses them. Fails the program unless all
// work. The data that it writes to the disk depend on `round`.
void CheckDevices(uint64_t round);

}  // namespace bulkhead::guest::hostile

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_FUNCTIONS_H_
