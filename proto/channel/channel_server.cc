#include "proto/channel/channel_server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/access_mask.h"
#include "base/crash_point.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"

// How no wake-up is lost: see the top of channel_client.cc.

namespace bulkhead::channel {
namespace {

// The ring has this many parts. Only at the end of a part does the server look for producers that
// wait for space, not after every request: a producer that it wakes then finds room for many.
constexpr uint32_t kSpaceParts = 4;
static_assert(kMinSlots >= kSpaceParts);

// How many polls of the ring pass between two looks at other memory, and at work elsewhere, which
// costs a system call.
constexpr uint32_t kMemoryInterval = 4;
constexpr uint32_t kElsewhereInterval = 256;

absl::StatusOr<MemoryMapping> MapWhole(int fd, size_t size_bytes,
                                       MemoryMapping::Protection protection,
                                       absl::string_view name) {
  struct stat info = {};
  if (fstat(fd, &info) != 0) return ErrnoToStatus(errno, absl::StrCat("fstat of ", name));
  if (static_cast<uint64_t>(info.st_size) < size_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": ", info.st_size, " bytes, not ", size_bytes));
  }
  return MemoryMapping::Map(fd, 0, size_bytes, protection);
}

// A predecessor may have left its shared descriptors blocking. A sandbox forbids F_SETFL, also to
// predecessors: then there is nothing to set.
absl::Status SetNonBlocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) != 0) return absl::OkStatus();
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return ErrnoToStatus(errno, "O_NONBLOCK on a channel event");
  }
  return absl::OkStatus();
}

void Add(std::atomic<uint64_t>& counter, uint64_t n) {
  // relaxed, and no read-modify-write: figures for people, with one writer.
  counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
}

