#include <optional>

#include "absl/time/time.h"
#include "proto/channel/channel_client.h"

// Liveness: the vmm counts up a number, and the device process repeats it. Any other number is no
// answer. The process is always woken: that costs a system call a heartbeat, but needs no scheme.

namespace bulkhead::channel {

bool ChannelClient::SeemsIdle() const {
  // acquire: a request that is seen to be processed has its answer, too.
  const uint64_t head = responses_.header().head.load(std::memory_order_acquire);
  // A head that has moved is checked by OldestPending().
  if (head != seen_head_.load(std::memory_order_relaxed)) return false;
  if (head != tail_.load(std::memory_order_relaxed)) return false;
  const uint64_t settled = settled_.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < options_.waiters; ++i) {
    const uint64_t sent = waiters_[i].sent_ticket.load(std::memory_order_acquire);
    if (sent <= settled) continue;
    if (sent > responses_.completion(i).ticket.load(std::memory_order_acquire)) return false;
  }
  return true;
}

void ChannelClient::AskForHeartbeat() {
  std::atomic<uint64_t>& heartbeat = requests_.header().heartbeat;
  // relaxed: one writer, and the wake-up orders it.
  heartbeat.store(heartbeat.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  memory_.request_event.Signal();
}

std::optional<ChannelClient::Heartbeat> ChannelClient::heartbeat() const {
  // acquire: pairs with the store in AnswerHeartbeat().
  const uint64_t answer = responses_.header().heartbeat.load(std::memory_order_acquire);
  if (answer >> 1 != requests_.header().heartbeat.load(std::memory_order_relaxed)) {
    return std::nullopt;
  }
  const uint64_t time = responses_.header().heartbeat_time.load(std::memory_order_relaxed);
  return Heartbeat{.in_long_call = (answer & 1) != 0,
                   .time = absl::FromUnixNanos(static_cast<int64_t>(time))};
}

bool ChannelClient::process_awaits_back_end() const {
  return responses_.header().awaits_back_end.load(std::memory_order_relaxed) != 0;
}

}  // namespace bulkhead::channel
