#ifndef BULKHEAD_PROTO_CHANNEL_CHANNEL_CLIENT_H_
#define BULKHEAD_PROTO_CHANNEL_CHANNEL_CLIENT_H_

#include <stdint.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/channel_memory.h"
#include "proto/channel/channel_metrics.h"
#include "proto/channel/deadline.h"
#include "proto/channel/tick_clock.h"
#include "proto/channel/trace_ring.h"
#include "proto/channel/waiter_state.h"

namespace bulkhead::channel {

// The result of ChannelClient::PrepareSuccessor().
struct SuccessorPlan {
  uint64_t head = 0;       // ticket of the last request that counts as processed
  uint64_t waiting = 0;    // requests after it, for the successor
  uint64_t discarded = 0;  // requests given up because of `discard_requests`
  // DataLoss: how the last process broke the protocol. It is repaired.
  absl::Status violation;
};

// The vmm's end of one device's channel: sends accesses, in one total order, and waits for the
// answers. It owns all shared memory and events and outlives the device processes: a successor
// attaches to the same descriptors and answers what its predecessor left, and callers do not
// notice.
//
// Thread-safe, with one condition: each waiter (the index of a vCPU; the last index is the vmm
// itself) makes one call at a time. If one call has returned before another begins, on any thread,
// the device sees them in that order.
//
// Every wait ends by the answer, Fail(), CancelWaits() or its timeout, even if the device is
// hostile. A timeout begins when a call stops polling and sleeps.
//
// Errors of Post(), Call() and AwaitAnswer():
//   DeadlineExceeded  the timeout passed
//   Cancelled         CancelWaits()
//   DataLoss          the device broke the protocol (the message says how); until Reopen()
//   as given to Fail()                                                      until Reopen()
//   Unavailable       PrepareSuccessor() gave the request up: it will not be answered
//   InvalidArgument   wrong arguments, or the device refused the request
//
// From one device process to the next:
//
//   [Fail(why)]          if accesses must not wait for the successor (a process that breaks the
//                        protocol has failed the channel already)
//   PrepareSuccessor()   once the process is dead and reaped
//   <attach>
//   [Reopen()]           if the channel has failed
//
// A call that waits through all of this, or that AwaitAnswer() continues later, gets the
// successor's answer.
class ChannelClient {
 public:
  // Errors: InvalidArgument (options), else as memfd_create(2), mmap(2), eventfd(2), pipe2(2).
  static absl::StatusOr<std::unique_ptr<ChannelClient>> Create(const ChannelOptions& options);

  ChannelClient(const ChannelClient&) = delete;
  ChannelClient& operator=(const ChannelClient&) = delete;

  // Posts a write: once this has returned OK, the device or a successor will apply it. Waits only
  // while the ring is full. On an error nothing was sent. `size_bytes` is 1, 2, 4 or 8.
  absl::Status Post(uint32_t waiter, uint8_t region, uint64_t offset, uint8_t size_bytes,
                    uint64_t value, absl::Duration timeout);

  // Sends a request and returns its answer; bytes above `size_bytes` are zero. The device has
  // then applied every request sent before. `operation` is not kPostedWrite.
  absl::StatusOr<uint64_t> Call(Operation operation, uint32_t waiter, uint8_t region,
                                uint64_t offset, uint8_t size_bytes, uint64_t value,
                                absl::Duration timeout);

  // Continues to wait for the answer to this waiter's last Call(), if that ended with
  // DeadlineExceeded or Cancelled after it had sent its request: the request stays in the ring and
  // takes effect. Errors: also FailedPrecondition (there is no such request).
  absl::StatusOr<uint64_t> AwaitAnswer(uint32_t waiter, absl::Duration timeout);

  // Fails the channel: every call, present or later, returns `why` (not OK) until Reopen(). The
  // first failure counts. Requests stay in the ring.
  void Fail(absl::Status why);
  // Ends the failure: calls work again, and AwaitAnswer() continues earlier ones. A violation of
  // the protocol remains until PrepareSuccessor() has repaired it.
  void Reopen();
  // OK, or why the channel failed: the reason given to Fail(), or a violation that this class
  // found.
  absl::Status status() const;

