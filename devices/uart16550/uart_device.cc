#include "devices/uart16550/uart_device.h"

#include <poll.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/crash_point.h"
#include "base/errno_status.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "devices/host/metrics.h"
#include "proto/contract.h"

namespace bulkhead::devices::uart16550 {
namespace {

constexpr char kConsoleResource[] = "console";
constexpr uint32_t kStateVersion = 2;
// In the destructor. Well below the time that the vmm waits for the end of the process.
constexpr absl::Duration kLastOutputTimeout = absl::Milliseconds(200);

// Waits for an event of `fd`. False: it is too late.
bool Await(int fd, short event, absl::Time deadline) {  // NOLINT(google-runtime-int): as in pollfd
  pollfd entry = {.fd = fd, .events = event, .revents = 0};
  const int64_t left_ms = absl::ToInt64Milliseconds(deadline - SteadyNow());
  return left_ms > 0 && poll(&entry, 1, static_cast<int>(left_ms)) == 1;
}

}  // namespace

struct UartDevice::Saved {
  uint64_t output_position;
  uint64_t input_position;
  uint64_t positions_known;
};

UartDevice::~UartDevice() {
  if (console_ == nullptr) return;
  if (serving_) SendRemainingOutput();
  serving_ = false;
  UpdateWatches();
}

v1::DeviceInfo UartDevice::Describe() const {
  v1::DeviceInfo info;
  info.set_contract_version(kContractVersion);
  info.set_model("uart16550");
  v1::PlatformDevice& platform = *info.mutable_platform();
  platform.set_acpi_hid("PNP0501");  // 16550A-compatible COM port
  v1::PortRange& ports = *platform.add_port_ranges();
  ports.set_base(options_.port);
  ports.set_size(kRegisterCount);
  platform.set_irq(options_.irq);
  info.add_required_resources(kConsoleResource);
  info.set_saved_state_bytes(sizeof(Saved) + UartRegisters::kMaxSavedBytes);
  info.set_state_version(kStateVersion);
  return info;
}

absl::Status UartDevice::Start(DeviceServices& services) {
  services_ = &services;
  ASSIGN_OR_RETURN(UniqueFd socket, services.TakeResource(kConsoleResource));
  ASSIGN_OR_RETURN(console_, ConsoleSocket::Create(std::move(socket)));
  timer_.reset(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));  // as SteadyNow()
  if (!timer_.ok()) return ErrnoToStatus(errno, "timerfd_create");
  return absl::OkStatus();
}

size_t UartDevice::Save(absl::Span<uint8_t> state) const {
  const Saved saved = {output_position_, input_position_, positions_known_};
  memcpy(state.data(), &saved, sizeof(saved));
  return sizeof(saved) + registers_.Save(state.subspan(sizeof(saved)));
}

absl::Status UartDevice::Restore(absl::Span<const uint8_t> state) {
  Saved saved;
  if (state.size() < sizeof(saved))
    return absl::InvalidArgumentError(
        absl::StrCat("saved state of ", state.size(), " bytes, less than ", sizeof(saved)));
  memcpy(&saved, state.data(), sizeof(saved));
  if (saved.positions_known > 1 || !registers_.Restore(state.subspan(sizeof(saved)))) {
    return absl::InvalidArgumentError("impossible registers or positions");
  }
  output_position_ = saved.output_position;
  input_position_ = saved.input_position;
  positions_known_ = saved.positions_known != 0;
  BeginEvent();
  SendHandshake();
  // Output that waits goes out in an event of its own.
  output_is_blocked_ = !registers_.Transmitted().empty() && console_->AwaitRoom();
  UpdatePace();
  UpdateWatches();
  UpdateInterrupt();
  return absl::OkStatus();
}

void UartDevice::Reset() {
  BeginEvent();
  registers_.Reset();
  pace_ = LinePace();
  FinishEvent();
}

