#include "proto/channel/channel_client.h"

#include <fcntl.h>
#include <poll.h>
#include <time.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/access_mask.h"
#include "base/status_macros.h"

// How no wake-up is lost. Three pairs of a sleeper and a waker share one scheme. The sleeper
// writes that it is about to sleep, then reads once more whether what it waits for has come. The
// waker writes what is waited for, then reads that announcement. All four accesses are
// seq_cst, so they lie in one total order: if the sleeper's read comes before the waker's write,
// the sleeper's announcement comes before the waker's read, and the waker wakes it. With
// anything weaker both reads may overtake the writes before them (on x86: while those are in the
// store buffers), both sides see the old state, and the sleeper sleeps until its timeout. A
// seq_cst store is the fence; it is one instruction (xchg), cheaper than mfence, and
// ThreadSanitizer understands it. model/ checks the scheme, and that it fails without the fence.
//
//              sleeper's announcement   and re-check      waker's write        and look
//   device     response sleeping        slot sequence     slot sequence        sleeping
//   waiter     waiter's sleeping        completion        completion ticket    waiter's sleeping
//   ring full  space_waiters, sleeping  head              head (each quarter)  space_waiters
//
// Here are the waker's half of the first line and the sleeper's half of the other two; the rest
// is in channel_server.cc. What comes between two device processes is in prepare_successor.cc,
// which wakes sleepers of the other two lines likewise, but by an event that no device has.

