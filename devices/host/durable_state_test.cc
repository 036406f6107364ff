#include "devices/host/durable_state.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/durable_layout.h"

namespace bulkhead::devices {
namespace {

using ::testing::HasSubstr;
using Record = DurableState::Record;
using Image = std::vector<uint8_t>;

constexpr uint32_t kStateBytes = 100;
constexpr uint64_t kMemoryBytes = 5000;
constexpr uint64_t kProcessed = 1000;  // the channel's head
constexpr size_t kSlot0 = durable::kSlotsOffset;
constexpr size_t kSlot1 = kSlot0 + durable::SlotBytes(kStateBytes);

v1::DeviceInfo Info() {
  v1::DeviceInfo info;
  info.set_saved_state_bytes(kStateBytes);
  info.set_durable_memory_bytes(kMemoryBytes);
  info.set_state_version(7);
  return info;
}

std::vector<uint8_t> Bytes(uint8_t value, size_t count = kStateBytes) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>(value + i);
  return bytes;
}

void Save(DurableState& state, const Record& record, const std::vector<uint8_t>& bytes) {
  state.Save(record, [&](absl::Span<uint8_t> out) {
    EXPECT_EQ(out.size(), kStateBytes);
    std::copy(bytes.begin(), bytes.end(), out.begin());
    return bytes.size();
  });
}

class DurableStateTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<DurableState>> Open(uint64_t processed = kProcessed) {
    return DurableState::Open(Info(), file_.get(), processed);
  }
  std::unique_ptr<DurableState> MustOpen() {
    auto state = Open();
    EXPECT_TRUE(state.ok()) << state.status();
    return state.ok() ? *std::move(state) : nullptr;
  }
  // Of the successor of the process that has saved so far.
  std::optional<DurableState::Loaded> Load() { return MustOpen()->TakeLoaded(); }

  Image Read() const { return Image(mapping_.data(), mapping_.data() + mapping_.size()); }
  void Write(const Image& image) { std::copy(image.begin(), image.end(), mapping_.data()); }
  template <typename T>
  void Put(size_t offset, T value) {
    memcpy(mapping_.data() + offset, &value, sizeof(value));
  }

  const size_t size_ = durable::SizeBytes(kStateBytes, kMemoryBytes);
  UniqueFd file_ = *CreateMemfd("state", size_);
  MemoryMapping mapping_ =
      *MemoryMapping::Map(file_.get(), 0, size_, MemoryMapping::Protection::kReadWrite);
};

TEST_F(DurableStateTest, ANewFileHasNoStateAndZeroedMemory) {
  const auto state = MustOpen();
  EXPECT_FALSE(state->TakeLoaded().has_value());
  ASSERT_EQ(state->memory().size(), kMemoryBytes);
  EXPECT_EQ(std::count(state->memory().begin(), state->memory().end(), 0), kMemoryBytes);
  EXPECT_FALSE(Load().has_value()) << "the header alone is no state";
}

TEST_F(DurableStateTest, ASuccessorLoadsTheLastSaveWithAllThatBelongsToIt) {
  const auto state = MustOpen();
  for (uint8_t i = 1; i <= 5; ++i) {
    const Record record = {.ticket = i, .answer = 10u + i, .function_state = 20u + i};
    Save(*state, record, Bytes(i, kStateBytes - i));
    const auto loaded = Load();
    ASSERT_TRUE(loaded.has_value());
    EXPECT_EQ(loaded->record, record);
    EXPECT_EQ(loaded->bytes, Bytes(i, kStateBytes - i));
    EXPECT_FALSE(loaded->reset_ordered);
  }
  EXPECT_EQ(state->saves(), 5u);
}

TEST_F(DurableStateTest, EverySuccessorGoesOnSaving) {
  for (uint8_t i = 1; i <= 5; ++i) {
    const auto state = MustOpen();
    const auto loaded = state->TakeLoaded();
    EXPECT_EQ(loaded.value_or(DurableState::Loaded()).bytes, i > 1 ? Bytes(i - 1) : Bytes(0, 0));
    EXPECT_FALSE(state->TakeLoaded().has_value()) << "once";
    Save(*state, {.ticket = i}, Bytes(i));
  }
}

TEST_F(DurableStateTest, AStateOfNoBytesIsAState) {
  Save(*MustOpen(), {.ticket = 3, .answer = 4}, {});
  const auto loaded = Load();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_EQ(loaded->record.answer, 4u);
  EXPECT_TRUE(loaded->bytes.empty());
}

