// What a dead process left is hostile: any bytes. Saves, damages, loads.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/memory_mapping.h"
#include "base/testing/fuzz_input.h"
#include "devices/host/durable_state.h"
#include "proto/durable_layout.h"

namespace bulkhead::devices {
namespace {

constexpr uint32_t kStateBytes = 24;
constexpr uint64_t kMemoryBytes = 16;

class Session {
 public:
  Session(const uint8_t* data, size_t size) : input_(data, size) {
    info_.set_saved_state_bytes(kStateBytes);
    info_.set_durable_memory_bytes(kMemoryBytes);
    Open();
  }

  void Run() {
    while (!input_.empty() && state_ != nullptr) {
      switch (input_.Byte() % 4) {
        case 0:
          Save();
          break;
        case 1:
          state_->SaveResetOrder({.ticket = head_});
          expected_.reset();
          break;
        case 2:
          Damage();
          break;
        case 3:
          head_ += input_.Byte() % 3;
          Open();
          break;
      }
    }
  }

 private:
  void Save() {
    const std::vector<uint8_t> bytes(input_.Byte() % (kStateBytes + 1), input_.Byte());
    const DurableState::Record record = {.ticket = head_ + input_.Byte() % 2,
                                         .answer = input_.Take(8)};
    state_->Save(record, [&](absl::Span<uint8_t> out) {
      if (!bytes.empty()) memcpy(out.data(), bytes.data(), bytes.size());
      return bytes.size();
    });
    if (intact_) expected_ = DurableState::Loaded{record, false, bytes};
  }

  // Mostly where something is; the slots lie at the start.
  void Damage() {
    const size_t at = input_.Byte() < 200 ? input_.Byte() : input_.Take(8) % mapping_.size();
    const int count = input_.Byte() % 9;
    for (int i = 0; i < count; ++i) mapping_.data()[(at + i) % mapping_.size()] = input_.Byte();
    intact_ = false;
  }

  void Open() {
    absl::StatusOr<std::unique_ptr<DurableState>> opened =
        DurableState::Open(info_, file_.get(), head_);
    if (!opened.ok()) {
      Require(!intact_, "an intact state was refused");
      Require(absl::IsDataLoss(opened.status()) || absl::IsFailedPrecondition(opened.status()));
      state_ = nullptr;
      return;
    }
    state_ = *std::move(opened);
    const std::optional<DurableState::Loaded> loaded = state_->TakeLoaded();
    if (loaded.has_value()) {
      Require(loaded->record.ticket <= head_ + 1);
      Require(loaded->bytes.size() <= kStateBytes);
      Require(!loaded->reset_ordered || loaded->bytes.empty());
    }
    if (!intact_ || !expected_.has_value()) return;
    Require(loaded.has_value(), "an intact state is gone");
    Require(loaded->record == expected_->record && loaded->bytes == expected_->bytes);
  }

  FuzzInput input_;
  v1::DeviceInfo info_;
  const size_t size_ = durable::SizeBytes(kStateBytes, kMemoryBytes);
  const UniqueFd file_ = *CreateMemfd("fuzz", size_);
  const MemoryMapping mapping_ =
      *MemoryMapping::Map(file_.get(), 0, size_, MemoryMapping::Protection::kReadWrite);
  std::unique_ptr<DurableState> state_;
  uint64_t head_ = 0;
  bool intact_ = true;
  std::optional<DurableState::Loaded> expected_;
};

}  // namespace
}  // namespace bulkhead::devices

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  bulkhead::devices::Session(data, size).Run();
  return 0;
}
