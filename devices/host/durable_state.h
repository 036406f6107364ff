#ifndef BULKHEAD_DEVICES_HOST_DURABLE_STATE_H_
#define BULKHEAD_DEVICES_HOST_DURABLE_STATE_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/memory_mapping.h"
#include "proto/device_control.pb.h"
#include "proto/durable_layout.h"

namespace bulkhead::devices {

// A device's state as it outlives the device's processes, one after the other, in a memory file
// (proto/durable_layout.h): loads what the last process left, and saves. A process may die at any
// instruction of a save: its successor finds the state of before or that of after.
// Single-threaded.
class DurableState {
 public:
  // What is saved beside the model's own bytes.
  struct Record {
    uint64_t ticket = 0;  // of the last channel request that the state includes
    uint64_t answer = 0;  // to that request
    uint64_t function_state = 0;
    bool operator==(const Record&) const = default;
  };
  struct Loaded {
    Record record;
    // The last process was about to reset the device: there are no bytes, zero memory() first.
    bool reset_ordered = false;
    std::vector<uint8_t> bytes;
  };

  // Maps `memfd`, which stays the caller's, for the device that `info` describes, and checks what
  // is there. `processed`: the channel's head. Nothing is loaded that may not be the last state:
  // Errors: FailedPrecondition (another version wrote it), DataLoss (it is damaged, or does not
  // fit the channel), InvalidArgument (file or description), or as mmap(2). The text is for the
  // operator.
  static absl::StatusOr<std::unique_ptr<DurableState>> Open(const v1::DeviceInfo& info, int memfd,
                                                            uint64_t processed);
  DurableState(const DurableState&) = delete;
  DurableState& operator=(const DurableState&) = delete;

  // What Open() found; nullopt: nothing was saved yet. Once.
  std::optional<Loaded> TakeLoaded() { return std::exchange(loaded_, std::nullopt); }

  // Saves what `write_bytes` puts into the span, which has DeviceInfo.saved_state_bytes; it returns
  // how many bytes those are. When this returns, it is the state. Allocates nothing.
  void Save(const Record& record, absl::FunctionRef<size_t(absl::Span<uint8_t>)> write_bytes);
  // From here until the next Save(), a successor finds Loaded::reset_ordered.
  void SaveResetOrder(const Record& record);

  // See durable::OwedFailure: what Save() and SaveResetOrder() do not change.
  void SetOwesFailure(bool owes);
  bool owes_failure() const;

  // DeviceInfo.durable_memory_bytes, the model's own.
  absl::Span<uint8_t> memory() const { return memory_; }

  uint64_t saves() const { return saves_; }

 private:
  DurableState(const v1::DeviceInfo& info, MemoryMapping mapping);

  absl::Status Load(uint64_t processed);
  absl::Status CheckHeader();
  // Reads a slot into `sequence` and `loaded`. `sequence` 0: there is nothing in it.
  absl::Status ReadSlot(int slot, uint64_t& sequence, Loaded& loaded) const;

  durable::SlotHeader& header(int slot) const;
  absl::Span<uint8_t> bytes(int slot) const;
  void Finish(durable::SlotHeader& slot, const Record& record, uint32_t size_bytes);

  const uint32_t saved_state_bytes_;
  const uint32_t state_version_;
  const MemoryMapping mapping_;
  const absl::Span<uint8_t> memory_;

  std::optional<Loaded> loaded_;
  uint64_t sequence_ = 0;  // of the newest state
  int next_slot_ = 0;      // where the next one goes: not where the newest is
  uint64_t saves_ = 0;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_DURABLE_STATE_H_
