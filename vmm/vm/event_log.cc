#include "vmm/vm/event_log.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"

namespace bulkhead::vmm {

uint64_t EventLog::Append(v1::Event event) {
  const int64_t now = absl::GetCurrentTimeNanos();
  event.mutable_time()->set_seconds(now / 1'000'000'000);
  event.mutable_time()->set_nanos(static_cast<int32_t>(now % 1'000'000'000));
  uint64_t sequence = 0;
  {
    absl::MutexLock lock(&mutex_);
    sequence = ++last_sequence_;
    event.set_sequence(sequence);
    events_.push_back({std::move(event), SteadyNow()});
    if (events_.size() > kKeptEvents) events_.pop_front();
  }
  absl::MutexLock lock(&listeners_mutex_);
  for (const auto& [id, on_append] : listeners_) on_append();
  return sequence;
}

uint64_t EventLog::last_sequence() const {
  absl::MutexLock lock(&mutex_);
  return last_sequence_;
}

std::vector<EventLog::TimedEvent> EventLog::TimedEventsAfter(uint64_t after, size_t limit) const {
  absl::MutexLock lock(&mutex_);
  const auto first =
      std::partition_point(events_.begin(), events_.end(),
                           [&](const TimedEvent& kept) { return kept.event.sequence() <= after; });
  const size_t count = std::min<size_t>(limit, static_cast<size_t>(events_.end() - first));
  return std::vector<TimedEvent>(first, first + static_cast<ptrdiff_t>(count));
}

std::vector<v1::Event> EventLog::EventsAfter(uint64_t after, size_t limit) const {
  std::vector<v1::Event> events;
  for (TimedEvent& kept : TimedEventsAfter(after, limit)) events.push_back(std::move(kept.event));
  return events;
}

uint64_t EventLog::Listen(std::function<void()> on_append) {
  absl::MutexLock lock(&listeners_mutex_);
  listeners_[++last_listener_] = std::move(on_append);
  return last_listener_;
}

void EventLog::Unlisten(uint64_t listener) {
  absl::MutexLock lock(&listeners_mutex_);
  listeners_.erase(listener);
}

}  // namespace bulkhead::vmm
