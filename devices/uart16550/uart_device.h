#ifndef BULKHEAD_DEVICES_UART16550_UART_DEVICE_H_
#define BULKHEAD_DEVICES_UART16550_UART_DEVICE_H_

#include <stdint.h>

#include <optional>

#include "absl/status/status.h"
#include "base/unique_fd.h"
#include "devices/host/device_model.h"
#include "devices/uart16550/output_stream.h"
#include "devices/uart16550/uart_registers.h"

namespace bulkhead::devices::uart16550 {

struct UartOptions {
  uint32_t port = 0x3f8;
  uint32_t irq = 4;
  // What a regular file given as "output" can grow by.
  uint64_t max_file_bytes = uint64_t{256} << 20;
};

// A serial port (UartRegisters) between the guest and two descriptors: what the guest sends goes
// to the resource "output"; it receives what the resource "input", if given, has. A terminal is
// taken as it is: raw mode is set by who owns it.
// Single-threaded, as every DeviceModel.
class UartDevice : public DeviceModel {
 public:
  explicit UartDevice(const UartOptions& options) : options_(options) {}
  // Sends the rest of the output; a reader that is still slow is given a moment, then no more.
  ~UartDevice() override;

  v1::PciInfo Describe() const override;
  absl::Status Start(DeviceServices& services) override;
  uint64_t Read(uint8_t region, uint64_t offset, uint8_t size_bytes) override;
  void Write(uint8_t region, uint64_t offset, uint8_t size_bytes, uint64_t value) override;
  void OnDoorbell(uint32_t) override {}
  void OnFunctionState(const FunctionState&) override {}

 private:
  // Moves bytes both ways as far as they go now, then tells the guest.
  void Exchange();
  void SendOutput();
  void SendRemainingOutput();
  void ReceiveInput();
  // Watches the input exactly while the guest can take something.
  void UpdateInputWatch();
  void CloseInput();
  void UpdateInterrupt();

  const UartOptions options_;
  UartRegisters registers_;
  DeviceServices* services_ = nullptr;
  std::optional<OutputStream> output_;
  bool output_is_blocked_ = false;  // until its readiness descriptor says otherwise

  UniqueFd input_;              // not ok(): none, or it has ended
  bool input_can_wait_ = true;  // false: a file; always readable, and not for epoll
  bool input_is_watched_ = false;
  bool line_ = false;  // as last told to the services
};

}  // namespace bulkhead::devices::uart16550

#endif  // BULKHEAD_DEVICES_UART16550_UART_DEVICE_H_
