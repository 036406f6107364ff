#include "vmm/vcpu/exit_handler.h"

#include <string.h>

#include <algorithm>
#include <bit>
#include <string>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bulkhead::vmm {
namespace {

constexpr uint32_t kSuberrorEmulation = 1;  // KVM_INTERNAL_ERROR_EMULATION

// x86 is little-endian, and so is every device register here.
uint64_t Load(const uint8_t* data, uint8_t size_bytes) {
  uint64_t value = 0;
  memcpy(&value, data, size_bytes);
  return value;
}

void Store(uint8_t* data, uint8_t size_bytes, uint64_t value) { memcpy(data, &value, size_bytes); }

std::string Describe(const InternalErrorExit& exit) {
  std::string text =
      exit.suberror == kSuberrorEmulation
          ? "KVM cannot emulate the guest's instruction"
          : absl::StrCat("KVM cannot run the guest (internal error ", exit.suberror, ")");
  for (const uint64_t word : exit.data) absl::StrAppendFormat(&text, " %x", word);
  return text;
}

}  // namespace

ExitHandler::Next ExitHandler::Handle(const VcpuExit& exit, VmEnd& end) {
  if (const auto* mmio = std::get_if<MmioExit>(&exit)) {
    HandleMmio(*mmio);
    return Next::kRun;
  }
  if (const auto* port = std::get_if<PortExit>(&exit)) {
    HandlePort(*port);
    return Next::kRun;
  }
  if (std::holds_alternative<InterruptedExit>(exit)) return Next::kCheckRequests;

  if (std::holds_alternative<ShutdownExit>(exit)) {
    end = {EndReason::kTripleFault, "triple fault"};
    return Next::kCrashVm;
  }
  if (const auto* event = std::get_if<SystemEventExit>(&exit)) {
    switch (event->kind) {
      case SystemEventExit::Kind::kPowerOff:
        end = {EndReason::kPowerOff, "the guest powered off"};
        return Next::kEndVm;
      case SystemEventExit::Kind::kReset:
        end = {EndReason::kReset, "the guest asked for a reset"};
        return Next::kEndVm;
      case SystemEventExit::Kind::kOther:
        end = {EndReason::kGuestNotRunnable, absl::StrCat("system event ", event->type)};
        return Next::kCrashVm;
    }
  }
  if (const auto* error = std::get_if<InternalErrorExit>(&exit)) {
    end = {EndReason::kGuestNotRunnable, Describe(*error)};
  } else if (const auto* refused = std::get_if<EntryFailureExit>(&exit)) {
    end = {EndReason::kGuestNotRunnable,
           absl::StrFormat("host CPU %d refused to enter the guest (hardware reason 0x%x)",
                           refused->cpu, refused->hardware_reason)};
  } else if (const auto* failed = std::get_if<RunFailedExit>(&exit)) {
    end = {EndReason::kVmmError, absl::StrCat("KVM_RUN: ", strerror(failed->error_number))};
  } else if (const auto* unknown = std::get_if<UnknownExit>(&exit)) {
    end = {EndReason::kVmmError, absl::StrCat("unexpected exit reason ", unknown->reason)};
  }
  return Next::kCrashVm;
}

void ExitHandler::HandleMmio(const MmioExit& exit) {
  // KVM splits an access over a page border in two parts of any width up to 8. Devices take powers
  // of two only, so each part is split again: largest first, in the order of addresses.
  uint8_t done = 0;
  while (done < exit.size_bytes) {
    const uint8_t left = exit.size_bytes - done;
    const uint8_t size = std::min<uint8_t>(std::bit_floor(left), 8);
    uint8_t* const data = exit.data + done;
    if (exit.is_write) {
      memory_.Write(vcpu_, exit.address + done, size, Load(data, size));
    } else {
      Store(data, size, memory_.Read(vcpu_, exit.address + done, size));
    }
    done += size;
  }
}

void ExitHandler::HandlePort(const PortExit& exit) {
  uint8_t* data = exit.data;
  for (uint32_t i = 0; i < exit.count; ++i, data += exit.size_bytes) {
    if (exit.is_write) {
      ports_.Write(vcpu_, exit.port, exit.size_bytes, Load(data, exit.size_bytes));
    } else {
      Store(data, exit.size_bytes, ports_.Read(vcpu_, exit.port, exit.size_bytes));
    }
  }
}

}  // namespace bulkhead::vmm
