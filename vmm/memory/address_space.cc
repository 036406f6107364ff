#include "vmm/memory/address_space.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/access_mask.h"

namespace bulkhead::vmm {

AddressSpace::AddressSpace() : table_(std::make_shared<const Table>()) {}

absl::Status AddressSpace::Insert(uint64_t start, uint64_t size_bytes, IoHandler* handler) {
  if (size_bytes == 0 || start + (size_bytes - 1) < start) {
    return absl::InvalidArgumentError(
        absl::StrFormat("address range 0x%x + 0x%x is empty or wraps", start, size_bytes));
  }
  absl::MutexLock lock(&mutex_);
  Table table = *table_;
  const auto next =
      std::find_if(table.begin(), table.end(), [=](const Range& r) { return r.start >= start; });
  const Range* clash = nullptr;
  if (next != table.end() && next->start - start < size_bytes) clash = &*next;
  if (next != table.begin()) {
    const Range& previous = *(next - 1);
    if (start - previous.start < previous.size_bytes) clash = &previous;
  }
  if (clash != nullptr) {
    return absl::AlreadyExistsError(
        absl::StrFormat("address range 0x%x + 0x%x overlaps 0x%x + 0x%x", start, size_bytes,
                        clash->start, clash->size_bytes));
  }
  table.insert(next, Range{start, size_bytes, handler});
  Publish(std::make_shared<const Table>(std::move(table)));
  return absl::OkStatus();
}

absl::Status AddressSpace::Remove(uint64_t start) {
  absl::MutexLock lock(&mutex_);
  Table table = *table_;
  const auto found =
      std::find_if(table.begin(), table.end(), [=](const Range& r) { return r.start == start; });
  if (found == table.end()) {
    return absl::NotFoundError(absl::StrFormat("no address range begins at 0x%x", start));
  }
  table.erase(found);
  Publish(std::make_shared<const Table>(std::move(table)));
  return absl::OkStatus();
}

void AddressSpace::Publish(std::shared_ptr<const Table> table) {
  table_ = std::move(table);
  // release: a View that sees the new number and then takes the lock finds at least this table.
  // The lock alone gives that too. The number adds this: if a guest changes a range on one CPU and
  // then notifies another CPU through its memory, the other CPU sees the change. Pairs with the
  // acquire in Find().
  table_version_.fetch_add(1, std::memory_order_release);
}

const AddressSpace::Range* AddressSpace::View::Find(uint64_t address, uint8_t size_bytes) {
  if (space_.table_version_.load(std::memory_order_acquire) != table_version_) {
    absl::MutexLock lock(&space_.mutex_);
    table_ = space_.table_;
    table_version_ = space_.table_version_.load(std::memory_order_relaxed);
    last_hit_ = table_->size();
  }
  const Table& table = *table_;
  const auto holds = [=](const Range& range) {
    const uint64_t offset = address - range.start;
    return address >= range.start && offset < range.size_bytes &&
           size_bytes <= range.size_bytes - offset;
  };
  // Accesses come in bursts to one device.
  if (last_hit_ < table.size() && holds(table[last_hit_])) return &table[last_hit_];
  const auto after =
      std::upper_bound(table.begin(), table.end(), address,
                       [](uint64_t value, const Range& range) { return value < range.start; });
  if (after == table.begin() || !holds(*(after - 1))) {
    space_.unclaimed_accesses_.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  last_hit_ = static_cast<size_t>(after - 1 - table.begin());
  return &table[last_hit_];
}

uint64_t AddressSpace::View::Read(Waiter waiter, uint64_t address, uint8_t size_bytes) {
  const Range* range = Find(address, size_bytes);
  if (range == nullptr) return AccessMask(size_bytes);
  return range->handler->Read(waiter, address - range->start, size_bytes);
}

void AddressSpace::View::Write(Waiter waiter, uint64_t address, uint8_t size_bytes,
                               uint64_t value) {
  const Range* range = Find(address, size_bytes);
  if (range == nullptr) return;
  range->handler->Write(waiter, address - range->start, size_bytes, value);
}

}  // namespace bulkhead::vmm
