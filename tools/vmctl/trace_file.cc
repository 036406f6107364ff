#include "tools/vmctl/trace_file.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/vmctl/event_text.h"
#include "tools/vmctl/text.h"
#include "tools/vmctl/trace_names.h"

namespace bulkhead::vmctl {
namespace {

constexpr size_t kFlushBytes = 1 << 16;
// For the end of the file.
constexpr uint64_t kEndBytes = 256;
// Of a device that takes requests and completes none, no more are kept in mind.
constexpr size_t kMaxOpenRequests = 1 << 16;
// Of a device's tracks those of its queues come last.
constexpr uint64_t kFirstQueueOrder = 10;

// As a JSON string. `text` is UTF-8, as each string of a protobuf message.
std::string Json(absl::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      json.push_back('\\');
      json.push_back(c);
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&json, "\\u%04x", byte);
    } else {
      json.push_back(c);
    }
  }
  json.push_back('"');
  return json;
}

bool IsEarlier(const v1::TraceRecord& a, const v1::TraceRecord& b) {
  return a.time_ns() < b.time_ns();
}

}  // namespace

bool TraceFile::Add(const v1::TraceChunk& chunk) {
  if (full_ || failed_) return false;
  if (chunk.has_start() && !started_) Start(chunk.start());
  lost_ += chunk.lost();
  records_.insert(records_.end(), chunk.records().begin(), chunk.records().end());
  events_.insert(events_.end(), chunk.events().begin(), chunk.events().end());
  if (chunk.complete_until_ns() != 0) WriteUntil(chunk.complete_until_ns());
  return !full_ && !failed_;
}

void TraceFile::Start(const v1::TraceStart& start) {
  started_ = true;
  begin_ns_ = latest_ns_ = start.time_ns();
  text_ = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";
  const uint32_t vm = NewProcess(absl::StrCat("VM ", start.name()));
  vm_track_ = NewTrack(vm, "state", 0);
  vm_state_ = {StateName(start.state()), StateColor(start.state()), begin_ns_};
  for (uint32_t i = 0; i < start.vcpus(); ++i) {
    vcpus_.push_back(NewTrack(vm, absl::StrCat("vCPU ", i), i + 1));
  }
  for (const v1::Device& is : start.devices()) {
    Device& device = devices_.emplace_back();
    device.is = is;
    device.process = NewProcess(absl::StrCat(is.name(), " (", is.model(), ")"));
    device.state_track = NewTrack(device.process, "process", 0);
    device.doorbells = NewTrack(device.process, "doorbells", 1);
    device.interrupts = NewTrack(device.process, "interrupts", 2);
    device.state = {DeviceStateName(is.state(), is.pid(), is.generation(), is.state_reason()),
                    StateColor(is.state()), begin_ns_};
    device.totals.device = is.name();
  }
}

void TraceFile::WriteUntil(uint64_t until_ns) {
  // Stable: what one process has recorded at one time stays in its order.
  std::stable_sort(records_.begin(), records_.end(), IsEarlier);
  auto event = events_.begin();
  auto record = records_.begin();
  while (true) {
    const bool has_event = event != events_.end() && event->time_ns() <= until_ns;
    const bool has_record = record != records_.end() && record->time_ns() <= until_ns;
    if (!has_event && !has_record) break;
    if (has_event && (!has_record || event->time_ns() < record->time_ns())) {
      WriteEvent(*event++);
    } else {
      WriteRecord(*record++);
    }
  }
  events_.erase(events_.begin(), event);
  records_.erase(records_.begin(), record);
  if (until_ns != UINT64_MAX) latest_ns_ = std::max(latest_ns_, until_ns);
}

