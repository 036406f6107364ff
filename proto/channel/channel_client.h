#ifndef BULKHEAD_PROTO_CHANNEL_CHANNEL_CLIENT_H_
#define BULKHEAD_PROTO_CHANNEL_CHANNEL_CLIENT_H_

#include <stdint.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "proto/channel/adaptive_poll.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/channel_memory.h"
#include "proto/channel/deadline.h"

namespace bulkhead::channel {

// The vmm's end of one device's channel: sends accesses, in one total order, and waits for
// answers. Owns all shared memory and events, and outlives the device processes: a successor
// that attaches to the same descriptors answers what its predecessor left, and nobody here
// notices.
//
// Thread-safe, with one condition: a waiter (index of a vCPU, or the last for the vmm itself)
// makes one call at a time. Two calls on different threads are ordered as their callers order
// them: if one has returned before the other begins, the device sees them in that order.
//
// Every wait ends by the answer, Fail(), CancelWaits() or its timeout, whatever the device
// does. A timeout is counted from the moment when a call stops polling and sleeps.
//
// Errors of Post(), Call() and AwaitAnswer():
//   DeadlineExceeded  the timeout passed
//   Cancelled         CancelWaits()
//   DataLoss          the device broke the protocol (the message says how); final
//   as given          to Fail(); final
//   InvalidArgument   the arguments, or the device refused the request
class ChannelClient {
 public:
  // Errors: InvalidArgument (options), else as memfd_create(2), mmap(2), eventfd(2), pipe2(2).
  static absl::StatusOr<std::unique_ptr<ChannelClient>> Create(const ChannelOptions& options);

  ChannelClient(const ChannelClient&) = delete;
  ChannelClient& operator=(const ChannelClient&) = delete;

  // Posts a write and returns: the device is bound to see it. Waits only while the ring is
  // full; on an error nothing was sent. `size_bytes` is 1, 2, 4 or 8.
  absl::Status Post(uint32_t waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                    uint64_t value, absl::Duration timeout);

  // Sends a request and returns its answer; bytes above `size_bytes` are zero. The device has
  // then applied every request sent before. `operation` is not kPostedWrite.
  absl::StatusOr<uint64_t> Call(Operation operation, uint32_t waiter, uint8_t region,
                                uint64_t offset, uint8_t size_bytes, uint64_t value,
                                absl::Duration timeout);

  // Waits on for the answer to this waiter's last Call(), which ended with DeadlineExceeded or
  // Cancelled after its request was sent: that request stays in the ring and takes effect.
  // Errors: also FailedPrecondition (there is no such request).
  absl::StatusOr<uint64_t> AwaitAnswer(uint32_t waiter, absl::Duration timeout);

  // The device died or misbehaved, and no successor will come: releases every waiter at once,
  // and every later call returns `why`, which is not OK. The first failure counts.
  void Fail(absl::Status why);
  // OK, or why the channel failed: given to Fail(), or found by a check of this class.
  absl::Status status() const;

  // Pause and stop: calls that wait or would wait return Cancelled until ResumeWaits().
  void CancelWaits();
  void ResumeWaits();

  // To be called between the death of a device process and the attachment of its successor:
  // checks what it left, so that the successor starts from a possible head.
  // Errors: DataLoss (impossible; the channel has failed).
  absl::Status CheckBeforeSuccessor();

  // What the device process says about itself. Untrusted, for reports only.
  struct DeviceReport {
    uint64_t generation = 0;  // of the process that attached last; 0: none yet
    uint64_t processed = 0;   // requests
    uint64_t sleeps = 0;
    uint64_t polls = 0;
    uint64_t poll_hits = 0;
    uint64_t refused = 0;  // malformed requests
  };
  DeviceReport device_report() const;

  // For the Attach message. They stay this object's.
  int request_memory_fd() const { return memory_.request_memory.get(); }
  int response_memory_fd() const { return memory_.response_memory.get(); }
  int request_event_fd() const { return memory_.request_event.read_fd(); }
  int completion_event_fd(uint32_t waiter) const { return memory_.completion_events[waiter].fd(); }
  // As in effect: max_poll is zero where there is one CPU.
  ChannelOptions options() const { return options_; }

 private:
  friend class ChannelPeer;  // tests: another mapping, a look inside

  // What only the thread that uses a waiter touches.
  struct alignas(kCacheLineBytes) Waiter {
    explicit Waiter(absl::Duration max_poll) : poll(max_poll) {}
    AdaptivePoll poll;
    uint64_t awaited_ticket = 0;  // of the last request whose answer was not taken; 0: none
    uint8_t awaited_size_bytes = 0;
  };

  ChannelClient(const ChannelOptions& options, ChannelMemory memory, EventFd interrupt);

  absl::Status Validate(uint32_t waiter, uint8_t size_bytes) const;
  // Puts a request into the ring and wakes the device if it sleeps. The ticket.
  absl::StatusOr<uint64_t> Send(const RequestShape& shape, uint64_t offset, uint64_t data,
                                LazyDeadline& deadline);

  enum class Answer { kNone, kFound, kForged };
  Answer LookForAnswer(uint32_t waiter, std::memory_order order) const;
  absl::StatusOr<uint64_t> WaitForAnswer(uint32_t waiter, LazyDeadline& deadline);
  absl::StatusOr<uint64_t> TakeAnswer(uint32_t waiter);

  // The next ticket, or 0 if the ring is full or the channel has failed.
  uint64_t TryReserve();
  absl::StatusOr<uint64_t> ReserveWhenFull(uint32_t waiter, LazyDeadline& deadline);
  // Takes in how far the device has got: is it past `known`? Impossible fails the channel.
  bool HeadMovedPast(uint64_t known);

  // Sleeps until `ready()`, which must read with seq_cst what the device writes before it wakes
  // a waiter.
  template <typename Ready>
  absl::Status SleepUntil(uint32_t waiter, LazyDeadline& deadline, Ready ready);
  // Why waiting is not allowed now: failed or cancelled. OK: it is.
  absl::Status Interruption() const;
  // Fails the channel because the device broke the protocol. Returns the error.
  absl::Status Broken(const std::string& how);

  static constexpr uint32_t kFailing = 1;  // one thread is about to set kFailed
  static constexpr uint32_t kFailed = 2;   // why_ is set
  static constexpr uint32_t kCancelled = 4;

  const ChannelOptions options_;
  const ChannelMemory memory_;
  const RequestView requests_;
  const ResponseView responses_;
  // Readable while waiting is not allowed. The vmm's alone: a device could empty the completion
  // events in the moment when a waiter is to be released.
  const EventFd interrupt_;
  std::vector<Waiter> waiters_;

  alignas(kCacheLineBytes) std::atomic<uint32_t> state_{0};
  absl::Status why_;  // written once, before kFailed is set

  alignas(kCacheLineBytes) std::atomic<uint64_t> tail_{0};       // the last ticket handed out
  alignas(kCacheLineBytes) std::atomic<uint64_t> seen_head_{0};  // the last head found possible
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_CLIENT_H_
