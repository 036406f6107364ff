#include <stddef.h>
#include <stdint.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/access_mask.h"
#include "base/memory_mapping.h"
#include "base/testing/fuzz_input.h"
#include "proto/channel/channel_client.h"
#include "proto/channel/connect_server.h"

// The vmm's end against a device that writes what it likes into response memory between any two
// calls. Each result is compared with what a simple account of the rules says.

namespace bulkhead::channel {
namespace {

using absl::StatusCode;

constexpr uint32_t kSlots = 4;
constexpr uint32_t kWaiters = 3;

class HostileSession {
 public:
  HostileSession(const uint8_t* data, size_t size) : input_(data, size) {
    client_ = *ChannelClient::Create(
        {.slots = kSlots, .waiters = kWaiters, .max_poll = absl::ZeroDuration()});
    mapping_ =
        *MemoryMapping::Map(client_->response_memory_fd(), 0, ResponseView::SizeBytes(kWaiters),
                            MemoryMapping::Protection::kReadWrite);
    response_ = std::make_unique<ResponseView>(mapping_.data());
    descriptors_ = DuplicateDescriptors(*client_);
  }

  void Run() {
    while (!input_.empty()) {
      switch (input_.Byte() % 14) {
        case 0:
        case 1:
          Post();
          break;
        case 2:
        case 3:
          Call();
          break;
        case 4:
          Await();
          break;
        case 5:
        case 6:
          response_->header().head.store(input_.Near(tail_));
          break;
        case 7:
        case 8: {
          CompletionSlot& completion = response_->completion(input_.Byte() % kWaiters);
          completion.data.Write(input_.Take(8));
          completion.status.Write(input_.Byte() % 4);
          if (input_.Byte() % 4 == 1) completion.deferred.store(input_.Near(tail_ + 1));
          completion.ticket.store(input_.Near(tail_ + 1));
          break;
        }
        case 9:  // any byte at all
          mapping_.data()[input_.Take(8) % ResponseView::TraceOffset(kWaiters)] = input_.Byte();
          break;
        case 10:
          Interrupt();
          break;
        case 11:
          Signal();
          break;
        case 12:
        case 13:
          Recover();
          break;
      }
    }
  }

 private:
  // What the rules say of the next ticket.
  StatusCode Reserve() {
    if (tail_ - seen_head_ >= kSlots) {
      const StatusCode refreshed = RefreshHead();
      if (refreshed != StatusCode::kOk) return refreshed;
      if (tail_ - seen_head_ >= kSlots) {
        return cancelled_ ? StatusCode::kCancelled : StatusCode::kDeadlineExceeded;
      }
    }
    ++tail_;
    return StatusCode::kOk;
  }

  StatusCode RefreshHead() {
    const uint64_t head = response_->header().head.load();
    if (head < seen_head_ || head > tail_) return Broken();
    seen_head_ = head;
    return StatusCode::kOk;
  }

  StatusCode Broken() {
    broken_ = true;
    failed_ = StatusCode::kDataLoss;
    return failed_;
  }

  void Post() {
    const StatusCode expected = failed_ != StatusCode::kOk ? failed_ : Reserve();
    Require(client_
                ->Post(input_.Byte() % kWaiters, input_.Byte(), input_.Take(8), 4, input_.Take(8),
                       absl::ZeroDuration())
                .code() == expected);
  }

  void Call() {
    const uint32_t waiter = input_.Byte() % kWaiters;
    const uint8_t size_bytes = 1 << input_.Byte() % 4;
    awaited_[waiter] = 0;
    StatusCode expected = failed_ != StatusCode::kOk ? failed_
                          : cancelled_               ? StatusCode::kCancelled
                                                     : Reserve();
    if (expected == StatusCode::kOk) {
      sent_[waiter] = tail_;
      awaited_[waiter] = tail_;
      size_bytes_[waiter] = size_bytes;
      expected = Answered(waiter);
    }
    Compare(waiter, expected,
            client_->Call(Operation::kRead, waiter, 0, 0, size_bytes, 0, absl::ZeroDuration()));
  }

  void Await() {
    const uint32_t waiter = input_.Byte() % kWaiters;
    const StatusCode expected = awaited_[waiter] == 0        ? StatusCode::kFailedPrecondition
                                : failed_ != StatusCode::kOk ? failed_
                                : cancelled_                 ? StatusCode::kCancelled
                                                             : Answered(waiter);
    Compare(waiter, expected, client_->AwaitAnswer(waiter, absl::ZeroDuration()));
  }