void TraceFile::WriteRecord(const v1::TraceRecord& record) {
  if (record.device() >= devices_.size()) return;
  Device& device = devices_[record.device()];
  latest_ns_ = std::max(latest_ns_, record.time_ns() + record.duration_ns());
  switch (record.kind()) {
    case v1::TraceRecord::DOORBELL:
      ++device.totals.doorbells;
      Instant(device.doorbells, "doorbell", absl::StrCat("doorbell ", record.index()),
              record.time_ns());
      return;
    case v1::TraceRecord::MSIX:
      ++device.totals.interrupts;
      Instant(device.interrupts, "interrupt", absl::StrCat("vector ", record.index()),
              record.time_ns());
      return;
    case v1::TraceRecord::LINE:
      ++device.totals.interrupts;
      Instant(device.interrupts, "interrupt", "line", record.time_ns());
      return;
    case v1::TraceRecord::REQUEST_TAKEN:
      return BeginRequest(record, device);
    case v1::TraceRecord::REQUEST_COMPLETED:
      return CompleteRequest(record, device);
    default:
      return WriteAccess(record, device);
  }
}

void TraceFile::WriteAccess(const v1::TraceRecord& record, Device& device) {
  if (record.vcpu() >= vcpus_.size()) return;
  const std::string place =
      absl::StrCat(FormatBytes(record.size_bytes()), " at ", PlaceName(record, device.is));
  std::string what;
  switch (record.kind()) {
    case v1::TraceRecord::READ:
      what = absl::StrCat("read ", place);
      break;
    case v1::TraceRecord::POSTED_WRITE:
      what = absl::StrCat("posted write ", place);
      break;
    case v1::TraceRecord::WRITE:
      what = absl::StrCat("write ", place);
      break;
    case v1::TraceRecord::FUNCTION_STATE:
      what = "function state";
      break;
    case v1::TraceRecord::RESET:
      what = "reset";
      break;
    default:
      return;  // of a newer vmm
  }
  ++device.totals.accesses;
  Span(vcpus_[record.vcpu()], "access", absl::StrCat(device.is.name(), " ", what), Color::kNone,
       record.time_ns(), record.time_ns() + record.duration_ns(), "");
}

void TraceFile::BeginRequest(const v1::TraceRecord& record, Device& device) {
  if (record.readable_bytes() == 0 && IsReceiveQueue(device.is.model(), record.index())) return;
  const std::pair<uint32_t, uint32_t> which(record.index(), record.head());
  GiveUpRequest(device, which, record.time_ns(), "its completion is not in the trace");
  if (open_requests_ >= kMaxOpenRequests) {
    ++lost_;
    return;
  }
  std::vector<Lane>& lanes = device.lanes[record.index()];
  auto lane = std::find_if(lanes.begin(), lanes.end(), [](const Lane& l) { return !l.taken; });
  if (lane == lanes.end()) {
    AddLane(device, record.index());
    lane = lanes.end() - 1;
  }
  lane->taken = true;
  // Not before the lane's last one ended: a process may have been killed between looking at the
  // clock and writing its record.
  device.requests[which] = {.begin_ns = std::max(record.time_ns(), lane->free_ns),
                            .readable_bytes = record.readable_bytes(),
                            .writable_bytes = record.writable_bytes(),
                            .lane = static_cast<size_t>(lane - lanes.begin())};
  ++open_requests_;
}

void TraceFile::AddLane(Device& device, uint32_t queue) {
  std::vector<Lane>& lanes = device.lanes[queue];
  const size_t number = lanes.size();
  const std::string name = number == 0 ? absl::StrCat("queue ", queue)
                                       : absl::StrCat("queue ", queue, " (", number + 1, ")");
  // Each has a place of its own: a viewer would sort those of one place by name, 10 before 2.
  const uint64_t order = kFirstQueueOrder + uint64_t{queue} * kMaxOpenRequests + number;
  lanes.push_back({.track = NewTrack(device.process, name, order)});
}

