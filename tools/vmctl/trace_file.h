#ifndef BULKHEAD_TOOLS_VMCTL_TRACE_FILE_H_
#define BULKHEAD_TOOLS_VMCTL_TRACE_FILE_H_

#include <stdint.h>

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/vm_control.pb.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {

// Writes a trace (the chunks of VmControl.Trace) as Chrome's trace event format, in JSON, which
// https://ui.perfetto.dev opens: a process for the VM and one for each device, with tracks of spans
// that do not overlap, and of instants. Requests of a virtqueue that are in flight together have a
// track each. What has not ended when the trace does has a span up to its end, which says so.
//
// Thread-compatible.
class TraceFile {
 public:
  // More than that the viewer can hardly load.
  static constexpr uint64_t kMaxBytes = uint64_t{256} << 20;

  // `write` gets the text piece by piece. False: it cannot be written.
  using Write = std::function<bool(absl::string_view text)>;

  struct Totals {
    std::string device;
    uint64_t accesses = 0;
    uint64_t doorbells = 0;
    uint64_t interrupts = 0;
    // That were completed, and whose begin is known; not buffers that waited for a network's
    // frames.
    uint64_t requests = 0;
    uint64_t request_ns = 0;
    uint64_t longest_request_ns = 0;
    uint64_t ends = 0;  // of its processes
  };

  explicit TraceFile(Write write, uint64_t max_bytes = kMaxBytes)
      : write_(std::move(write)), max_bytes_(max_bytes) {}

  // False: no more is taken, since the file has max_bytes, or cannot be written.
  bool Add(const v1::TraceChunk& chunk);
  // Ends all spans, and the file. False: it could not be written. Call it once.
  bool Finish();

  bool full() const { return full_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t lost() const { return lost_; }
  std::vector<Totals> totals() const;

 private:
  struct Track {
    uint32_t process = 0;
    uint32_t thread = 0;
  };
  struct State {  // the span of a state, which has begun
    std::string name;
    Color color = Color::kNone;
    uint64_t begin_ns = 0;
  };
  struct Request {
    uint64_t begin_ns = 0;
    uint64_t readable_bytes = 0;
    uint64_t writable_bytes = 0;
    size_t lane = 0;
  };
  struct Lane {
    Track track;
    bool taken = false;
    uint64_t free_ns = 0;  // since when, if it is not taken
  };
  struct Device {
    v1::Device is;
    uint32_t process = 0;
    Track state_track;
    Track doorbells;
    Track interrupts;
    State state;
    std::map<std::pair<uint32_t, uint32_t>, Request> requests;  // by queue and head
    std::map<uint32_t, std::vector<Lane>> lanes;                // by queue
    Totals totals;
  };

  void Start(const v1::TraceStart& start);
  // Writes what is from before `until_ns`, in its order.
  void WriteUntil(uint64_t until_ns);
  void WriteRecord(const v1::TraceRecord& record);
  void WriteAccess(const v1::TraceRecord& record, Device& device);
  void WriteEvent(const v1::TraceEvent& event);
  void AddLane(Device& device, uint32_t queue);
  void BeginRequest(const v1::TraceRecord& record, Device& device);
  void CompleteRequest(const v1::TraceRecord& record, Device& device);
  // `why`: it was not completed.
  void GiveUpRequest(Device& device, std::pair<uint32_t, uint32_t> which, uint64_t end_ns,
                     absl::string_view why);
  // Returns how long it took.
  uint64_t EndRequest(Device& device, std::map<std::pair<uint32_t, uint32_t>, Request>::iterator at,
                      uint64_t end_ns, absl::string_view suffix, Color color,
                      absl::string_view argument);
  void GiveUpRequests(Device& device, uint64_t end_ns, absl::string_view why);
  // The span of the state so far ends, and that of another one begins.
  void ChangeState(const Track& track, State& state, std::string name, Color color,
                   uint64_t now_ns);
  Device* FindDevice(const std::string& name);

  uint32_t NewProcess(absl::string_view name);
  Track NewTrack(uint32_t process, absl::string_view name, uint64_t order);
  void Span(const Track& track, absl::string_view category, absl::string_view name, Color color,
            uint64_t begin_ns, uint64_t end_ns, absl::string_view arguments);
  void Instant(const Track& track, absl::string_view category, absl::string_view name,
               uint64_t time_ns);
  std::string Time(uint64_t time_ns) const;
  void Append(absl::string_view object);
  void Flush();

  const Write write_;
  const uint64_t max_bytes_;
  std::string text_;  // to be written
  uint64_t bytes_ = 0;
  bool first_ = true;  // no object is written yet
  bool full_ = false;
  bool failed_ = false;
  bool started_ = false;

  uint64_t begin_ns_ = 0;
  uint64_t latest_ns_ = 0;
  uint64_t lost_ = 0;
  std::vector<v1::TraceRecord> records_;  // not written yet
  std::vector<v1::TraceEvent> events_;
  uint32_t last_process_ = 0;
  uint32_t last_thread_ = 1000;  // a thread with its process's number is its main thread
  Track vm_track_;
  State vm_state_;
  std::vector<Track> vcpus_;
  std::vector<Device> devices_;
  size_t open_requests_ = 0;  // of all devices
};

}  // namespace bulkhead::vmctl

#endif  // BULKHEAD_TOOLS_VMCTL_TRACE_FILE_H_