namespace bulkhead::channel {
namespace {

// Shares nothing with `status`: what is kept under a mutex is counted under it alone. (abseil
// counts references soundly too, but where ThreadSanitizer does not see it.)
absl::Status OwnCopy(const absl::Status& status) {
  return absl::Status(status.code(), status.message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChannelClient>> ChannelClient::Create(
    const ChannelOptions& options) {
  ChannelOptions effective = options;
  // With one CPU the device cannot answer while a waiter polls.
  if (AvailableCpus() == 1) effective.max_poll = absl::ZeroDuration();
  ASSIGN_OR_RETURN(ChannelMemory memory, ChannelMemory::Create(effective));
  ASSIGN_OR_RETURN(EventFd interrupt, EventFd::Create());
  return std::unique_ptr<ChannelClient>(
      new ChannelClient(effective, std::move(memory), std::move(interrupt)));
}

ChannelClient::ChannelClient(const ChannelOptions& options, ChannelMemory memory, EventFd interrupt)
    : options_(options),
      memory_(std::move(memory)),
      requests_(memory_.request_mapping.data(), options.slots, options.waiters),
      responses_(memory_.response_mapping.data()),
      interrupt_(std::move(interrupt)),
      waiters_(std::make_unique<WaiterState[]>(options.waiters)) {
  for (uint32_t i = 0; i < options.waiters; ++i) waiters_[i].poll = AdaptivePoll(options.max_poll);
}

absl::Status ChannelClient::Post(uint32_t waiter, uint8_t region, uint64_t offset,
                                 uint8_t size_bytes, uint64_t value, absl::Duration timeout) {
  RETURN_IF_ERROR(Validate(waiter, size_bytes));
  RETURN_IF_ERROR(status());
  LazyDeadline deadline(timeout);
  const RequestShape shape = {.operation = static_cast<uint8_t>(Operation::kPostedWrite),
                              .size_bytes = size_bytes,
                              .waiter = static_cast<uint16_t>(waiter),
                              .region = region};
  return Counted(waiter, Send(shape, offset, value, deadline).status());
}

absl::StatusOr<uint64_t> ChannelClient::Call(Operation operation, uint32_t waiter, uint8_t region,
                                             uint64_t offset, uint8_t size_bytes, uint64_t value,
                                             absl::Duration timeout) {
  RETURN_IF_ERROR(Validate(waiter, size_bytes));
  if (operation != Operation::kRead && operation != Operation::kWrite &&
      operation != Operation::kSetFunctionState && operation != Operation::kReset) {
    return absl::InvalidArgumentError("not an operation that is answered");
  }
  WaiterState& self = waiters_[waiter];
  self.awaited_ticket = 0;  // before anything fails: AwaitAnswer() is about this call alone
  RETURN_IF_ERROR(Counted(waiter, Interruption()));
  LazyDeadline deadline(timeout);
  const RequestShape shape = {.operation = static_cast<uint8_t>(operation),
                              .size_bytes = size_bytes,
                              .waiter = static_cast<uint16_t>(waiter),
                              .region = region};
  const absl::StatusOr<uint64_t> ticket = Send(shape, offset, value, deadline);
  if (!ticket.ok()) return Counted(waiter, ticket.status());
  self.awaited_ticket = *ticket;
  self.awaited_size_bytes = size_bytes;
  const uint64_t sent = clock_.Now();  // while the device is at work
  absl::StatusOr<uint64_t> answer = WaitForAnswer(waiter, deadline);
  if (answer.ok()) {
    self.counters.CountLatency(clock_.NanosecondsSince(sent));
  } else {
    Counted(waiter, answer.status()).IgnoreError();
  }
  return answer;
}

absl::StatusOr<uint64_t> ChannelClient::AwaitAnswer(uint32_t waiter, absl::Duration timeout) {
  RETURN_IF_ERROR(Validate(waiter, /*size_bytes=*/8));
  if (waiters_[waiter].awaited_ticket == 0) {
    return absl::FailedPreconditionError("no request of this waiter is unanswered");
  }
  RETURN_IF_ERROR(Counted(waiter, Interruption()));
  LazyDeadline deadline(timeout);
  absl::StatusOr<uint64_t> answer = WaitForAnswer(waiter, deadline);
  if (!answer.ok()) Counted(waiter, answer.status()).IgnoreError();
  return answer;
}

void ChannelClient::DropTrace() const {
  // Without success the memory stays, and the next trace begins behind what is in it.
  (void)fallocate(memory_.response_memory.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(ResponseView::TraceOffset(options_.waiters)),
                  static_cast<off_t>(sizeof(TraceRing)));
}

absl::Status ChannelClient::Counted(uint32_t waiter, absl::Status status) {
  if (!status.ok()) waiters_[waiter].counters.CountError(status.code());
  return status;
}

absl::Status ChannelClient::Validate(uint32_t waiter, uint8_t size_bytes) const {
  if (waiter >= options_.waiters) {
    return absl::InvalidArgumentError(absl::StrCat("no waiter ", waiter));
  }
  if (!IsAccessSize(size_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("an access of ", size_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ChannelClient::Send(const RequestShape& shape, uint64_t offset,
                                             uint64_t data, LazyDeadline& deadline) {
  uint64_t ticket = TryReserve(shape.waiter);
  if (ticket == 0) {
    ASSIGN_OR_RETURN(ticket, ReserveWhenFull(shape.waiter, deadline));
  }
  if (shape.operation != static_cast<uint8_t>(Operation::kPostedWrite)) {
    // relaxed: read after the ticket, which comes after it.
    waiters_[shape.waiter].sent_operation.store(shape.operation, std::memory_order_relaxed);
    // release: a thread that reads this also sees the taken_ticket before it. The publication below
    // orders it before any answer, so PrepareSuccessor() finds no honest answer past it.
    waiters_[shape.waiter].sent_ticket.store(ticket, std::memory_order_release);
  }
  // Between here and the publication nothing may wait or fail: the device stops at the hole.
  RequestSlot& slot = requests_.slot(ticket);
  slot.offset.Write(offset);
  slot.data.Write(data & AccessMask(shape.size_bytes));
  slot.shape.Write(shape.Pack());
  // seq_cst: as a release it publishes the slot and pairs with the acquire in TryPeek(), else
  // the device reads a stale slot. Beyond that the waker's write, see the top of this file;
  // partner: the re-check in ChannelServer::PrepareToSleep().
  slot.sequence.store(ticket, std::memory_order_seq_cst);
  if (responses_.header().sleeping.load(std::memory_order_seq_cst) != 0) {
    memory_.request_event.Signal();
  }
  waiters_[shape.waiter].counters.CountSent(shape.operation);
  return ticket;
}

uint64_t ChannelClient::TryReserve(uint32_t waiter) {
  while (true) {
    // acquire: pairs with the release in HeadMovedPast(). The thread that moved seen_head_ has
    // seen the device finish with the slots that this frees; else we overwrite one that it reads.
    const uint64_t head = seen_head_.load(std::memory_order_acquire);
    // relaxed: not older than `head`, because seen_head_ never passed the tail.
    uint64_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head < options_.slots) {
      // A ticket is taken only when its slot is free, so a producer that gives up leaves no
      // hole. relaxed: the slot's sequence orders what the device sees, and one producer's
      // tickets against another's are ordered by the modification order of tail_ alone.
      if (tail_.compare_exchange_weak(tail, tail + 1, std::memory_order_relaxed)) return tail + 1;
    } else if (!HeadMovedPast(waiter, head)) {
      return 0;
    }
  }
}

bool ChannelClient::HeadMovedPast(uint32_t waiter, uint64_t known) {
  const uint64_t preparations = preparations_.load(std::memory_order_acquire);
  std::atomic<uint32_t>& reads_head = waiters_[waiter].reads_head;
  // seq_cst: before the head is read. Partner: AwaitHeadReaders(), so that no head from before
  // PrepareSuccessor() is copied to seen_head_ after it.
  reads_head.store(1, std::memory_order_seq_cst);
  // acquire: pairs with the release below, so that `head` is not older than `seen`, whichever
  // thread saw that; else an honest head would look as if it had moved back.
  uint64_t seen = seen_head_.load(std::memory_order_acquire);
  // seq_cst: as an acquire it pairs with the stores in ChannelServer::AdvanceHead(): the device
  // is done with the slots before it. Beyond that the re-check of the sleeper, see the top of
  // this file.
  const uint64_t head = responses_.header().head.load(std::memory_order_seq_cst);
  const std::string violation = HeadViolation(seen, head);
  if (violation.empty()) {
    // release: pairs with the acquires above and in TryReserve().
    while (seen < head && !seen_head_.compare_exchange_weak(seen, head, std::memory_order_release,
                                                            std::memory_order_relaxed)) {
    }
  }
  reads_head.store(0, std::memory_order_release);  // after seen_head_ was moved
  if (!violation.empty()) {
    Broken(preparations, violation).IgnoreError();
    return false;
  }
  // relaxed: a figure for people. Others may have gone on, and so be more than a ring ahead.
  const uint64_t requests = tail_.load(std::memory_order_relaxed) - head;
  waiters_[waiter].counters.RaiseOccupancy(std::min<uint64_t>(requests, options_.slots));
  return head > known;
}

uint64_t ChannelClient::OldestPending(uint32_t waiter) {
  HeadMovedPast(waiter, 0);
  // acquire: pairs with the store in PrepareSuccessor(). What is settled is not waited for.
  const uint64_t settled = settled_.load(std::memory_order_acquire);
  const uint64_t head = seen_head_.load(std::memory_order_acquire);
  // relaxed: not older than `head`, which never passes it.
  uint64_t oldest = head < tail_.load(std::memory_order_relaxed) ? head + 1 : 0;
  for (uint32_t i = 0; i < options_.waiters; ++i) {
    // acquire: pairs with the release in Send().
    const uint64_t sent = waiters_[i].sent_ticket.load(std::memory_order_acquire);
    const uint8_t operation = waiters_[i].sent_operation.load(std::memory_order_relaxed);
    if (operation == static_cast<uint8_t>(Operation::kReset) || sent <= settled) continue;
    if (sent <= responses_.completion(i).ticket.load(std::memory_order_acquire)) continue;
    if (oldest == 0 || sent < oldest) oldest = sent;
  }
  return oldest;
}

std::string ChannelClient::HeadViolation(uint64_t seen, uint64_t head) const {
  // relaxed: not older than `seen`, which never passed it. The device can only have processed
  // what it found published, so an honest head does not pass this.
  const uint64_t tail = tail_.load(std::memory_order_relaxed);
  if (head < seen || head > tail) {
    return absl::StrFormat("its head went from %d to %d, of %d requests", seen, head, tail);
  }
  if (SentWithoutGap(seen, head) != head) {
    // Believed, it would let two producers write one slot.
    return absl::StrFormat("its head went from %d to %d, past a request that was not sent", seen,
                           head);
  }
  return "";
}

uint64_t ChannelClient::SentWithoutGap(uint64_t from, uint64_t to) const {
  // A ring further back each slot has been written again, which needs no look of its own.
  if (to > options_.slots) from = std::max(from, to - options_.slots);
  for (uint64_t ticket = from + 1; ticket <= to; ++ticket) {
    // acquire: pairs with the store in Send(). The next writer of the slot comes after it.
    if (requests_.slot(ticket).sequence.load(std::memory_order_acquire) < ticket) return ticket - 1;
  }
  return to;
}

absl::StatusOr<uint64_t> ChannelClient::ReserveWhenFull(uint32_t waiter, LazyDeadline& deadline) {
  WaiterState& self = waiters_[waiter];
  const uint64_t start = clock_.Now();
  uint64_t ticket = 0;
  const auto has_ticket = [&] { return (ticket = TryReserve(waiter)) != 0; };
  absl::Status waited;
  if (const uint32_t iterations = self.poll.NextIterations(); iterations > 0) {
    for (uint32_t i = 0; i < iterations && !has_ticket(); ++i) PollPause();
    self.poll.Record(ticket != 0);
  }
  if (ticket == 0) {
    // seq_cst: part of the announcement, see the top of this file. Partner: the look in
    // ChannelServer::AdvanceHead().
    std::atomic<uint32_t>& space_waiters = requests_.header().space_waiters;
    space_waiters.fetch_add(1, std::memory_order_seq_cst);
    waited = SleepUntil(waiter, deadline, has_ticket);
    space_waiters.fetch_sub(1, std::memory_order_relaxed);  // late is harmless: a needless wake
  }
  self.counters.CountStall(clock_.NanosecondsSince(start));
  RETURN_IF_ERROR(waited);
  return ticket;
}

ChannelClient::Answer ChannelClient::LookForAnswer(uint32_t waiter, std::memory_order order) const {
  const uint64_t awaited = waiters_[waiter].awaited_ticket;
  const uint64_t answered = responses_.completion(waiter).ticket.load(order);
  // An older ticket: the late answer to a request that this waiter has given up.
  if (answered < awaited) return Answer::kNone;
  return answered == awaited ? Answer::kFound : Answer::kForged;
}

absl::StatusOr<uint64_t> ChannelClient::WaitForAnswer(uint32_t waiter, LazyDeadline& deadline) {
  bool slept = false;
  while (true) {
    const uint64_t preparations = preparations_.load(std::memory_order_acquire);
    Answer answer = Answer::kNone;
    // acquire: pairs with the store of the ticket in ChannelServer::Answer(), else TakeAnswer()
    // reads stale data.
    const auto polled = [&] {
      answer = LookForAnswer(waiter, std::memory_order_acquire);
      return answer != Answer::kNone;
    };
    if (!polled()) {
      AdaptivePoll& poll = waiters_[waiter].poll;
      if (const uint32_t iterations = poll.NextIterations(); iterations > 0) {
        for (uint32_t i = 0; i < iterations && !polled(); ++i) PollPause();
        poll.Record(answer != Answer::kNone);
      }
    }
    if (answer == Answer::kNone) {
      slept = true;
      RETURN_IF_ERROR(SleepUntil(waiter, deadline, [&] {
        // Before the look for the answer, which the store in PrepareSuccessor() comes after: if
        // that finds none, there is none. seq_cst: the sleeper's re-check. Partner: that store,
        // before AskSleepersToLook() reads who sleeps.
        const bool settled =
            settled_.load(std::memory_order_seq_cst) >= waiters_[waiter].awaited_ticket;
        // seq_cst: the sleeper's re-check, see the top of this file. Partner: the store of the
        // ticket in ChannelServer::Answer().
        answer = LookForAnswer(waiter, std::memory_order_seq_cst);
        // acquire: pairs with the store in ChannelServer::Defer(), which comes before the head that
        // PrepareSuccessor() stored in settled_. A successor answers a deferred request, so it is
        // not lost.
        const bool deferred = responses_.completion(waiter).deferred.load(
                                  std::memory_order_acquire) == waiters_[waiter].awaited_ticket;
        if (answer == Answer::kNone && settled && !deferred) answer = Answer::kLost;
        return answer != Answer::kNone;
      }));
    }
    std::string violation;
    switch (answer) {
      case Answer::kFound: {
        absl::StatusOr<uint64_t> taken = TakeAnswer(waiter);
        if (!absl::IsDataLoss(taken.status())) {
          waiters_[waiter].counters.CountAnswer(slept);
          return taken;
        }
        violation = std::string(taken.status().message());
        break;
      }
      case Answer::kLost:
        waiters_[waiter].awaited_ticket = 0;
        waiters_[waiter].counters.CountGivenUp();
        return absl::UnavailableError("the device was replaced, and this access given up");
      case Answer::kForged:
      case Answer::kNone:
        violation = absl::StrCat("it answered a request that waiter ", waiter, " never made");
        break;
    }
    RETURN_IF_ERROR(Broken(preparations, violation));
  }
}

absl::StatusOr<uint64_t> ChannelClient::TakeAnswer(uint32_t waiter) {
  WaiterState& self = waiters_[waiter];
  CompletionSlot& completion = responses_.completion(waiter);
  const uint64_t data = completion.data.Read();
  const uint64_t status = completion.status.Read();
  if (!IsCompletionStatus(status)) {
    return absl::DataLossError(absl::StrCat("it answered with the unknown status ", status));
  }
  self.taken_ticket.store(self.awaited_ticket, std::memory_order_relaxed);
  self.awaited_ticket = 0;
  if (static_cast<CompletionStatus>(status) == CompletionStatus::kRefused) {
    return absl::InvalidArgumentError("the device refused the request");
  }
  return data & AccessMask(self.awaited_size_bytes);
}

template <typename Ready>
absl::Status ChannelClient::SleepUntil(uint32_t waiter, LazyDeadline& deadline, Ready ready) {
  std::atomic<uint32_t>& sleeping = requests_.waiter(waiter).sleeping;
  const std::atomic<uint32_t>& must_look = waiters_[waiter].must_look;
  const EventFd& completion_event = memory_.completion_events[waiter];
  // seq_cst: the announcement, see the top of this file. It stands over all rounds below: in
  // each the event is emptied before `ready()` looks, so a later signal is not lost.
  sleeping.store(1, std::memory_order_seq_cst);
  absl::Status status;
  bool slow = false;
  while (!ready()) {
    // After Fail() or CancelWaits() set the state it made interrupt_ readable, and that stays:
    // either we see the state here, or ppoll() returns at once.
    if (status = Interruption(); !status.ok()) break;
    // Checked in every round: a device that signals without end cannot delay the timeout.
    const absl::Duration remaining = deadline.Remaining();
    if (remaining <= absl::ZeroDuration()) {
      status = absl::DeadlineExceededError("the device did not answer in time");
      break;
    }
    absl::Duration sleep = remaining;
    if (!slow && options_.slow_after != absl::InfiniteDuration()) {
      const absl::Duration until_slow = options_.slow_after - deadline.Elapsed();
      slow = until_slow <= absl::ZeroDuration();
      if (slow) {
        options_.on_slow(waiter, true);
      } else {
        sleep = std::min(sleep, until_slow);
      }
    }
    pollfd events[] = {{.fd = completion_event.fd(), .events = POLLIN, .revents = 0},
                       {.fd = interrupt_.fd(), .events = POLLIN, .revents = 0}};
    const timespec limit = absl::ToTimespec(sleep);
    const absl::Duration before = deadline.Elapsed();
    if (ppoll(events, 2, &limit, nullptr) > 0 && events[0].revents != 0) {
      completion_event.Drain();
    }
    deadline.AfterSleep(before, sleep);
    // Until others who were asked have looked too, interrupt_ stays readable, and this loop turns:
    // they run already.
    if (must_look.load(std::memory_order_relaxed) != 0) LookAgain(waiter);
  }
  // seq_cst, both: a sleeper that is asked to look sees it here, or is seen to have left. Partner:
  // AskSleepersToLook(). (For the device late is harmless: a needless wake.)
  sleeping.store(0, std::memory_order_seq_cst);
  if (must_look.load(std::memory_order_seq_cst) != 0) LookAgain(waiter);
  if (slow) options_.on_slow(waiter, false);
  return status;
}

void ChannelClient::LookAgain(uint32_t waiter) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::atomic<uint32_t>& must_look = waiters_[waiter].must_look;
  // relaxed: under the mutex. 0: it was taken back.
  if (must_look.load(std::memory_order_relaxed) == 0) return;
  must_look.store(0, std::memory_order_relaxed);
  if (--looks_due_ == 0 && state_.load(std::memory_order_relaxed) == 0) interrupt_.Drain();
}

absl::Status ChannelClient::Interruption() const {
  RETURN_IF_ERROR(status());
  if ((state_.load(std::memory_order_acquire) & kCancelled) != 0) {
    return absl::CancelledError("waiting for the device was cancelled");
  }
  return absl::OkStatus();
}

absl::Status ChannelClient::status() const {
  // acquire: a call that finds a failure ended finds what was repaired before that.
  if ((state_.load(std::memory_order_acquire) & kFailed) == 0) return absl::OkStatus();
  const std::lock_guard<std::mutex> lock(mutex_);
  return OwnCopy(why_);  // OK after all if Reopen() came between
}

void ChannelClient::Fail(absl::Status why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  SetFailed(why.ok() ? absl::UnavailableError("the device is gone") : std::move(why));
}

void ChannelClient::Reopen() {
  const std::lock_guard<std::mutex> lock(mutex_);
  why_ = OwnCopy(broken_);
  if (why_.ok()) ClearState(kFailed);
}

absl::Status ChannelClient::Broken(uint64_t preparations, const std::string& how) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (preparations != preparations_.load(std::memory_order_relaxed)) return absl::OkStatus();
  if (broken_.ok()) broken_ = ProtocolError(how);
  SetFailed(OwnCopy(broken_));
  return OwnCopy(broken_);
}

absl::Status ChannelClient::ProtocolError(const std::string& how) {
  return absl::DataLossError(absl::StrCat("the device broke the protocol: ", how));
}

void ChannelClient::CancelWaits() {
  const std::lock_guard<std::mutex> lock(mutex_);
  SetState(kCancelled);
}

void ChannelClient::ResumeWaits() {
  const std::lock_guard<std::mutex> lock(mutex_);
  ClearState(kCancelled);
}

void ChannelClient::SetFailed(absl::Status why) {
  if (!why_.ok()) return;
  why_ = std::move(why);
  SetState(kFailed);
}

void ChannelClient::SetState(uint32_t bit) {
  state_.fetch_or(bit, std::memory_order_acq_rel);
  interrupt_.Signal();  // after the state, see SleepUntil()
}

void ChannelClient::ClearState(uint32_t bit) {
  const uint32_t left = state_.fetch_and(~bit, std::memory_order_acq_rel) & ~bit;
  if (left == 0 && looks_due_ == 0) interrupt_.Drain();
}

ChannelClient::DeviceReport ChannelClient::device_report() const {
  const ResponseHeader& header = responses_.header();
  constexpr auto kRelaxed = std::memory_order_relaxed;  // figures for people
  return {.generation = header.generation.load(kRelaxed),
          .processed = header.head.load(kRelaxed),
          .sleeps = header.sleeps.load(kRelaxed),
          .polls = header.polls.load(kRelaxed),
          .poll_hits = header.poll_hits.load(kRelaxed),
          .refused = header.refused.load(kRelaxed)};
}

ChannelMetrics ChannelClient::metrics() const {
  ChannelMetrics metrics;
  for (uint32_t i = 0; i < options_.waiters; ++i) waiters_[i].counters.AddTo(metrics);
  constexpr auto kRelaxed = std::memory_order_relaxed;  // figures for people
  const uint64_t seen = seen_head_.load(kRelaxed);
  const uint64_t head = responses_.header().head.load(kRelaxed);
  const uint64_t tail = tail_.load(kRelaxed);
  const uint64_t requests = tail - (head >= seen && head <= tail ? head : std::min(seen, tail));
  metrics.occupancy = std::min<uint64_t>(requests, options_.slots);
  metrics.max_occupancy = std::max(metrics.max_occupancy, metrics.occupancy);
  return metrics;
}

}  // namespace bulkhead::channel