void TraceFile::CompleteRequest(const v1::TraceRecord& record, Device& device) {
  const auto at = device.requests.find({record.index(), record.head()});
  if (at == device.requests.end()) {
    // It began before the trace; or it was a buffer, and what it has waited for has come.
    if (!IsReceiveQueue(device.is.model(), record.index())) return;
    if (device.lanes[record.index()].empty()) AddLane(device, record.index());
    Instant(device.lanes[record.index()][0].track, "received",
            absl::StrCat(FormatBytes(record.written_bytes()), " from the device"),
            record.time_ns());
    return;
  }
  const uint64_t span_ns = EndRequest(device, at, record.time_ns(), "", Color::kNone,
                                      absl::StrCat("\"written_bytes\":", record.written_bytes()));
  ++device.totals.requests;
  device.totals.request_ns += span_ns;
  device.totals.longest_request_ns = std::max(device.totals.longest_request_ns, span_ns);
}

void TraceFile::GiveUpRequest(Device& device, std::pair<uint32_t, uint32_t> which, uint64_t end_ns,
                              absl::string_view why) {
  const auto at = device.requests.find(which);
  if (at == device.requests.end()) return;
  EndRequest(device, at, end_ns, ", unfinished", Color::kYellow,
             absl::StrCat("\"unfinished\":", Json(why)));
}

uint64_t TraceFile::EndRequest(Device& device,
                               std::map<std::pair<uint32_t, uint32_t>, Request>::iterator at,
                               uint64_t end_ns, absl::string_view suffix, Color color,
                               absl::string_view argument) {
  const auto& [which, request] = *at;
  Lane& lane = device.lanes[which.first][request.lane];
  end_ns = std::max(end_ns, request.begin_ns);
  Span(lane.track, "request",
       absl::StrCat(RequestName(device.is.model(), which.first, request.readable_bytes,
                                request.writable_bytes),
                    suffix),
       color, request.begin_ns, end_ns,
       absl::StrCat("\"head\":", which.second, ",\"readable_bytes\":", request.readable_bytes,
                    ",\"writable_bytes\":", request.writable_bytes, ",", argument));
  lane.taken = false;
  lane.free_ns = end_ns;
  const uint64_t span_ns = end_ns - request.begin_ns;
  device.requests.erase(at);
  --open_requests_;
  return span_ns;
}

void TraceFile::GiveUpRequests(Device& device, uint64_t end_ns, absl::string_view why) {
  while (!device.requests.empty()) {
    GiveUpRequest(device, device.requests.begin()->first, end_ns, why);
  }
}

TraceFile::Device* TraceFile::FindDevice(const std::string& name) {
  for (Device& device : devices_) {
    if (device.is.name() == name) return &device;
  }
  return nullptr;
}

void TraceFile::WriteEvent(const v1::TraceEvent& traced) {
  const v1::Event& event = traced.event();
  const uint64_t time_ns = std::max(traced.time_ns(), begin_ns_);
  latest_ns_ = std::max(latest_ns_, time_ns);
  if (event.has_vm_state()) {
    const v1::VmStateChanged& change = event.vm_state();
    ChangeState(vm_track_, vm_state_, VmStateName(change.state(), change.reason()),
                StateColor(change.state()), time_ns);
    return;
  }
  if (event.has_device_state()) {
    const v1::DeviceStateChanged& change = event.device_state();
    Device* const device = FindDevice(change.device());
    if (device == nullptr) return;
    ChangeState(device->state_track, device->state,
                DeviceStateName(change.to(), change.pid(), change.generation(), change.reason()),
                StateColor(change.to()), time_ns);
    return;
  }
  const EventLine line = LineOfEvent(event);
  Device* const device = FindDevice(line.subject);
  if (event.has_device_ended() && device != nullptr) {
    ++device->totals.ends;
    GiveUpRequests(*device, time_ns, "the process ended");
  }
  if (event.has_device_reset() && device != nullptr) {
    GiveUpRequests(*device, time_ns, "the device was reset");
  }
  Instant(device != nullptr ? device->state_track : vm_track_, "event", line.text, time_ns);
}

void TraceFile::ChangeState(const Track& track, State& state, std::string name, Color color,
                            uint64_t now_ns) {
  now_ns = std::max(now_ns, state.begin_ns);
  Span(track, "state", state.name, state.color, state.begin_ns, now_ns, "");
  state = {std::move(name), color, now_ns};
}

