#ifndef BULKHEAD_DEVICES_UART16550_UART_DEVICE_H_
#define BULKHEAD_DEVICES_UART16550_UART_DEVICE_H_

#include <stddef.h>
#include <stdint.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "devices/uart16550/console_socket.h"
#include "devices/uart16550/line_pace.h"
#include "devices/uart16550/uart_registers.h"

namespace bulkhead::devices::uart16550 {

struct UartOptions {
  uint32_t port = 0x3f8;
  uint32_t irq = 4;
};

// A serial port (UartRegisters) between the guest and the vmm, the resource "console"
// (proto/console_stream.h).
//
// Its whole state is saved: registers, both FIFOs, and the position in each stream. A packet of
// input stays in the socket until the bytes taken from it are saved; output is sent first and then
// saved as sent, and by its position the vmm knows what it has already.
//
// Single-threaded, as every DeviceModel.
class UartDevice : public DeviceModel {
 public:
  explicit UartDevice(const UartOptions& options) : options_(options) {}
  // If it is serving, sends the rest of the output, and waits for a slow reader for a short time.
  ~UartDevice() override;

  v1::DeviceInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;
  size_t Save(absl::Span<uint8_t> state) const override;
  absl::Status Restore(absl::Span<const uint8_t> state) override;
  void Reset() override;
  void SetServing(bool serving) override;
  bool at_rest() const override { return true; }
  void AppendMetrics(v1::DeviceMetrics& metrics) const override;
  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t) override {}
  void OnFunctionState(const FunctionState&) override {}

 private:
  // What is saved, before the registers.
  struct Saved;

  // Every call from the host is one event: BeginEvent(), the change, FinishEvent(). The changes of
  // earlier events are saved by then.
  void BeginEvent();
  // Sends output as far as there is room, then updates the interrupt and reports the change of
  // state.
  void FinishEvent();
  // Once: tells the vmm the positions from which this process resumes.
  void SendHandshake();
  void SendOutput();
  void SendRemainingOutput();
  // There is a packet, and there is room.
  void OnPacket();
  void OnRoom();
  void OnTimer();
  // After an access of the guest.
  void UpdatePace();
  void SetTimer();
  void TakePositions(const ConsolePacketHeader& header);
  void TakeInput(const ConsoleSocket::Packet& packet);
  void UpdateWatches();
  void SetWatch(int fd, bool wanted, bool& watched, void (UartDevice::*on_ready)());
  void UpdateInterrupt();

  const UartOptions options_;
  DeviceServices* services_ = nullptr;
  std::unique_ptr<ConsoleSocket> console_;
  UniqueFd timer_;
  bool serving_ = true;

  // Saved:
  UartRegisters registers_;
  bool positions_known_ = false;
  uint64_t output_position_ = 0;  // of the first byte of registers_.Transmitted()
  uint64_t input_position_ = 0;   // of the next byte to be taken in
  bool positions_changed_ = false;

  // As of BeginEvent(), so saved:
  bool may_send_ = false;         // the positions were known
  uint64_t acknowledgement_ = 0;  // input_position_

  bool handshake_sent_ = false;
  bool packet_is_taken_ = false;    // all of the oldest packet; drop it once that is saved
  bool output_is_blocked_ = false;  // until there is room
  LinePace pace_;
  absl::Time timer_due_ = absl::InfiniteFuture();  // not later than pace_.due()
  bool socket_is_watched_ = false;
  bool room_is_watched_ = false;
  bool timer_is_watched_ = false;
  bool line_ = false;  // as last set by SetIntx()

  uint64_t transmitted_bytes_ = 0;
  uint64_t received_bytes_ = 0;
  uint64_t output_waits_ = 0;
  uint64_t quiet_phases_ = 0;
  uint64_t interrupts_ = 0;
};

}  // namespace bulkhead::devices::uart16550

#endif  // BULKHEAD_DEVICES_UART16550_UART_DEVICE_H_
