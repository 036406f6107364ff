#include "proto/channel/channel_memory.h"

#include <fcntl.h>
#include <sched.h>

#include <algorithm>
#include <utility>

#include "absl/numeric/bits.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "base/shared_file.h"
#include "base/status_macros.h"

namespace bulkhead::channel {
namespace {

absl::Status Validate(const ChannelOptions& options) {
  if (options.slots < kMinSlots || options.slots > kMaxSlots ||
      !absl::has_single_bit(options.slots)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("channel slots: %d is not a power of two from %d to %d", options.slots,
                        kMinSlots, kMaxSlots));
  }
  if (options.waiters == 0 || options.waiters > kMaxWaiters) {
    return absl::InvalidArgumentError(
        absl::StrFormat("channel waiters: %d is not 1 to %d", options.waiters, kMaxWaiters));
  }
  if (options.max_poll < absl::ZeroDuration() || options.max_poll > absl::Milliseconds(10)) {
    return absl::InvalidArgumentError("channel polling time: not 0 to 10 ms");
  }
  return absl::OkStatus();
}

}  // namespace

int AvailableCpus() {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0) return 2;  // more than 1024: not one
  return std::max(1, CPU_COUNT(&cpus));
}

size_t RequestView::SizeBytes(uint32_t slots, uint32_t waiters) {
  return sizeof(RequestHeader) + size_t{waiters} * sizeof(WaiterFlags) +
         size_t{slots} * sizeof(RequestSlot);
}

RequestView::RequestView(uint8_t* base, uint32_t slots, uint32_t waiters)
    : header_(reinterpret_cast<RequestHeader*>(base)),
      waiters_(reinterpret_cast<WaiterFlags*>(base + sizeof(RequestHeader))),
      slots_(reinterpret_cast<RequestSlot*>(base + sizeof(RequestHeader) +
                                            size_t{waiters} * sizeof(WaiterFlags))),
      slot_mask_(slots - 1) {}

size_t ResponseView::SizeBytes(uint32_t waiters) {
  return sizeof(ResponseHeader) + size_t{waiters} * sizeof(CompletionSlot) + sizeof(TraceRing);
}

ResponseView::ResponseView(uint8_t* base)
    : header_(reinterpret_cast<ResponseHeader*>(base)),
      completions_(reinterpret_cast<CompletionSlot*>(base + sizeof(ResponseHeader))) {}

absl::StatusOr<ChannelMemory> ChannelMemory::Create(const ChannelOptions& options) {
  RETURN_IF_ERROR(Validate(options));
  ChannelMemory memory;

  const size_t request_bytes = RequestView::SizeBytes(options.slots, options.waiters);
  ASSIGN_OR_RETURN(memory.request_memory, CreateMemfd("bulkhead-requests", request_bytes));
  ASSIGN_OR_RETURN(memory.request_mapping,
                   MemoryMapping::Map(memory.request_memory.get(), 0, request_bytes,
                                      MemoryMapping::Protection::kReadWrite));
  const RequestView requests(memory.request_mapping.data(), options.slots, options.waiters);
  requests.header().magic = kRequestMagic;
  requests.header().version = kLayoutVersion;
  requests.header().slots = options.slots;
  requests.header().waiters = options.waiters;
  // After the mapping above: from now on no process can map it writable, write(2) to it or punch
  // holes, so a compromised device cannot forge requests for its successor.
  RETURN_IF_ERROR(AddSeals(memory.request_memory.get(),
                           F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));

  const size_t response_bytes = ResponseView::SizeBytes(options.waiters);
  ASSIGN_OR_RETURN(memory.response_memory, CreateMemfd("bulkhead-responses", response_bytes));
  // Without it the device could truncate the file, and the vmm would die of SIGBUS.
  RETURN_IF_ERROR(
      AddSeals(memory.response_memory.get(), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  ASSIGN_OR_RETURN(memory.response_mapping,
                   MemoryMapping::Map(memory.response_memory.get(), 0, response_bytes,
                                      MemoryMapping::Protection::kRead));

  ASSIGN_OR_RETURN(memory.request_event, WakePipe::Create());
  for (uint32_t i = 0; i < options.waiters; ++i) {
    ASSIGN_OR_RETURN(EventFd event, EventFd::Create());
    memory.completion_events.push_back(std::move(event));
  }
  return memory;
}

void ChannelMemory::ResetSharedFiles() const {
  ResetSharedMemfd(request_memory.get());
  ResetSharedMemfd(response_memory.get());
  ResetSharedFile(request_event.read_fd(), O_NONBLOCK);
  for (const EventFd& event : completion_events) ResetSharedFile(event.fd(), O_NONBLOCK);
}

}  // namespace bulkhead::channel
