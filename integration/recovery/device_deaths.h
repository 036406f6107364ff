#ifndef BULKHEAD_INTEGRATION_RECOVERY_DEVICE_DEATHS_H_
#define BULKHEAD_INTEGRATION_RECOVERY_DEVICE_DEATHS_H_

#include <functional>
#include <string>
#include <vector>

#include "integration/harness/vm_client.h"
#include "integration/harness/vm_process.h"

namespace bulkhead::integration {

// What the guest of RunUnderDeaths() uses, and the programs that serve it.
struct UsedDevice {
  std::string name;
  std::string binary;
};
std::vector<UsedDevice> UsedDevices();

struct DeviceDeaths {
  std::string device;  // the name of one of them
  std::string binary;  // the program whose processes serve it
  // More of the device's configuration: its resource, arguments.
  std::string config;
  // "NAME[:COUNT]" each (base/crash_point.h). The second process of the device dies at the first of
  // them, the third one at the second, and so on.
  std::vector<std::string> points;
  int rounds = 2;  // of use_devices, after each of its two boots
  // Called when the first process has been killed.
  std::function<void(const VmProcess&, const VmClient&)> once_killed = {};
};

// The resource of the device that it has unless its back end is another program.
std::string ResourceOf(const std::string& device);
// The image of the disk, which is to be made anew, of zeroes, for each guest.
std::string DiskImage();
void MakeDiskImage();

// The crash points that the program lists.
std::vector<std::string> CrashPointsOf(const std::string& binary);

struct DeathsResult {
  int died = -1;  // processes of the device; -1: the guest has not come to its end
  std::string log;
};
// Runs a guest without an operating system, use_devices, which uses all its devices in every way
// and checks what comes of it, to its end. The first process of a device is killed as soon as the
// guest works, later ones die at crash points. Fails the test if the guest notices.
DeathsResult RunUnderDeaths(const DeviceDeaths& deaths);

}  // namespace bulkhead::integration

#endif  // BULKHEAD_INTEGRATION_RECOVERY_DEVICE_DEATHS_H_
