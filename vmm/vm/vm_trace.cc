#include "vmm/vm/vm_trace.h"

#include <algorithm>
#include <utility>

#include "absl/time/time.h"
#include "proto/channel/channel_layout.h"

namespace bulkhead::vmm {
namespace {

using channel::Operation;
using channel::TraceRecord;

// More than a device can have: a queue takes a doorbell and, with MSI-X, a vector.
constexpr uint32_t kMaxQueues = 2048;
constexpr uint64_t kMaxHead = 0xffff;
constexpr size_t kEventsAtOnce = 256;

v1::TraceRecord::Kind KindOfAccess(uint8_t operation) {
  switch (static_cast<Operation>(operation)) {
    case Operation::kRead:
      return v1::TraceRecord::READ;
    case Operation::kPostedWrite:
      return v1::TraceRecord::POSTED_WRITE;
    case Operation::kWrite:
      return v1::TraceRecord::WRITE;
    case Operation::kSetFunctionState:
      return v1::TraceRecord::FUNCTION_STATE;
    case Operation::kReset:
      return v1::TraceRecord::RESET;
  }
  return v1::TraceRecord::KIND_UNSPECIFIED;
}

// KIND_UNSPECIFIED: no honest process of this device has written it.
v1::TraceRecord::Kind KindOfDevice(const TraceRecord& record, const TraceSource& device) {
  switch (record.kind) {
    case TraceRecord::kDoorbell:
      if (record.index < device.doorbells) return v1::TraceRecord::DOORBELL;
      break;
    case TraceRecord::kMsix:
      if (record.index < device.vectors) return v1::TraceRecord::MSIX;
      break;
    case TraceRecord::kLine:
      return v1::TraceRecord::LINE;
    case TraceRecord::kTaken:
    case TraceRecord::kCompleted:
      if (record.index >= kMaxQueues || record.a > kMaxHead) break;
      return record.kind == TraceRecord::kTaken ? v1::TraceRecord::REQUEST_TAKEN
                                                : v1::TraceRecord::REQUEST_COMPLETED;
    default:
      break;
  }
  return v1::TraceRecord::KIND_UNSPECIFIED;
}

}  // namespace

VmTrace::VmTrace(v1::TraceStart start, std::vector<TraceSource> sources, EventLog& events,
                 uint64_t last_event, absl::Duration duration, std::function<void()> on_end)
    : begin_ns_(channel::TraceNow()),
      end_ns_(begin_ns_ + static_cast<uint64_t>(absl::ToInt64Nanoseconds(duration))),
      events_(events),
      on_end_(std::move(on_end)),
      last_event_(last_event),
      previous_ns_(begin_ns_) {
  start.set_time_ns(begin_ns_);
  *first_.emplace().mutable_start() = std::move(start);
  for (const TraceSource& source : sources) {
    sources_.push_back(
        {.what = source, .reader = channel::TraceReader(*source.ring), .last_ns = begin_ns_});
  }
}

std::optional<v1::TraceChunk> VmTrace::Next(uint64_t now_ns) {
  if (complete_) return std::nullopt;
  if (first_.has_value()) return std::exchange(first_, std::nullopt);
  if (round_ns_ == 0) {
    const uint64_t interval_ns = static_cast<uint64_t>(absl::ToInt64Nanoseconds(kInterval));
    if (now_ns < std::min(previous_ns_ + interval_ns, end_ns_)) return std::nullopt;
    round_ns_ = std::max(now_ns, previous_ns_);
    next_source_ = 0;
    for (Source& source : sources_) source.left = channel::TraceRing::kSlots;
  }
  v1::TraceChunk chunk;
  while (next_source_ < sources_.size()) {
    if (!Move(sources_[next_source_], chunk)) ++next_source_;
    if (static_cast<size_t>(chunk.records_size()) >= kRecordsOfChunk) return chunk;
  }
  MoveEvents(chunk);
  chunk.set_complete_until_ns(round_ns_);
  previous_ns_ = std::exchange(round_ns_, 0);
  if (previous_ns_ >= end_ns_) {
    complete_ = true;
    End();
  }
  return chunk;
}

bool VmTrace::Move(Source& source, v1::TraceChunk& chunk) {
  const size_t room = kRecordsOfChunk - static_cast<size_t>(chunk.records_size());
  const size_t limit = std::min(room, source.left);
  records_.clear();
  const uint64_t lost = source.reader.Read(limit, records_);
  // A hostile head may have jumped: the sum is for people.
  chunk.set_lost(chunk.lost() + lost);
  const size_t read = records_.size() + static_cast<size_t>(std::min<uint64_t>(lost, limit));
  source.left -= std::min(source.left, read);
  // Of this moment: a record that came after the round began is shown as late as it is.
  const uint64_t latest = std::max(channel::TraceNow(), source.last_ns);
  for (TraceRecord& record : records_) {
    record.time_ns = std::clamp(record.time_ns, source.last_ns, latest);
    source.last_ns = record.time_ns;
    Convert(source, record, chunk);
  }
  return read >= limit && source.left > 0;
}

void VmTrace::Convert(const Source& source, const TraceRecord& from, v1::TraceChunk& chunk) const {
  const v1::TraceRecord::Kind kind =
      source.what.is_device ? KindOfDevice(from, source.what) : KindOfAccess(from.operation);
  if (kind == v1::TraceRecord::KIND_UNSPECIFIED) return;
  v1::TraceRecord& to = *chunk.add_records();
  to.set_kind(kind);
  if (source.what.is_device) {
    to.set_time_ns(from.time_ns);
    to.set_device(source.what.index);
    to.set_index(from.index);
    if (kind != v1::TraceRecord::REQUEST_TAKEN && kind != v1::TraceRecord::REQUEST_COMPLETED)
      return;
    to.set_head(static_cast<uint32_t>(from.a));
    if (kind == v1::TraceRecord::REQUEST_TAKEN) {
      to.set_readable_bytes(static_cast<uint32_t>(from.b));
      to.set_writable_bytes(from.b >> 32);
    } else {
      to.set_written_bytes(static_cast<uint32_t>(from.b));
    }
  } else {
    to.set_time_ns(from.a);
    to.set_duration_ns(from.time_ns - std::min(from.a, from.time_ns));
    to.set_device(from.index);
    to.set_vcpu(source.what.index);
    to.set_region(from.region);
    to.set_offset(from.b);
    to.set_size_bytes(from.size_bytes);
  }
}

void VmTrace::MoveEvents(v1::TraceChunk& chunk) {
  for (EventLog::TimedEvent& kept : events_.TimedEventsAfter(last_event_, kEventsAtOnce)) {
    last_event_ = kept.event.sequence();
    v1::TraceEvent& to = *chunk.add_events();
    to.set_time_ns(static_cast<uint64_t>(absl::ToUnixNanos(kept.appended)));
    *to.mutable_event() = std::move(kept.event);
  }
}

void VmTrace::End() {
  if (on_end_) std::exchange(on_end_, nullptr)();
}

}  // namespace bulkhead::vmm