TEST_F(DurableStateTest, AnOrderedResetIsFoundUntilTheNextSave) {
  const auto state = MustOpen();
  Save(*state, {.ticket = 1}, Bytes(1));
  state->SaveResetOrder({.ticket = 2, .function_state = 5});
  auto loaded = Load();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_TRUE(loaded->reset_ordered);
  EXPECT_TRUE(loaded->bytes.empty());
  EXPECT_EQ(loaded->record.ticket, 2u);
  EXPECT_EQ(loaded->record.function_state, 5u);
  Save(*state, {.ticket = 2}, Bytes(2));
  loaded = Load();
  EXPECT_FALSE(loaded->reset_ordered);
  EXPECT_EQ(loaded->bytes, Bytes(2));
}

TEST_F(DurableStateTest, TheModelsMemoryIsSharedWithTheSuccessorAndNoPartOfASave) {
  const auto state = MustOpen();
  state->memory().front() = 1;
  state->memory().back() = 2;
  Save(*state, {}, Bytes(1));
  const auto successor = MustOpen();
  state->memory()[1] = 3;  // the other process is dead by then; here both live
  EXPECT_EQ(successor->memory().front(), 1);
  EXPECT_EQ(successor->memory()[1], 3);
  EXPECT_EQ(successor->memory().back(), 2);
  EXPECT_EQ(Load()->bytes, Bytes(1));
}

// What a save changes, in the order in which it does: the sequence to 0, the slot's contents, the
// sequence. Every process that may die in between leaves one of these images.
class TornSaveTest : public DurableStateTest {
 protected:
  void SetUp() override {
    const auto state = MustOpen();
    Save(*state, {.ticket = 1}, Bytes(1));
    Save(*state, {.ticket = 2}, Bytes(2));
    Save(*state, {.ticket = 3}, Bytes(3));
    before_ = Read();
    Save(*state, {.ticket = 4, .answer = ~uint64_t{0}, .function_state = 3}, Bytes(200));
    after_ = Read();
    // The fourth save went where the second was.
    ASSERT_TRUE(std::equal(before_.begin(), before_.begin() + kSlot1, after_.begin()));
    torn_ = before_;
    std::fill_n(torn_.begin() + kSlot1, sizeof(uint64_t), 0);
  }

  Image before_, after_, torn_;
};

TEST_F(TornSaveTest, EveryTruncationLeavesTheStateBefore) {
  const size_t end = kSlot1 + durable::SlotBytes(kStateBytes);
  for (size_t contents = kSlot1 + sizeof(uint64_t); contents <= end; ++contents) {
    Image image = torn_;
    std::copy(after_.begin() + kSlot1 + sizeof(uint64_t), after_.begin() + contents,
              image.begin() + kSlot1 + sizeof(uint64_t));
    Write(image);
    const auto loaded = Load();
    ASSERT_TRUE(loaded.has_value());
    ASSERT_EQ(loaded->record.ticket, 3u) << contents;
    ASSERT_EQ(loaded->bytes, Bytes(3));
  }
  Write(after_);
  EXPECT_EQ(Load()->bytes, Bytes(200));
}

TEST_F(TornSaveTest, WhateverOrderTheContentsAreWrittenInTheStateBeforeIsLeft) {
  std::mt19937 random(1);
  for (int round = 0; round < 1000; ++round) {
    Image image = torn_;
    for (size_t i = kSlot1 + sizeof(uint64_t); i < kSlot1 + durable::SlotBytes(kStateBytes); ++i) {
      if (random() % 2 == 0) image[i] = after_[i];
    }
    Write(image);
    ASSERT_EQ(Load()->bytes, Bytes(3));
  }
}

TEST_F(TornSaveTest, ASuccessorOfATornSaveSavesInItsPlace) {
  Write(torn_);
  Save(*MustOpen(), {.ticket = 5}, Bytes(5));
  EXPECT_EQ(Load()->bytes, Bytes(5));
  // The third state is still there, should this save have been torn.
  std::fill_n(mapping_.data() + kSlot1, sizeof(uint64_t), 0);
  EXPECT_EQ(Load()->bytes, Bytes(3));
}

TEST_F(TornSaveTest, ATornFirstSaveIsNoState) {
  std::fill_n(mapping_.data(), size_, 0);
  Save(*MustOpen(), {.ticket = 1}, Bytes(1));
  Put<uint64_t>(kSlot0, 0);
  EXPECT_FALSE(Load().has_value());
}

