#ifndef BULKHEAD_DEVICES_HOST_TESTING_FAKE_SERVICES_H_
#define BULKHEAD_DEVICES_HOST_TESTING_FAKE_SERVICES_H_

#include <poll.h>
#include <stdint.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/event_fd.h"
#include "base/guest_memory.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "proto/channel/trace_ring.h"

namespace bulkhead::devices {

// What a device model's test sees of the device host: guest memory to fill, and a record of
// the interrupts. Thread-compatible.
class FakeServices : public DeviceServices {
 public:
  struct RamRange {
    GuestAddress start;
    uint64_t size_bytes;
  };

  // Guest RAM is zeroed. Crashes if the ranges overlap: the test is wrong.
  explicit FakeServices(const std::vector<RamRange>& ram = {{0, 1 << 20}}) {
    std::vector<GuestMemory::Range> ranges;
    for (const RamRange& range : ram) {
      UniqueFd fd = CreateMemfd("fake-guest-ram", range.size_bytes).value();
      ranges.push_back({range.start, MemoryMapping::Map(fd.get(), 0, range.size_bytes,
                                                        MemoryMapping::Protection::kReadWrite)
                                         .value()});
      memory_blocks_.push_back({range.start, range.size_bytes, 0, fd.get()});
      memory_files_.push_back(std::move(fd));
    }
    memory_ = GuestMemory::Create(std::move(ranges)).value();
  }

  void AddResource(absl::string_view name, UniqueFd fd) {
    resources_[std::string(name)] = std::move(fd);
  }

  // As Describe().durable_memory_bytes asks for, zeroed, and shared with forked children. Before
  // the model starts.
  void SetDurableMemory(uint64_t size_bytes) {
    durable_file_ = CreateMemfd("fake-durable-memory", size_bytes).value();
    durable_memory_ = MemoryMapping::Map(durable_file_.get(), 0, size_bytes,
                                         MemoryMapping::Protection::kReadWrite)
                          .value();
  }
  // How often the model said that its state has changed, since the last call.
  int TakeStateChanges() { return std::exchange(state_changes_, 0); }
  int keep_alives() const { return keep_alives_; }
  bool awaits_back_end() const { return awaits_back_end_; }

  // The vectors signalled since the last call, in order.
  std::vector<uint32_t> TakeMsixSignals() { return std::exchange(msix_signals_, {}); }
  bool intx() const { return intx_; }

  // Does what the event loop does when `fd` has become readable. False if nobody watches it.
  bool FireWatch(int fd) {
    const auto watch = watches_.find(fd);
    if (watch == watches_.end()) return false;
    const auto on_readable = watch->second;  // lives on if the watch ends itself
    (*on_readable)();
    return true;
  }
  bool IsWatched(int fd) const { return watches_.count(fd) != 0; }

  // Does what the host does before it sleeps; RunWatches() ends with it.
  void Sleep() {
    while (sleeper_ != nullptr && sleeper_->PrepareToSleep()) sleeper_->DoWork();
  }
  // Whom Sleep() asks; nullptr: nobody.
  void set_sleeper(DeviceModel* model) { sleeper_ = model; }

  // Calls the watches of all readable descriptors, after waiting up to `timeout_ms` for the
  // first. Returns how many were called.
  int RunWatches(int timeout_ms) {
    std::vector<pollfd> fds;
    for (const auto& [fd, on_readable] : watches_) {
      fds.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    }
    poll(fds.data(), fds.size(), timeout_ms);
    int called = 0;
    for (const pollfd& entry : fds) {
      if (entry.revents != 0 && FireWatch(entry.fd)) ++called;
    }
    Sleep();
    return called;
  }

  // Runs the watches until `condition` holds. False if it does not although nothing has
  // happened for many seconds: a broken device fails its test, it does not hang it.
  bool RunUntil(const std::function<bool()>& condition) {
    int quiet_seconds = 0;
    for (int i = 0; i < 1'000'000 && quiet_seconds < 20; ++i) {
      if (condition()) return true;
      quiet_seconds = RunWatches(1000) == 0 ? quiet_seconds + 1 : 0;
    }
    return condition();
  }

