#include "devices/i6300esb/watchdog_device.h"

#include <errno.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/errno_status.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "devices/host/metrics.h"
#include "proto/contract.h"

namespace bulkhead::devices::i6300esb {
namespace {

constexpr uint32_t kStateVersion = 1;
// So much later than it should be, an end or an answer shows that a process did not run.
constexpr int64_t kPatienceNs = 3'000'000'000;
constexpr int64_t kTryAgainNs = 1'000'000'000;

// The registers in the configuration space are in the body of a capability, the first one: it
// begins at 0x42, behind the capability's own header. The chip has no such capability, and no
// driver minds.
constexpr uint8_t kVendorCapability = 0x09;
constexpr uint64_t kBodyOffset = 0x42;
constexpr uint64_t kBodyBytes = kLockOffset + 2 - kBodyOffset;
constexpr uint64_t kCapabilityBytes = kBodyBytes + 2;  // which its first byte says

int64_t SteadyNs() { return absl::ToUnixNanos(SteadyNow()); }

}  // namespace

struct WatchdogDevice::Saved {
  WatchdogRegisters::State registers;
  uint64_t report_number;
};

v1::DeviceInfo WatchdogDevice::Describe() const {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("i6300esb");
  v1::PciFunction& pci = *info.mutable_pci();
  pci.set_vendor_id(kVendorId);
  pci.set_device_id(kDeviceId);
  pci.set_class_code(kClassCode);
  v1::Bar& bar = *pci.add_bars();
  bar.set_index(kBar);
  bar.set_size_bytes(kBarSize);
  v1::Capability& registers = *pci.add_capabilities();
  registers.set_id(kVendorCapability);
  registers.set_body(std::string(kBodyBytes, '\0'));
  registers.set_forwarded(true);
  info.add_required_resources(kVmLinkResource);
  info.set_saved_state_bytes(sizeof(Saved));
  info.set_state_version(kStateVersion);
  return info;
}

absl::Status WatchdogDevice::Start(DeviceServices& services) {
  services_ = &services;
  ASSIGN_OR_RETURN(link_, VmLink::Take(services));
  timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));  // as SteadyNow()
  if (!timer_.ok()) return ErrnoToStatus(errno, "timerfd_create");
  RETURN_IF_ERROR(services.Watch(timer_.get(), [this] { OnTimer(); }));
  RETURN_IF_ERROR(services.Watch(link_->fd(), [this] { OnNews(); }));
  link_->Ask();  // from now on the vmm tells it when the guest's clock stops
  services.StateChanged();
  return absl::OkStatus();
}

size_t WatchdogDevice::Save(absl::Span<uint8_t> out) const {
  static_assert(std::has_unique_object_representations_v<Saved>, "no padding");
  const Saved saved = {registers_.state(), link_->number()};
  memcpy(out.data(), &saved, sizeof(saved));
  return sizeof(saved);
}

absl::Status WatchdogDevice::Restore(absl::Span<const uint8_t> bytes) {
  Saved saved;
  if (bytes.size() != sizeof(saved)) {
    return absl::InvalidArgumentError(
        absl::StrCat("saved state of ", bytes.size(), " bytes instead of ", sizeof(saved)));
  }
  memcpy(&saved, bytes.data(), sizeof(saved));
  if (!registers_.Restore(saved.registers, link_->GuestNowNs())) {
    return absl::InvalidArgumentError("impossible registers");
  }
  link_->Restore(saved.report_number);
  return absl::OkStatus();
}

void WatchdogDevice::Reset() {
  registers_.Reset();
  Update();
}

void WatchdogDevice::SetServing(bool serving) {
  serving_ = serving;
  Update();
}

void WatchdogDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddCounter(metrics, "reloads_total", "How often the guest has reloaded the counter.", reloads_);
  AddCounter(metrics, "expirations_total", "How often the watchdog has expired.", expirations_);
  AddCounter(metrics, "restarts_total",
             "How often the counter began anew, since the vmm or this process did not run.",
             forgiven_);
}

uint64_t WatchdogDevice::Read(uint8_t region, uint64_t offset, uint8_t size_bytes) {
  if (region == kBar) return registers_.Read(offset, size_bytes);
  if (offset == 0 && size_bytes == 1) return kCapabilityBytes;
  return registers_.ReadConfig(offset + kBodyOffset, size_bytes);
}

void WatchdogDevice::Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  link_->Receive();  // the clock may have stopped and run on before this
  const int64_t now = link_->GuestNowNs();
  if (region == kBar) {
    reloads_ += registers_.Write(offset, size_bytes, value, now);
  } else {
    registers_.WriteConfig(offset + kBodyOffset, size_bytes, value, now);
  }
  services_->StateChanged();
  Update();
}

void WatchdogDevice::OnTimer() {
  uint64_t expirations;
  if (read(timer_.get(), &expirations, sizeof(expirations)) < 0) return;  // set anew meanwhile
  Update();
}

void WatchdogDevice::OnNews() {
  if (!link_->Receive()) services_->Unwatch(link_->fd());  // the vmm is gone
  Update();
}

void WatchdogDevice::Update() {
  const int64_t now = link_->GuestNowNs();
  // What the guest has sent before it is over comes first: see SetServing().
  if (!serving_ || !registers_.is_enabled() || !link_->clock_runs()) {
    question_ = 0;
    SetTimer(WatchdogRegisters::kNever);
    return;
  }
  const WatchdogRegisters::State before = registers_.state();
  registers_.Advance(now);
  if (registers_.IsOver(now)) {
    OnOver(now);
  } else {
    question_ = 0;
  }
  if (memcmp(&before, &registers_.state(), sizeof(before)) != 0) services_->StateChanged();
  int64_t due = WatchdogRegisters::kNever;  // an answer comes by itself
  if (registers_.is_enabled() && question_ == 0) {
    const int64_t deadline = registers_.deadline_ns();
    if (registers_.IsOver(now)) {
      due = SteadyNs() + kTryAgainNs;
    } else if (deadline != WatchdogRegisters::kNever) {
      due = link_->SteadyOf(deadline);
    }
  }
  SetTimer(due);
}

void WatchdogDevice::OnOver(int64_t now_ns) {
  if (!registers_.reports()) {
    registers_.Expire(now_ns);
    return;
  }
  const int64_t steady_now = SteadyNs();
  if (question_ == 0) {
    if (now_ns - registers_.deadline_ns() > kPatienceNs) {
      ++forgiven_;
      registers_.Restart(now_ns);
      return;
    }
    question_ = link_->Ask();  // 0: there is no room now
    asked_at_ns_ = steady_now;
    return;
  }
  if (link_->answered() < question_) return;
  question_ = 0;
  if (steady_now - asked_at_ns_ > kPatienceNs) {
    ++forgiven_;
    registers_.Restart(now_ns);
    return;
  }
  CRASH_POINT("watchdog_before_report");
  if (!link_->Send(VmReport::kWatchdogExpired)) return;  // later
  registers_.Expire(now_ns);
  ++expirations_;
}

void WatchdogDevice::SetTimer(int64_t due_ns) {
  itimerspec due = {};
  if (due_ns != WatchdogRegisters::kNever) {
    due.it_value = absl::ToTimespec(absl::Nanoseconds(std::max<int64_t>(due_ns, 1)));
  }
  timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &due, nullptr);
}

}  // namespace bulkhead::devices::i6300esb
