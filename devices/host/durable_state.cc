#include "devices/host/durable_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

#include <array>
#include <atomic>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/crash_point.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"

// Why these orders are enough. The one who reads a save is another process, which the vmm starts
// on it after the death of the writer: between the two lie the kernel's exit of one and its start
// of the other, so the reader sees every store that the writer's processor has executed. A death is
// like a signal to the writing thread: it comes between two instructions, all before it took place,
// none after it. So what counts is that the instructions come in the order written here, which is
// the compiler's affair alone: the fences below are for it, and are no instructions.

namespace bulkhead::devices {
namespace {

using durable::DurableHeader;
using durable::SlotHeader;

template <typename... Args>
absl::Status Damaged(const Args&... args) {
  return absl::DataLossError(absl::StrCat("the saved state is damaged: ", args...));
}

// Nothing written before comes after it, and the reverse; see above.
void ForTheCompiler() { std::atomic_signal_fence(std::memory_order_seq_cst); }

uint32_t Checksum(uint64_t sequence, const DurableState::Record& record, uint32_t size_bytes,
                  absl::Span<const uint8_t> bytes) {
  const std::array<uint64_t, 5> fields = {sequence, record.ticket, record.answer,
                                          record.function_state, size_bytes};
  uLong crc = crc32(0, reinterpret_cast<const Bytef*>(fields.data()), sizeof(fields));
  // zlib takes a null pointer, which an empty span may have, for the order to start over.
  if (!bytes.empty()) crc = crc32(crc, bytes.data(), static_cast<uInt>(bytes.size()));
  return static_cast<uint32_t>(crc);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DurableState>> DurableState::Open(const v1::DeviceInfo& info,
                                                                 int memfd, uint64_t processed) {
  if (info.saved_state_bytes() > kMaxSavedStateBytes ||
      info.durable_memory_bytes() > kMaxDurableMemoryBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the device asks for ", info.saved_state_bytes(), " bytes of saved state and ",
                     info.durable_memory_bytes(), " of durable memory"));
  }
  const size_t size = durable::SizeBytes(info.saved_state_bytes(), info.durable_memory_bytes());
  struct stat file = {};
  if (fstat(memfd, &file) != 0) return ErrnoToStatus(errno, "fstat of the durable state");
  if (file.st_size < 0 || static_cast<uint64_t>(file.st_size) < size) {
    return absl::InvalidArgumentError(
        absl::StrCat("durable state: ", file.st_size, " bytes, not ", size));
  }
  ASSIGN_OR_RETURN(MemoryMapping mapping,
                   MemoryMapping::Map(memfd, 0, size, MemoryMapping::Protection::kReadWrite));
  std::unique_ptr<DurableState> state(new DurableState(info, std::move(mapping)));
  RETURN_IF_ERROR(state->Load(processed));
  return state;
}

DurableState::DurableState(const v1::DeviceInfo& info, MemoryMapping mapping)
    : saved_state_bytes_(info.saved_state_bytes()),
      state_version_(info.state_version()),
      mapping_(std::move(mapping)),
      memory_(mapping_.data() + durable::DurableMemoryOffset(saved_state_bytes_),
              info.durable_memory_bytes()) {}

absl::Status DurableState::Load(uint64_t processed) {
  RETURN_IF_ERROR(CheckHeader());
  std::array<uint64_t, 2> sequences = {};
  std::array<Loaded, 2> slots;
  for (int i = 0; i < 2; ++i) RETURN_IF_ERROR(ReadSlot(i, sequences[i], slots[i]));
  if (sequences[0] == 0 && sequences[1] == 0) return absl::OkStatus();
  if (sequences[0] == sequences[1]) return Damaged("both slots have number ", sequences[0]);
  const int newest = sequences[0] > sequences[1] ? 0 : 1;
  if (sequences[newest] == UINT64_MAX) return Damaged("an impossible number of saves");
  // A request is completed after its state was saved, and before the next one is looked at.
  if (slots[newest].record.ticket > processed + 1) {
    return Damaged("it includes request ", slots[newest].record.ticket,
                   ", but the channel is at request ", processed);
  }
  sequence_ = sequences[newest];
  next_slot_ = 1 - newest;
  loaded_ = std::move(slots[newest]);
  return absl::OkStatus();
}

absl::Status DurableState::CheckHeader() {
  auto& stored = *reinterpret_cast<DurableHeader*>(mapping_.data());
  DurableHeader found;
  memcpy(&found, &stored, sizeof(found));
  if (found.magic == durable::kDurableMagic) {
    if (found.version != durable::kDurableVersion) {
      return absl::FailedPreconditionError(
          absl::StrCat("the saved state has layout version ", found.version, ", this device has ",
                       durable::kDurableVersion, "; reset the device to discard it"));
    }
    if (found.state_version != state_version_) {
      return absl::FailedPreconditionError(
          absl::StrCat("the state was saved by version ", found.state_version,
                       " of this device, and this is version ", state_version_,
                       "; reset the device to discard it"));
    }
    return absl::OkStatus();
  }
  if (found.magic != 0) return Damaged("its header has a wrong magic number");
  for (int slot = 0; slot < 2; ++slot) {
    if (header(slot).sequence.load(std::memory_order_relaxed) != 0) return Damaged("no header");
  }
  stored.version = durable::kDurableVersion;
  stored.state_version = state_version_;
  ForTheCompiler();
  stored.magic = durable::kDurableMagic;
  return absl::OkStatus();
}

absl::Status DurableState::ReadSlot(int slot, uint64_t& sequence, Loaded& loaded) const {
  const SlotHeader& stored = header(slot);
  sequence = stored.sequence.load(std::memory_order_relaxed);
  if (sequence == 0) return absl::OkStatus();
  loaded.record = {
      .ticket = stored.ticket, .answer = stored.answer, .function_state = stored.function_state};
  const uint32_t size_bytes = stored.size_bytes;
  loaded.reset_ordered = size_bytes == durable::kResetOrdered;
  if (!loaded.reset_ordered) {
    if (size_bytes > saved_state_bytes_) {
      return Damaged(size_bytes, " bytes in a slot for ", saved_state_bytes_);
    }
    const absl::Span<const uint8_t> all = bytes(slot).first(size_bytes);
    loaded.bytes.assign(all.begin(), all.end());
  }
  if (stored.checksum != Checksum(sequence, loaded.record, size_bytes, loaded.bytes)) {
    return Damaged("the checksum of slot ", slot, " is wrong");
  }
  return absl::OkStatus();
}

void DurableState::Save(const Record& record,
                        absl::FunctionRef<size_t(absl::Span<uint8_t>)> write_bytes) {
  SlotHeader& slot = header(next_slot_);
  // Before anything else of the slot changes: until Finish() the slot is empty. relaxed, as
  // everything here: see the top of this file.
  slot.sequence.store(0, std::memory_order_relaxed);
  ForTheCompiler();
  CRASH_POINT("save_sequence_zeroed");
  const size_t size = write_bytes(bytes(next_slot_));
  if (size > saved_state_bytes_) {
    LogError(absl::StrCat("the model saved ", size, " bytes of at most ", saved_state_bytes_));
    abort();
  }
  CRASH_POINT("save_mid_contents");
  Finish(slot, record, static_cast<uint32_t>(size));
}

void DurableState::SaveResetOrder(const Record& record) {
  SlotHeader& slot = header(next_slot_);
  slot.sequence.store(0, std::memory_order_relaxed);  // as in Save()
  ForTheCompiler();
  Finish(slot, record, durable::kResetOrdered);
}

void DurableState::SetOwesFailure(bool owes) {
  // seq_cst: no store of a save, before or after it, passes it.
  reinterpret_cast<durable::OwedFailure*>(mapping_.data() + durable::kOwedFailureOffset)
      ->owed.store(owes ? 1 : 0);
}

bool DurableState::owes_failure() const {
  return reinterpret_cast<const durable::OwedFailure*>(mapping_.data() +
                                                       durable::kOwedFailureOffset)
             ->owed.load() != 0;
}

void DurableState::Finish(SlotHeader& slot, const Record& record, uint32_t size_bytes) {
  const size_t bytes_saved = size_bytes == durable::kResetOrdered ? 0 : size_bytes;
  ++sequence_;
  slot.ticket = record.ticket;
  slot.answer = record.answer;
  slot.function_state = record.function_state;
  slot.size_bytes = size_bytes;
  slot.checksum = Checksum(sequence_, record, size_bytes, bytes(next_slot_).first(bytes_saved));
  CRASH_POINT("save_before_sequence");
  // release: publishes the slot to the successor's ReadSlot(). For the compiler as well: neither
  // comes the contents after it, nor does it come after the channel's answer, a release too.
  slot.sequence.store(sequence_, std::memory_order_release);
  ForTheCompiler();
  next_slot_ = 1 - next_slot_;
  ++saves_;
}

SlotHeader& DurableState::header(int slot) const {
  return *reinterpret_cast<SlotHeader*>(mapping_.data() + durable::kSlotsOffset +
                                        slot * durable::SlotBytes(saved_state_bytes_));
}

absl::Span<uint8_t> DurableState::bytes(int slot) const {
  return {reinterpret_cast<uint8_t*>(&header(slot) + 1), saved_state_bytes_};
}

}  // namespace bulkhead::devices