  const GuestMemory& memory() const override { return memory_; }
  void SignalMsix(uint32_t vector) override { msix_signals_.push_back(vector); }
  void SetIntx(bool level) override { intx_ = level; }

  // What writeback_failed() says of every resource, to the next model that asks.
  void SetWritebackFailed(bool failed) { writeback_failed_ = failed; }
  bool writeback_failed(absl::string_view) const override { return writeback_failed_; }

  absl::StatusOr<UniqueFd> TakeResource(absl::string_view name) override {
    const auto resource = resources_.find(std::string(name));
    if (resource == resources_.end()) return absl::NotFoundError("no such resource");
    UniqueFd fd = std::move(resource->second);
    resources_.erase(resource);
    return fd;
  }

  absl::Status Watch(int fd, absl::AnyInvocable<void()> on_readable) override {
    if (watches_.count(fd) != 0) return absl::AlreadyExistsError("fd is watched");
    watches_.emplace(fd, std::make_shared<absl::AnyInvocable<void()>>(std::move(on_readable)));
    return absl::OkStatus();
  }
  void Unwatch(int fd) override { watches_.erase(fd); }
  void StateChanged() override { ++state_changes_; }
  absl::Span<uint8_t> durable_memory() override {
    return absl::MakeSpan(durable_memory_.data(), durable_memory_.size());
  }
  void KeepAlive() override { ++keep_alives_; }
  channel::TraceRecorder trace() const override { return {*trace_on_, trace_ring()}; }
  // Begins a trace; what it records is in the ring.
  void StartTrace() { *trace_on_ = 1; }
  channel::TraceRing& trace_ring() const {
    return *reinterpret_cast<channel::TraceRing*>(trace_memory_.data());
  }
  void SetAwaitsBackEnd(bool awaits) override { awaits_back_end_ = awaits; }

  // Any doorbell and vector can be lent.
  absl::Span<const GuestMemoryBlock> memory_blocks() const override { return memory_blocks_; }
  MemoryFilePlace durable_memory_file() const override { return {durable_file_.get(), 0}; }
  int LendDoorbell(uint32_t index) override {
    EventFd& doorbell = Event(doorbells_, index);
    doorbell.Signal();
    lent_[index] = true;
    return doorbell.fd();
  }
  void TakeBackDoorbell(uint32_t index) override { lent_[index] = false; }
  bool is_lent(uint32_t index) { return lent_[index]; }
  int vector_descriptor(uint32_t vector) const override { return Event(vectors_, vector).fd(); }
  // The vector's descriptor was signalled since the last call.
  bool TakeVectorEvent(uint32_t vector) { return Event(vectors_, vector).Drain(); }

 private:
  static EventFd& Event(std::map<uint32_t, EventFd>& events, uint32_t index) {
    const auto event = events.find(index);
    if (event != events.end()) return event->second;
    return events.emplace(index, EventFd::Create().value()).first->second;
  }

  GuestMemory memory_;
  std::vector<GuestMemoryBlock> memory_blocks_;
  std::vector<UniqueFd> memory_files_;
  UniqueFd durable_file_;
  std::map<uint32_t, EventFd> doorbells_;
  mutable std::map<uint32_t, EventFd> vectors_;
  std::map<uint32_t, bool> lent_;
  std::map<std::string, UniqueFd> resources_;
  std::vector<uint32_t> msix_signals_;
  bool intx_ = false;
  bool writeback_failed_ = false;
  MemoryMapping durable_memory_;
  // Stays where it is when this is moved.
  std::unique_ptr<std::atomic<uint32_t>> trace_on_ = std::make_unique<std::atomic<uint32_t>>(0);
  MemoryMapping trace_memory_ =
      MemoryMapping::Map(CreateMemfd("fake-trace", sizeof(channel::TraceRing)).value().get(), 0,
                         sizeof(channel::TraceRing), MemoryMapping::Protection::kReadWrite)
          .value();
  int state_changes_ = 0;
  int keep_alives_ = 0;
  bool awaits_back_end_ = false;
  DeviceModel* sleeper_ = nullptr;
  std::map<int, std::shared_ptr<absl::AnyInvocable<void()>>> watches_;
};

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_TESTING_FAKE_SERVICES_H_
