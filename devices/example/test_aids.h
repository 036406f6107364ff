#ifndef BULKHEAD_DEVICES_EXAMPLE_TEST_AIDS_H_
#define BULKHEAD_DEVICES_EXAMPLE_TEST_AIDS_H_

#include <stdint.h>

#include <memory>

#include "absl/status/status.h"
#include "base/event_fd.h"
#include "devices/host/device_model.h"

namespace bulkhead::devices::example {

// What tests want of a device and nobody else: registers that make it slow, hang or die. Leave it
// out of a copy. Single-threaded.
class TestAids {
 public:
  TestAids() = default;
  ~TestAids();
  TestAids(const TestAids&) = delete;
  TestAids& operator=(const TestAids&) = delete;

  // `services` outlives this. Errors: as eventfd(2).
  absl::Status Start(DeviceServices& services);
  // A write to one of the registers: true. Else false.
  bool Write(uint64_t offset, uint32_t value);

 private:
  void Misbehave(void (*how)(), uint32_t when);

  DeviceServices* services_ = nullptr;
  std::unique_ptr<EventFd> later_;  // its readiness calls misbehave_
  void (*misbehave_)() = nullptr;
};

// For the flags of the process.
[[noreturn]] void Hang();
[[noreturn]] void Crash();

}  // namespace bulkhead::devices::example

#endif  // BULKHEAD_DEVICES_EXAMPLE_TEST_AIDS_H_
