#ifndef BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_UART_H_
#define BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_UART_H_

#include <stdint.h>

#include "kernel_images/baremetal/lib/cpu.h"

// The 16550 UART at port 0x3f8.

namespace bulkhead::guest::uart {

inline constexpr uint16_t kData = 0x3f8;
inline constexpr uint16_t kInterruptEnable = 0x3f9;
inline constexpr uint16_t kInterruptIdentification = 0x3fa;  // read
inline constexpr uint16_t kFifoControl = 0x3fa;              // write
inline constexpr uint16_t kModemControl = 0x3fc;
inline constexpr uint16_t kLineStatus = 0x3fd;
inline constexpr uint16_t kModemStatus = 0x3fe;

inline constexpr uint8_t kReceiveInterrupt = 0x01;
inline constexpr uint8_t kTransmitInterrupt = 0x02;
inline constexpr uint8_t kNothingPending = 0x01;
inline constexpr uint8_t kFifosEnabled = 0x07;    // and emptied
inline constexpr uint8_t kReadyToReceive = 0x03;  // DTR, RTS
inline constexpr uint8_t kInterruptGate = 0x0b;   // and OUT2: on a PC it connects the interrupt
inline constexpr uint8_t kDataReady = 0x01;       // in the line status
inline constexpr uint8_t kTransmitterEmpty = 0x20;
inline constexpr uint32_t kFifoBytes = 16;

inline bool CanSend() { return (In8(kLineStatus) & kTransmitterEmpty) != 0; }
inline bool HasInput() { return (In8(kLineStatus) & kDataReady) != 0; }
// The other end sends only after this.
inline void AllowInput() { Out8(kModemControl, kReadyToReceive); }

}  // namespace bulkhead::guest::uart

#endif  // BULKHEAD_KERNEL_IMAGES_BAREMETAL_LIB_UART_H_
