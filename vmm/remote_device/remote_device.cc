#include "vmm/remote_device/remote_device.h"

#include "absl/memory/memory.h"
#include "absl/numeric/bits.h"
#include "absl/strings/str_cat.h"
#include "base/access_mask.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/trace_ring.h"
#include "proto/contract.h"

namespace bulkhead::vmm {
namespace {

using channel::Operation;

// SendFunctionState() does not wait until the state takes effect: the supervisor must watch its
// process.
constexpr absl::Duration kSendTimeout = absl::Milliseconds(1);
// An access that waits for longer holds the whole VM: see SupervisorOptions::hold_vm.
constexpr absl::Duration kSlowAccess = absl::Seconds(1);

}  // namespace

absl::StatusOr<std::unique_ptr<RemoteDevice>> RemoteDevice::Create(DeviceSpec& spec,
                                                                   DeviceDescription description,
                                                                   const GuestRam& ram,
                                                                   RemoteDeviceOptions options) {
  ASSIGN_OR_RETURN(
      DeviceEndpoints endpoints,
      DeviceEndpoints::Create(description, std::move(spec.resources), ram,
                              {.waiters = options.vcpus + 1,
                               .max_poll = spec.max_poll,
                               .slow_after = kSlowAccess,
                               .on_slow = [vcpus = options.vcpus, report = options.on_slow_access](
                                              Waiter waiter, bool slow) {
                                 if (waiter < vcpus) report(slow);
                               }}));
  return absl::WrapUnique(
      new RemoteDevice(spec, std::move(description), std::move(endpoints), std::move(options)));
}

RemoteDevice::RemoteDevice(const DeviceSpec& spec, DeviceDescription description,
                           DeviceEndpoints endpoints, RemoteDeviceOptions options)
    : name_(spec.name),
      title_(absl::StrCat("device '", spec.name, "' (", spec.binary.path(), ")")),
      access_timeout_(spec.access_timeout),
      description_(std::move(description)),
      endpoints_(std::move(endpoints)),
      options_(std::move(options)),
      trace_(*options_.trace) {}

uint64_t RemoteDevice::Read(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes) {
  const absl::StatusOr<uint64_t> value =
      Call(Operation::kRead, waiter, region, offset, size_bytes, 0);
  if (value.ok()) return *value;
  OnAccessError(value.status());
  return AccessMask(size_bytes);
}

void RemoteDevice::PostWrite(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                             uint64_t value) {
  absl::Status status;
  if (trace_.on()) {
    const uint64_t begin_ns = channel::TraceNow();
    status = Post(waiter, region, offset, size_bytes, value);
    Trace(Operation::kPostedWrite, waiter, region, offset, size_bytes, begin_ns);
  } else {
    status = Post(waiter, region, offset, size_bytes, value);
  }
  if (!status.ok()) OnAccessError(status);
}

absl::Status RemoteDevice::Post(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                                uint64_t value) {
  absl::Status status;
  do {
    status = endpoints_.channel().Post(waiter, region, offset, size_bytes, value, access_timeout_);
  } while (absl::IsCancelled(status) && options_.park(waiter));
  return status;
}

void RemoteDevice::Trace(Operation operation, Waiter waiter, uint8_t region, uint64_t offset,
                         uint8_t size_bytes, uint64_t begin_ns) const {
  trace_.Write(waiter, {.time_ns = channel::TraceNow(),
                        .a = begin_ns,
                        .b = offset,
                        .kind = channel::TraceRecord::kAccess,
                        .operation = static_cast<uint8_t>(operation),
                        .size_bytes = size_bytes,
                        .region = region,
                        .index = trace_index_});
}

void RemoteDevice::WriteAndWait(Waiter waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                                uint64_t value) {
  const absl::Status status =
      Call(Operation::kWrite, waiter, region, offset, size_bytes, value).status();
  if (!status.ok()) OnAccessError(status);
}

void RemoteDevice::Reset(Waiter waiter) {
  const absl::Status status =
      Call(Operation::kReset, waiter, /*region=*/0, /*offset=*/0, /*size_bytes=*/8, 0).status();
  if (status.ok()) return;
  OnAccessError(status);
  if (absl::IsCancelled(status) || absl::IsInvalidArgument(status)) return;
  if (IsInFlight(status, waiter, absl::ZeroDuration())) return;
  missed_reset_.store(true);
  // As in SetFunctionState().
  if (endpoints_.channel().status().ok()) ReportFailure();
}

bool RemoteDevice::IsInFlight(const absl::Status& status, Waiter waiter, absl::Duration timeout) {
  return absl::IsDeadlineExceeded(status) &&
         !absl::IsFailedPrecondition(endpoints_.channel().AwaitAnswer(waiter, timeout).status());
}

void RemoteDevice::SetFunctionState(Waiter waiter, const FunctionState& state) {
  const uint64_t bits = (state.bus_master ? kFunctionStateBusMaster : 0) |
                        (state.msix_enabled ? kFunctionStateMsixEnabled : 0) |
                        (state.intx_disabled ? kFunctionStateIntxDisabled : 0);
  function_state_.store(bits);
  const absl::Status status = Call(Operation::kSetFunctionState, waiter, /*region=*/0,
                                   /*offset=*/0, /*size_bytes=*/8, bits)
                                  .status();
  if (status.ok()) return;
  function_state_missed_.store(true);
  OnAccessError(status);
  // If the channel has failed, the supervisor checks what was missed after it reopens the channel.
  if (absl::IsUnavailable(status) && endpoints_.channel().status().ok()) ReportFailure();
}

absl::StatusOr<uint64_t> RemoteDevice::Call(Operation operation, Waiter waiter, uint8_t region,
                                            uint64_t offset, uint8_t size_bytes, uint64_t value) {
  if (!trace_.on()) return CallUntraced(operation, waiter, region, offset, size_bytes, value);
  const uint64_t begin_ns = channel::TraceNow();
  absl::StatusOr<uint64_t> answer =
      CallUntraced(operation, waiter, region, offset, size_bytes, value);
  Trace(operation, waiter, region, offset, size_bytes, begin_ns);
  return answer;
}

absl::StatusOr<uint64_t> RemoteDevice::CallUntraced(Operation operation, Waiter waiter,
                                                    uint8_t region, uint64_t offset,
                                                    uint8_t size_bytes, uint64_t value) {
  channel::ChannelClient& channel = endpoints_.channel();
  absl::StatusOr<uint64_t> answer =
      channel.Call(operation, waiter, region, offset, size_bytes, value, access_timeout_);
  while (absl::IsCancelled(answer.status()) && options_.park(waiter)) {
    answer = channel.AwaitAnswer(waiter, access_timeout_);
    if (absl::IsFailedPrecondition(answer.status())) {  // it was not sent
      answer = channel.Call(operation, waiter, region, offset, size_bytes, value, access_timeout_);
    }
  }
  return answer;
}

void RemoteDevice::OnAccessError(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      return;
    case absl::StatusCode::kUnavailable:
      dropped_accesses_.fetch_add(1, std::memory_order_relaxed);
      return;
    case absl::StatusCode::kDeadlineExceeded: {
      const uint64_t count = timed_out_accesses_.fetch_add(1, std::memory_order_relaxed) + 1;
      // Logs the 1st, 2nd, 4th, 8th ...: a guest that retries must not flood the log.
      if (absl::has_single_bit(count)) {
        LogWarning(absl::StrCat("device '", name_, "' did not answer an access in ",
                                absl::FormatDuration(access_timeout_), ", ", count,
                                " times so far; a read then gives all ones"));
      }
      return;
    }
    case absl::StatusCode::kDataLoss:
      dropped_accesses_.fetch_add(1, std::memory_order_relaxed);
      ReportFailure();
      return;
    default:  // the device refused the request
      dropped_accesses_.fetch_add(1, std::memory_order_relaxed);
  }
}