  // For pause and stop: calls that wait, or would have to, return Cancelled until ResumeWaits().
  void CancelWaits();
  void ResumeWaits();

  // The ticket of the oldest request that is not processed, or not answered although it has to be.
  // 0: none. A reset that is processed does not count: its answer may wait for I/O. An impossible
  // head fails the channel. Call it on the thread of `waiter`.
  uint64_t OldestPending(uint32_t waiter);

  // No request is unprocessed or unanswered, as far as the device says: if it does not lie,
  // OldestPending() is 0. For any one thread.
  bool SeemsIdle() const;

  // Asks the device process to show that it makes progress: wakes it, and never waits. For one
  // thread at a time, as is heartbeat().
  void AskForHeartbeat();
  struct Heartbeat {
    bool in_long_call = false;  // as in ChannelServer::AnswerHeartbeat()
    absl::Time time;            // of the answer, as SteadyNow(). For reports only
  };
  // The answer to the last AskForHeartbeat(), once it has come.
  std::optional<Heartbeat> heartbeat() const;
  // As in ChannelServer::SetAwaitsBackEnd(); what a dead process has said counts until the next one
  // attaches. For any thread.
  bool process_awaits_back_end() const;

  // Prepares the response memory for the successor of a device process. Call it before each attach
  // but the first, once the last process is dead and reaped. The channel may be in use, and stays
  // failed if it has failed. May be repeated.
  //
  // A request counts as processed if the head has passed it, or if it or a later one has been
  // answered. A request that is not processed stays for the successor, and its caller keeps
  // waiting. If a processed request has no answer, its caller is released with Unavailable. A value
  // that no honest process can have left is replaced by the one that the vmm itself has seen.
  //
  // `discard_requests`: the successor starts with an empty ring. All earlier requests are given up,
  // and their callers are released at once with Unavailable.
  //
  // Errors: DeadlineExceeded (another thread stayed in the middle of a call for a second: nothing
  // has changed, try again), else as mmap(2).
  absl::StatusOr<SuccessorPlan> PrepareSuccessor(bool discard_requests);

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

  // Whether the device's processes write their trace, from now on. For one thread at a time.
  void SetTracing(bool on) {
    // relaxed: late is harmless, and nothing else is published by it.
    requests_.header().tracing.store(on ? 1 : 0, std::memory_order_relaxed);
  }
  // What they have written. Untrusted.
  const TraceRing& trace() const { return responses_.trace(options_.waiters); }
  // Gives its memory back. Call while it is not read.
  void DropTrace() const;

  // The counters of this end. Each is exact, but they are not read at one moment.
  ChannelMetrics metrics() const;

  // For the AttachRequest. This object keeps them.
  int request_memory_fd() const { return memory_.request_memory.get(); }
  int response_memory_fd() const { return memory_.response_memory.get(); }
  int request_event_fd() const { return memory_.request_event.read_fd(); }
  int completion_event_fd(uint32_t waiter) const { return memory_.completion_events[waiter].fd(); }
  // The options in effect: max_poll is zero on one CPU.
  ChannelOptions options() const { return options_; }

 private:
  friend class ChannelPeer;  // tests: another mapping, a look inside

  ChannelClient(const ChannelOptions& options, ChannelMemory memory, EventFd interrupt);

  absl::Status Validate(uint32_t waiter, uint8_t size_bytes) const;
  // Puts a request into the ring, wakes the device if it sleeps, and returns the ticket.
  absl::StatusOr<uint64_t> Send(const RequestShape& shape, uint64_t offset, uint64_t data,
                                LazyDeadline& deadline);

  // Counts a call that ended by an error. Returns that.
  absl::Status Counted(uint32_t waiter, absl::Status status);

