// A driver that writes anything into its rings, between any two steps of the device. The rings,
// the indirect tables and the buffers lie in one small memory of two
// adjoining ranges, so that they overlap and cross.
#include <stdint.h>
#include <string.h>

#include <vector>

#include "base/testing/fuzz_input.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/virtio_layout.h"
#include "devices/virtio/virtqueue.h"

namespace bulkhead::devices::virtio {
namespace {

constexpr uint64_t kMemorySize = 8192;
constexpr uint16_t kMaxSize = 16;
constexpr GuestAddress kDescriptors = 0;
constexpr GuestAddress kAvailable = 0x200;
constexpr GuestAddress kUsed = 0x300;

class HostileRings {
 public:
  HostileRings(const GuestMemory& memory, FuzzInput input)
      : memory_(memory),
        input_(input),
        queue_(kMaxSize, [this](absl::string_view) { ++violations_; }),
        storage_(Virtqueue::StorageSize(kMaxSize, memory)) {
    memory.Write(0, std::vector<uint8_t>(kMemorySize));
    const uint8_t options = static_cast<uint8_t>(input_.Take(1));
    size_ = uint16_t{1} << (options % 5);
    const QueueSetup setup{size_, kDescriptors, kAvailable, kUsed};
    Require(queue_.Enable(memory, setup, (options & 0x40) != 0, (options & 0x80) != 0).ok(),
            "the set-up is a good one");
    queue_.SetServing(true);
  }

  void Run() {
    while (!input_.empty()) Step();
    queue_.Stop();
    while (!in_flight_.empty()) Complete(0);
    queue_.Disable();
  }

 private:
  // Whether the half of memory that starts at `start` has all of these bytes.
  bool Holds(GuestAddress start, const uint8_t* data, size_t size) {
    const uint8_t* host = memory_.HostPointer(start, 0);
    return data >= host && data + size <= host + kMemorySize / 2;
  }

  void Step() {
    const uint8_t what = static_cast<uint8_t>(input_.Take(1));
    switch (what % 8) {
      case 0:
      case 1:
        WriteDescriptor(kDescriptors + 16 * (what / 8 % size_));
        return;
      case 2:  // an entry of an indirect table
        WriteDescriptor(0x400 + 8 * (what / 8));
        return;
      case 3:
        MakeAvailable(static_cast<uint16_t>(input_.Take(1) % (size_ + 1)));
        return;
      case 4:  // anything anywhere
        memory_.WriteObject(input_.Take(2) % (kMemorySize - 2),
                            static_cast<uint16_t>(input_.Take(2)));
        return;
      case 5:
        queue_.SuppressDoorbells();
        while (Pop()) {
        }
        static_cast<void>(queue_.RearmDoorbell());
        return;
      case 6:
        if (!in_flight_.empty()) Complete(what / 8 % in_flight_.size());
        return;
      default:
        static_cast<void>(queue_.Publish());
        return;
    }
  }

  void WriteDescriptor(GuestAddress at) {
    const uint64_t choice = input_.Take(1);
    Descriptor descriptor;
    // Mostly within memory, and mostly linked within the table.
    descriptor.address = choice % 16 == 0 ? input_.Take(8) : input_.Take(2) % kMemorySize;
    descriptor.length =
        static_cast<uint32_t>(choice % 16 == 1 ? input_.Take(4) : 16 * (input_.Take(1) % 8));
    descriptor.flags = static_cast<uint16_t>(choice % 16 == 2 ? input_.Take(2) : choice / 16 % 8);
    descriptor.next = static_cast<uint16_t>(input_.Take(1) % (size_ + 1));
    memory_.WriteObject(at, descriptor);
  }

  void MakeAvailable(uint16_t head) {
    uint16_t idx = 0;
    memory_.ReadObject(kAvailable + kAvailableIdx, idx);
    memory_.WriteObject(kAvailable + kAvailableRing + 2 * (idx % size_), head);
    memory_.WriteObject(kAvailable + kAvailableIdx, static_cast<uint16_t>(idx + 1));
  }

  bool Pop() {
    DescriptorChain chain;
    if (!queue_.Pop(absl::MakeSpan(storage_), chain)) return false;
    Require(chain.head < size_, "a head outside the queue");
    Require(chain.readable.size() + chain.writable.size() <= storage_.size(), "too many buffers");
    for (const auto& part : {chain.readable, chain.writable}) {
      for (const iovec& buffer : part) {
        const uint8_t* data = static_cast<const uint8_t*>(buffer.iov_base);
        Require(buffer.iov_len != 0, "an empty buffer");
        Require(Holds(0, data, buffer.iov_len) || Holds(kMemorySize / 2, data, buffer.iov_len),
                "a buffer outside memory");
      }
    }
    // What a device does with it: the driver's rings may be among it.
    for (const iovec& buffer : chain.writable) memset(buffer.iov_base, 0x5a, buffer.iov_len);
    for (const uint16_t head : in_flight_) Require(head != chain.head, "a head popped twice");
    in_flight_.push_back(chain.head);
    Require(queue_.in_flight() == in_flight_.size(), "the count in flight");
    return true;
  }

  void Complete(size_t which) {
    queue_.Complete(in_flight_[which], 1);
    in_flight_.erase(in_flight_.begin() + which);
    Require(violations_ <= 1, "a violation is reported once");
  }

  const GuestMemory& memory_;
  FuzzInput input_;
  uint16_t size_;
  int violations_ = 0;
  Virtqueue queue_;
  std::vector<iovec> storage_;
  std::vector<uint16_t> in_flight_;
};

}  // namespace
}  // namespace bulkhead::devices::virtio

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {  // NOLINT
  using namespace bulkhead::devices::virtio;                               // NOLINT
  static auto& services = *new bulkhead::devices::FakeServices(
      {{0, kMemorySize / 2}, {kMemorySize / 2, kMemorySize / 2}});
  HostileRings(services.memory(), bulkhead::FuzzInput(data, size)).Run();
  return 0;
}