void UartDevice::SetServing(bool serving) {
  BeginEvent();
  serving_ = serving;
  FinishEvent();
}

uint64_t UartDevice::Read(uint8_t, uint64_t offset, uint8_t size_bytes) {
  BeginEvent();
  // A wider access is several byte accesses, lowest port first, as on ISA.
  uint64_t value = 0;
  for (uint8_t i = 0; i < size_bytes; ++i) {
    value |= uint64_t{registers_.Read(static_cast<uint8_t>(offset + i))} << 8 * i;
  }
  UpdatePace();
  FinishEvent();
  return value;
}

void UartDevice::Write(uint8_t, uint64_t offset, uint8_t size_bytes, uint64_t value) {
  BeginEvent();
  for (uint8_t i = 0; i < size_bytes; ++i) {
    registers_.Write(static_cast<uint8_t>(offset + i), static_cast<uint8_t>(value >> 8 * i));
  }
  UpdatePace();
  FinishEvent();
}

void UartDevice::BeginEvent() {
  may_send_ = positions_known_;
  acknowledgement_ = input_position_;
}

void UartDevice::FinishEvent() {
  if (serving_) {
    SendHandshake();
    SendOutput();
  }
  UpdateWatches();
  UpdateInterrupt();
  if (registers_.TakeChanged() || std::exchange(positions_changed_, false)) {
    services_->StateChanged();
  }
}

void UartDevice::SendHandshake() {
  if (std::exchange(handshake_sent_, true)) return;
  const uint64_t position = positions_known_ ? output_position_ : kConsolePositionUnknown;
  console_->Send({.position = position, .acknowledged = acknowledgement_}, {});
}

void UartDevice::SendOutput() {
  // At most twice: the bytes may lie in two pieces.
  while (may_send_ && !output_is_blocked_) {
    const absl::Span<const uint8_t> bytes = registers_.Transmitted();
    if (bytes.empty()) return;
    const std::optional<size_t> sent =
        console_->Send({.position = output_position_, .acknowledged = acknowledgement_}, bytes);
    if (!sent.has_value()) {
      output_is_blocked_ = console_->AwaitRoom();
      ++output_waits_;
      return;
    }
    CRASH_POINT("uart_after_send");
    registers_.ConsumeTransmitted(*sent);
    output_position_ += *sent;
    transmitted_bytes_ += *sent;
  }
}

void UartDevice::SendRemainingOutput() {
  const absl::Time deadline = SteadyNow() + kLastOutputTimeout;
  while (true) {
    BeginEvent();
    output_is_blocked_ = false;
    SendOutput();
    if (registers_.Transmitted().empty() || console_->has_ended()) return;
    if (!Await(console_->fd(), positions_known_ ? POLLOUT : POLLIN, deadline)) return;
    if (!positions_known_) OnPacket();
  }
}

void UartDevice::OnPacket() {
  const std::optional<ConsoleSocket::Packet> packet = console_->Peek();
  if (!packet.has_value()) return;
  if (packet_is_taken_) {
    CRASH_POINT("uart_before_acknowledgement");
    console_->Drop();
    packet_is_taken_ = false;
    if (!packet->data.empty()) {
      // If there is no room, a later one will do.
      console_->Send({.position = output_position_, .acknowledged = acknowledgement_}, {});
    }
  } else if (packet->data.empty()) {
    TakePositions(packet->header);
  } else {
    TakeInput(*packet);
  }
}

void UartDevice::TakePositions(const ConsolePacketHeader& header) {
  packet_is_taken_ = true;
  if (positions_known_) return;
  positions_known_ = true;
  input_position_ = header.position;
  output_position_ = header.acknowledged;
  positions_changed_ = true;
}

