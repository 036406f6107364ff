#include "devices/rig/misbehaver.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/status_macros.h"
#include "devices/rig/registers.h"

namespace bulkhead::devices::rig {
namespace {

using Clock = std::chrono::steady_clock;

// Both occupy the model's thread, which a device must not do: that is what they are for.
void BeBusy(uint32_t microseconds) {
  const auto end =
      Clock::now() + std::chrono::microseconds(std::min(microseconds, kBusyMaxMicroseconds));
  while (Clock::now() < end) {
  }
}

void Work(uint32_t milliseconds, DeviceServices& services) {
  const auto end =
      Clock::now() + std::chrono::milliseconds(std::min(milliseconds, kWorkMaxMilliseconds));
  while (Clock::now() < end) {
    services.KeepAlive();
    usleep(100);  // a test has better use for the CPU
  }
}

}  // namespace

Misbehaver::~Misbehaver() {
  if (later_ != nullptr) services_->Unwatch(later_->fd());
}

absl::Status Misbehaver::Start(DeviceServices& services) {
  services_ = &services;
  ASSIGN_OR_RETURN(EventFd later, EventFd::Create());
  RETURN_IF_ERROR(services.Watch(later.fd(), [this] {
    later_->Drain();
    misbehave_();
  }));
  later_ = std::make_unique<EventFd>(std::move(later));
  return absl::OkStatus();
}

bool Misbehaver::Write(uint64_t offset, uint32_t value) {
  switch (offset) {
    case kBusyOffset:
      BeBusy(value);
      return true;
    case kWorkOffset:
      Work(value, *services_);
      return true;
    case kHangOffset:
      Misbehave(Hang, value);
      return true;
    case kCrashOffset:
      Misbehave(Crash, value);
      return true;
    default:
      return false;
  }
}

void Misbehaver::Misbehave(void (*how)(), uint32_t when) {
  if (when == kAlways) how();
  if (when != kOnce) return;
  // A write is done with before the next descriptor is looked at.
  misbehave_ = how;
  later_->Signal();
}

void Hang() {
  while (true) pause();
}

void Crash() { abort(); }

}  // namespace bulkhead::devices::rig
