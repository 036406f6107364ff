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
ABSL_FLAG(uint64_t, max_file_mib, 256,
          "if the output is a file: what the guest can make it grow by, in MiB");

namespace bulkhead::devices::uart16550 {
namespace {

constexpr char kHelp[] =
    "A 16550A serial port (ACPI PNP0501).\n"
    "Resources: output (required) takes what the guest sends; input (optional) is what it\n"
    "receives, once it asserts RTS. Each is a terminal, pipe, socket or file.";

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateUart() {
  UartOptions options;
  options.port = absl::GetFlag(FLAGS_port);
  options.irq = absl::GetFlag(FLAGS_irq);
  const uint64_t max_file_mib = absl::GetFlag(FLAGS_max_file_mib);
  if (options.port > 0x10000 - kRegisterCount) {
    return absl::InvalidArgumentError("--port: the 8 ports must end by 0xffff");
  }
  if (options.irq == 0 || options.irq > 15) {
    return absl::InvalidArgumentError("--irq: 1 to 15 are possible");
  }
  if (max_file_mib > UINT64_MAX >> 20) {
    return absl::InvalidArgumentError("--max_file_mib: too large");
  }
  options.max_file_bytes = max_file_mib << 20;
  return std::make_unique<UartDevice>(options);
}

}  // namespace
}  // namespace bulkhead::devices::uart16550

int main(int argc, char** argv) {
  using namespace bulkhead::devices;  // NOLINT(google-build-using-namespace)
  return RunDevice(
      argc, argv, {.name = "uart16550", .help = uart16550::kHelp, .create = uart16550::CreateUart});
}
