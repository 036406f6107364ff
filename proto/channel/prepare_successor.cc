#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "proto/channel/channel_client.h"

// What ChannelClient does between two device processes. Other threads send and wait meanwhile;
// only this thread writes response memory, because the last process is dead.

namespace bulkhead::channel {
namespace {

// How long another thread may stand between two instructions: it was descheduled.
constexpr auto kStepTimeout = std::chrono::seconds(1);

template <typename Passed>
absl::Status AwaitStep(Passed passed) {
  const auto deadline = std::chrono::steady_clock::now() + kStepTimeout;
  while (!passed()) {
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::DeadlineExceededError("another thread stands still in the middle of an access");
    }
    std::this_thread::yield();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SuccessorPlan> ChannelClient::PrepareSuccessor(bool discard_requests) {
  // The events stay as they are, perhaps full, and are never written to here: a process that the
  // dead one has forked could make them block again.
  memory_.ResetSharedFiles();
  ASSIGN_OR_RETURN(MemoryMapping mapping,
                   MemoryMapping::Map(memory_.response_memory.get(), 0,
                                      ResponseView::SizeBytes(options_.waiters),
                                      MemoryMapping::Protection::kReadWrite));
  const ResponseView responses(mapping.data());
  SuccessorPlan plan;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const uint64_t sent_before = tail_.load(std::memory_order_relaxed);
    if (discard_requests) RETURN_IF_ERROR(AwaitSenders(sent_before));
    // From now on no thread moves seen_head_: one that reads this impossible value waits for the
    // mutex.
    std::atomic<uint64_t>& shared_head = responses.header().head;
    const uint64_t head = shared_head.exchange(UINT64_MAX, std::memory_order_seq_cst);
    if (absl::Status waited = AwaitHeadReaders(); !waited.ok()) {
      shared_head.store(head, std::memory_order_seq_cst);
      preparations_.fetch_add(1, std::memory_order_release);  // as below
      return waited;
    }

    plan.violation = std::exchange(broken_, absl::OkStatus());
    const auto violated = [&](const std::string& how) {
      if (plan.violation.ok()) plan.violation = ProtocolError(how);
    };
    // relaxed: AwaitHeadReaders() has waited for the last thread that moved it.
    const uint64_t seen = seen_head_.load(std::memory_order_relaxed);
    const std::string violation = HeadViolation(seen, head);
    if (!violation.empty()) violated(violation);
    const uint64_t passed = violation.empty() ? head : seen;
    const uint64_t answered = EraseForgedAnswers(responses, violated);
    // An honest process may have died between an answer and the head's step over its request.
    if (violation.empty() && answered > passed + 1) {
      violated(absl::StrFormat("it answered request %d with its head at %d", answered, passed));
    }
    plan.head = answered > passed ? SentWithoutGap(passed, answered) : passed;
    if (discard_requests && sent_before > plan.head) {
      plan.discarded = sent_before - plan.head;
      plan.head = sent_before;
    }
    plan.waiting = tail_.load(std::memory_order_relaxed) - plan.head;

    responses.header().sleeping.store(0, std::memory_order_relaxed);
    // One that was not asked for yet would count as the successor's.
    responses.header().heartbeat.store(0, std::memory_order_relaxed);
    // release: as in HeadMovedPast(). Before the head, lest that looks as if it had moved back.
    seen_head_.store(plan.head, std::memory_order_release);
    shared_head.store(plan.head, std::memory_order_seq_cst);
    // seq_cst: as a release it pairs with the load in WaitForAnswer(): answers of the dead process
    // come first. Beyond that, with the head above, the waker's write for AskSleepersToLook().
    settled_.store(plan.head, std::memory_order_seq_cst);
    // release: pairs with the loads before a look: what is found then is not the dead one's.
    preparations_.fetch_add(1, std::memory_order_release);
    AskSleepersToLook();
  }
  return plan;
}

// By the scheme at the top of channel_client.cc: a waiter that is not seen to sleep here finds,
// when it looks before it sleeps, what was written before this. A waiter that is seen to sleep is
// counted, and interrupt_ stays readable until all that are counted have looked: emptied by the
// first of them, it would leave the others asleep. A waiter may be just leaving: it is counted only
// if it has not left after it was asked, as it then sees that it was. model/look_again.pml checks
// this.
void ChannelClient::AskSleepersToLook() {
  for (uint32_t i = 0; i < options_.waiters; ++i) {
    const std::atomic<uint32_t>& sleeping = requests_.waiter(i).sleeping;
    std::atomic<uint32_t>& must_look = waiters_[i].must_look;
    // Asked before and has not looked yet: then it will find this, too. relaxed: under the mutex.
    if (must_look.load(std::memory_order_relaxed) != 0) continue;
    // seq_cst, all three. Partners: the announcement and the end of SleepUntil().
    if (sleeping.load(std::memory_order_seq_cst) == 0) continue;
    must_look.store(1, std::memory_order_seq_cst);
    if (sleeping.load(std::memory_order_seq_cst) == 0) {
      must_look.store(0, std::memory_order_relaxed);
    } else {
      ++looks_due_;
    }
  }
  if (looks_due_ > 0) interrupt_.Signal();
}

uint64_t ChannelClient::EraseForgedAnswers(const ResponseView& responses,
                                           absl::FunctionRef<void(const std::string&)> violated) {
  uint64_t answered = 0;
  for (uint32_t i = 0; i < options_.waiters; ++i) {
    CompletionSlot& completion = responses.completion(i);
    // acquire, and in this order: an honest answer comes after its request was noted as sent.
    const uint64_t ticket = completion.ticket.load(std::memory_order_acquire);
    const uint64_t sent = waiters_[i].sent_ticket.load(std::memory_order_acquire);
    const uint64_t status = completion.status.Read();
    if (ticket > sent) {
      violated(absl::StrFormat("it answered a request that waiter %d never made", i));
    } else if (ticket == sent && !IsCompletionStatus(status)) {
      violated(absl::StrFormat("it answered with the unknown status %d", status));
    } else {
      answered = std::max(answered, ticket);
      // relaxed: the acquire above orders it.
      answered = std::max(answered, waiters_[i].taken_ticket.load(std::memory_order_relaxed));
      continue;
    }
    // The ticket alone: a waiter that has read it is about to read the rest.
    completion.ticket.store(0, std::memory_order_release);
    answered = std::max(answered, waiters_[i].taken_ticket.load(std::memory_order_relaxed));
  }
  return answered;
}

absl::Status ChannelClient::AwaitHeadReaders() const {
  for (uint32_t i = 0; i < options_.waiters; ++i) {
    // seq_cst: a reader that is not seen here finds the head that PrepareSuccessor() has just
    // written. Partner: the store in HeadMovedPast().
    RETURN_IF_ERROR(
        AwaitStep([&] { return waiters_[i].reads_head.load(std::memory_order_seq_cst) == 0; }));
  }
  return absl::OkStatus();
}

absl::Status ChannelClient::AwaitSenders(uint64_t tail) const {
  // Else the ring would be entered anew while the slot of a request given up is being written.
  return AwaitStep([&] { return SentWithoutGap(0, tail) == tail; });
}

}  // namespace bulkhead::channel
