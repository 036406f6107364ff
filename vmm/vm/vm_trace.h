#ifndef BULKHEAD_VMM_VM_VM_TRACE_H_
#define BULKHEAD_VMM_VM_VM_TRACE_H_

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "proto/channel/trace_ring.h"
#include "proto/vm_control.pb.h"
#include "vmm/vm/event_log.h"

namespace bulkhead::vmm {

// One ring that a trace reads.
struct TraceSource {
  const channel::TraceRing* ring = nullptr;
  bool is_device = false;  // else a vCPU
  uint32_t index = 0;      // which one
  // Of a device, which names them by number.
  uint32_t doorbells = 0;
  uint32_t vectors = 0;
};

// A trace of the VM, as the messages for its client (proto/vm_control.proto). It reads the rings in
// rounds, kInterval apart; what it has not read yet lies in them, and nowhere else. Device
// processes are not trusted: a record that cannot be is dropped, its time is made to be one of this
// round, and a round reads a bounded number. Thread-compatible.
class VmTrace {
 public:
  static constexpr absl::Duration kInterval = absl::Milliseconds(50);
  // 0.3 MB: gRPC's clients take 4 by default.
  static constexpr size_t kRecordsOfChunk = 8192;

  // `start`: the content of the first message; its time is now. `last_event`: of `events`, which
  // `start` includes. What the sources point to, and `events`, must outlive this. `on_end` is
  // called once, before the destructor returns or by a Next() that makes it complete.
  VmTrace(v1::TraceStart start, std::vector<TraceSource> sources, EventLog& events,
          uint64_t last_event, absl::Duration duration, std::function<void()> on_end);
  ~VmTrace() { End(); }
  VmTrace(const VmTrace&) = delete;
  VmTrace& operator=(const VmTrace&) = delete;

  // The next message. Nullopt: complete(), or there is none before another kInterval has passed.
  std::optional<v1::TraceChunk> Next(uint64_t now_ns);
  bool complete() const { return complete_; }

 private:
  struct Source {
    TraceSource what;
    channel::TraceReader reader;
    uint64_t last_ns;  // of the last record
    size_t left = 0;   // that this round may still read
  };

  // Moves records of `source` to `chunk`. False: it has no more in this round.
  bool Move(Source& source, v1::TraceChunk& chunk);
  void Convert(const Source& source, const channel::TraceRecord& from, v1::TraceChunk& chunk) const;
  void MoveEvents(v1::TraceChunk& chunk);
  void End();

  const uint64_t begin_ns_;
  const uint64_t end_ns_;
  EventLog& events_;
  std::function<void()> on_end_;
  std::optional<v1::TraceChunk> first_;
  std::vector<Source> sources_;
  std::vector<channel::TraceRecord> records_;  // used within Move()
  uint64_t last_event_;
  uint64_t previous_ns_;   // when the last round began
  uint64_t round_ns_ = 0;  // when this one did; 0: none is under way
  size_t next_source_ = 0;
  bool complete_ = false;
};

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_VM_VM_TRACE_H_
