#ifndef BULKHEAD_DEVICES_VIRTIO_TESTING_HOSTILE_DRIVER_H_
#define BULKHEAD_DEVICES_VIRTIO_TESTING_HOSTILE_DRIVER_H_

#include <stdint.h>

#include <memory>
#include <vector>

#include "base/testing/fuzz_input.h"
#include "devices/host/testing/fake_services.h"
#include "devices/virtio/pci_transport.h"
#include "devices/virtio/testing/fake_driver.h"

namespace bulkhead::devices::virtio {

// What the fuzzed drivers of all device types do, good and hostile, to a whole device: the input
// chooses it. A type adds its own requests.
class HostileDriver {
 public:
  virtual ~HostileDriver() = default;

 protected:
  static constexpr uint64_t kMemorySize = 1 << 20;
  // The device never gets its address, and must not write there.
  static constexpr GuestAddress kUntouchable = kMemorySize - 4096;
  // What requests are made of, at fixed places so that inputs can hit them.
  static constexpr GuestAddress kArena = 0x80000;
  static constexpr uint32_t kMaxBuffer = 0x1000;

  HostileDriver(FuzzInput input, uint64_t arena_size)
      : input_(input), services_({{0, kMemorySize}}), arena_size_(arena_size) {}

  // A fresh driver_, whose allocator starts anew, below the arena.
  virtual void Reinitialize() = 0;

  // `what` % 16 is 5 to 15: kicks, doorbells, events, descriptors and memory that change under the
  // device, registers, resets.
  void Meddle(uint8_t what, uint16_t queue);
  void CheckUntouched();

  Descriptor AnyDescriptor();
  // Such that kMaxBuffer bytes from there are in the arena.
  GuestAddress AnyArenaAddress();
  // As a chain in the ring, or now and then in an indirect table.
  void AddChain(uint16_t queue, const std::vector<Buffer>& buffers);

  FuzzInput input_;
  FakeServices services_;
  std::unique_ptr<PciTransport> model_;
  std::unique_ptr<FakeDriver> driver_;

 private:
  void Register();

  const uint64_t arena_size_;
};

}  // namespace bulkhead::devices::virtio

#endif  // BULKHEAD_DEVICES_VIRTIO_TESTING_HOSTILE_DRIVER_H_
