// A 16550A serial port in a process of its own.

#include <stdint.h>

#include <memory>

#include "absl/flags/flag.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "devices/host/device_model.h"
#include "devices/host/run_device.h"
#include "devices/uart16550/uart_device.h"

ABSL_FLAG(uint32_t, port, 0x3f8, "first of its 8 I/O ports");
ABSL_FLAG(uint32_t, irq, 4, "interrupt, 1 to 15");

namespace bulkhead::devices::uart16550 {
namespace {

constexpr char kHelp[] =
    "A 16550A serial port (ACPI PNP0501).\n"
    "Resource: console, a stream to and from the vmm. The guest receives what is typed once it\n"
    "asserts RTS.";

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateUart() {
  UartOptions options;
  options.port = absl::GetFlag(FLAGS_port);
  options.irq = absl::GetFlag(FLAGS_irq);
  if (options.port > 0x10000 - kRegisterCount) {
    return absl::InvalidArgumentError("--port: the 8 ports must not pass 0xffff");
  }
  if (options.irq == 0 || options.irq > 15) {
    return absl::InvalidArgumentError("--irq: must be 1 to 15");
  }
  return std::make_unique<UartDevice>(options);
}

}  // namespace
}  // namespace bulkhead::devices::uart16550

int main(int argc, char** argv) {
  using namespace bulkhead::devices;  // NOLINT(google-build-using-namespace)
  return RunDevice(
      argc, argv, {.name = "uart16550", .help = uart16550::kHelp, .create = uart16550::CreateUart});
}
