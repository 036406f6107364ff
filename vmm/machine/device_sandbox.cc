#include "vmm/machine/device_sandbox.h"

#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "vmm/sandbox/cgroup.h"
#include "vmm/sandbox/sandbox_layers.h"

namespace bulkhead::vmm {
namespace {

// Users that nothing else of a host has: below 0x70000000, where systemd's containers end, and
// above what people have. A pid has 22 bits and is used once at a time, so no two VMs share a user.
constexpr uint32_t kFirstUid = 0x60000000;
constexpr uint32_t kMaxDevices = 64;
static_assert(kFirstUid + (uint64_t{1} << 22) * kMaxDevices <= 0x70000000);

// For the device's own memory, its threads' stacks and gRPC; beside the guest's RAM.
constexpr uint64_t kAddressSpaceBytes = uint64_t{4} << 30;
constexpr uint64_t kBootLoaderAddressSpaceBytes = 512 << 20;
// Of its control group, beside the devices': none of them has such a name.
constexpr char kBootLoader[] = "-boot_loader";

// True if this user namespace has all of these users.
bool HasUsers(uint32_t first, uint32_t count) {
  const std::unique_ptr<FILE, int (*)(FILE*)> map(fopen("/proc/self/uid_map", "re"), fclose);
  if (map == nullptr) return false;
  unsigned long long inside;   // NOLINT(google-runtime-int): fscanf's types
  unsigned long long outside;  // NOLINT
  unsigned long long length;   // NOLINT
  while (fscanf(map.get(), "%llu %llu %llu", &inside, &outside, &length) == 3) {
    if (first >= inside && uint64_t{first} + count <= inside + length) return true;
  }
  return false;
}

}  // namespace

void ConfineDevices(const Launcher& launcher, VmSpec& spec) {
  if (spec.devices.empty()) return;
  const uint32_t count = CountSandboxUsers(spec);
  const uint32_t first = spec.first_uid != 0
                             ? spec.first_uid
                             : kFirstUid + static_cast<uint32_t>(getpid()) * kMaxDevices;
  SandboxLayers layers = spec.sandbox.Without(SandboxLayer::kVmm);
  if (!launcher.is_root() || !HasUsers(first, count)) layers = layers.Without(SandboxLayer::kUid);
  const SandboxLayers possible = SandboxLayers::InThisBuild();
  const SandboxLayers lost = spec.sandbox.Without(possible);
  layers = layers.Without(lost);
  if (!lost.empty() && spec.sandbox != SandboxLayers::Off()) {
    LogWarning(absl::StrCat("this build has sanitizers and does without the layers ",
                            absl::StrJoin(lost.Names(), ", "), " of the sandbox"));
  }
  if (spec.sandbox.Without(SandboxLayers::Off()).empty()) {
    LogWarning(
        "THE SANDBOX IS OFF (--sandbox=off): a device process that the guest has taken over may do "
        "whatever this user may do");
  } else if (const SandboxLayers waived = SandboxLayers::All().Without(spec.sandbox);
             !waived.empty()) {
    LogWarning(absl::StrCat("the sandbox is not complete, as asked: it lacks ",
                            absl::StrJoin(waived.Names(), ", ")));
  }
  uint32_t user = first;
  for (DeviceSpec& device : spec.devices) {
    device.sandbox = {.layers = layers,
                      .uid = user,
                      .gid = user,
                      .max_address_space_bytes = spec.memory_bytes + kAddressSpaceBytes};
    ++user;
  }
  if (spec.disk_boot.has_value()) {
    spec.disk_boot->sandbox = {.layers = layers,
                               .uid = user,
                               .gid = user,
                               .max_address_space_bytes = kBootLoaderAddressSpaceBytes};
  }
}

uint32_t CountSandboxUsers(const VmSpec& spec) {
  return static_cast<uint32_t>(spec.devices.size()) + (spec.disk_boot.has_value() ? 1 : 0);
}

absl::Status PlaceIntoCgroups(Launcher& launcher, VmSpec& spec) {
  const std::string path = spec.cgroup.empty() ? CgroupTree::DelegatedPath() : spec.cgroup;
  if (path.empty()) {
    for (const DeviceSpec& device : spec.devices) {
      if (device.cgroup_limits.empty()) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "device '", device.name,
          "' has limits of a control group, but the host has delegated none to this process: start "
          "it in a systemd unit with Delegate=yes, or name one by sandbox { cgroup: FOLDER }"));
    }
    return absl::OkStatus();
  }
  const UniqueFd origin = CgroupTree::OpenOrigin();
  std::vector<std::string> names = {CgroupTree::VmmGroup(spec.name)};
  for (const DeviceSpec& device : spec.devices) {
    names.push_back(CgroupTree::DeviceGroup(spec.name, device.name));
  }
  if (spec.disk_boot.has_value()) {
    names.push_back(CgroupTree::DeviceGroup(spec.name, kBootLoader));
  }
  RETURN_IF_ERROR(launcher.RemoveGroupsAtEnd(path, names, origin.get()));
  ASSIGN_OR_RETURN(const std::unique_ptr<CgroupTree> tree,
                   CgroupTree::Create(path, spec.name, launcher.pids()));
  for (DeviceSpec& device : spec.devices) {
    ASSIGN_OR_RETURN(device.sandbox.cgroup, tree->Add(device.name, device.cgroup_limits));
  }
  if (spec.disk_boot.has_value()) {
    // Without limits: the layer "rlimits" and the sizes of its files bound what it takes.
    ASSIGN_OR_RETURN(spec.disk_boot->sandbox.cgroup, tree->Add(kBootLoader, {}));
  }
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
