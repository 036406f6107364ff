#include "devices/virtio/recovery_model/recovery_world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>

#include "absl/strings/string_view.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr GuestAddress kDescriptors = 0x000;
constexpr GuestAddress kAvailable = 0x040;
constexpr GuestAddress kUsed = 0x050;
constexpr GuestAddress kEnd = 0x078;
constexpr GuestAddress kBuffers = 0x100;

uint32_t Bit(uint8_t request) { return uint32_t{1} << request; }

}  // namespace

std::string World::Key() const {
  std::string key(guest.begin(), guest.end());
  key.append(durable.begin(), durable.end());
  const uint16_t words[] = {available_idx, kicked_idx, used_idx, shown_idx};
  key.append(reinterpret_cast<const char*>(words), sizeof(words));
  const uint8_t bytes[] = {enabled,
                           epoch,
                           static_cast<uint8_t>(doorbell | interrupt << 1 | resetting << 2),
                           made,
                           rebinds,
                           static_cast<uint8_t>(done),
                           static_cast<uint8_t>(shown),
                           next_new};
  key.append(reinterpret_cast<const char*>(bytes), sizeof(bytes));
  key.append(request_of_head, request_of_head + kMaxModelQueueSize);
  key.append(in_flight.begin(), in_flight.end());
  return key;
}

Model::Model(const ModelOptions& options, const GuestMemory& memory)
    : options_(options),
      setup_{options.queue_size, kDescriptors, kAvailable, kUsed},
      memory_(memory),
      durable_(InFlightLog::SizeBytes(setup_.size) / sizeof(uint64_t)),
      on_step_([](const char*) {}) {}

void Model::Expect(bool holds, const char* what) const {
  if (holds) return;
  fprintf(stderr, "broken: %s\n  made %d done 0x%x shown 0x%x in flight:", what, world_.made,
          world_.done, world_.shown);
  for (const uint8_t request : world_.in_flight) fprintf(stderr, " %d", request);
  fprintf(stderr, "\n  used.idx %d seen %d\n", Word(kUsed + kUsedIdx), world_.used_idx);
  on_step_(nullptr);  // tells the way here
  abort();
}

World Model::First() {
  world_ = World();
  memset(Guest(0), 0, kEnd);
  std::fill(durable_.begin(), durable_.end(), 0);
  CreateQueue();
  Expect(queue_->Enable(memory_, setup_, options_.event_index, false, world_.epoch).ok(),
         "enabled");
  queue_->SetServing(true);
  // As if so many requests had been served, one at a time.
  const uint16_t first = options_.first_index;
  if (first != 0) {
    memory_.WriteObject(kDescriptors, Descriptor{kBuffers, 4, kDescriptorWrite, 0});
    std::vector<iovec> storage(setup_.size);
    DescriptorChain chain;
    for (uint16_t i = 0; i != first; ++i) {
      Word(kAvailable + kAvailableRing + 2 * Slot(i)) = 0;
      Word(kAvailable + kAvailableIdx) = i + 1;
      Expect(queue_->Pop(absl::MakeSpan(storage), chain), "the prelude pops");
      queue_->Complete(chain.head, 4);
      static_cast<void>(queue_->Publish());
    }
    static_cast<void>(queue_->RearmDoorbell());
    Word(kAvailable + kAvailableRing + 2 * setup_.size) = options_.event_index ? first : 0;
    world_.available_idx = world_.kicked_idx = world_.used_idx = world_.shown_idx = first;
  }
  Die();
  return Capture();
}

void Model::Load(const World& world) {
  Die();
  world_ = world;
  memcpy(Guest(0), world.guest.data(), world.guest.size());
  memcpy(durable_.data(), world.durable.data(), world.durable.size());
}

World Model::Capture() {
  Settle();
  World world = world_;
  world.guest.assign(Guest(0), Guest(0) + kEnd);
  const uint8_t* durable = reinterpret_cast<const uint8_t*>(durable_.data());
  world.durable.assign(durable, durable + durable_.size() * sizeof(uint64_t));
  return world;
}

void Model::Step(const char* name) { on_step_(name); }

