#ifndef BULKHEAD_VMM_HYPERVISOR_VCPU_EXIT_H_
#define BULKHEAD_VMM_HYPERVISOR_VCPU_EXIT_H_

#include <stdint.h>

#include <variant>

#include "absl/types/span.h"

namespace bulkhead::vmm {

// Why a vCPU stopped running guest code. Pointers point into memory that the vCPU shares with the
// kernel and are valid until it runs again.

// An access to a guest-physical address without RAM. `data` holds the bytes written, or receives
// the bytes read. KVM splits accesses at 8 bytes and at page borders, so `size_bytes` is 1 to 8,
// not always a power of two.
struct MmioExit {
  uint64_t address;
  uint8_t* data;
  uint8_t size_bytes;
  bool is_write;
};

// `count` accesses of `size_bytes` (1, 2 or 4) to one port, in order: more than one for a
// string instruction. `data` holds or receives count * size_bytes bytes.
struct PortExit {
  uint8_t* data;
  uint32_t count;
  uint16_t port;
  uint8_t size_bytes;
  bool is_write;
};

// Triple fault.
struct ShutdownExit {};

// A request of the guest through the kernel (KVM_SYSTEM_EVENT_*).
struct SystemEventExit {
  enum class Kind { kPowerOff, kReset, kOther };
  Kind kind;
  uint32_t type;  // as the kernel numbers it
};

// KVM cannot continue, most often because its emulator does not know an instruction.
struct InternalErrorExit {
  uint32_t suberror;                // KVM_INTERNAL_ERROR_*: 1 is emulation
  absl::Span<const uint64_t> data;  // meaning depends on suberror
};

// The processor refused the guest's state.
struct EntryFailureExit {
  uint64_t hardware_reason;
  uint32_t cpu;
};

// A signal or RequestExit(). A pending access has been completed.
struct InterruptedExit {};

// KVM_RUN itself failed. EFAULT: the host could not provide a page of guest memory.
struct RunFailedExit {
  int error_number;
};

// An exit that this vmm never enables.
struct UnknownExit {
  uint32_t reason;  // KVM_EXIT_*
};

using VcpuExit = std::variant<MmioExit, PortExit, InterruptedExit, ShutdownExit, SystemEventExit,
                              InternalErrorExit, EntryFailureExit, RunFailedExit, UnknownExit>;

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_HYPERVISOR_VCPU_EXIT_H_
