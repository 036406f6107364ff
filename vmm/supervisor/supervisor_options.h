#ifndef BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_OPTIONS_H_
#define BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_OPTIONS_H_

#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <functional>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "vmm/memory/io_handler.h"
#include "vmm/vm/access_trace.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {

struct SupervisorOptions {
  uint32_t vcpus = 1;
  // For each step of a start: the process must describe itself, and then attach, this soon.
  absl::Duration start_timeout = absl::Seconds(10);
  // Times that for the first process of a device: only the user waits for it, and a busy host must
  // not keep the VM from starting.
  static constexpr int kFirstStart = 3;
  EventLog* events = nullptr;                        // borrowed; not null
  const AccessTrace* trace = &AccessTrace::Never();  // borrowed

  // An access of this waiter was cancelled by RemoteDevice::CancelAccesses(): blocks while the
  // VM is paused. True: the access is to be waited for again; false: given up. Called on the
  // waiter's thread. VcpuThreads::ParkWhilePaused().
  std::function<bool(Waiter)> park = [](Waiter) { return false; };

  // The guest waits for the device: an access has waited for longer than a second, or a device that
  // it uses has been away for that long. While there are more calls with true than with false the
  // VM is to stand still, so that the guest does not notice. Called on any thread; must return at
  // once, and must not wait for the access.
  std::function<void(absl::string_view device, bool hold)> hold_vm = [](absl::string_view, bool) {};

  // For devices with the policy PAUSE_VM: pause_vm when the device becomes unavailable, resume_vm
  // when it is back or stopped. Called alternately, on the supervisor's thread, which they may
  // block until no vCPU runs. Must not wait for a command to any device, nor for a lock that is
  // held while a command is waited for. A FAILED device keeps the VM paused: it can be started.
  std::function<void(absl::string_view device)> pause_vm = [](absl::string_view) {};
  std::function<void(absl::string_view device)> resume_vm = [](absl::string_view) {};
};

// For a VM with so many devices on a host with so many processors: they all start at once, at the
// VM's start and when the host has killed them all, and share the processors. A processor starts
// two of them in the time that one has.
inline absl::Duration StartTimeoutFor(size_t devices, size_t processors) {
  return SupervisorOptions().start_timeout *
         std::max(1.0, static_cast<double>(devices) /
                           static_cast<double>(2 * std::max<size_t>(processors, 1)));
}

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_SUPERVISOR_SUPERVISOR_OPTIONS_H_