void UartDevice::TakeInput(const ConsoleSocket::Packet& packet) {
  if (packet.header.position > input_position_) {
    LogWarning(absl::StrCat("console: input at position ", packet.header.position, " instead of ",
                            input_position_));
    input_position_ = packet.header.position;
  }
  // The number of its bytes that were taken already.
  const size_t known =
      std::min<uint64_t>(input_position_ - packet.header.position, packet.data.size());
  absl::Span<const uint8_t> bytes = packet.data.subspan(known);
  bytes = bytes.first(std::min(bytes.size(), registers_.ReceiveRoom()));
  registers_.Receive(bytes);
  input_position_ += bytes.size();
  received_bytes_ += bytes.size();
  packet_is_taken_ = known + bytes.size() == packet.data.size();
  positions_changed_ = true;
  CRASH_POINT("uart_after_taking_input");
}

void UartDevice::OnRoom() {
  console_->EndAwaitingRoom();
  output_is_blocked_ = false;
}

void UartDevice::UpdatePace() {
  if (pace_.IsNeeded(registers_)) pace_.OnAccess(registers_, SteadyNow());
  SetTimer();
}

void UartDevice::SetTimer() {
  // A timer that expires too early is set again: one system call for each wait, not each access.
  if (pace_.due() >= timer_due_) return;
  timer_due_ = pace_.due();
  const itimerspec due = {.it_interval = {}, .it_value = absl::ToTimespec(timer_due_)};
  timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &due, nullptr);
}

void UartDevice::OnTimer() {
  uint64_t expirations;
  if (read(timer_.get(), &expirations, sizeof(expirations)) < 0) return;  // set anew meanwhile
  timer_due_ = absl::InfiniteFuture();
  const bool was_quiet = registers_.is_quiet();
  pace_.OnTime(registers_, SteadyNow());
  quiet_phases_ += was_quiet && !registers_.is_quiet();
  SetTimer();
}

void UartDevice::UpdateWatches() {
  const bool wants_packet = !positions_known_ || packet_is_taken_ || registers_.ReceiveRoom() != 0;
  SetWatch(console_->fd(), serving_ && handshake_sent_ && wants_packet && !console_->has_ended(),
           socket_is_watched_, &UartDevice::OnPacket);
  SetWatch(console_->writable_fd(), serving_ && output_is_blocked_, room_is_watched_,
           &UartDevice::OnRoom);
  SetWatch(timer_.get(), serving_, timer_is_watched_, &UartDevice::OnTimer);
}

void UartDevice::SetWatch(int fd, bool wanted, bool& watched, void (UartDevice::*on_ready)()) {
  if (wanted == watched) return;
  watched = wanted;
  if (!wanted) {
    services_->Unwatch(fd);
    return;
  }
  const absl::Status status = services_->Watch(fd, [this, on_ready] {
    BeginEvent();
    (this->*on_ready)();
    FinishEvent();
  });
  if (!status.ok())
    LogWarning(absl::StrCat("console: cannot be watched any more: ", status.message()));
}

void UartDevice::UpdateInterrupt() {
  const bool level = registers_.interrupt();
  if (registers_.TakeInterruptEdge() && line_) {
    services_->SetIntx(false);
    line_ = false;
  }
  if (level != line_) services_->SetIntx(level);
  interrupts_ += level && !line_;
  line_ = level;
}

void UartDevice::AppendMetrics(v1::DeviceMetrics& metrics) const {
  AddCounter(metrics, "transmitted_bytes_total",
             "Bytes that the guest has sent and the console has taken.", transmitted_bytes_);
  AddCounter(metrics, "received_bytes_total", "Bytes that were typed and that the guest can read.",
             received_bytes_);
  AddCounter(metrics, "output_waits_total", "How often the console took no more output.",
             output_waits_);
  AddCounter(metrics, "quiet_phases_total",
             "Bursts of an interrupt handler that were cut off, so that it ends.", quiet_phases_);
  AddCounter(metrics, "interrupts_total", "Edges of the interrupt line.", interrupts_);
}

}  // namespace bulkhead::devices::uart16550
