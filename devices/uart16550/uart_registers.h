#ifndef BULKHEAD_DEVICES_UART16550_UART_REGISTERS_H_
#define BULKHEAD_DEVICES_UART16550_UART_REGISTERS_H_

#include <stddef.h>
#include <stdint.h>

#include <array>

#include "absl/types/span.h"

namespace bulkhead::devices::uart16550 {

inline constexpr uint8_t kRegisterCount = 8;

// The registers of a 16550A (National Semiconductor PC16550D data sheet), one byte each, and
// its FIFOs. Pure: no descriptors, no time. Thread-compatible.
//
// It has no notion of time: a transmitted byte has left the FIFO when the write returns (as long as
// the other end takes it), and a received byte below the trigger level is a character timeout at
// once. Baud rate, parity and word length are stored and have no effect.
//
// But interrupt handlers rely on time: they work until nothing is pending, which ends on a real
// wire because each byte takes its time. Here a handler whose data does not run out would never
// end. So the line becomes quiet once a handler has moved kMaxBurstBytes, or at BeginQuiet(): no
// more bytes are received, and the transmitter's interrupt is held back. LSR still shows the
// transmitter ready: a driver that polls loses nothing. The owner calls EndQuiet().
//
// The other end keeps to hardware flow control: it sends only while the guest asserts RTS.
// Drivers assert it once they are ready, so early input is not lost when a driver probes the chip
// and clears its FIFOs. A driver that never asserts RTS gets input once it is seen to wait for it:
// it polls, or it has enabled the interrupt (AssumeRts()).
class UartRegisters {
 public:
  static constexpr size_t kFifoBytes = 16;
  // What one run of an interrupt handler may move, beside what is received already.
  static constexpr uint32_t kMaxBurstBytes = 16 * kFifoBytes;
  // A driver that reads LSR so often in a row without sending polls for input. Drivers that probe
  // the chip read it a few times.
  static constexpr uint32_t kInputPolls = 32;
  // Room for bytes that the other end has not taken yet. LSR makes the guest wait when less than a
  // FIFO's worth is free, so that a driver's full FIFO always fits.
  static constexpr size_t kTransmitBytes = 4096;

  // --- The guest's side. `offset` below kRegisterCount. -----------------------------------
  uint8_t Read(uint8_t offset);
  void Write(uint8_t offset, uint8_t value);

  // --- The other end of the line --------------------------------------------------------------
  // How many bytes can be received now: 0 while the guest is not ready, or the line is quiet.
  size_t ReceiveRoom() const;
  // At most ReceiveRoom() bytes.
  void Receive(absl::Span<const uint8_t> bytes);
  // The oldest transmitted bytes, not necessarily all. Valid until the next call.
  absl::Span<const uint8_t> Transmitted() const;
  // The first `count` bytes of Transmitted() are gone.
  void ConsumeTransmitted(size_t count);
  // Bytes that the guest's interrupt handler has moved since it last found nothing pending.
  uint32_t burst_bytes() const { return burst_bytes_; }
  bool is_quiet() const { return quiet_; }
  void BeginQuiet();
  void EndQuiet();
  // The guest has enabled the interrupt for received data and has never asserted RTS. It may be
  // about to: drivers write RTS a few accesses later, and clear the FIFOs in between.
  bool may_want_input_without_rts() const;
  // From now on the guest receives without RTS, until it first asserts it.
  void AssumeRts();

  // --- What outlives the process ---------------------------------------------------------------
  // Saves everything, into at most kMaxSavedBytes; returns how many. A quiet line is not saved: an
  // interrupt that it holds back is saved as pending.
  static constexpr size_t kMaxSavedBytes = 32 + kTransmitBytes;
  size_t Save(absl::Span<uint8_t> bytes) const;
  // Restores what Save() wrote; a pending cause makes an edge of the line. False: `bytes` are
  // impossible, and nothing has changed.
  bool Restore(absl::Span<const uint8_t> bytes);
  // True if Save() would write something else than at the last call.
  bool TakeChanged();
  // State after power-on. What was transmitted has left the guest, and stays.
  void Reset();

  // --- The interrupt line ----------------------------------------------------------------------
  // True while any enabled cause is pending.
  bool interrupt() const { return pending_ != 0; }
  // True if the line has risen since the last call. It also rises, from high, whenever one of
  // several pending causes is dealt with or another joins them: behind an edge-triggered
  // interrupt controller a driver that serves one cause an interrupt misses none.
  bool TakeInterruptEdge();

 private:
  // A queue of bytes of fixed capacity.
  template <size_t kCapacity>
  struct Fifo {
    size_t size() const { return count; }
    size_t room() const { return kCapacity - count; }
    void Push(uint8_t byte) { bytes[(first + count++) % kCapacity] = byte; }
    uint8_t Pop() {
      const uint8_t byte = bytes[first];
      Drop(1);
      return byte;
    }
    void Drop(size_t n) {
      first = (first + n) % kCapacity;
      count -= n;
    }
    void Clear() { first = count = 0; }
    void CopyTo(uint8_t* out) const {
      for (size_t i = 0; i < count; ++i) out[i] = bytes[(first + i) % kCapacity];
    }

    std::array<uint8_t, kCapacity> bytes = {};
    size_t first = 0;
    size_t count = 0;
  };

  bool loopback() const;
  bool divisor_access() const;
  bool transmitter_ready() const { return transmit_.room() >= kFifoBytes; }
  size_t receive_capacity() const { return fifos_enabled_ ? kFifoBytes : 1; }
  uint8_t PendingCauses() const;
  uint8_t LineStatus() const;
  uint8_t ModemLines() const;
  uint8_t InterruptIdentification() const;

  uint8_t ReadInterruptIdentification();
  void WriteTransmit(uint8_t value);
  void WriteInterruptEnable(uint8_t value);
  void WriteFifoControl(uint8_t value);
  void WriteModemControl(uint8_t value);
  void SetTransmitterEmpty();
  void CountBurst();
  void CountInputPoll();
  void LoopBack(uint8_t byte);
  void UpdateInterrupt();

  struct Saved;

  Fifo<kFifoBytes> receive_;
  Fifo<kTransmitBytes> transmit_;

  uint8_t interrupt_enable_ = 0;
  uint8_t line_control_ = 0;
  uint8_t modem_control_ = 0;
  uint8_t modem_deltas_ = 0;
  uint8_t scratch_ = 0;
  uint8_t divisor_low_ = 12;  // 9600 baud
  uint8_t divisor_high_ = 0;
  bool fifos_enabled_ = false;
  uint8_t receive_trigger_ = 1;
  bool overrun_ = false;
  bool transmitter_empty_pending_ = false;  // the THRE interrupt's latch
  bool rts_asserted_once_ = false;
  bool rts_assumed_ = false;

  // Not saved: of one run of a handler, or of a driver's loop.
  uint32_t burst_bytes_ = 0;
  bool quiet_ = false;
  bool transmitter_empty_held_ = false;  // until EndQuiet()
  uint32_t input_polls_ = 0;
  // Not saved: they follow from the rest.
  uint8_t pending_ = 0;  // causes, as of the last UpdateInterrupt()
  bool edge_ = false;
  bool changed_ = false;
};

}  // namespace bulkhead::devices::uart16550

#endif  // BULKHEAD_DEVICES_UART16550_UART_REGISTERS_H_