// Takes note of what the driver could see by now.
void Model::Settle() {
  const uint16_t used_idx = Word(kUsed + kUsedIdx);
  Expect(static_cast<uint16_t>(used_idx - world_.shown_idx) <= setup_.size,
         "used.idx moves forward, by what is in flight");
  for (; world_.shown_idx != used_idx; ++world_.shown_idx) {
    uint32_t head = 0;
    memory_.ReadObject(kUsed + kUsedRing + kUsedElementSize * Slot(world_.shown_idx), head);
    Expect(head < setup_.size, "a used element names a head");
    const uint8_t request = world_.request_of_head[head];
    Expect(request != kNoRequest, "a used element names a chain that the driver has given");
    Expect((world_.shown & Bit(request)) == 0, "no request is completed twice");
    const auto it = std::find(world_.in_flight.begin(), world_.in_flight.end(), request);
    Expect(it != world_.in_flight.end(), "what is completed was in flight");
    world_.in_flight.erase(it);
    world_.shown |= Bit(request);
  }
}

// --- The driver
// ------------------------------------------------------------------------------------

bool Model::CanAdd() const {
  const auto* begin = world_.request_of_head;
  const auto free = std::count(begin, begin + setup_.size, kNoRequest);
  const uint8_t count = options_.pairs ? 2 : 1;
  return world_.enabled && !world_.resetting && world_.made + count <= options_.requests &&
         free >= count;
}

void Model::Add() {
  for (int i = 0; i < (options_.pairs ? 2 : 1); ++i) {
    uint16_t head = 0;
    while (world_.request_of_head[head] != kNoRequest) ++head;
    const uint8_t request = world_.made++;
    world_.request_of_head[head] = request;
    memory_.WriteObject(kDescriptors + 16 * head,
                        Descriptor{kBuffers + 4u * request, 4, kDescriptorWrite, 0});
    Word(kAvailable + kAvailableRing + 2 * Slot(world_.available_idx)) = head;
    Word(kAvailable + kAvailableIdx) = ++world_.available_idx;
  }
  const uint16_t old_idx = std::exchange(world_.kicked_idx, world_.available_idx);
  const bool wanted = options_.event_index
                          ? PassesEvent(Word(kUsed + kUsedRing + kUsedElementSize * setup_.size),
                                        world_.available_idx, old_idx)
                          : (Word(kUsed) & kUsedNoNotify) == 0;
  if (wanted) world_.doorbell = true;
}

// The driver's interrupt handler.
void Model::Take() {
  Settle();
  world_.interrupt = false;
  for (const uint16_t used_idx = Word(kUsed + kUsedIdx); world_.used_idx != used_idx;
       ++world_.used_idx) {
    uint32_t head = 0;
    memory_.ReadObject(kUsed + kUsedRing + kUsedElementSize * Slot(world_.used_idx), head);
    const uint8_t request = std::exchange(world_.request_of_head[head], kNoRequest);
    world_.done |= Bit(request);
  }
  if (options_.event_index) Word(kAvailable + kAvailableRing + 2 * setup_.size) = world_.used_idx;
}

bool Model::CanRebind() const {
  return alive() && !world_.resetting && world_.rebinds < options_.rebinds;
}

// The driver resets the queue, with whatever is in flight, and sets it up anew.
void Model::Rebind() {
  ++world_.rebinds;
  world_.resetting = true;
  ApplyReset();
}

// --- The device
// ------------------------------------------------------------------------------------

// The access that resets the queue; it is answered once its effect is saved.
void Model::ApplyReset() {
  Step("before the reset");
  queue_->Stop();
  for (const uint16_t head : popped_) queue_->Complete(head, 0);
  popped_.clear();
  static_cast<void>(queue_->Publish());
  completed_ = 0;
  Step("nothing is in flight");
  queue_->Disable();
  Step("before the reset is saved");
  Settle();
  world_.enabled = world_.resetting = false;
  // The driver reads that it is done, and sets the queue up anew.
  std::fill(world_.request_of_head, world_.request_of_head + kMaxModelQueueSize, kNoRequest);
  world_.done = world_.shown = Bit(world_.made) - 1;
  world_.next_new = world_.made;
  world_.in_flight.clear();
  expected_.clear();
  world_.available_idx = world_.kicked_idx = world_.used_idx = world_.shown_idx = 0;
  memset(Guest(0), 0, kEnd);
  ApplyEnable();
}

