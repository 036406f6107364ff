#ifndef BULKHEAD_DEVICES_VHOST_USER_TESTING_TEST_BACK_END_H_
#define BULKHEAD_DEVICES_VHOST_USER_TESTING_TEST_BACK_END_H_

#include <stdint.h>
#include <sys/uio.h>

#include <atomic>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/event_fd.h"
#include "base/memory_mapping.h"
#include "base/unique_fd.h"
#include "devices/vhost_user/protocol.h"
#include "devices/virtio/virtio_layout.h"

namespace bulkhead::devices::vhost_user {

// A back end that serves one connection on a thread of its own. It trusts its front end, but not
// what a guest writes: it ends at a ring, a chain or a buffer that cannot be.
class TestBackEnd {
 public:
  struct Options {
    uint64_t features = virtio::kFeatureVersion1 | kFeatureProtocolFeatures |
                        virtio::kFeatureEventIndex | virtio::kFeatureIndirectDescriptors;
    uint64_t protocol_features = kProtocolReplyAck | kProtocolConfig;
    std::vector<uint8_t> config = std::vector<uint8_t>(60, 7);
    // What it does with a request's buffers; returns how many bytes it has written. By default, it
    // puts a zero, a disk's "success", into the last byte.
    std::function<uint32_t(std::vector<iovec> readable, std::vector<iovec> writable)> serve = {};
    // It takes requests and completes none, until it is to stop.
    bool holds = false;
    // Added to the number of each request that it completes.
    uint32_t head_lie = 0;
    // It ends when it gets that message.
    std::optional<MessageType> dies_at = {};
    // What it sends in place of the answer to a message; nothing: the answer.
    std::function<std::optional<std::string>(MessageType)> lie = {};
  };

  TestBackEnd(Options options, UniqueFd socket);
  // As Kill().
  ~TestBackEnd();

  // Waits until the front end has closed the connection, or it has ended.
  void AwaitEnd() { thread_.join(); }

  // It ends at once: requests that it holds remain so.
  void Kill();
  // Requests that it has taken, and those that an earlier back end had.
  int taken() const { return taken_; }
  int taken_again() const { return taken_again_; }
  int resets() const { return resets_; }

 private:
  struct Region {
    MemoryRegion place;
    MemoryMapping mapping;
  };
  struct Queue {
    uint16_t size = 0;
    uint16_t last_available = 0;
    VringAddress address = {};
    UniqueFd kick;
    UniqueFd call;
    bool enabled = false;
    std::vector<uint16_t> held;
  };

  void Run();
  bool HandleMessage();
  std::string Answer(MessageType type, const std::string& payload, std::vector<UniqueFd> files);
  // Nothing: not all of it is guest memory.
  uint8_t* At(uint64_t user_address, uint64_t size);
  uint8_t* UsedRing(const Queue& queue);
  // False: what the guest has written cannot be.
  bool StartQueue(uint32_t index);
  bool Serve(uint32_t index);
  bool Complete(uint32_t index, uint16_t head);
  std::optional<uint32_t> Carry(const Queue& queue, uint16_t head);
  uint8_t* InFlight(uint32_t index);

  const Options options_;
  const UniqueFd socket_;
  const EventFd stop_ = EventFd::Create().value();
  std::vector<Region> memory_;
  std::map<uint32_t, Queue> queues_;
  MemoryMapping in_flight_;
  uint16_t in_flight_size_ = 0;
  uint64_t counter_ = 0;
  bool is_misled_ = false;  // what the last message has led to cannot be
  std::atomic<int> taken_ = 0;
  std::atomic<int> taken_again_ = 0;
  std::atomic<int> resets_ = 0;
  std::thread thread_;
};

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_TESTING_TEST_BACK_END_H_
