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

namespace bulkhead::vmm {

struct RemoteDeviceOptions {
  uint32_t vcpus = 1;
  // An access of a vCPU has waited for longer than a second (true), and waits no more (false). On
  // the vCPU's thread; must return at once.
  std::function<void(bool slow)> on_slow_access = [](bool) {};
  // CancelAccesses() ended an access of this requester before its answer came. Blocks for as long
  // as nobody may wait. True: wait again; false: give it up. On the requester's thread.
  std::function<bool(Requester)> park = [](Requester) { return false; };
  // The supervisor has to act: the channel's status() is DataLoss, because the process broke the
  // protocol, or function_state_missed(), or reset_missed(). Called on the thread of an access;
  // must return at once. Called once each time that the supervisor reopens the channel or deals
  // with what was missed, however often the guest repeats it.
  std::function<void()> on_failure = [] {};
};

// A device in other processes, one after the other, as the rest of the vmm sees it: what it is,
// the eventfds to give to KVM, and accesses to it. All of that lasts; which process serves it, if
// any, is its supervisor's business (vmm/supervisor).
//
// While no process serves, an access waits for the next one, and gives all ones after the access
// timeout; or it gives all ones at once, while the supervisor has the channel failed.
//
// Thread-safe, but for what is said to be the supervisor's: that belongs to one thread. So does
// the requester number `vcpus`.
class RemoteDevice final : public DeviceAccess {
 public:
  // Takes the resources out of `spec`. `ram` is borrowed and must outlive the device. Errors: as
  // DeviceEndpoints::Create().
  static absl::StatusOr<std::unique_ptr<RemoteDevice>> Create(DeviceSpec& spec,
                                                              DeviceDescription description,
                                                              const GuestRam& ram,
                                                              RemoteDeviceOptions options);

  const std::string& name() const { return name_; }
  // For errors: "device 'disk0' (path/to/binary)".
  const std::string& title() const { return title_; }
  const DeviceDescription& description() const { return description_; }
  // The eventfds of doorbells, vectors and line. They live as long as the device.
  const DeviceEndpoints& endpoints() const { return endpoints_; }

  uint64_t Read(Requester requester, uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void PostWrite(Requester requester, uint8_t region, uint64_t offset, uint8_t size_bytes,
                 uint64_t value) override;
  void WriteAndWait(Requester requester, uint8_t region, uint64_t offset, uint8_t size_bytes,
                    uint64_t value) override;
  void Reset(Requester requester) override;
  void SetFunctionState(Requester requester, const FunctionState& state) override;

  // Accesses that the access timeout ended, and those that found the device gone.
  uint64_t timed_out_accesses() const { return timed_out_accesses_.load(); }
  uint64_t dropped_accesses() const { return dropped_accesses_.load(); }

  // Pause and stop: accesses that wait, or would have to, ask options.park() what to do, until
  // ResumeAccesses().
  void CancelAccesses() { endpoints_.channel().CancelWaits(); }
  void ResumeAccesses() { endpoints_.channel().ResumeWaits(); }

  // --- The supervisor's -------------------------------------------------------------------------

  // Hands everything to `process`, which serves when this returns OK. Its predecessor is dead, and
  // the channel prepared. Errors: as DeviceProcess::Attach(); ResourceExhausted also where an offer
  // could not be made.
  absl::Status Attach(DeviceProcess& process, uint64_t generation, absl::Duration timeout);
  // Waits on after DeadlineExceeded. Errors: as DeviceProcess::AwaitAttached().
  absl::Status AwaitAttached(DeviceProcess& process, uint64_t generation, absl::Duration timeout);

  // What the guest did while the channel had failed, and must hold for the next process: a reset
  // (ConsumeMissedReset() is true once for each), and the function state. SendFunctionState() sends
  // that to the process that serves; false: not possible now, call again in a moment.
  bool reset_missed() const { return missed_reset_.load(); }
  bool ConsumeMissedReset() {
    failure_reported_.store(false);  // the next one is reported again
    return missed_reset_.exchange(false);
  }
  bool function_state_missed() const { return function_state_missed_.load(); }
  bool SendFunctionState();

  // What the process owes: see ChannelClient::OldestPending().
  uint64_t OldestPending() const { return endpoints_.channel().OldestPending(options_.vcpus); }
  // The guest lets the function do DMA: its driver uses it.
  bool masters_bus() const;

  // Ends the failure of the channel, if it has failed: a process serves, or will soon.
  void ReopenAccesses();

  // The function is as after power-on: so PCI says that has reset it too.
  void ForgetFunctionState() { function_state_.store(0); }

 private:
  RemoteDevice(const DeviceSpec& spec, DeviceDescription description, DeviceEndpoints endpoints,
               RemoteDeviceOptions options);

  // An access that is answered.
  absl::StatusOr<uint64_t> Call(channel::Operation operation, Requester requester, uint8_t region,
                                uint64_t offset, uint8_t size_bytes, uint64_t value);
  // Of a Call() that ended by its timeout: whether its request is in the ring all the same, and
  // will take effect. Waits for the answer once more.
  bool IsInFlight(const absl::Status& status, Requester requester, absl::Duration timeout);
  // Deals with an access that failed.
  void OnAccessError(const absl::Status& status);
  void ReportFailure();

  const std::string name_;
  const std::string title_;
  const absl::Duration access_timeout_;
  const DeviceDescription description_;
  const DeviceEndpoints endpoints_;
  const RemoteDeviceOptions options_;

  std::atomic<uint64_t> timed_out_accesses_{0};
  std::atomic<uint64_t> dropped_accesses_{0};

  // Set before it is sent; so, if a call of SendFunctionState() comes between, that one or the
  // sending after it sends what is newest.
  std::atomic<uint64_t> function_state_{0};
  std::atomic<bool> function_state_missed_{false};
  std::atomic<bool> missed_reset_{false};
  std::atomic<bool> failure_reported_{false};  // since ReopenAccesses(), or since it was dealt with
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_REMOTE_DEVICE_REMOTE_DEVICE_H_
