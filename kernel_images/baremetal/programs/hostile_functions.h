#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_FUNCTIONS_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_PROGRAMS_HOSTILE_FUNCTIONS_H_

#include <stdint.h>

#include "devices/example/registers.h"
#include "kernel_images/baremetal/lib/pci.h"

// The PCI functions that hostile_driver treats badly, and how they are brought back and checked.

namespace bulkhead::guest::hostile {

inline constexpr uint32_t kVirtioNet = 0x1041'1af4;
inline constexpr uint32_t kVirtioBlock = 0x1042'1af4;
inline constexpr uint32_t kVirtioEntropy = 0x1044'1af4;
inline constexpr uint32_t kVirtioBalloon = 0x1045'1af4;
inline constexpr uint32_t kVirtioVsock = 0x1053'1af4;
inline constexpr uint32_t kExample =
    uint32_t{devices::example::kDeviceId} << 16 | devices::example::kVendorId;

inline constexpr uint32_t kMaxFunctions = 10;
inline constexpr uint32_t kBars = 6;
inline constexpr uint32_t kQueues = 3;

// What the program remembers of a queue: not what the device believes.
struct Queue {
  uint64_t descriptors;
  uint64_t available;
  uint64_t used;
  uint16_t size;
  uint16_t index;
};

// What precedes each frame of a network device (virtio 1.2, section 5.1.6), and each packet of a
// vsock device (5.10.6).
struct NetHeader {
  uint8_t flags, gso_type;
  uint16_t header_length, gso_size, checksum_start, checksum_offset, buffers;
};
static_assert(sizeof(NetHeader) == 12);
struct VsockHeader {
  uint32_t source_cid, source_cid_high, destination_cid, destination_cid_high;
  uint32_t source_port, destination_port, length;
  uint16_t type, operation;
  uint32_t flags, buffer, forwarded;
};
static_assert(sizeof(VsockHeader) == 44);
inline constexpr uint32_t kHostCid = 2;
inline constexpr uint16_t kVsockRequest = 1;
inline constexpr uint16_t kVsockReset = 3;
inline constexpr uint64_t kFeaturesBalloon = 1 << 2 | 1 << 5;      // deflation on OOM, reports
inline constexpr uint64_t kFeatureNetControl = uint64_t{3} << 17;  // its queue, and filters by it

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
  uint32_t cid = 0;  // of a vsock device
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
