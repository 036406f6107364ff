#include "proto/channel/waiter_state.h"

#include <algorithm>

namespace bulkhead::channel {

void WaiterCounters::AddTo(ChannelMetrics& metrics) const {
  const auto sent = [&](Operation operation) {
    return sent_[static_cast<size_t>(operation)].value();
  };
  metrics.reads += sent(Operation::kRead);
  metrics.writes += sent(Operation::kWrite);
  metrics.posted_writes += sent(Operation::kPostedWrite);
  metrics.function_states += sent(Operation::kSetFunctionState);
  metrics.resets += sent(Operation::kReset);
  metrics.timeouts += timeouts_.value();
  metrics.cancelled += cancelled_.value();
  metrics.given_up += given_up_.value();
  metrics.polled_answers += polled_answers_.value();
  metrics.slept_answers += slept_answers_.value();
  for (size_t i = 0; i < latency_.size(); ++i) {
    const uint64_t count = latency_[i].value();
    metrics.latency.buckets[i] += count;
    metrics.latency.count += count;
  }
  metrics.latency.sum += absl::Nanoseconds(latency_sum_ns_.value());
  metrics.ring_full_stalls += stalls_.value();
  metrics.ring_full_time += absl::Nanoseconds(stall_ns_.value());
  metrics.max_occupancy = std::max(metrics.max_occupancy, max_occupancy_.value());
}

}  // namespace bulkhead::channel
