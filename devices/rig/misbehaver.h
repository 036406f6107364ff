#ifndef BULKHEAD_DEVICES_RIG_MISBEHAVER_H_
#define BULKHEAD_DEVICES_RIG_MISBEHAVER_H_

#include <stdint.h>

#include <memory>

#include "absl/status/status.h"
#include "base/event_fd.h"
#include "devices/host/device_model.h"

namespace bulkhead::devices::rig {

// The rig's registers that make it slow, hang or die. Single-threaded.
class Misbehaver {
 public:
  Misbehaver() = default;
  ~Misbehaver();
  Misbehaver(const Misbehaver&) = delete;
  Misbehaver& operator=(const Misbehaver&) = delete;

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

}  // namespace bulkhead::devices::rig

#endif  // BULKHEAD_DEVICES_RIG_MISBEHAVER_H_
