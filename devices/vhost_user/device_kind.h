#ifndef BULKHEAD_DEVICES_VHOST_USER_DEVICE_KIND_H_
#define BULKHEAD_DEVICES_VHOST_USER_DEVICE_KIND_H_

#include <stdint.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace bulkhead::devices::vhost_user {

// What the command line says.
struct Options {
  std::string type;  // "blk", "fs"
  uint32_t queues = 1;
  uint32_t queue_size = 128;
  bool relay = false;
  std::string tag = {};  // of "fs"
};

// What there is to know of a virtio device type whose back end is elsewhere.
struct DeviceKind {
  std::string name;
  uint16_t type = 0;  // virtio 1.2, section 5
  uint32_t pci_class = 0;
  uint64_t features = 0;  // of the type, that may be passed on
  uint32_t queues = 0;    // all of them
  uint16_t queue_size = 0;
  // The device configuration: what does not come from the back end.
  std::vector<uint8_t> config;
  bool config_from_back_end = false;
  // Where the configuration has the number of request queues, 16 bits: as this device has it. 0:
  // nowhere.
  uint32_t queue_count_offset = 0;
  // RelayingDevice serves it, not LendingDevice.
  bool relays = false;
};

// Errors: InvalidArgument, for people: the option, its value, what is accepted.
absl::StatusOr<DeviceKind> MakeDeviceKind(const Options& options);

}  // namespace bulkhead::devices::vhost_user

#endif  // BULKHEAD_DEVICES_VHOST_USER_DEVICE_KIND_H_
