#ifndef BULKHEAD_VMM_CONFIG_DEVICE_FLAGS_H_
#define BULKHEAD_VMM_CONFIG_DEVICE_FLAGS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/vm_config.pb.h"
#include "vmm/config/command_line.h"

// What the flags of devices have in common. Errors: InvalidArgument, for people.
namespace bulkhead::vmm {

// Splits at commas; ",," is a comma within a part.
std::vector<std::string> SplitParts(absl::string_view text);

absl::Status FlagError(absl::string_view flag, absl::string_view problem);

// Adds a device and notes the flag as the place of all its fields.
v1::DeviceConfig& AddDevice(CommandLine& line, absl::string_view flag);

v1::FileResource& AddFile(v1::DeviceConfig& device, absl::string_view name, absl::string_view path,
                          bool read_only);

// "disk0", "disk1", ...: the first name of that kind that is free.
std::string FreeName(const CommandLine& line, absl::string_view kind);

absl::Status ParseSlot(absl::string_view flag, absl::string_view text, v1::DeviceConfig& device);

// Reads an option of the device's supervision into `device`. False: `part` is none. Errors: its
// value is not valid.
absl::StatusOr<bool> ParseSupervision(absl::string_view flag, absl::string_view part,
                                      v1::DeviceConfig& device);

// Turns a rate limit ("bps=20M", "iops-burst=100") into a flag of the device's binary.
// `operations`: what limits of these are called, "iops" or "pps". False: `part` is none. Errors:
// its value is not valid.
absl::StatusOr<bool> ParseLimit(absl::string_view flag, absl::string_view part,
                                absl::string_view operations, v1::DeviceConfig& device);

}  // namespace bulkhead::vmm

#endif  // BULKHEAD_VMM_CONFIG_DEVICE_FLAGS_H_
