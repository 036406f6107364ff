#ifndef BULKHEAD_DEVICES_VIRTIO_RECOVERY_MODEL_RECOVERY_WORLD_H_
#define BULKHEAD_DEVICES_VIRTIO_RECOVERY_MODEL_RECOVERY_WORLD_H_

// For recovery_model_test: a virtqueue's driver, and the device's process that may die at any
// step. The device's side is the real Virtqueue.

#include <stdint.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/guest_memory.h"
#include "devices/virtio/virtqueue.h"

namespace bulkhead::devices::virtio {

inline constexpr uint16_t kMaxModelQueueSize = 4;
inline constexpr uint8_t kNoRequest = 0xff;

struct ModelOptions {
  bool event_index = false;
  // The device completes a chain as it pops it, and publishes at the end of its turn.
  bool synchronous = false;
  // The driver adds two chains before it rings.
  bool pairs = false;
  uint16_t queue_size = 2;  // up to kMaxModelQueueSize
  uint8_t requests = 3;
  uint8_t rebinds = 0;       // the driver resets the queue so often
  uint16_t first_index = 0;  // of both rings, to see them wrap
};

// All that outlives a process, and what is known of the past. Requests are numbered in the order
// in which the driver makes them.
struct World {
  std::vector<uint8_t> guest;    // the rings
  std::vector<uint8_t> durable;  // the InFlightLog
  // Saved control state.
  bool enabled = true;
  uint8_t epoch = 1;
  // The driver has written the reset of the queue, which the device has not saved yet.
  bool resetting = false;
  // Eventfds.
  bool doorbell = false;
  bool interrupt = false;
  // The driver.
  uint8_t made = 0;
  uint8_t rebinds = 0;
  uint16_t available_idx = 0;
  uint16_t kicked_idx = 0;
  uint16_t used_idx = 0;  // up to where it has looked
  uint8_t request_of_head[kMaxModelQueueSize] = {kNoRequest, kNoRequest, kNoRequest, kNoRequest};
  uint32_t done = 0;  // bit by request: got back, or given up by a reset
  // The truth.
  uint16_t shown_idx = 0;               // up to where used.idx has been seen
  uint32_t shown = 0;                   // bit by request: the driver can see that it is done
  std::vector<uint8_t> in_flight = {};  // requests popped and not shown, in the order of popping
  uint8_t next_new = 0;                 // the request that is to be popped next

  std::string Key() const;
};

// One World in the memory of this process, with at most one device process in it. Aborts the test
// with a message where an invariant breaks.
class Model {
 public:
  Model(const ModelOptions& options, const GuestMemory& memory);

  World First();
  // Puts the world back to where it was; no process lives.
  void Load(const World& world);
  World Capture();
  // What happens when the device is about to take a step, and just before an interrupt.
  void set_on_step(std::function<void(const char*)> on_step) { on_step_ = std::move(on_step); }
  void Step(const char* name);

  // --- What can happen. Each Can...() says whether it can now.
  bool CanAdd() const;
  void Add();
  bool CanTake() const { return world_.interrupt && !world_.resetting; }
  void Take();
  // The device's process.
  void StartProcess();
  bool alive() const { return queue_ != nullptr; }
  void Die();
  bool CanServe() const { return alive() && world_.doorbell; }
  void Serve();
  size_t popped() const { return popped_.size(); }
  void Complete(size_t which);
  bool CanPublish() const { return alive() && completed_ != 0; }
  void Publish();
  bool CanRebind() const;
  void Rebind();

  // What of the live process is not in the world.
  std::string ProcessKey() const;

  // From here on nothing dies: everything must come to its end.
  void Finish();

 private:
  void OnQueue();
  bool Pop();
  void Settle();
  void Expect(bool holds, const char* what) const;
  void CreateQueue();
  void ApplyReset();
  void ApplyEnable();
  uint16_t Slot(uint16_t idx) const { return idx % options_.queue_size; }
  uint8_t* Guest(GuestAddress address) const { return memory_.HostPointer(address, 1); }
  uint16_t& Word(GuestAddress address) const {
    return *reinterpret_cast<uint16_t*>(Guest(address));
  }

  const ModelOptions options_;
  const QueueSetup setup_;
  const GuestMemory& memory_;
  World world_;
  std::vector<uint64_t> durable_;
  std::function<void(const char*)> on_step_;

  std::unique_ptr<Virtqueue> queue_;
  std::vector<uint8_t> expected_;  // what a successor must pop first
  std::vector<uint16_t> popped_;   // heads
  size_t completed_ = 0;           // and not published
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_RECOVERY_MODEL_RECOVERY_WORLD_H_