[[noreturn]] void Misused(absl::string_view how) {
  LogError(absl::StrCat("ChannelServer: ", how));
  abort();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChannelServer>> ChannelServer::Create(
    ServerDescriptors descriptors, const ServerParameters& parameters) {
  if (parameters.slots < kMinSlots || parameters.slots > kMaxSlots ||
      (parameters.slots & (parameters.slots - 1)) != 0 || parameters.waiters == 0 ||
      parameters.waiters > kMaxWaiters) {
    return absl::InvalidArgumentError(absl::StrCat("a channel of ", parameters.slots, " slots and ",
                                                   parameters.waiters, " waiters"));
  }
  if (descriptors.completion_events.size() != parameters.waiters) {
    return absl::InvalidArgumentError(absl::StrCat(descriptors.completion_events.size(),
                                                   " completion events for ", parameters.waiters,
                                                   " waiters"));
  }
  ASSIGN_OR_RETURN(MemoryMapping request_mapping,
                   MapWhole(descriptors.request_memory.get(),
                            RequestView::SizeBytes(parameters.slots, parameters.waiters),
                            MemoryMapping::Protection::kRead, "request memory"));
  ASSIGN_OR_RETURN(
      MemoryMapping response_mapping,
      MapWhole(descriptors.response_memory.get(), ResponseView::SizeBytes(parameters.waiters),
               MemoryMapping::Protection::kReadWrite, "response memory"));
  RETURN_IF_ERROR(SetNonBlocking(descriptors.request_event.get()));
  for (const UniqueFd& event : descriptors.completion_events) {
    RETURN_IF_ERROR(SetNonBlocking(event.get()));
  }

  auto server = std::unique_ptr<ChannelServer>(new ChannelServer(
      parameters, RequestView(request_mapping.data(), parameters.slots, parameters.waiters),
      ResponseView(response_mapping.data())));
  server->request_mapping_ = std::move(request_mapping);
  server->response_mapping_ = std::move(response_mapping);
  server->request_event_ = std::move(descriptors.request_event);
  for (UniqueFd& event : descriptors.completion_events) {
    server->completion_events_.emplace_back(std::move(event));
  }
  RETURN_IF_ERROR(server->Attach(parameters.generation));
  return server;
}

ChannelServer::ChannelServer(const ServerParameters& parameters, RequestView requests,
                             ResponseView responses)
    : parameters_(parameters),
      requests_(requests),
      responses_(responses),
      poll_(AvailableCpus() == 1 ? absl::ZeroDuration() : parameters.max_poll) {}

absl::Status ChannelServer::Attach(uint64_t generation) {
  const RequestHeader& header = requests_.header();
  if (header.magic != kRequestMagic || header.version != kLayoutVersion ||
      header.slots != parameters_.slots || header.waiters != parameters_.waiters) {
    return absl::InvalidArgumentError(
        absl::StrCat("request memory: version ", header.version, ", ", header.slots, " slots, ",
                     header.waiters, " waiters; expected version ", kLayoutVersion, ", ",
                     parameters_.slots, " slots, ", parameters_.waiters, " waiters"));
  }
  // The predecessor may have been compromised: check its head against the vmm's own slots. The slot
  // after the head holds the next request or, if that was not sent yet, the one of a round ago; the
  // slot at the head holds its request or, if the ring is full, the one of a round later.
  head_ = responses_.header().head.load(std::memory_order_acquire);
  const uint64_t round = parameters_.slots;
  const uint64_t next = requests_.slot(head_ + 1).sequence.load(std::memory_order_acquire);
  const uint64_t last = requests_.slot(head_).sequence.load(std::memory_order_acquire);
  const uint64_t before_next = head_ + 1 > round ? head_ + 1 - round : 0;
  const bool next_fits = next == head_ + 1 || next == before_next;
  const bool last_fits = last == head_ || last == head_ + round;
  if (head_ == UINT64_MAX || !next_fits || !last_fits) {
    return absl::DataLossError(
        absl::StrCat("the channel's last process left the impossible head ", head_));
  }
  responses_.header().generation.store(generation, std::memory_order_relaxed);
  SetAwaitsBackEnd(false);  // that was the predecessor's
  AfterSleep();             // the predecessor may have died asleep
  // It may also have died between an answer and the wake-up that was due. Needless ones are
  // harmless.
  for (const EventFd& event : completion_events_) event.Signal();
  return absl::OkStatus();
}

bool ChannelServer::TryPeek(Request& out) {
  while (true) {
    const uint64_t ticket = head_ + 1;
    const RequestSlot& slot = requests_.slot(ticket);
    // acquire: pairs with the store in ChannelClient::Send(), which publishes the slot.
    if (slot.sequence.load(std::memory_order_acquire) != ticket) return false;
    const RequestShape shape = RequestShape::Unpack(slot.shape.Read());
    const uint64_t offset = slot.offset.Read();
    const uint64_t data = slot.data.Read();
    if (shape.operation >= static_cast<uint8_t>(Operation::kRead) &&
        shape.operation <= static_cast<uint8_t>(Operation::kReset) &&
        IsAccessSize(shape.size_bytes) && shape.waiter < parameters_.waiters && shape.flags == 0) {
      out = {.operation = static_cast<Operation>(shape.operation),
             .region = shape.region,
             .size_bytes = shape.size_bytes,
             .waiter = shape.waiter,
             .offset = offset,
             .data = data & AccessMask(shape.size_bytes),
             .ticket = ticket};
      return true;
    }
    Refuse(ticket, shape);  // then the next one: at most a ring full of them
  }
}

uint64_t ChannelServer::VisibleTail() const {
  uint64_t tail = head_;
  // acquire: to see the same as TryPeek().
  while (tail - head_ < parameters_.slots &&
         requests_.slot(tail + 1).sequence.load(std::memory_order_acquire) == tail + 1) {
    ++tail;
  }
  return tail;
}

bool ChannelServer::HasLaterRequest() const {
  // Each waiter sends one request at a time. So of any `waiters` requests in a row before one
  // that is there, one at least is there too: looking further than that is needless.
  const uint32_t reach = std::min(parameters_.waiters, parameters_.slots);
  for (uint64_t ticket = head_ + 2; ticket <= head_ + reach; ++ticket) {
    // acquire: to see the same as TryPeek().
    if (requests_.slot(ticket).sequence.load(std::memory_order_acquire) == ticket) return true;
  }
  return false;
}

void ChannelServer::Refuse(uint64_t ticket, const RequestShape& shape) {
  Add(responses_.header().refused, 1);
  if (shape.waiter < parameters_.waiters &&
      shape.operation != static_cast<uint8_t>(Operation::kPostedWrite)) {
    Answer(shape.waiter, ticket, 0, CompletionStatus::kRefused);
  }
  AdvanceHead();
}

void ChannelServer::Complete(const Request& request, uint64_t data) {
  if (request.ticket != head_ + 1 || request.operation == Operation::kPostedWrite ||
      request.waiter >= parameters_.waiters) {
    Misused("Complete() of a request that TryPeek() did not give last, or of a posted write");
  }
  // Before the head moves: a process that dies in between leaves a request that its successor
  // answers again, never one that stays unanswered.
  Answer(request.waiter, request.ticket, data, CompletionStatus::kDone);
  CRASH_POINT("mid_complete");
  AdvanceHead();
}

void ChannelServer::Retire(const Request& request) {
  if (request.ticket != head_ + 1 || request.operation != Operation::kPostedWrite) {
    Misused("Retire() of a request that TryPeek() did not give last, or of no posted write");
  }
  AdvanceHead();
}

void ChannelServer::Defer(const Request& request) {
  if (request.ticket != head_ + 1 || request.operation == Operation::kPostedWrite ||
      request.waiter >= parameters_.waiters) {
    Misused("Defer() of a request that TryPeek() did not give last, or of a posted write");
  }
  // release: before the head passes it, or PrepareSuccessor() would have it given up.
  responses_.completion(request.waiter).deferred.store(request.ticket, std::memory_order_release);
  AdvanceHead();
}

void ChannelServer::AnswerDeferred(const Request& request, uint64_t data) {
  if (request.ticket > head_ || request.waiter >= parameters_.waiters) {
    Misused("AnswerDeferred() of a request that was not deferred");
  }
  // relaxed: only this process writes it. A waiter's tickets rise.
  const CompletionSlot& completion = responses_.completion(request.waiter);
  if (completion.ticket.load(std::memory_order_relaxed) >= request.ticket) return;
  Answer(request.waiter, request.ticket, data, CompletionStatus::kDone);
}

std::vector<ChannelServer::Request> ChannelServer::Deferred() const {
  std::vector<Request> requests;
  for (uint32_t i = 0; i < parameters_.waiters; ++i) {
    const CompletionSlot& completion = responses_.completion(i);
    // relaxed: written by a process that is dead.
    const uint64_t ticket = completion.deferred.load(std::memory_order_relaxed);
    if (ticket > head_ || ticket <= completion.ticket.load(std::memory_order_relaxed)) continue;
    Request& request = requests.emplace_back();
    request.waiter = static_cast<uint16_t>(i);
    request.ticket = ticket;
  }
  return requests;
}

void ChannelServer::Answer(uint32_t waiter, uint64_t ticket, uint64_t data,
                           CompletionStatus status) {
  CompletionSlot& completion = responses_.completion(waiter);
  completion.data.Write(data);
  completion.status.Write(static_cast<uint64_t>(status));
  // seq_cst: as a release it publishes the answer and pairs with the acquire in
  // ChannelClient::WaitForAnswer(). Beyond that the waker's write; partner: the re-check there.
  completion.ticket.store(ticket, std::memory_order_seq_cst);
  if (requests_.waiter(waiter).sleeping.load(std::memory_order_seq_cst) != 0) {
    completion_events_[waiter].Signal();
  }
}

void ChannelServer::AdvanceHead() {
  ++head_;
  std::atomic<uint64_t>& head = responses_.header().head;
  if ((head_ & (parameters_.slots / kSpaceParts - 1)) != 0) {
    // release: pairs with the load in ChannelClient::HeadMovedPast(); else a producer overwrites
    // a slot that we still read. No wake-up is needed here: a producer that finds the ring full
    // has a whole ring of requests before it, so the head still reaches the end of a part.
    head.store(head_, std::memory_order_release);
    return;
  }
  // seq_cst: beyond that the waker's write; partner: the re-check in
  // ChannelClient::ReserveWhenFull().
  head.store(head_, std::memory_order_seq_cst);
  if (requests_.header().space_waiters.load(std::memory_order_seq_cst) == 0) return;
  for (uint32_t i = 0; i < parameters_.waiters; ++i) {
    // seq_cst: a waiter whose flag is not seen here re-checks after the store above.
    if (requests_.waiter(i).sleeping.load(std::memory_order_seq_cst) != 0) {
      completion_events_[i].Signal();
    }
  }
}

bool ChannelServer::PollForWork(absl::FunctionRef<bool()> in_memory,
                                absl::FunctionRef<bool()> elsewhere) {
  const uint64_t ticket = head_ + 1;
  // acquire: to see the same as TryPeek(), which follows.
  const auto published = [&] {
    return requests_.slot(ticket).sequence.load(std::memory_order_acquire) == ticket;
  };
  if (published()) return true;
  const uint32_t iterations = poll_.NextIterations();
  if (iterations == 0) return false;
  Add(responses_.header().polls, 1);
  bool found = false;
  for (uint32_t i = 0; i < iterations && !found; ++i) {
    found = (i % kMemoryInterval == 0 && in_memory()) || published() ||
            (i % kElsewhereInterval == kElsewhereInterval - 1 && elsewhere());
    if (!found) PollPause();
  }
  poll_.Record(found);
  if (found) Add(responses_.header().poll_hits, 1);
  return found;
}

bool ChannelServer::PrepareToSleep() {
  const uint64_t ticket = head_ + 1;
  std::atomic<uint32_t>& sleeping = responses_.header().sleeping;
  // seq_cst: the announcement and the re-check. Partners: the store of the sequence in
  // ChannelClient::Send() and the look after it.
  sleeping.store(1, std::memory_order_seq_cst);
  if (requests_.slot(ticket).sequence.load(std::memory_order_seq_cst) == ticket) {
    sleeping.store(0, std::memory_order_relaxed);  // late is harmless: a needless wake
    return false;
  }
  Add(responses_.header().sleeps, 1);
  return true;
}

bool ChannelServer::heartbeat_wanted() const {
  // relaxed: late is harmless, event_fd() tells as well.
  return requests_.header().heartbeat.load(std::memory_order_relaxed) != answered_heartbeat_;
}

void ChannelServer::AnswerHeartbeat(bool in_long_call) {
  answered_heartbeat_ = requests_.header().heartbeat.load(std::memory_order_relaxed);
  ResponseHeader& header = responses_.header();
  const int64_t now = absl::ToUnixNanos(SteadyNow());
  header.heartbeat_time.store(static_cast<uint64_t>(now), std::memory_order_relaxed);
  header.heartbeat.store(answered_heartbeat_ << 1 | (in_long_call ? 1 : 0),
                         std::memory_order_release);
}

void ChannelServer::SetAwaitsBackEnd(bool awaits) {
  // relaxed: the vmm looks at it now and then, and uses nothing else for it.
  responses_.header().awaits_back_end.store(awaits ? 1 : 0, std::memory_order_relaxed);
}

ChannelServer::Counters ChannelServer::counters() const {
  const ResponseHeader& header = responses_.header();
  constexpr auto kRelaxed = std::memory_order_relaxed;  // our own writes
  return {.sleeps = header.sleeps.load(kRelaxed),
          .polls = header.polls.load(kRelaxed),
          .poll_hits = header.poll_hits.load(kRelaxed),
          .refused = header.refused.load(kRelaxed)};
}

void ChannelServer::AfterSleep() {
  responses_.header().sleeping.store(0, std::memory_order_relaxed);  // late is harmless
  DrainWakePipe(request_event_.get());
}

}  // namespace bulkhead::channel