absl::Status RemoteDevice::Attach(DeviceProcess& process, uint64_t generation,
                                  absl::Duration timeout) {
  const absl::StatusOr<AttachOffer> offer =
      endpoints_.MakeOffer(name_, generation, function_state_.load());
  if (!offer.ok()) return absl::ResourceExhaustedError(offer.status().message());
  RETURN_IF_ERROR(process.Attach(*offer, timeout));
  endpoints_.OnAttached();
  return absl::OkStatus();
}

absl::Status RemoteDevice::AwaitAttached(DeviceProcess& process, uint64_t generation,
                                         absl::Duration timeout) {
  RETURN_IF_ERROR(process.AwaitAttached(generation, timeout));
  endpoints_.OnAttached();
  return absl::OkStatus();
}

bool RemoteDevice::masters_bus() const {
  return (function_state_.load() & kFunctionStateBusMaster) != 0;
}

void RemoteDevice::ReportFailure() {
  if (!failure_reported_.exchange(true)) options_.on_failure();
}

void RemoteDevice::ReopenAccesses() {
  failure_reported_.store(false);
  endpoints_.channel().Reopen();
}

bool RemoteDevice::SendFunctionState() {
  failure_reported_.store(false);
  function_state_missed_.store(false);
  const uint64_t bits = function_state_.load();
  const absl::Status status = endpoints_.channel()
                                  .Call(Operation::kSetFunctionState, options_.vcpus, /*region=*/0,
                                        /*offset=*/0, /*size_bytes=*/8, bits, kSendTimeout)
                                  .status();
  const bool sent = status.ok() || IsInFlight(status, options_.vcpus, kSendTimeout);
  // If the state has changed meanwhile, the thread that changed it may have sent it before this
  // call sent the old one.
  if (sent && function_state_.load() == bits) return true;
  function_state_missed_.store(true);
  return false;
}

}  // namespace bulkhead::vmm
