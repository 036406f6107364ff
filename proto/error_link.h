#ifndef BULKHEAD_PROTO_ERROR_LINK_H_
#define BULKHEAD_PROTO_ERROR_LINK_H_

#include <stdint.h>

// How a disk has its VM paused when the host cannot carry out a request, instead of reporting an
// error to the guest: over a SOCK_SEQPACKET socket, the resource "errors". Each process of the
// device gets a new socket.
//
// - A request fails for a reason that may pass (no space, an error of the medium). It stays
//   unanswered, and the device sends an ErrorReport: one, however many requests wait.
// - The vmm pauses the VM. When it is resumed, the vmm sends one byte, an ErrorOrder: the device
//   tries again what waits, and what fails once more is a new report; or the guest gets the errors.
//
// The request needs no state of its own to survive the device's process: a successor does again
// what is in flight.

namespace bulkhead {

// vmm -> device; each other byte counts as kTryAgain.
enum class ErrorOrder : uint8_t { kTryAgain = 1, kReportToGuest = 2 };

// device -> vmm
struct ErrorReport {
  uint32_t error_number = 0;  // errno
  uint32_t is_write = 0;      // 1; 0: a read
  uint64_t position = 0;      // bytes
};
static_assert(sizeof(ErrorReport) == 16);

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_ERROR_LINK_H_
