#include "tools/vmctl/testing/trace_check.h"

#include <math.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/testing/run_command.h"
#include "google/protobuf/struct.pb.h"
#include "google/protobuf/util/json_util.h"

namespace bulkhead::vmctl {
namespace {

using google::protobuf::Struct;
using google::protobuf::Value;
using Event = CheckedTrace::Event;
using TrackId = std::pair<int64_t, int64_t>;  // process and thread

class Checker {
 public:
  explicit Checker(CheckedTrace& trace) : trace_(trace) {}

  void Check(const Struct& file) {
    const Value& events = Field(file, "traceEvents", Value::kListValue);
    for (const Value& event : events.list_value().values()) {
      if (event.kind_case() != Value::kStructValue) {
        Error("an event is no object");
        continue;
      }
      CheckEvent(event.struct_value());
    }
    Name(trace_.spans, spans_);
    Name(trace_.instants, instants_);
    for (size_t i = 1; i < trace_.spans.size(); ++i) {
      const Event& before = trace_.spans[i - 1];
      const Event& after = trace_.spans[i];
      if (before.process != after.process || before.track != after.track) continue;
      if (after.begin_ns < before.end_ns) {
        Error(absl::StrCat("\"", after.name, "\" begins ", before.end_ns - after.begin_ns,
                           " ns before the end of \"", before.name, "\" on ", after.track, " of ",
                           after.process));
      }
    }
  }

 private:
  void Error(std::string what) {
    if (trace_.errors.size() < 20) trace_.errors.push_back(std::move(what));
  }

  const Value& Field(const Struct& object, const std::string& name, Value::KindCase kind) {
    const auto found = object.fields().find(name);
    if (found != object.fields().end() && found->second.kind_case() == kind) return found->second;
    Error(absl::StrCat("no ", name, " of the right type in ", object.ShortDebugString()));
    static const Value& none = *new Value();
    return none;
  }
  std::string Text(const Struct& object, const std::string& name) {
    return Field(object, name, Value::kStringValue).string_value();
  }
  int64_t Whole(const Struct& object, const std::string& name) {
    const double value = Field(object, name, Value::kNumberValue).number_value();
    if (value < 0 || value != floor(value)) Error(absl::StrCat(name, ": ", value));
    return static_cast<int64_t>(value);
  }
  int64_t Nanoseconds(const Struct& object, const std::string& name) {
    const double value = Field(object, name, Value::kNumberValue).number_value();
    if (!(value >= 0 && value < 1e12)) Error(absl::StrCat(name, ": ", value));
    return llround(value * 1000);
  }

  // Chrome's viewer knows these, and more; for one that it does not know it refuses the whole file.
  std::string Color(const Struct& object) {
    std::string color = Text(object, "cname");
    if (color != "thread_state_running" && color != "thread_state_iowait" && color != "terrible") {
      Error(absl::StrCat("cname: ", color));
    }
    return color;
  }

  void CheckEvent(const Struct& object) {
    const std::string phase = Text(object, "ph");
    const int64_t process = Whole(object, "pid");
    const std::string name = Text(object, "name");
    if (phase == "M") return CheckMetadata(object, process, name);
    Event event;
    event.category = Text(object, "cat");
    event.name = name;
    event.begin_ns = event.end_ns = Nanoseconds(object, "ts");
    const TrackId track(process, Whole(object, "tid"));
    if (phase == "X") {
      event.end_ns += Nanoseconds(object, "dur");
      const Struct& arguments = Field(object, "args", Value::kStructValue).struct_value();
      event.unfinished = arguments.fields().contains("unfinished");
      if (object.fields().contains("cname")) event.color = Color(object);
      spans_.emplace_back(track, std::move(event));
    } else if (phase == "i") {
      if (Text(object, "s") != "t") Error("an instant is not of its thread");
      instants_.emplace_back(track, std::move(event));
    } else {
      Error(absl::StrCat("ph: ", phase));
    }
  }

  void CheckMetadata(const Struct& object, int64_t process, const std::string& name) {
    const Struct& arguments = Field(object, "args", Value::kStructValue).struct_value();
    if (name == "process_name") {
      if (!processes_.emplace(process, Text(arguments, "name")).second) Error("two process names");
    } else if (name == "thread_name") {
      const TrackId track(process, Whole(object, "tid"));
      if (!tracks_.emplace(track, Text(arguments, "name")).second) Error("two thread names");
    } else if (name == "process_sort_index" || name == "thread_sort_index") {
      Whole(arguments, "sort_index");
    } else {
      Error(absl::StrCat("metadata: ", name));
    }
  }

  void Name(std::vector<Event>& to, std::vector<std::pair<TrackId, Event>>& from) {
    std::stable_sort(from.begin(), from.end(), [](const auto& a, const auto& b) {
      return std::tie(a.first, a.second.begin_ns, a.second.end_ns) <
             std::tie(b.first, b.second.begin_ns, b.second.end_ns);
    });
    for (auto& [track, event] : from) {
      event.process = processes_[track.first];
      event.track = tracks_[track];
      if (event.process.empty() || event.track.empty()) {
        Error(absl::StrCat("\"", event.name, "\" has no named process or track"));
      }
      to.push_back(std::move(event));
    }
  }

  CheckedTrace& trace_;
  std::map<int64_t, std::string> processes_;
  std::map<TrackId, std::string> tracks_;
  std::vector<std::pair<TrackId, Event>> spans_;
  std::vector<std::pair<TrackId, Event>> instants_;
};

}  // namespace

std::vector<Event> CheckedTrace::Find(const std::string& process, const std::string& category,
                                      const std::string& name) const {
  std::vector<Event> found;
  for (const std::vector<Event>* events : {&spans, &instants}) {
    for (const Event& event : *events) {
      if (!absl::StartsWith(event.process, process)) continue;
      if (!category.empty() && event.category != category) continue;
      if (absl::StartsWith(event.name, name)) found.push_back(event);
    }
  }
  return found;
}

CheckedTrace CheckTrace(const std::string& path) {
  CheckedTrace trace;
  // protobuf's parser takes more than JSON.
  const CommandResult strict =
      RunCommand(absl::StrCat("python3 -m json.tool ", path, " /dev/null"));
  if (strict.exit_code != 0) trace.errors.push_back(strict.output);
  std::ifstream in(path);
  const std::string json((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  Struct file;
  const auto parsed = google::protobuf::util::JsonStringToMessage(json, &file);
  if (!parsed.ok()) {
    trace.errors.push_back(parsed.ToString());
    return trace;
  }
  Checker(trace).Check(file);
  return trace;
}

}  // namespace bulkhead::vmctl
