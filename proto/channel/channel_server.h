#ifndef BULKHEAD_PROTO_CHANNEL_CHANNEL_SERVER_H_
#define BULKHEAD_PROTO_CHANNEL_CHANNEL_SERVER_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "proto/channel/adaptive_poll.h"
#include "proto/channel/channel_layout.h"
#include "proto/channel/channel_memory.h"
#include "proto/channel/trace_ring.h"

namespace bulkhead::channel {

// The descriptors of the channel that the AttachRequest carries.
struct ServerDescriptors {
  UniqueFd request_memory;
  UniqueFd response_memory;
  UniqueFd request_event;
  std::vector<UniqueFd> completion_events = {};  // one a waiter, in order
};

struct ServerParameters {
  uint32_t slots = 0;
  uint32_t waiters = 0;
  absl::Duration max_poll = absl::ZeroDuration();  // upper limit of PollForWork()
  uint64_t generation = 0;
};

// The device process's end of its channel: takes the requests in order, one at a time. A request
// counts as processed once Complete(), Retire() or Defer() has returned; a successor on the same
// descriptors starts with the first one that does not.
//
// Thread-compatible: all calls from one thread. The loop of its user:
//
//   while (true) {
//     Request request;
//     while (server.TryPeek(request)) { ...; server.Complete(request, data) or Retire(request); }
//     if (server.PollForWork(shared_memory_work, other_work)) continue;
//     if (!server.PrepareToSleep()) continue;
//     <epoll_wait on event_fd() and the rest>
//     server.AfterSleep();
//     <the rest>
//   }
class ChannelServer {
 public:
  struct Request {
    Operation operation = Operation::kRead;
    uint8_t region = 0;      // as the vmm sent it: check it against the device's regions
    uint8_t size_bytes = 0;  // 1, 2, 4 or 8
    uint16_t waiter = 0;
    uint64_t offset = 0;  // as the vmm sent it: check it against the region's size
    uint64_t data = 0;    // bytes above `size_bytes` are zero
    uint64_t ticket = 0;  // position in the total order, from 1
  };

  // Continues where the last process on this channel stopped. Errors: InvalidArgument (the
  // descriptors do not match the parameters), DataLoss (the head in the memory is impossible), else
  // as mmap(2).
  static absl::StatusOr<std::unique_ptr<ChannelServer>> Create(ServerDescriptors descriptors,
                                                               const ServerParameters& parameters);

  ChannelServer(const ChannelServer&) = delete;
  ChannelServer& operator=(const ChannelServer&) = delete;

  // Copies the next request that is not processed yet, validated: the same one until it is
  // processed. Refuses malformed requests and skips them. False: there is none.
  bool TryPeek(Request& out);

  // The ticket of the last request that can be processed now: all from processed() to this one are
  // published. Equal to processed(): none is. Looks at most one ring ahead.
  uint64_t VisibleTail() const;

  // True if a request after the next one is published, even if the next one is not yet: its sender
  // has the ticket and is about to publish it. A doorbell, which does not pass through the ring,
  // may have been sent after that later request.
  bool HasLaterRequest() const;

  // Answers the last request of TryPeek(), and wakes its waiter. Not for kPostedWrite. Here and for
  // Retire() the channel does not care whether this process has applied the request, or a
  // predecessor that died before it could answer.
  void Complete(const Request& request, uint64_t data);
  // Finishes the last request of TryPeek(). For kPostedWrite only.
  void Retire(const Request& request);

  // Defers the answer to the last request of TryPeek(), so that later requests need not wait. It
  // counts as processed; this process or a successor must call AnswerDeferred() for it.
  void Defer(const Request& request);
  // Answers a deferred request. Does nothing if its waiter has given up and got a later answer.
  void AnswerDeferred(const Request& request, uint64_t data);
  // The requests that a predecessor deferred and did not answer: waiter and ticket only.
  std::vector<Request> Deferred() const;

  // Polls for the next request and other work, as AdaptivePoll decides, for `max_poll` at most.
  // True: there is a request, or a callback said true. `in_memory` looks at shared memory, often,
  // and must be cheap; `elsewhere` may make system calls.
  bool PollForWork(absl::FunctionRef<bool()> in_memory, absl::FunctionRef<bool()> elsewhere);
  bool PollForRequest() {
    return PollForWork([] { return false; }, [] { return false; });
  }

  // Announces that this process sleeps until event_fd() wakes it. False: there is a request, do not
  // sleep. True: sleep until event_fd(), or anything else, is readable, then call AfterSleep().
  bool PrepareToSleep();
  void AfterSleep();

  // The vmm wants to know that this process makes progress. It also makes event_fd() readable.
  // Cheap.
  bool heartbeat_wanted() const;
  // `in_long_call`: since the last answer this process has not looked for requests. The vmm accepts
  // that for as long as an access may wait.
  void AnswerHeartbeat(bool in_long_call);

  // What the guest asks of the device waits, or waits no longer, for another program of the host,
  // which is away. The vmm may hold the guest meanwhile. At first false. Cheap.
  void SetAwaitsBackEnd(bool awaits);

  // Writes this process's part of a trace. For the thread of this object. Valid as long as it is.
  TraceRecorder trace() const {
    return TraceRecorder(requests_.header().tracing, responses_.trace(parameters_.waiters));
  }

  // Readable when a request has come during the sleep. Level-triggered.
  int event_fd() const { return request_event_.get(); }

  // The ticket of the last request that is processed, by this process or a predecessor.
  uint64_t processed() const { return head_; }

  struct Counters {
    uint64_t sleeps = 0;
    uint64_t polls = 0;
    uint64_t poll_hits = 0;
    uint64_t refused = 0;  // malformed requests
  };
  // Of all processes on this channel, if the predecessor was honest.
  Counters counters() const;

 private:
  friend class ChannelPeer;  // tests: another mapping

  ChannelServer(const ServerParameters& parameters, RequestView requests, ResponseView responses);

  absl::Status Attach(uint64_t generation);
  void Answer(uint32_t waiter, uint64_t ticket, uint64_t data, CompletionStatus status);
  void Refuse(uint64_t ticket, const RequestShape& shape);
  void AdvanceHead();

  const ServerParameters parameters_;
  MemoryMapping request_mapping_;
  MemoryMapping response_mapping_;
  const RequestView requests_;
  const ResponseView responses_;
  UniqueFd request_event_;
  std::vector<EventFd> completion_events_;
  AdaptivePoll poll_;
  uint64_t head_ = 0;  // as processed()
  uint64_t answered_heartbeat_ = 0;
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_SERVER_H_
