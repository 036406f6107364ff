#ifndef BULKHEAD_VMM_REMOTE_DEVICE_REMOTE_DEVICE_H_
#define BULKHEAD_VMM_REMOTE_DEVICE_REMOTE_DEVICE_H_

#include <stdint.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/channel/channel_layout.h"
#include "vmm/config/vm_spec.h"
#include "vmm/device/device_access.h"
#include "vmm/device/device_description.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/device_process.h"
#include "vmm/remote_device/device_endpoints.h"
#include "vmm/vm/access_trace.h"

namespace bulkhead::vmm {

struct RemoteDeviceOptions {
  uint32_t vcpus = 1;
  // Called with true when an access of a vCPU has waited for longer than a second, and with false
  // when that access waits no more. Called on the vCPU's thread; must return at once.
  std::function<void(bool slow)> on_slow_access = [](bool) {};
  // Called on the waiter's thread when CancelAccesses() has ended the wait of its access. Blocks
  // while accesses are cancelled. True: wait again. False: give the access up.
  std::function<bool(Waiter)> park = [](Waiter) { return false; };
  // The supervisor has to act: the channel's status() is DataLoss, because the process broke the
  // protocol, or function_state_missed(), or reset_missed(). Called on the thread of an access;
  // must return at once. Called once each time that the supervisor reopens the channel or deals
  // with what was missed, however often the guest repeats it.
  std::function<void()> on_failure = [] {};
  // Records the vCPUs' accesses. Borrowed; not null.
  const AccessTrace* trace = &AccessTrace::Never();
};

// A device as the guest and the rest of the vmm see it, whichever process serves it: its
// description, the eventfds for KVM, and accesses to it. All of these outlive a process. The
// supervisor (vmm/supervisor) decides which process serves the device, if any.
//
// While no process serves, an access waits for the next one and gives all ones after the access
// timeout. While the supervisor has failed the channel, an access gives all ones at once.
//
// Thread-safe, except for the supervisor's part, which one thread must use. Only that thread may
// use the waiter `vcpus`.
class RemoteDevice final : public DeviceAccess {
 public:
  // Moves the resources out of `spec`. `ram` is borrowed and must outlive the device. Errors: as
  // DeviceEndpoints::Create().
  static absl::StatusOr<std::unique_ptr<RemoteDevice>> Create(DeviceSpec& spec,
                                                              DeviceDescription description,
                                                              const GuestRam& ram,
                                                              RemoteDeviceOptions options);

  const std::string& name() const { return name_; }
  // For messages: "device 'disk0' (path/to/binary)".
  const std::string& title() const { return title_; }
  const DeviceDescription& description() const { return description_; }
  // The eventfds of doorbells, vectors and line. They live as long as the device.
  const DeviceEndpoints& endpoints() const { return endpoints_; }

  uint64_t Read(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void PostWrite(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                 uint64_t value) override;
  void WriteAndWait(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                    uint64_t value) override;
  void Reset(Waiter waiter) override;
  void SetFunctionState(Waiter waiter, const FunctionState& state) override;

  // The device's number in traces. Call before the guest runs.
  void set_trace_index(uint32_t index) { trace_index_ = index; }

  // The number of accesses that the access timeout ended, and of those that found the device gone.
  uint64_t timed_out_accesses() const { return timed_out_accesses_.load(); }
  uint64_t dropped_accesses() const { return dropped_accesses_.load(); }

  // For pause and stop: until ResumeAccesses(), accesses that wait or would have to wait call
  // options.park().
  void CancelAccesses() { endpoints_.channel().CancelWaits(); }
  void ResumeAccesses() { endpoints_.channel().ResumeWaits(); }

  // --- For the supervisor only ------------------------------------------------------------------

  // Attaches `process`, which serves when this returns OK. Its predecessor must be dead and the
  // channel prepared. Errors: as DeviceProcess::Attach(); ResourceExhausted also if the offer could
  // not be made.
  absl::Status Attach(DeviceProcess& process, uint64_t generation, absl::Duration timeout);
  // Waits on after DeadlineExceeded. Errors: as DeviceProcess::AwaitAttached().
  absl::Status AwaitAttached(DeviceProcess& process, uint64_t generation, absl::Duration timeout);

  // `on_failure` is called for the first failure after this. Call it while a process serves, before
  // looking at what may have failed.
  void AwaitNextFailure() { failure_reported_.store(false); }

  // Requests of the guest that no process got, and which the next process must get: a reset
  // (ConsumeMissedReset() is true once for each), and the function state. SendFunctionState() sends
  // the state to the process that serves. False: not possible now, call again in a moment.
  bool reset_missed() const { return missed_reset_.load(); }
  bool ConsumeMissedReset() { return missed_reset_.exchange(false); }
  bool function_state_missed() const { return function_state_missed_.load(); }
  bool SendFunctionState();

  // The oldest request without an answer: see ChannelClient::OldestPending().
  uint64_t OldestPending() const { return endpoints_.channel().OldestPending(options_.vcpus); }
  // True if the guest lets the function do DMA, that is, if its driver uses it.
  bool masters_bus() const;
  // True if the process that serves, or served last, says that it waits for its back end.
  bool awaits_back_end() const { return endpoints_.channel().process_awaits_back_end(); }

  // Reopens the channel, if it has failed. Call when a process serves, or will soon.
  void ReopenAccesses();

  // Sets the function state after power-on. Call when PCI has reset the function, too.
  void ForgetFunctionState() { function_state_.store(0); }

 private:
  RemoteDevice(const DeviceSpec& spec, DeviceDescription description, DeviceEndpoints endpoints,
               RemoteDeviceOptions options);

  // Makes an access that has an answer, and returns the answer.
  absl::StatusOr<uint64_t> Call(channel::Operation operation, Waiter waiter, uint8_t region,
                                uint64_t offset, uint8_t size_bytes, uint64_t value);
  absl::StatusOr<uint64_t> CallUntraced(channel::Operation operation, Waiter waiter, uint8_t region,
                                        uint64_t offset, uint8_t size_bytes, uint64_t value);
  absl::Status Post(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                    uint64_t value);
  // Records an access that began at `begin_ns` and ends now.
  void Trace(channel::Operation operation, Waiter waiter, uint8_t region, uint64_t offset,
             uint8_t size_bytes, uint64_t begin_ns) const;
  // `status` is that of a Call(). True if it ended by its timeout, but its request is in the ring
  // and will take effect. Waits for the answer once more.
  bool IsInFlight(const absl::Status& status, Waiter waiter, absl::Duration timeout);
  // Counts, logs and reports a failed access.
  void OnAccessError(const absl::Status& status);
  void ReportFailure();

  const std::string name_;
  const std::string title_;
  const absl::Duration access_timeout_;
  const DeviceDescription description_;
  const DeviceEndpoints endpoints_;
  const RemoteDeviceOptions options_;
  const AccessTrace& trace_;
  uint32_t trace_index_ = 0;

  std::atomic<uint64_t> timed_out_accesses_{0};
  std::atomic<uint64_t> dropped_accesses_{0};

  // Set before it is sent: if SendFunctionState() runs in between, either that call or the later
  // send carries the newest state.
  std::atomic<uint64_t> function_state_{0};
  std::atomic<bool> function_state_missed_{false};
  std::atomic<bool> missed_reset_{false};
  std::atomic<bool> failure_reported_{false};  // since ReopenAccesses(), or AwaitNextFailure()
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_REMOTE_DEVICE_H_
