// Commands about devices.

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "tools/vmctl/commands.h"
#include "tools/vmctl/device_text.h"
#include "tools/vmctl/json.h"
#include "tools/vmctl/open_vm.h"
#include "tools/vmctl/pci_text.h"
#include "tools/vmctl/standard_output.h"
#include "tools/vmctl/text.h"

namespace bulkhead::vmctl {
namespace {

// As FailedCall(); of a device that is not there it says which ones are.
ExitCode FailedDeviceCall(const absl::Status& status, VmClient& client) {
  if (!absl::IsNotFound(status)) return FailedCall(status);
  const absl::StatusOr<v1::ListDevicesReply> list = client.ListDevices();
  if (!list.ok()) return FailedCall(status);
  return FailedCall(absl::NotFoundError(absl::StrCat(
      status.message(), "; there is: ",
      absl::StrJoin(list->devices(), ", ", [](std::string* out, const v1::Device& device) {
        absl::StrAppend(out, device.name());
      }))));
}

// Makes one call that answers with a device, and prints that by `text`.
template <typename MakeCall, typename Text>
ExitCode DeviceCall(const Invocation& invocation, MakeCall make_call, Text text) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const absl::StatusOr<v1::Device> device = make_call(*client);
  if (!device.ok()) return FailedDeviceCall(device.status(), *client);
  return Print(invocation.json ? PrettyJson(*device) : text(*device));
}

}  // namespace

ExitCode RunDevices(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const absl::StatusOr<v1::ListDevicesReply> list = client->ListDevices();
  if (!list.ok()) return FailedCall(list.status());
  if (invocation.json) return Print(PrettyJson(*list));
  return Print(DeviceTable(list->devices(), absl::Now(), OutputWidth(), OutputHasColor()));
}

ExitCode RunDeviceShow(const Invocation& invocation) {
  absl::StatusOr<v1::VmMetrics> metrics = absl::UnavailableError("");
  return DeviceCall(
      invocation,
      [&](VmClient& client) {
        if (!invocation.json) metrics = client.GetMetrics();
        return client.GetDevice(invocation.argument);
      },
      [&](const v1::Device& device) {
        std::string text =
            DeviceDetails(device, absl::Now(), absl::LocalTimeZone(), OutputHasColor());
        // Without a process those of the last one are left.
        const bool runs = device.state() == v1::Device::RUNNING;
        if (metrics.ok() && runs) text += DeviceFigures(*metrics, device.name());
        return text;
      });
}

ExitCode RunDeviceRestart(const Invocation& invocation) {
  v1::RestartDeviceRequest request;
  request.set_name(invocation.argument);
  request.set_discard_state(invocation.discard_state);
  if (!invocation.binary.empty()) {
    // The vmm has another working folder. Symbolic links stay: an upgrade may be one.
    request.set_binary(std::filesystem::absolute(invocation.binary).string());
  }
  return DeviceCall(
      invocation, [&](VmClient& client) { return client.RestartDevice(request); }, DeviceOutcome);
}

ExitCode RunUpgrade(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const absl::StatusOr<v1::ListDevicesReply> list = client->ListDevices();
  if (!list.ok()) return FailedCall(list.status());
  v1::ListDevicesReply upgraded;
  for (const v1::Device& device : list->devices()) {
    if (device.state() == v1::Device::STOPPED) {
      if (!invocation.json) Print(DeviceOutcome(device));
      *upgraded.add_devices() = device;
      continue;
    }
    v1::RestartDeviceRequest request;
    request.set_name(device.name());
    request.set_binary(device.binary());
    const absl::StatusOr<v1::Device> outcome = client->RestartDevice(request);
    if (!outcome.ok()) {
      code = FailedCall(outcome.status());
      continue;
    }
    *upgraded.add_devices() = *outcome;
    // Each at once: it may take a while.
    if (!invocation.json) Print(DeviceOutcome(*outcome));
  }
  if (invocation.json) Print(PrettyJson(upgraded));
  return code;
}

ExitCode RunDeviceResize(const Invocation& invocation) {
  v1::ResizeDiskRequest request;
  request.set_name(invocation.argument);
  request.set_size_bytes(invocation.size_bytes);
  return DeviceCall(
      invocation, [&](VmClient& client) { return client.ResizeDisk(request); }, DeviceOutcome);
}

ExitCode RunDeviceLimit(const Invocation& invocation) {
  v1::LimitDeviceRequest request;
  request.set_name(invocation.argument);
  const Limits& limits = invocation.limits;
  if (limits.bps.has_value()) request.set_bytes_per_second(*limits.bps);
  if (limits.iops.has_value()) request.set_operations_per_second(*limits.iops);
  if (limits.bps_burst.has_value()) request.set_bytes_burst(*limits.bps_burst);
  if (limits.iops_burst.has_value()) request.set_operations_burst(*limits.iops_burst);
  if (limits.pps.has_value()) request.set_frames_per_second(*limits.pps);
  if (limits.pps_burst.has_value()) request.set_frames_burst(*limits.pps_burst);
  return DeviceCall(
      invocation, [&](VmClient& client) { return client.LimitDevice(request); }, DeviceOutcome);
}

ExitCode RunDeviceReset(const Invocation& invocation) {
  return DeviceCall(
      invocation, [&](VmClient& client) { return client.ResetDevice(invocation.argument); },
      [](const v1::Device& device) { return absl::StrCat("reset: ", DeviceOutcome(device)); });
}

ExitCode RunDeviceStop(const Invocation& invocation) {
  return DeviceCall(
      invocation, [&](VmClient& client) { return client.StopDevice(invocation.argument); },
      DeviceOutcome);
}

ExitCode RunDeviceStart(const Invocation& invocation) {
  return DeviceCall(
      invocation, [&](VmClient& client) { return client.StartDevice(invocation.argument); },
      DeviceOutcome);
}

ExitCode RunDeviceLink(const Invocation& invocation) {
  return DeviceCall(
      invocation,
      [&](VmClient& client) {
        return client.SetDeviceLink(invocation.argument, invocation.link_up);
      },
      [](const v1::Device& device) {
        return absl::StrCat("the link of ", Printable(device.name()), " is ",
                            Printable(device.link()), "\n");
      });
}

ExitCode RunPci(const Invocation& invocation) {
  ExitCode code = kOk;
  const std::unique_ptr<VmClient> client = OpenVm(invocation, code);
  if (client == nullptr) return code;
  const absl::StatusOr<v1::ListDevicesReply> list = client->ListDevices();
  if (!list.ok()) return FailedCall(list.status());
  v1::ListDevicesReply functions;
  std::string text;
  for (const v1::Device& device : list->devices()) {
    if (!device.has_pci()) continue;
    *functions.add_devices() = device;
    absl::StrAppend(&text, PciLine(device));
    if (invocation.verbose) absl::StrAppend(&text, PciDetails(device, "\t"), "\n");
  }
  return Print(invocation.json ? PrettyJson(functions) : text);
}

}  // namespace bulkhead::vmctl