TEST_F(TornSaveTest, EveryChangedByteIsFoundOrIsNone) {
  const size_t contents_end = sizeof(durable::SlotHeader) + kStateBytes;
  int refused = 0;
  for (size_t at = 0; at < durable::DurableMemoryOffset(kStateBytes); ++at) {
    for (const uint8_t change : {0x01, 0x80, 0xff}) {
      Image image = after_;
      image[at] ^= change;
      Write(image);
      const auto state = Open();
      const bool in_use = at < sizeof(durable::DurableHeader) ||
                          (at >= kSlot0 && at < kSlot0 + contents_end) ||
                          (at >= kSlot1 && at < kSlot1 + contents_end);
      ASSERT_EQ(state.ok(), !in_use) << at;
      if (in_use) {
        ++refused;
        ASSERT_TRUE(absl::IsDataLoss(state.status()) || absl::IsFailedPrecondition(state.status()));
      } else {
        ASSERT_EQ((*state)->TakeLoaded()->bytes, Bytes(200)) << at;
      }
    }
  }
  EXPECT_EQ(refused, static_cast<int>(3 * (sizeof(durable::DurableHeader) + 2 * contents_end)));
}

TEST_F(TornSaveTest, BothSlotsDamagedAreRefused) {
  mapping_.data()[kSlot0 + 60] ^= 1;
  mapping_.data()[kSlot1 + 60] ^= 1;
  const absl::Status status = Open().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("checksum of slot 0 is wrong"));
}

TEST_F(DurableStateTest, ATicketIsAtMostTheOneAfterTheHead) {
  Save(*MustOpen(), {.ticket = kProcessed + 1}, Bytes(1));
  EXPECT_TRUE(Open(kProcessed).ok());
  EXPECT_TRUE(Open(kProcessed + 1).ok());
  EXPECT_TRUE(Open(kProcessed + 100).ok());
  const absl::Status status = Open(kProcessed - 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(),
            "the saved state is damaged: it includes request 1001, but the channel is at request "
            "999");
}

TEST_F(DurableStateTest, AnotherVersionIsRefused) {
  Save(*MustOpen(), {}, Bytes(1));
  v1::DeviceInfo newer = Info();
  newer.set_state_version(8);
  const absl::Status status = DurableState::Open(newer, file_.get(), kProcessed).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 7 of this device, and this is"));
  Put<uint32_t>(8, 2);
  EXPECT_THAT(std::string(Open().status().message()), HasSubstr("layout version 2"));
}

TEST_F(DurableStateTest, WhatIsNoStateIsRefused) {
  const auto refuses = [this](absl::string_view why) {
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(why)));
  };
  Put<uint64_t>(0, 1);
  refuses("wrong magic number");
  Put<uint64_t>(0, 0);
  Put<uint64_t>(kSlot1, 1);
  refuses("no header");
  Put<uint64_t>(kSlot1, 0);
  Save(*MustOpen(), {}, Bytes(1));
  Put<uint32_t>(kSlot0 + 32, kStateBytes + 1);
  refuses("101 bytes in a slot for 100");
}

TEST_F(DurableStateTest, TwoSlotsOfOneNumberAreRefused) {
  Save(*MustOpen(), {}, Bytes(1));
  memcpy(mapping_.data() + kSlot1, mapping_.data() + kSlot0, durable::SlotBytes(kStateBytes));
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(DurableStateTest, AFileOrADescriptionOfAWrongSizeIsRefused) {
  const UniqueFd small = *CreateMemfd("small", size_ - 1);
  EXPECT_EQ(DurableState::Open(Info(), small.get(), 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  v1::DeviceInfo greedy = Info();
  greedy.set_saved_state_bytes(kMaxSavedStateBytes + 1);
  EXPECT_FALSE(DurableState::Open(greedy, file_.get(), 0).ok());
  greedy = Info();
  greedy.set_durable_memory_bytes(kMaxDurableMemoryBytes + 1);
  EXPECT_FALSE(DurableState::Open(greedy, file_.get(), 0).ok());
}

TEST_F(DurableStateTest, ADeviceWithoutStateStillHasItsTickets) {
  const UniqueFd file = *CreateMemfd("none", durable::SizeBytes(0, 0));
  const auto state = *DurableState::Open(v1::DeviceInfo(), file.get(), 5);
  EXPECT_TRUE(state->memory().empty());
  state->Save({.ticket = 6, .answer = 9}, [](absl::Span<uint8_t> out) { return out.size(); });
  const auto successor = *DurableState::Open(v1::DeviceInfo(), file.get(), 5);
  EXPECT_EQ(successor->TakeLoaded()->record.answer, 9u);
}

}  // namespace
}  // namespace bulkhead::devices
