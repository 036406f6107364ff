#ifndef BULKHEAD_DEVICES_HOST_RUN_DEVICE_H_
#define BULKHEAD_DEVICES_HOST_RUN_DEVICE_H_

#include <memory>

#include "absl/status/statusor.h"
#include "devices/host/device_model.h"

namespace bulkhead::devices {

// A device program: everything that its main.cc says.
struct DeviceProgram {
  // As in DeviceInfo.model: "virtio-blk".
  const char* name;
  // The first lines of --help: what the device is, and which resources it takes.
  const char* help;
  // Makes the model from the program's flags (absl/flags), which are parsed by then.
  // Errors: flags that make no device; one line for the operator.
  absl::StatusOr<std::unique_ptr<DeviceModel>> (*create)();
};

// main() of a device process: parses the flags, serves the vmm that started it, and returns
// the exit code: 0 when the vmm is gone, 1 when the device could not serve on, 2 when it was
// not started by a vmm or its flags are wrong, 75 when the host does not give it what it needs
// (devices/host/shortage.h).
//
// The process ends within a second after its vmm, in every state: by the parent-death signal,
// and because the attach socket closes.
int RunDevice(int argc, char** argv, const DeviceProgram& program);

}  // namespace bulkhead::devices

#endif  // BULKHEAD_DEVICES_HOST_RUN_DEVICE_H_
