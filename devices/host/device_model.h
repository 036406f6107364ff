#ifndef BULKHEAD_DEVICES_HOST_DEVICE_MODEL_H_
#define BULKHEAD_DEVICES_HOST_DEVICE_MODEL_H_

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/guest_memory.h"
#include "base/unique_fd.h"
#include "proto/channel/trace_ring.h"
#include "proto/device_control.pb.h"

namespace bulkhead::devices {

// A part of guest RAM, as another process can map it.
struct GuestMemoryBlock {
  GuestAddress address = 0;
  uint64_t size_bytes = 0;
  uint64_t offset_in_file = 0;
  int fd = -1;
};

// A place in a memory file, as another process can map it; page-aligned.
struct MemoryFilePlace {
  int fd = -1;
  uint64_t offset = 0;
};

// What the device host does for a model. All calls on the model's thread.
class DeviceServices {
 public:
  virtual ~DeviceServices() = default;

  // Guest RAM; empty unless Describe().uses_dma. Valid until the model's destructor returns.
  virtual const GuestMemory& memory() const = 0;

  // This process, or the kernel for it, uses these parts of guest RAM. For devices that use much of
  // it: see MappedPages. Cheap.
  virtual void GuestMemoryUsed(absl::Span<const iovec> /*buffers*/) {}

  // Sends MSI-X message `vector`; out of range: dropped.
  virtual void SignalMsix(uint32_t vector) = 0;

  // Drives the interrupt line. A PCI device's INTA# is level-triggered: it is asserted again
  // after the guest's end-of-interrupt while the level is still true. A platform device's line
  // is edge-triggered: each false -> true is one interrupt.
  virtual void SetIntx(bool level) = 0;

  // The kernel failed to write back what earlier processes wrote to that resource, and perhaps no
  // flush of the guest has failed for it: Start() must make the next one fail, and save that it is
  // due. Ask before TakeResource().
  virtual bool writeback_failed(absl::string_view) const { return false; }
  // Such a failure is due, of any resource. Call it beside StateChanged(): after a reset, or if the
  // saved state is discarded, there is no Restore(), and writeback_failed() is true again instead.
  virtual void OweWritebackFailure(bool) {}

  // Takes the resource of that name out of those handed over. Errors: NotFound.
  virtual absl::StatusOr<UniqueFd> TakeResource(absl::string_view name) = 0;

  // Calls `on_readable` on the model's thread whenever `fd` is readable or hung up
  // (level-triggered) until Unwatch(), which it may call itself. `fd` stays the caller's and must
  // outlive the watch. Errors: as epoll_ctl(2).
  virtual absl::Status Watch(int fd, absl::AnyInvocable<void()> on_readable) = 0;
  virtual void Unwatch(int fd) = 0;

  // Save() would now write something else. The host saves before it answers the access, or when the
  // callback has returned: a successor resumes from exactly there. Cheap.
  virtual void StateChanged() {}

  // Memory of Describe().durable_memory_bytes that outlives the process, for what changes too often
  // to be saved. Zeroed before the first process and by a reset. Do not trust it: the process that
  // died may have been compromised.
  virtual absl::Span<uint8_t> durable_memory() { return {}; }

  // Call it now and then in a call that takes long: it proves to the heartbeat that this is work
  // and no hang. Cheap.
  virtual void KeepAlive() {}

  // Where the model records what it does while a trace runs. The same until the model ends.
  virtual channel::TraceRecorder trace() const { return {}; }

  // What the guest asks of the device waits, or waits no longer, for another program of the host,
  // which is away, or does not answer. The vmm holds the guest meanwhile, as it does where this
  // process is away: for a bounded time, with the guest's clock. At first false. Cheap.
  virtual void SetAwaitsBackEnd(bool /*awaits*/) {}

  // --- Lending the data path to another process; only if Describe().lends_descriptors ------------
  // The descriptors stay the host's and are valid until the model's destructor returns. A process
  // that is given copies of them (SCM_RIGHTS) is a borrower. It can do to the guest whatever this
  // process can, and neither the sandbox nor the vmm restrains it. The model answers for it:
  // - SetServing(false), Reset() and the end of bus mastering stop the borrower. Until it has
  //   confirmed that it stands still, at_rest() is false and dma_in_flight() is true.
  // - If this process dies, the borrower stops by itself. The successor's model neither serves nor
  //   lends before the borrower has: the vmm does not know it.

  // Guest RAM as files; several blocks may be of one file.
  virtual absl::Span<const GuestMemoryBlock> memory_blocks() const { return {}; }

  // Where durable_memory() lies in its file; -1: there is none. A borrower of the file can write
  // the saved state, too: the successor checks that anyway.
  virtual MemoryFilePlace durable_memory_file() const { return {}; }