  // kLost: there is none, and there will be none.
  enum class Answer { kNone, kFound, kForged, kLost };
  Answer LookForAnswer(uint32_t waiter, std::memory_order order) const;
  absl::StatusOr<uint64_t> WaitForAnswer(uint32_t waiter, LazyDeadline& deadline);
  absl::StatusOr<uint64_t> TakeAnswer(uint32_t waiter);

  // The next ticket, or 0 if the ring is full or the channel has failed.
  uint64_t TryReserve(uint32_t waiter);
  absl::StatusOr<uint64_t> ReserveWhenFull(uint32_t waiter, LazyDeadline& deadline);
  // Copies the device's head to seen_head_. True: it is past `known`. An impossible head fails the
  // channel.
  bool HeadMovedPast(uint32_t waiter, uint64_t known);
  // Why `head`, which was read after `seen`, is impossible. Empty: it is possible.
  std::string HeadViolation(uint64_t seen, uint64_t head) const;
  // The last ticket, at most `to`, up to which all requests after `from` have been sent.
  uint64_t SentWithoutGap(uint64_t from, uint64_t to) const;

  // Sleeps until `ready()`, which must read with seq_cst what the device writes before it wakes
  // a waiter.
  template <typename Ready>
  absl::Status SleepUntil(uint32_t waiter, LazyDeadline& deadline, Ready ready);
  // Wakes every waiter that sleeps, so that it checks once more what it waits for. Under mutex_.
  void AskSleepersToLook();
  // Called by a waiter that AskSleepersToLook() woke, before it checks.
  void LookAgain(uint32_t waiter);
  // Why waiting is not allowed now: failed or cancelled. OK: it is.
  absl::Status Interruption() const;
  // Fails the channel because the device broke the protocol, and returns the error. OK if that
  // was seen before PrepareSuccessor() repaired it: `preparations` is from before the look.
  absl::Status Broken(uint64_t preparations, const std::string& how);
  static absl::Status ProtocolError(const std::string& how);

  // For PrepareSuccessor(). The highest ticket that was answered.
  uint64_t EraseForgedAnswers(const ResponseView& responses,
                              absl::FunctionRef<void(const std::string&)> violated);
  // Wait until no thread has read the head but not copied it to seen_head_ yet; until all requests
  // up to `tail` are sent.
  absl::Status AwaitHeadReaders() const;
  absl::Status AwaitSenders(uint64_t tail) const;

  // Under mutex_.
  void SetFailed(absl::Status why);
  void SetState(uint32_t bit);
  void ClearState(uint32_t bit);

  static constexpr uint32_t kFailed = 1;  // why_ is not OK
  static constexpr uint32_t kCancelled = 2;

  const ChannelOptions options_;
  const ChannelMemory memory_;
  const RequestView requests_;
  const ResponseView responses_;
  // Readable while waiting is not allowed, and while a waiter that slept has not looked again after
  // PrepareSuccessor(). The vmm's alone: a device could empty the completion events in the moment
  // when a waiter is to be released, and have a write to one block.
  const EventFd interrupt_;
  const std::unique_ptr<WaiterState[]> waiters_;
  const TickClock clock_;

  // Orders all that interrupts, fails or repairs; never taken on the way of an access that
  // works. Not absl::Mutex: ThreadSanitizer must see it in stress_test.
  mutable std::mutex mutex_;
  absl::Status why_;        // guarded by mutex_
  absl::Status broken_;     // guarded by mutex_: how the device broke the protocol
  uint32_t looks_due_ = 0;  // guarded by mutex_: waiters whose must_look is set

  alignas(kCacheLineBytes) std::atomic<uint32_t> state_{0};  // written under mutex_
  std::atomic<uint64_t> preparations_{0};  // how often PrepareSuccessor() has changed things
  std::atomic<uint64_t> settled_{0};  // requests up to this ticket are answered by now or never

  alignas(kCacheLineBytes) std::atomic<uint64_t> tail_{0};       // the last ticket handed out
  alignas(kCacheLineBytes) std::atomic<uint64_t> seen_head_{0};  // the last head found possible
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_CLIENT_H_
