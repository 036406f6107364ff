#include "vmm/kvm/exit_decoding.h"

#include <algorithm>
#include <iterator>

namespace bulkhead::vmm {
namespace {

SystemEventExit::Kind KindOf(uint32_t system_event_type) {
  switch (system_event_type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
      return SystemEventExit::Kind::kPowerOff;
    case KVM_SYSTEM_EVENT_RESET:
      return SystemEventExit::Kind::kReset;
    default:
      return SystemEventExit::Kind::kOther;
  }
}

}  // namespace

VcpuExit DecodeExit(kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_MMIO:
      return MmioExit{.address = run.mmio.phys_addr,
                      .data = run.mmio.data,
                      .size_bytes = static_cast<uint8_t>(run.mmio.len),
                      .is_write = run.mmio.is_write != 0};
    case KVM_EXIT_IO:
      return PortExit{.data = reinterpret_cast<uint8_t*>(&run) + run.io.data_offset,
                      .count = run.io.count,
                      .port = run.io.port,
                      .size_bytes = run.io.size,
                      .is_write = run.io.direction == KVM_EXIT_IO_OUT};
    case KVM_EXIT_INTR:
      return InterruptedExit{};
    case KVM_EXIT_SHUTDOWN:
      return ShutdownExit{};
    case KVM_EXIT_SYSTEM_EVENT:
      return SystemEventExit{KindOf(run.system_event.type), run.system_event.type};
    case KVM_EXIT_INTERNAL_ERROR: {
      // The cast is between two 64-bit types: __u64 is `unsigned long long`, uint64_t is `unsigned
      // long`.
      static_assert(sizeof(run.internal.data[0]) == sizeof(uint64_t));
      const size_t count = std::min<size_t>(run.internal.ndata, std::size(run.internal.data));
      return InternalErrorExit{run.internal.suberror,
                               {reinterpret_cast<const uint64_t*>(run.internal.data), count}};
    }
    case KVM_EXIT_FAIL_ENTRY:
      return EntryFailureExit{run.fail_entry.hardware_entry_failure_reason, run.fail_entry.cpu};
    default:
      return UnknownExit{run.exit_reason};
  }
}

}  // namespace bulkhead::vmm