bool TraceFile::Finish() {
  if (started_) {
    WriteUntil(UINT64_MAX);
    for (Device& device : devices_) {
      GiveUpRequests(device, latest_ns_, "at the end of the trace");
      ChangeState(device.state_track, device.state, "", Color::kNone, latest_ns_);
    }
    ChangeState(vm_track_, vm_state_, "", Color::kNone, latest_ns_);
    absl::StrAppend(&text_, "\n],\"otherData\":{\"lost_records\":\"", lost_, "\"}}\n");
  }
  Flush();
  return started_ && !failed_;
}

std::vector<TraceFile::Totals> TraceFile::totals() const {
  std::vector<Totals> totals;
  for (const Device& device : devices_) totals.push_back(device.totals);
  return totals;
}

uint32_t TraceFile::NewProcess(absl::string_view name) {
  const uint32_t process = ++last_process_;
  Append(absl::StrCat("{\"ph\":\"M\",\"pid\":", process,
                      ",\"name\":\"process_name\",\"args\":{\"name\":", Json(name), "}}"));
  Append(absl::StrCat("{\"ph\":\"M\",\"pid\":", process,
                      ",\"name\":\"process_sort_index\",\"args\":{\"sort_index\":", process, "}}"));
  return process;
}

TraceFile::Track TraceFile::NewTrack(uint32_t process, absl::string_view name, uint64_t order) {
  const Track track = {process, ++last_thread_};
  const std::string place =
      absl::StrCat("{\"ph\":\"M\",\"pid\":", track.process, ",\"tid\":", track.thread);
  Append(absl::StrCat(place, ",\"name\":\"thread_name\",\"args\":{\"name\":", Json(name), "}}"));
  Append(absl::StrCat(place, ",\"name\":\"thread_sort_index\",\"args\":{\"sort_index\":", order,
                      "}}"));
  return track;
}

void TraceFile::Span(const Track& track, absl::string_view category, absl::string_view name,
                     Color color, uint64_t begin_ns, uint64_t end_ns, absl::string_view arguments) {
  begin_ns = std::max(begin_ns, begin_ns_);
  const uint64_t span_ns = std::max(end_ns, begin_ns) - begin_ns;
  // Perfetto has no use for it; without it, Chrome's viewer gives states any colour.
  const absl::string_view color_name = TraceColor(color);
  const std::string colored =
      color_name.empty() ? "" : absl::StrCat("\"cname\":\"", color_name, "\",");
  Append(absl::StrFormat(
      "{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"dur\":%d.%03d,\"cat\":\"%s\",\"name\":%s,%s"
      "\"args\":{%s}}",
      track.process, track.thread, Time(begin_ns), span_ns / 1000, span_ns % 1000, category,
      Json(name), colored, arguments));
}

void TraceFile::Instant(const Track& track, absl::string_view category, absl::string_view name,
                        uint64_t time_ns) {
  Append(absl::StrFormat(
      "{\"ph\":\"i\",\"s\":\"t\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"cat\":\"%s\",\"name\":%s}",
      track.process, track.thread, Time(time_ns), category, Json(name)));
}

// Microseconds since the begin of the trace: so short a number that no reader rounds it.
std::string TraceFile::Time(uint64_t time_ns) const {
  const uint64_t since_ns = std::max(time_ns, begin_ns_) - begin_ns_;
  return absl::StrFormat("%d.%03d", since_ns / 1000, since_ns % 1000);
}

void TraceFile::Append(absl::string_view object) {
  if (full_) return;
  if (bytes_ + text_.size() + object.size() + kEndBytes > max_bytes_) {
    full_ = true;
    return;
  }
  absl::StrAppend(&text_, std::exchange(first_, false) ? "" : ",\n", object);
  if (text_.size() >= kFlushBytes) Flush();
}

void TraceFile::Flush() {
  if (!failed_ && !text_.empty()) failed_ = !write_(text_);
  bytes_ += text_.size();
  text_.clear();
}

}  // namespace bulkhead::vmctl