  // Stops serving doorbell `index` and returns its eventfd; -1: there is none. The host must not
  // read it beside the borrower: each would take the other's events. The eventfd is readable at
  // first, since an event may have been taken and not acted on. A borrower may see a doorbell
  // before the model sees posted writes that the guest made earlier.
  virtual int LendDoorbell(uint32_t /*index*/) { return -1; }
  // The borrower no longer reads the eventfd. The host serves the doorbell again, and calls
  // OnDoorbell() once, for the same reason.
  virtual void TakeBackDoorbell(uint32_t /*index*/) {}

  // The eventfd of MSI-X vector `vector`; -1: there is none. Writing 1 sends the message, without
  // the checks of SignalMsix(); the host does not count it. While bus mastering is off or the
  // vector is masked, the vmm keeps the event: the guest sees a pending bit, and is interrupted
  // later. While MSI-X is disabled (FunctionState), the borrower must not write it: the guest would
  // be interrupted when it enables MSI-X, and not by the line, where it waits. Give the borrower an
  // eventfd of the model's own then, Watch() that one, and call SetIntx().
  virtual int vector_descriptor(uint32_t /*vector*/) const { return -1; }
};

// State of a PCI function that the vmm owns and a device must obey.
struct FunctionState {
  bool bus_master = false;     // without it no DMA and no MSI-X may be started
  bool msix_enabled = false;   // else the device signals by SetIntx()
  bool intx_disabled = false;  // SetIntx() heeds it: the model need not
};

// One device, as guest accesses, doorbells and time see it. Pure: no KVM, no gRPC, no sockets
// of its own. Single-threaded: every call comes from one thread, one at a time, and none may
// block. All arguments but `region` come from the guest and are hostile.
class DeviceModel {
 public:
  virtual ~DeviceModel() = default;

  // What the device is. Depends on its command line alone; may be called before Start().
  virtual v1::DeviceInfo Describe() const = 0;

  // Called once, first. `services` outlives the model. Errors: the resources do not fit.
  virtual absl::Status Start(DeviceServices& services) = 0;

  // --- State that outlives the process; docs: devices/README.md --------------------------------
  // Writes all that the guest can see of the device beyond durable_memory(), at most
  // Describe().saved_state_bytes. Called after StateChanged(). Returns the number of bytes.
  virtual size_t Save(absl::Span<uint8_t> out) const = 0;
  // Called in a successor, after Start() and before anything else: makes the model what it was when
  // its predecessor saved `state`. Then the host calls OnFunctionState() with the present state
  // (bus mastering that the guest has allowed since the save follows once the requests that waited
  // are applied), and OnDoorbell() for every doorbell; interrupts may be raised once too often,
  // never too rarely. Errors: InvalidArgument (`state` is impossible; it is not trusted).
  virtual absl::Status Restore(absl::Span<const uint8_t> state) = 0;

  // State after power-on: registers, queues, interrupts, durable memory. Work in flight ends
  // without touching guest memory any more; until then at_rest() is false.
  virtual void Reset() = 0;
  // false: starts no new work until SetServing(true); work in flight continues, registers answer.
  // Called with false before Restore(), and with true once the requests that waited are applied.
  virtual void SetServing(bool serving) = 0;
  // Nothing is in flight: Save() and durable_memory() together are the whole state of the device.
  virtual bool at_rest() const = 0;

  // Work in flight may touch guest memory. After OnFunctionState() has taken bus mastering away no
  // such work may start; the guest waits for its end, for a bounded time.
  virtual bool dma_in_flight() const { return false; }

  // Counters and gauges for people; called now and then.
  virtual void AppendMetrics(v1::DeviceMetrics&) const {}

  // A guest read of `size_bytes` (1, 2, 4 or 8) at `offset` of a region (see
  // proto/contract.h); the host has checked that it lies within the region. The bytes above
  // `size_bytes` of the result are ignored.
  virtual uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) = 0;

  // A guest write; the bytes of `value` above `size_bytes` are zero.
  virtual void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) = 0;

  // Doorbell `index` of Describe().doorbells was rung, once or more since the last call. Every
  // earlier posted write has been delivered. Not those after it: what the guest adds to memory
  // meanwhile may be found before them, as by a device whose DMA overtakes a posted write. Spurious
  // calls happen: look, do not assume.
  virtual void OnDoorbell(uint32_t index) = 0;

  // --- Work that lies in shared memory: a device under load polls it, without doorbells ---------

  // There is such work. The host asks in a loop: loads from memory, no more.
  virtual bool HasWork() const { return false; }
  // Does a bounded part of it; spurious calls happen. Every posted write that was made before
  // HasWork() said so has been delivered.
  virtual void DoWork() {}
  // The host is about to sleep until a doorbell or a watched descriptor wakes it: asks the guest to
  // ring again. True: work came meanwhile, for which it may not ring; DoWork() follows.
  virtual bool PrepareToSleep() { return false; }

  // The guest changed the function's state. PCI devices only. Initially all false.
  virtual void OnFunctionState(const FunctionState& state) = 0;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_DEVICE_MODEL_H_
