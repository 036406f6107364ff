#include "devices/uart16550/uart_device.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "proto/contract.h"

namespace bulkhead::devices::uart16550 {
namespace {

constexpr char kInputResource[] = "input";
constexpr char kOutputResource[] = "output";
// At the end of the device. Well below what the vmm waits for it.
constexpr absl::Duration kLastOutputTimeout = absl::Milliseconds(200);

bool IsReadable(int fd) {
  pollfd entry = {.fd = fd, .events = POLLIN, .revents = 0};
  return poll(&entry, 1, 0) == 1;
}

}  // namespace

UartDevice::~UartDevice() {
  if (output_.has_value()) {
    SendRemainingOutput();
    services_->Unwatch(output_->readiness_fd());
  }
  CloseInput();
}

v1::PciInfo UartDevice::Describe() const {
  v1::PciInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("uart16550");
  v1::PlatformDevice& platform = *info.mutable_platform();
  platform.set_acpi_hid("PNP0501");  // 16550A-compatible COM port
  v1::PortRange& ports = *platform.add_port_ranges();
  ports.set_base(options_.port);
  ports.set_size(kRegisterCount);
  platform.set_irq(options_.irq);
  info.add_required_resources(kOutputResource);
  return info;
}

absl::Status UartDevice::Start(DeviceServices& services) {
  services_ = &services;
  ASSIGN_OR_RETURN(UniqueFd output, services.TakeResource(kOutputResource));
  ASSIGN_OR_RETURN(output_, OutputStream::Create(std::move(output), options_.max_file_bytes));
  RETURN_IF_ERROR(services.Watch(output_->readiness_fd(), [this] {
    output_->AcknowledgeReadiness();
    output_is_blocked_ = false;
    Exchange();
  }));

  absl::StatusOr<UniqueFd> input = services.TakeResource(kInputResource);
  if (!input.ok()) return absl::IsNotFound(input.status()) ? absl::OkStatus() : input.status();
  input_ = *std::move(input);
  return absl::OkStatus();
}

uint64_t UartDevice::Read(uint8_t, uint64_t offset, uint8_t size_bytes) {
  // A wider access is so many byte accesses, lowest port first, as on ISA.
  uint64_t value = 0;
  for (uint8_t i = 0; i < size_bytes; ++i) {
    value |= uint64_t{registers_.Read(static_cast<uint8_t>(offset + i))} << 8 * i;
  }
  Exchange();
  return value;
}

void UartDevice::Write(uint8_t, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  for (uint8_t i = 0; i < size_bytes; ++i) {
    registers_.Write(static_cast<uint8_t>(offset + i), static_cast<uint8_t>(value >> 8 * i));
  }
  Exchange();
}

void UartDevice::Exchange() {
  SendOutput();
  if (input_.ok()) UpdateInputWatch();
  UpdateInterrupt();
}

void UartDevice::SendOutput() {
  // At most twice around: the bytes may lie in two pieces.
  while (!output_is_blocked_) {
    const absl::Span<const uint8_t> bytes = registers_.Transmitted();
    if (bytes.empty()) return;
    const size_t done = output_->Write(bytes);
    output_is_blocked_ = done < bytes.size();
    registers_.ConsumeTransmitted(done);
  }
}

void UartDevice::SendRemainingOutput() {
  const absl::Time deadline = absl::Now() + kLastOutputTimeout;
  output_is_blocked_ = false;
  SendOutput();
  while (output_is_blocked_) {
    const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
    pollfd entry = {.fd = output_->readiness_fd(), .events = POLLIN, .revents = 0};
    if (left_ms <= 0 || poll(&entry, 1, static_cast<int>(left_ms)) == 0) break;
    output_->AcknowledgeReadiness();
    output_is_blocked_ = false;
    SendOutput();
  }
}

void UartDevice::ReceiveInput() {
  std::array<uint8_t, UartRegisters::kFifoBytes> bytes;
  const absl::Span<uint8_t> room = absl::MakeSpan(bytes).first(registers_.ReceiveRoom());
  if (room.empty() || !IsReadable(input_.get())) return;
  const ssize_t count = read(input_.get(), room.data(), room.size());
  if (count > 0) {
    registers_.Receive(room.first(static_cast<size_t>(count)));
  } else if (count == 0) {
    CloseInput();
  } else if (errno != EINTR && errno != EAGAIN) {
    LogWarning(absl::StrCat("no more input: ", strerror(errno)));
    CloseInput();
  }
}

void UartDevice::UpdateInputWatch() {
  if (!input_can_wait_) {
    ReceiveInput();
    return;
  }
  const bool wanted = registers_.ReceiveRoom() != 0;
  if (wanted == input_is_watched_) return;
  if (!wanted) {
    services_->Unwatch(input_.get());
    input_is_watched_ = false;
    return;
  }
  const absl::Status status = services_->Watch(input_.get(), [this] {
    ReceiveInput();
    Exchange();
  });
  if (status.ok()) {
    input_is_watched_ = true;
  } else if (absl::IsPermissionDenied(status)) {
    input_can_wait_ = false;  // EPERM: epoll has no use for it, it never blocks
    ReceiveInput();
  } else {
    LogWarning(absl::StrCat("no input: ", status.message()));
    CloseInput();
  }
}

void UartDevice::CloseInput() {
  if (input_is_watched_) services_->Unwatch(input_.get());
  input_is_watched_ = false;
  input_.reset();
}

void UartDevice::UpdateInterrupt() {
  const bool level = registers_.interrupt();
  if (registers_.TakeInterruptEdge() && line_) {
    services_->SetIntx(false);
    line_ = false;
  }
  if (level != line_) services_->SetIntx(level);
  line_ = level;
}

}  // namespace bulkhead::devices::uart16550