// The access that enables the queue, and what is served once that is saved.
void Model::ApplyEnable() {
  Step("before the enabling");
  const uint8_t epoch = world_.epoch + 1;
  Expect(queue_->Enable(memory_, setup_, options_.event_index, false, epoch).ok(), "enabled");
  queue_->SetServing(true);
  Step("before the enabling is saved");
  world_.enabled = true;
  world_.epoch = epoch;
  Step("the enabling is saved");
  OnQueue();
}

void Model::CreateQueue() {
  const auto on_violation = [this](absl::string_view what) {
    Expect(false, std::string(what).c_str());
  };
  const auto durable = reinterpret_cast<uint8_t*>(durable_.data());
  queue_ = std::make_unique<Virtqueue>(
      setup_.size, on_violation, absl::MakeSpan(durable, durable_.size() * sizeof(durable_[0])));
}

void Model::Die() {
  queue_.reset();
  popped_.clear();
  expected_.clear();
  completed_ = 0;
}

void Model::StartProcess() {
  CreateQueue();
  Settle();
  expected_ = world_.in_flight;
  // An access that was not answered is applied again.
  if (!world_.enabled) {
    ApplyEnable();
    return;
  }
  Expect(queue_->Resume(memory_, setup_, options_.event_index, false, world_.epoch).ok(),
         "resumed");
  queue_->SetServing(true);
  Step("resumed");
  world_.interrupt = true;
  OnQueue();
  if (world_.resetting) ApplyReset();
}

void Model::Serve() {
  world_.doorbell = false;
  Step("the doorbell is taken");
  OnQueue();
}

void Model::OnQueue() {
  do {
    queue_->SuppressDoorbells();
    while (Pop()) {
      if (options_.synchronous) Complete(popped_.size() - 1);
    }
  } while (queue_->RearmDoorbell());
  Expect(expected_.empty(), "a successor takes up all that was in flight");
  if (options_.synchronous && CanPublish()) Publish();
}

bool Model::Pop() {
  std::vector<iovec> storage(setup_.size);
  DescriptorChain chain;
  if (!queue_->Pop(absl::MakeSpan(storage), chain)) return false;
  Settle();
  const uint8_t request = world_.request_of_head[chain.head];
  Expect(request != kNoRequest, "what is popped is the device's");
  Expect((world_.shown & Bit(request)) == 0, "nothing is done again that the driver knows as done");
  Expect(chain.writable.size() == 1 && chain.writable[0].iov_base == Guest(kBuffers + 4 * request),
         "a chain has its buffers");
  if (!expected_.empty()) {
    Expect(request == expected_.front(), "what was in flight is popped again first, in its order");
    expected_.erase(expected_.begin());
  } else {
    Expect(request == world_.next_new, "new chains are popped in their order");
    ++world_.next_new;
    world_.in_flight.push_back(request);
  }
  popped_.push_back(chain.head);
  Step("a chain is being worked on");
  return true;
}

void Model::Complete(size_t which) {
  queue_->Complete(popped_[which], 4);
  popped_.erase(popped_.begin() + which);
  ++completed_;
}

void Model::Publish() {
  completed_ = 0;
  const bool interrupt = queue_->Publish();
  Step("before the interrupt");
  if (interrupt) world_.interrupt = true;
}

std::string Model::ProcessKey() const {
  std::string key(1, static_cast<char>(completed_));
  for (const uint16_t head : popped_) key.push_back(static_cast<char>(head));
  return key;
}

void Model::Finish() {
  if (!alive()) StartProcess();
  for (bool busy = true; busy;) {
    busy = true;
    if (CanServe()) {
      Serve();
    } else if (popped() != 0) {
      Complete(popped() - 1);
    } else if (CanPublish()) {
      Publish();
    } else if (CanTake()) {
      Take();
    } else if (CanAdd()) {
      Add();
    } else {
      busy = false;
    }
  }
  Settle();
  Expect(world_.in_flight.empty(), "nothing stays in flight");
  Expect(world_.done == Bit(world_.made) - 1, "no request is lost");
  Expect(world_.made + (options_.pairs ? 1 : 0) >= options_.requests,
         "the driver comes to its end");
}

}  // namespace bulkhead::devices::virtio
