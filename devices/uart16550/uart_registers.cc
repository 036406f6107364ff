#include "devices/uart16550/uart_registers.h"

#include <string.h>

#include <algorithm>
#include <utility>

namespace bulkhead::devices::uart16550 {
namespace {

// Offsets. With the divisor latch access bit, 0 and 1 are the divisor.
constexpr uint8_t kData = 0;  // RBR, THR
constexpr uint8_t kInterruptEnable = 1;
constexpr uint8_t kInterruptIdentification = 2;  // write: FCR
constexpr uint8_t kLineControl = 3;
constexpr uint8_t kModemControl = 4;
constexpr uint8_t kLineStatus = 5;
constexpr uint8_t kModemStatus = 6;
constexpr uint8_t kScratch = 7;

// Interrupt enable; the pending causes are the same bits.
constexpr uint8_t kReceivedData = 1 << 0;
constexpr uint8_t kTransmitterEmpty = 1 << 1;
constexpr uint8_t kReceiverLineStatus = 1 << 2;
constexpr uint8_t kModemStatusChange = 1 << 3;
constexpr uint8_t kAllCauses = 0x0f;

// Interrupt identification.
constexpr uint8_t kIdNone = 0x01;
constexpr uint8_t kIdModemStatus = 0x00;
constexpr uint8_t kIdTransmitterEmpty = 0x02;
constexpr uint8_t kIdReceivedData = 0x04;
constexpr uint8_t kIdReceiverLineStatus = 0x06;
constexpr uint8_t kIdCharacterTimeout = 0x0c;
constexpr uint8_t kIdFifosEnabled = 0xc0;

// FIFO control.
constexpr uint8_t kFifoEnable = 1 << 0;
constexpr uint8_t kFifoClearReceive = 1 << 1;
constexpr std::array<uint8_t, 4> kTriggerLevels = {1, 4, 8, 14};  // bits 6 and 7

constexpr uint8_t kDivisorAccess = 1 << 7;  // line control

// Modem control.
constexpr uint8_t kDtr = 1 << 0;
constexpr uint8_t kRts = 1 << 1;
constexpr uint8_t kOut1 = 1 << 2;
constexpr uint8_t kOut2 = 1 << 3;
constexpr uint8_t kLoopback = 1 << 4;
constexpr uint8_t kModemControlBits = 0x1f;

// Line status.
constexpr uint8_t kDataReady = 1 << 0;
constexpr uint8_t kOverrun = 1 << 1;
constexpr uint8_t kTransmitHoldingEmpty = 1 << 5;
constexpr uint8_t kTransmitterIdle = 1 << 6;

// Modem status: lines in the upper half, what has changed in the lower.
constexpr uint8_t kCts = 1 << 4;
constexpr uint8_t kDsr = 1 << 5;
constexpr uint8_t kRi = 1 << 6;
constexpr uint8_t kDcd = 1 << 7;
constexpr uint8_t kRiEnded = 1 << 2;

}  // namespace

bool UartRegisters::loopback() const { return (modem_control_ & kLoopback) != 0; }
bool UartRegisters::divisor_access() const { return (line_control_ & kDivisorAccess) != 0; }

uint8_t UartRegisters::Read(uint8_t offset) {
  uint8_t value = 0;
  switch (offset) {
    case kData:
      if (divisor_access()) return divisor_low_;
      if (receive_.size() != 0) {
        value = receive_.Pop();
        changed_ = true;
        if (interrupt_enable_ != 0) CountBurst();
      } else {
        CountInputPoll();
      }
      break;
    case kInterruptEnable:
      return divisor_access() ? divisor_high_ : interrupt_enable_;
    case kInterruptIdentification:
      value = ReadInterruptIdentification();
      break;
    case kLineControl:
      return line_control_;
    case kModemControl:
      return modem_control_;
    case kLineStatus:
      value = LineStatus();
      changed_ |= std::exchange(overrun_, false);
      // While the transmitter is not ready, the driver may be polling for that instead.
      if (value == (kTransmitHoldingEmpty | kTransmitterIdle)) CountInputPoll();
      break;
    case kModemStatus:
      value = ModemLines() | modem_deltas_;
      changed_ |= std::exchange(modem_deltas_, uint8_t{0}) != 0;
      break;
    case kScratch:
      return scratch_;
    default:
      return 0xff;
  }
  UpdateInterrupt();
  return value;
}

void UartRegisters::Write(uint8_t offset, uint8_t value) {
  changed_ = true;
  switch (offset) {
    case kData:
      if (divisor_access()) {
        divisor_low_ = value;
      } else {
        WriteTransmit(value);
      }
      break;
    case kInterruptEnable:
      if (divisor_access()) {
        divisor_high_ = value;
      } else {
        WriteInterruptEnable(value);
      }
      break;
    case kInterruptIdentification:
      WriteFifoControl(value);
      break;
    case kLineControl:
      line_control_ = value;
      break;
    case kModemControl:
      WriteModemControl(value);
      break;
    case kScratch:
      scratch_ = value;
      break;
    default:  // line and modem status: factory tests, "not recommended"
      break;
  }
  UpdateInterrupt();
}

uint8_t UartRegisters::LineStatus() const {
  uint8_t value = 0;
  if (receive_.size() != 0) value |= kDataReady;
  if (overrun_) value |= kOverrun;
  if (transmitter_ready()) value |= kTransmitHoldingEmpty | kTransmitterIdle;
  return value;
}

uint8_t UartRegisters::ModemLines() const {
  if (!loopback()) return kCts | kDsr | kDcd;  // the other end is always there
  uint8_t lines = 0;
  if ((modem_control_ & kRts) != 0) lines |= kCts;
  if ((modem_control_ & kDtr) != 0) lines |= kDsr;
  if ((modem_control_ & kOut1) != 0) lines |= kRi;
  if ((modem_control_ & kOut2) != 0) lines |= kDcd;
  return lines;
}

uint8_t UartRegisters::PendingCauses() const {
  uint8_t causes = 0;
  if (receive_.size() != 0) causes |= kReceivedData;
  if (transmitter_empty_pending_) causes |= kTransmitterEmpty;
  if (overrun_) causes |= kReceiverLineStatus;
  if (modem_deltas_ != 0) causes |= kModemStatusChange;
  return causes & interrupt_enable_;
}

// By priority: table III of the data sheet.
uint8_t UartRegisters::InterruptIdentification() const {
  const uint8_t causes = PendingCauses();
  if ((causes & kReceiverLineStatus) != 0) return kIdReceiverLineStatus;
  if ((causes & kReceivedData) != 0) {
    return receive_.size() >= receive_trigger_ ? kIdReceivedData : kIdCharacterTimeout;
  }
  if ((causes & kTransmitterEmpty) != 0) return kIdTransmitterEmpty;
  if ((causes & kModemStatusChange) != 0) return kIdModemStatus;
  return kIdNone;
}

uint8_t UartRegisters::ReadInterruptIdentification() {
  const uint8_t identification = InterruptIdentification();
  // The only cause that reading its name clears.
  if (identification == kIdTransmitterEmpty) {
    transmitter_empty_pending_ = false;
    changed_ = true;
  }
  if (identification == kIdNone) burst_bytes_ = 0;  // the handler ends
  return identification | (fifos_enabled_ ? kIdFifosEnabled : 0);
}

void UartRegisters::WriteTransmit(uint8_t value) {
  transmitter_empty_pending_ = false;
  UpdateInterrupt();
  input_polls_ = 0;
  if (loopback()) {
    LoopBack(value);
  } else if (transmit_.room() != 0) {
    transmit_.Push(value);
  }  // else the guest has not waited for THRE: lost, as on the wire
  if ((interrupt_enable_ & kTransmitterEmpty) != 0) CountBurst();
  if (transmitter_ready()) SetTransmitterEmpty();
}

void UartRegisters::SetTransmitterEmpty() {
  if (quiet_) {
    transmitter_empty_held_ = true;
  } else {
    transmitter_empty_pending_ = true;
  }
}

void UartRegisters::CountBurst() {
  if (++burst_bytes_ >= kMaxBurstBytes) BeginQuiet();
}

void UartRegisters::BeginQuiet() {
  quiet_ = true;
  if (std::exchange(transmitter_empty_pending_, false)) transmitter_empty_held_ = true;
  UpdateInterrupt();
}

void UartRegisters::EndQuiet() {
  quiet_ = false;
  burst_bytes_ = 0;
  if (std::exchange(transmitter_empty_held_, false) && transmitter_ready()) {
    transmitter_empty_pending_ = true;
    changed_ = true;
  }
  UpdateInterrupt();
}

void UartRegisters::CountInputPoll() {
  if (loopback() || ++input_polls_ < kInputPolls) return;
  input_polls_ = 0;
  AssumeRts();
}

bool UartRegisters::may_want_input_without_rts() const {
  return (interrupt_enable_ & kReceivedData) != 0 && !rts_asserted_once_ && !rts_assumed_;
}

void UartRegisters::AssumeRts() {
  if (rts_asserted_once_ || rts_assumed_) return;
  rts_assumed_ = true;
  changed_ = true;
}

void UartRegisters::LoopBack(uint8_t byte) {
  if (receive_.size() < receive_capacity()) {
    receive_.Push(byte);
    return;
  }
  overrun_ = true;
  if (!fifos_enabled_) {  // the receive buffer is overwritten; a full FIFO stays as it is
    receive_.Clear();
    receive_.Push(byte);
  }
}

void UartRegisters::WriteInterruptEnable(uint8_t value) {
  value &= kAllCauses;
  const uint8_t newly_enabled = value & static_cast<uint8_t>(~interrupt_enable_);
  interrupt_enable_ = value;
  // Enabling it while the transmitter is empty is an interrupt: drivers start sending by it.
  if ((newly_enabled & kTransmitterEmpty) != 0 && transmitter_ready()) SetTransmitterEmpty();
}

void UartRegisters::WriteFifoControl(uint8_t value) {
  const bool enable = (value & kFifoEnable) != 0;
  input_polls_ = 0;
  // A driver that starts anew, perhaps with a test of the transmitter's interrupt.
  if ((value & kFifoClearReceive) != 0) EndQuiet();
  // The transmit FIFO is always empty: what is in transmit_ is on the wire.
  if (enable != fifos_enabled_ || (enable && (value & kFifoClearReceive) != 0)) receive_.Clear();
  fifos_enabled_ = enable;
  receive_trigger_ = enable ? kTriggerLevels[value >> 6] : 1;
}

void UartRegisters::WriteModemControl(uint8_t value) {
  const uint8_t before = ModemLines();
  modem_control_ = value & kModemControlBits;
  if ((modem_control_ & (kRts | kLoopback)) == kRts) rts_asserted_once_ = true;
  const uint8_t after = ModemLines();
  const uint8_t changed = before ^ after;
  // The ring indicator only tells that it has ended.
  modem_deltas_ |= (changed & (kCts | kDsr | kDcd)) >> 4;
  if ((changed & before & kRi) != 0) modem_deltas_ |= kRiEnded;
}

size_t UartRegisters::ReceiveRoom() const {
  const bool ready = rts_asserted_once_ ? (modem_control_ & kRts) != 0 : rts_assumed_;
  if (quiet_ || loopback() || !ready) return 0;
  return receive_capacity() - std::min(receive_capacity(), receive_.size());
}

void UartRegisters::Receive(absl::Span<const uint8_t> bytes) {
  const size_t count = std::min(bytes.size(), ReceiveRoom());
  for (const uint8_t byte : bytes.first(count)) receive_.Push(byte);
  changed_ |= count != 0;
  UpdateInterrupt();
}

absl::Span<const uint8_t> UartRegisters::Transmitted() const {
  return absl::MakeConstSpan(transmit_.bytes)
      .subspan(transmit_.first, std::min(transmit_.count, kTransmitBytes - transmit_.first));
}

void UartRegisters::ConsumeTransmitted(size_t count) {
  const bool was_ready = transmitter_ready();
  changed_ |= count != 0;
  transmit_.Drop(std::min(count, transmit_.size()));
  if (!was_ready && transmitter_ready()) SetTransmitterEmpty();
  UpdateInterrupt();
}

// The beginning of what is saved; the transmitted bytes follow, as many as there are.
struct UartRegisters::Saved {
  uint8_t interrupt_enable;
  uint8_t line_control;
  uint8_t modem_control;
  uint8_t modem_deltas;
  uint8_t scratch;
  uint8_t divisor_low;
  uint8_t divisor_high;
  uint8_t fifos_enabled;
  uint8_t receive_trigger;
  uint8_t overrun;
  uint8_t transmitter_empty_pending;
  uint8_t rts_asserted_once;
  uint8_t rts_assumed;
  uint8_t receive_count;
  uint8_t receive[kFifoBytes];
};

size_t UartRegisters::Save(absl::Span<uint8_t> bytes) const {
  static_assert(sizeof(Saved) + kTransmitBytes <= kMaxSavedBytes);
  Saved saved = {.interrupt_enable = interrupt_enable_,
                 .line_control = line_control_,
                 .modem_control = modem_control_,
                 .modem_deltas = modem_deltas_,
                 .scratch = scratch_,
                 .divisor_low = divisor_low_,
                 .divisor_high = divisor_high_,
                 .fifos_enabled = fifos_enabled_,
                 .receive_trigger = receive_trigger_,
                 .overrun = overrun_,
                 .transmitter_empty_pending =
                     transmitter_empty_pending_ || (transmitter_empty_held_ && transmitter_ready()),
                 .rts_asserted_once = rts_asserted_once_,
                 .rts_assumed = rts_assumed_,
                 .receive_count = static_cast<uint8_t>(receive_.size()),
                 .receive = {}};
  receive_.CopyTo(saved.receive);
  memcpy(bytes.data(), &saved, sizeof(saved));
  transmit_.CopyTo(bytes.data() + sizeof(saved));
  return sizeof(saved) + transmit_.size();
}

bool UartRegisters::Restore(absl::Span<const uint8_t> bytes) {
  Saved saved;
  if (bytes.size() < sizeof(saved)) return false;
  memcpy(&saved, bytes.data(), sizeof(saved));
  bytes.remove_prefix(sizeof(saved));
  const bool is_possible =
      (saved.interrupt_enable & ~kAllCauses) == 0 &&
      (saved.modem_control & ~kModemControlBits) == 0 && saved.modem_deltas <= 0x0f &&
      saved.fifos_enabled <= 1 && saved.overrun <= 1 && saved.transmitter_empty_pending <= 1 &&
      saved.rts_asserted_once <= 1 && saved.rts_assumed <= 1 &&
      std::count(kTriggerLevels.begin(), kTriggerLevels.end(), saved.receive_trigger) == 1 &&
      saved.receive_count <= (saved.fifos_enabled != 0 ? kFifoBytes : 1) &&
      bytes.size() <= kTransmitBytes;
  if (!is_possible) return false;
  *this = UartRegisters();
  interrupt_enable_ = saved.interrupt_enable;
  line_control_ = saved.line_control;
  modem_control_ = saved.modem_control;
  modem_deltas_ = saved.modem_deltas;
  scratch_ = saved.scratch;
  divisor_low_ = saved.divisor_low;
  divisor_high_ = saved.divisor_high;
  fifos_enabled_ = saved.fifos_enabled != 0;
  receive_trigger_ = saved.receive_trigger;
  overrun_ = saved.overrun != 0;
  transmitter_empty_pending_ = saved.transmitter_empty_pending != 0;
  rts_asserted_once_ = saved.rts_asserted_once != 0;
  rts_assumed_ = saved.rts_assumed != 0;
  for (size_t i = 0; i < saved.receive_count; ++i) receive_.Push(saved.receive[i]);
  for (const uint8_t byte : bytes) transmit_.Push(byte);
  UpdateInterrupt();
  return true;
}

void UartRegisters::Reset() {
  const Fifo<kTransmitBytes> transmit = transmit_;
  *this = UartRegisters();
  transmit_ = transmit;
  changed_ = true;
}

bool UartRegisters::TakeChanged() { return std::exchange(changed_, false); }

bool UartRegisters::TakeInterruptEdge() {
  const bool edge = edge_;
  edge_ = false;
  return edge;
}

void UartRegisters::UpdateInterrupt() {
  const uint8_t causes = PendingCauses();
  if (causes != 0 && causes != pending_) edge_ = true;
  if (causes == 0) edge_ = false;  // an interrupt that was not taken yet is withdrawn
  pending_ = causes;
}

}  // namespace bulkhead::devices::uart16550
