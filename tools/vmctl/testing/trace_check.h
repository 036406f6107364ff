#ifndef BULKHEAD_TOOLS_VMCTL_TESTING_TRACE_CHECK_H_
#define BULKHEAD_TOOLS_VMCTL_TESTING_TRACE_CHECK_H_

#include <stdint.h>

#include <string>
#include <vector>

namespace bulkhead::vmctl {

// A file of `vmctl trace`, taken apart by what Chrome's trace event format says.
struct CheckedTrace {
  struct Event {
    std::string process;  // their names
    std::string track;
    std::string category;
    std::string name;
    std::string color;  // a name that Chrome's viewer has for it, or empty
    int64_t begin_ns = 0;
    int64_t end_ns = 0;  // an instant: its begin
    bool unfinished = false;
  };

  std::vector<Event> spans;     // by track and time
  std::vector<Event> instants;  // by track and time
  // What is wrong: no strict JSON, an event without a field that its kind must have or with one of
  // another type, a colour that Chrome's viewer may not know, a track or process without a name or
  // with two, spans of a track that overlap.
  std::vector<std::string> errors;

  // Those of that process, category and beginning of the name; "": any.
  std::vector<Event> Find(const std::string& process, const std::string& category,
                          const std::string& name = "") const;
};

CheckedTrace CheckTrace(const std::string& path);

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TESTING_TRACE_CHECK_H_
