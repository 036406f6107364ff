#ifndef BULKHEAD_PROTO_VM_LINK_H_
#define BULKHEAD_PROTO_VM_LINK_H_

#include <stdint.h>

// What a device and the vmm tell each other about the guest: packets on a SOCK_SEQPACKET socket, a
// resource. Each process of the device gets a new socket.
//
// Reports are numbered from 1, since the VM's start. The device sends a report, then saves its
// number; its successor may send the same report again, with the same number, and the vmm drops it.
// The first packet of each socket is the vmm's: a process without saved state continues from the
// number in it, and saves that before it sends a report.

namespace bulkhead {

inline constexpr char kVmLinkResource[] = "vm";

// vmm -> device
struct VmNews {
  uint64_t reports_taken = 0;  // the number of the last report that the vmm has taken
  // The guest's clock stands still while the VM is paused or held: how long in all, and by the
  // steady clock, in ns, since when it does; 0: it runs. The time of the guest's clock is that of
  // the steady clock without the time that it stood.
  uint64_t clock_stopped_ns = 0;
  uint64_t clock_stops_since_ns = 0;
  uint64_t answered = 0;  // the number of the last kAsk of this process that was taken
};
static_assert(sizeof(VmNews) == 32);

// device -> vmm. Asking is no report, and its numbers are others: they count from 1 in each
// process.
struct VmReport {
  enum Kind : uint32_t {
    kPanicked = 1,     // the guest's kernel has crashed
    kCrashLoaded = 2,  // it has crashed, and its crash kernel takes over
    // The vmm answers with its news. From then on it sends them to this process when they change,
    // before the guest can run on.
    kAsk = 3,
    kWatchdogExpired = 4,
  };
  uint32_t kind = 0;
  uint32_t reserved = 0;
  uint64_t number = 0;
};
static_assert(sizeof(VmReport) == 16);

// A device sends at most that many reports before it saves the number.
inline constexpr uint64_t kMaxUnsavedVmReports = 2;

}  // namespace bulkhead

#endif  // BULKHEAD_PROTO_VM_LINK_H_
