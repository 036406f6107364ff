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

namespace bulkhead::channel {

// What the Attach message carries for the channel.
struct ServerDescriptors {
  UniqueFd request_memory;
  UniqueFd response_memory;
  UniqueFd request_event;
  std::vector<UniqueFd> completion_events = {};  // one a waiter, in order
};

struct ServerParameters {
  uint32_t slots = 0;
  uint32_t waiters = 0;
  absl::Duration max_poll = absl::ZeroDuration();  // how long PollForRequest() takes, at most
  uint64_t generation = 0;
};

// The device process's end of its channel. Takes the requests in their one order, one at a
// time. What it did not finish before it died, its successor on the same descriptors starts
// with: a request counts as processed only once Complete() or Retire() has returned.
//
// Thread-compatible: all calls from one thread. The loop of its user:
//
//   while (true) {
//     Request request;
//     while (server.TryPeek(request)) { ...; server.Complete(request, data) or Retire(request); }
//     if (server.PollForRequest(other_work)) continue;
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

  // Goes on where the last process on this channel stopped. Errors: InvalidArgument (the
  // descriptors do not fit the parameters), DataLoss (an impossible head was left behind),
  // else as mmap(2).
  static absl::StatusOr<std::unique_ptr<ChannelServer>> Create(ServerDescriptors descriptors,
                                                               const ServerParameters& parameters);

  ChannelServer(const ChannelServer&) = delete;
  ChannelServer& operator=(const ChannelServer&) = delete;

  // The next request that is not processed yet, if there is one: a validated copy. The same one
  // again until it is processed. Malformed requests are refused here and never seen.
  bool TryPeek(Request& out);

  // The ticket of the last request that can be processed now: all after processed() are there,
  // up to this one. Equal to processed(): there is none. Counts at most a ring full.
  uint64_t VisibleTail() const;

  // True if a request after the next one is there, even while the next one is missing: its
  // sender has its ticket and is about to publish it. What comes by another path than the ring,
  // as a doorbell does, may have been sent after such a later request.
  bool HasLaterRequest() const;

  // Answers the request that TryPeek() gave last, and wakes its waiter. Not for kPostedWrite.
  // Whether this process has applied it, or a predecessor had that died before it could answer,
  // is not the channel's business; the same goes for Retire().
  void Complete(const Request& request, uint64_t data);
  // Done with the request that TryPeek() gave last. For kPostedWrite only.
  void Retire(const Request& request);

  // The request that TryPeek() gave last takes its time: those after it need not wait. It counts as
  // processed, and AnswerDeferred() is due, from this process or from a successor.
  void Defer(const Request& request);
  // Answers it. Nothing happens if its waiter has given it up and been answered another one since.
  void AnswerDeferred(const Request& request, uint64_t data);
  // What a predecessor has deferred and not answered: waiter and ticket only.
  std::vector<Request> Deferred() const;

  // Polls for the next request for as long as that has paid lately, at most
  // `max_poll`. True: there is one. `other_work` is asked now and then; true ends polling.
  bool PollForRequest(absl::FunctionRef<bool()> other_work);

  // Announces that only event_fd() will wake this process. False: there is a request, do not
  // sleep. True: sleep, until event_fd() is readable or for any other reason, then call
  // AfterSleep().
  bool PrepareToSleep();
  void AfterSleep();

  // Readable when a request came while asleep. Level-triggered.
  int event_fd() const { return request_event_.get(); }

  // The ticket of the last request wholly processed, by this process or one before it.
  uint64_t processed() const { return head_; }

  struct Counters {
    uint64_t sleeps = 0;
    uint64_t polls = 0;
    uint64_t poll_hits = 0;
    uint64_t refused = 0;  // malformed requests
  };
  // Of all processes on this channel, as far as the one before us told the truth.
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
  uint64_t head_ = 0;  // the ticket of the last request wholly processed
};

}  // namespace bulkhead::channel

#endif  // BULKHEAD_PROTO_CHANNEL_CHANNEL_SERVER_H_
