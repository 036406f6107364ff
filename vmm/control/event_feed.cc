#include "vmm/control/event_feed.h"

#include <utility>
#include <vector>

#include "google/protobuf/util/time_util.h"

namespace bulkhead::vmm {
namespace {

using ::google::protobuf::util::TimeUtil;

// A snapshot is taken again if events come meanwhile: the events that follow it then do not repeat
// what it shows.
constexpr int kSnapshotTries = 3;

}  // namespace

v1::Event EventFeed::TakeSnapshot() {
  v1::Event event;
  for (int i = 0; i < kSnapshotTries; ++i) {
    event.set_sequence(vm_.events().last_sequence());
    v1::Snapshot& snapshot = *event.mutable_snapshot();
    *snapshot.mutable_status() = vm_.Status();
    std::vector<v1::Device> devices = vm_.Devices();
    snapshot.mutable_devices()->Assign(std::make_move_iterator(devices.begin()),
                                       std::make_move_iterator(devices.end()));
    if (vm_.events().last_sequence() == event.sequence()) break;
  }
  *event.mutable_time() = TimeUtil::GetCurrentTime();
  return event;
}

std::optional<v1::Event> EventFeed::Next() {
  if (complete_) return std::nullopt;
  if (!started_) {
    started_ = true;
    v1::Event snapshot = TakeSnapshot();
    end_of_past_ = snapshot.sequence();
    last_sent_ = only_past_ ? 0 : snapshot.sequence();
    return snapshot;
  }
  if (only_past_) return NextOfPast();
  if (snapshot_.has_value()) return std::exchange(snapshot_, std::nullopt);

  std::vector<v1::Event> events = vm_.events().EventsAfter(last_sent_, 1);
  if (events.empty()) return std::nullopt;
  if (events[0].sequence() == last_sent_ + 1) {
    ++last_sent_;
    return std::move(events[0]);
  }
  snapshot_ = TakeSnapshot();
  v1::Event missed;
  missed.set_sequence(snapshot_->sequence());
  *missed.mutable_time() = snapshot_->time();
  missed.mutable_missed()->set_count(snapshot_->sequence() - last_sent_);
  last_sent_ = snapshot_->sequence();
  return missed;
}

std::optional<v1::Event> EventFeed::NextOfPast() {
  std::vector<v1::Event> events = vm_.events().EventsAfter(last_sent_, 1);
  if (events.empty() || events[0].sequence() > end_of_past_) {
    complete_ = true;
    return std::nullopt;
  }
  last_sent_ = events[0].sequence();
  return std::move(events[0]);
}

}  // namespace bulkhead::vmm