  StatusCode Answered(uint32_t waiter) {
    const uint64_t answered = response_->completion(waiter).ticket.load();
    if (answered < awaited_[waiter]) {
      const bool deferred = response_->completion(waiter).deferred.load() == awaited_[waiter];
      if (awaited_[waiter] > settled_ || deferred) return StatusCode::kDeadlineExceeded;
      awaited_[waiter] = 0;
      return StatusCode::kUnavailable;
    }
    const uint64_t status = response_->completion(waiter).status.Read();
    if (answered > awaited_[waiter] || status > 1) return Broken();
    taken_[waiter] = awaited_[waiter];
    awaited_[waiter] = 0;
    return status == 0 ? StatusCode::kOk : StatusCode::kInvalidArgument;
  }

  void Compare(uint32_t waiter, StatusCode expected, const absl::StatusOr<uint64_t>& result) {
    Require(result.status().code() == expected);
    if (!result.ok()) return;
    Require(*result ==
            (response_->completion(waiter).data.Read() & AccessMask(size_bytes_[waiter])));
  }

  void Interrupt() {
    switch (input_.Byte() % 3) {
      case 0:
        client_->CancelWaits();
        cancelled_ = true;
        break;
      case 1:
        client_->ResumeWaits();
        cancelled_ = false;
        break;
      case 2:
        client_->Fail(absl::AbortedError("by the vmm"));
        if (failed_ == StatusCode::kOk) failed_ = StatusCode::kAborted;
        break;
    }
    client_->device_report();
    Require(client_->status().code() == failed_);
  }

  void Recover() {
    if (input_.Byte() % 2 == 0) {
      client_->Reopen();
      failed_ = broken_ ? StatusCode::kDataLoss : StatusCode::kOk;
      return;
    }
    const bool discard = input_.Byte() % 4 == 0;
    const uint64_t left = response_->header().head.load();
    const bool possible = left >= seen_head_ && left <= tail_;
    const uint64_t passed = possible ? left : seen_head_;
    bool violation = broken_ || !possible;
    uint64_t answered = 0;
    uint64_t kept[kWaiters];
    for (uint32_t i = 0; i < kWaiters; ++i) {
      kept[i] = response_->completion(i).ticket.load();
      const bool unknown = response_->completion(i).status.Read() > 1;
      if (kept[i] > sent_[i] || (kept[i] == sent_[i] && unknown)) {
        violation = true;
        kept[i] = 0;
      }
      answered = std::max({answered, kept[i], taken_[i]});
    }
    violation |= possible && answered > passed + 1;
    const uint64_t processed = std::max(passed, answered);
    seen_head_ = discard ? tail_ : processed;
    settled_ = seen_head_;
    broken_ = false;

    const SuccessorPlan plan = *client_->PrepareSuccessor(discard);
    Require(plan.head == seen_head_ && plan.waiting == tail_ - seen_head_);
    Require(plan.discarded == seen_head_ - processed);
    Require(plan.violation.ok() == !violation);
    Require(response_->header().head.load() == seen_head_);
    Require(response_->header().sleeping.load() == 0);
    for (uint32_t i = 0; i < kWaiters; ++i) {
      Require(response_->completion(i).ticket.load() == kept[i]);
    }
    // The successor accepts what it finds.
    const auto successor = ConnectServer(*client_, 2);
    Require(successor.ok() && (*successor)->processed() == plan.head);
    Require((*successor)->VisibleTail() == tail_);
  }

  void Signal() {
    const EventFd event(std::move(descriptors_.completion_events[0]));
    if (input_.Byte() % 2 == 0) {
      event.Signal();
    } else {
      event.Drain();
    }
    descriptors_ = DuplicateDescriptors(*client_);
  }

  FuzzInput input_;
  std::unique_ptr<ChannelClient> client_;
  MemoryMapping mapping_;
  std::unique_ptr<ResponseView> response_;
  ServerDescriptors descriptors_;

  // The account.
  uint64_t tail_ = 0;
  uint64_t seen_head_ = 0;
  uint64_t settled_ = 0;
  StatusCode failed_ = StatusCode::kOk;
  bool broken_ = false;
  bool cancelled_ = false;
  uint64_t awaited_[kWaiters] = {};
  uint64_t sent_[kWaiters] = {};
  uint64_t taken_[kWaiters] = {};
  uint8_t size_bytes_[kWaiters] = {};
};

}  // namespace
}  // namespace bulkhead::channel

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bulkhead::channel::HostileSession(data, size).Run();
  return 0;
}
