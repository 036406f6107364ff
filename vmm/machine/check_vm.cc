#include "vmm/machine/check_vm.h"

#include <stddef.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "vmm/acpi/acpi_tables.h"
#include "vmm/boot/boot.h"
#include "vmm/hardware/device_places.h"
#include "vmm/machine/boot_sources.h"
#include "vmm/machine/device_sandbox.h"
#include "vmm/machine/disk_boot.h"
#include "vmm/memory/guest_layout.h"
#include "vmm/memory/guest_ram.h"
#include "vmm/process/control_client.h"
#include "vmm/process/device_process.h"
#include "vmm/process/process_monitor.h"
#include "vmm/remote_device/device_endpoints.h"
#include "vmm/supervisor/supervisor_options.h"

namespace bulkhead::vmm {
namespace {

absl::StatusOr<BootSources> GetBootSources(VmSpec& spec, ProcessMonitor& monitor) {
  if (!spec.disk_boot.has_value()) return OpenBootSources(spec);
  ASSIGN_OR_RETURN(FoundBoot found, FindBootOnDisk(*spec.disk_boot, monitor, WaitForBootLoader));
  return std::move(found.sources);
}

absl::Status CheckBoot(VmSpec& spec, ProcessMonitor& monitor) {
  ASSIGN_OR_RETURN(const BootSources sources, GetBootSources(spec, monitor));
  ASSIGN_OR_RETURN(const GuestRam ram, GuestRam::Create(spec.memory_bytes));
  // The devices' addresses do not affect the result.
  const AcpiDescription acpi{.vcpus = spec.cpus, .high_window_start = layout::kMmio64MinStart};
  ASSIGN_OR_RETURN(const GuestAddress rsdp, WriteAcpiTables(acpi, ram.memory()));
  absl::Status status = PrepareBoot(sources, rsdp, ram.memory()).status();
  if (status.ok() || absl::IsInternal(status)) return status;
  return absl::InvalidArgumentError(status.message());
}

// Starts the device's process and asks it for its description. The process is dead when this
// returns.
absl::StatusOr<DeviceDescription> AskDevice(const DeviceSpec& spec, ProcessMonitor& monitor) {
  const auto with_title = [&spec](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat("device '", spec.name, "' (",
                                                    spec.binary.path(), "): ", status.message()));
  };
  absl::StatusOr<std::unique_ptr<DeviceProcess>> process = DeviceProcess::Start(
      monitor,
      {.device_name = spec.name, .binary = spec.binary, .args = spec.args, .sandbox = spec.sandbox},
      [] {});
  if (!process.ok()) return with_title(process.status());
  ControlCall call(SupervisorOptions::kFirstStart * SupervisorOptions().start_timeout);
  absl::StatusOr<DeviceDescription> description = (*process)->Describe(call);
  if (!description.ok()) return (*process)->ExplainFailure(description.status());
  const absl::Status resources = CheckResources(*description, spec.resources);
  if (!resources.ok()) return with_title(resources);
  return description;
}

}  // namespace

absl::Status CheckVm(VmSpec spec, std::unique_ptr<Launcher> launcher) {
  ConfineDevices(*launcher, spec);
  ASSIGN_OR_RETURN(const std::unique_ptr<ProcessMonitor> monitor,
                   ProcessMonitor::Create(std::move(launcher)));
  RETURN_IF_ERROR(CheckBoot(spec, *monitor));
  const size_t count = spec.devices.size();
  std::vector<absl::StatusOr<DeviceDescription>> descriptions(count);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < count; ++i) {
    threads.emplace_back([&, i] { descriptions[i] = AskDevice(spec.devices[i], *monitor); });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<DevicePlace> places;
  for (size_t i = 0; i < count; ++i) {
    RETURN_IF_ERROR(descriptions[i].status());
    places.push_back(DevicePlace::Of(spec.devices[i]));
    places.back().description = &*descriptions[i];
  }
  return CheckPlaces(places);
}

}  // namespace bulkhead::vmm
