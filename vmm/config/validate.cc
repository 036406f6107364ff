#include "vmm/config/validate.h"

#include <cpuid.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "vmm/config/balloon.h"
#include "vmm/config/boot_disk.h"
#include "vmm/config/cloud_init.h"
#include "vmm/config/host_file.h"
#include "vmm/config/host_group.h"
#include "vmm/config/memory_backing.h"
#include "vmm/config/validator.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kMebibyte = 1 << 20;
constexpr uint64_t kMinMemory = 16 * kMebibyte;
constexpr size_t kMaxNameLength = 64;
// So that every device's number is below 2^31.
constexpr uint32_t kMaxFirstUid = 0x7fff0000;

// Devices' 64-bit windows lie above RAM, and for little RAM at a fixed place (guest_layout.h).
uint64_t MostAddressableMemory(uint32_t address_bits) {
  const uint64_t end = uint64_t{1} << std::min(address_bits, 52u);
  const uint64_t of_little = std::min(end, layout::kMmio64MinStart);
  const uint64_t of_much = end > layout::kMmio64Size ? end - layout::kMmio64Size : 0;
  return std::max(of_little, of_much) - (layout::kHoleEnd - layout::kHoleStart);
}

FaultAction ActionOf(v1::VmConfig::OnPanic action) {
  switch (action) {
    case v1::VmConfig::PANIC_REBOOT:
      return FaultAction::kReboot;
    case v1::VmConfig::PANIC_PAUSE:
      return FaultAction::kPause;
    case v1::VmConfig::PANIC_REPORT:
      return FaultAction::kReport;
    default:
      return FaultAction::kExit;
  }
}

FaultAction ActionOf(v1::VmConfig::OnWatchdog action) {
  switch (action) {
    case v1::VmConfig::WATCHDOG_EXIT:
      return FaultAction::kExit;
    case v1::VmConfig::WATCHDOG_PAUSE:
      return FaultAction::kPause;
    case v1::VmConfig::WATCHDOG_REPORT:
      return FaultAction::kReport;
    default:
      return FaultAction::kReboot;
  }
}

}  // namespace

std::string AbsolutePath(const std::string& path) {
  if (path.empty() || path[0] == '/') return path;
  char folder[PATH_MAX];
  return getcwd(folder, sizeof(folder)) == nullptr ? path : absl::StrCat(folder, "/", path);
}

absl::Status Validator::Error(const std::string& field, absl::string_view problem) const {
  for (std::string path = field;;) {
    if (const auto place = places_.find(path); place != places_.end()) {
      // A flag names the field by itself.
      if (absl::string_view(place->second).substr(0, 2) == "--") {
        return absl::InvalidArgumentError(absl::StrCat(place->second, ": ", problem));
      }
      return absl::InvalidArgumentError(absl::StrCat(place->second, ": ", field, ": ", problem));
    }
    const size_t dot = path.rfind('.');
    if (dot == std::string::npos) break;
    path.resize(dot);
  }
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
}

absl::Status Validator::CheckName(const std::string& field, const std::string& name) const {
  bool good = !name.empty() && name.size() <= kMaxNameLength && name[0] != '.' && name[0] != '-';
  for (const char c : name) {
    good = good &&
           (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.');
  }
  if (good) return absl::OkStatus();
  return Error(field,
               absl::StrCat("\"", name, "\" is not a valid name: use 1 to ", kMaxNameLength,
                            " letters, digits, '-', '_' and '.', a letter, digit or '_' first"));
}

absl::Status Validator::Sandbox(const v1::Sandbox& sandbox, VmSpec& spec) const {
  SandboxLayers waived;
  for (int i = 0; i < sandbox.waive_size(); ++i) {
    const absl::StatusOr<SandboxLayers> layer = SandboxLayers::Parse(sandbox.waive(i));
    if (!layer.ok()) {
      return Error(absl::StrCat("sandbox.waive[", i, "]"), layer.status().message());
    }
    waived = waived.With(*layer);
  }
  spec.sandbox = (sandbox.off() ? SandboxLayers::Off() : SandboxLayers::All()).Without(waived);
  spec.cgroup = AbsolutePath(sandbox.cgroup());
  spec.first_uid = sandbox.first_uid();
  if (spec.first_uid > kMaxFirstUid) {
    return Error("sandbox.first_uid", absl::StrCat(spec.first_uid, " is more than ", kMaxFirstUid));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Validator::SocketPath(const std::string& field,
                                                  const std::string& path) const {
  constexpr size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() <= kLongest) return path;
  return Error(field, absl::StrCat("\"", path, "\" is too long for a socket: ", path.size(),
                                   " bytes, at most ", kLongest));
}

absl::Status Validator::Sockets(const v1::VmConfig& config, VmSpec& spec) const {
  spec.has_control = config.control_socket() != "none";
  if (spec.has_control) {
    ASSIGN_OR_RETURN(spec.control_socket, SocketPath("control_socket", config.control_socket()));
  }
  if (config.monitor_socket().empty()) {
    if (config.monitor_group().empty()) return absl::OkStatus();
    return Error("monitor_group", "is given without monitor_socket");
  }
  if (config.monitor_socket() == config.control_socket()) {
    return Error("monitor_socket", absl::StrCat("\"", config.monitor_socket(),
                                                "\" is the control socket; give another path"));
  }
  ASSIGN_OR_RETURN(spec.monitor_socket, SocketPath("monitor_socket", config.monitor_socket()));
  if (config.monitor_group().empty()) return absl::OkStatus();
  spec.monitor_group = GroupNumber(config.monitor_group());
  if (spec.monitor_group.has_value()) return absl::OkStatus();
  return Error(
      "monitor_group",
      absl::StrCat("\"", config.monitor_group(),
                   "\" is not a group of this host's /etc/group; give its name or its number"));
}

absl::StatusOr<uint64_t> Validator::Size(const std::string& field, const std::string& text) const {
  absl::string_view number = text;
  uint64_t unit = 0;
  if (absl::ConsumeSuffix(&number, "M"))
    unit = kMebibyte;
  else if (absl::ConsumeSuffix(&number, "G"))
    unit = 1024 * kMebibyte;
  else if (absl::ConsumeSuffix(&number, "T"))
    unit = 1024 * 1024 * kMebibyte;
  uint64_t count = 0;
  if (unit == 0 || !absl::SimpleAtoi(number, &count) || count > UINT64_MAX / unit) {
    return Error(field, absl::StrCat("\"", text,
                                     "\" is not a size: give a whole number with the unit M, G "
                                     "or T, such as \"512M\""));
  }
  return count * unit;
}

absl::StatusOr<uint64_t> Validator::Memory(const std::string& text) const {
  if (text.empty())
    return Error("memory", "missing; give the size of the guest's RAM, such as \"512M\"");
  ASSIGN_OR_RETURN(const uint64_t bytes, Size("memory", text));
  if (bytes < kMinMemory || bytes > host_.memory_bytes) {
    return Error("memory",
                 absl::StrCat("\"", text, "\" is out of range (", kMinMemory / kMebibyte, "M to ",
                              host_.memory_bytes / kMebibyte, "M, the memory of this host)"));
  }
  if (const uint64_t most = MostAddressableMemory(host_.physical_address_bits); bytes > most) {
    return Error("memory",
                 absl::StrCat("\"", text, "\" is out of range (", kMinMemory / kMebibyte, "M to ",
                              most / kMebibyte, "M, because this host's processor has ",
                              host_.physical_address_bits, "-bit physical addresses)"));
  }
  return bytes;
}

absl::Status Validator::MemoryBacking(const v1::MemoryBacking& config, VmSpec& spec) const {
  ASSIGN_OR_RETURN(spec.ram_backing,
                   ReadMemoryBacking(config, spec.memory_bytes, ShmemEnabled(),
                                     [this](const std::string& field, absl::string_view problem) {
                                       return Error(field, problem);
                                     }));
  spec.prefault_ram = config.prefault();
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> Validator::OpenBootFile(const std::string& field,
                                                 const std::string& path) const {
  absl::StatusOr<UniqueFd> fd = OpenHostFile(path, O_RDONLY, /*regular_only=*/true);
  if (!fd.ok()) return FileError(field, fd.status());
  return fd;
}

absl::Status Validator::FileError(const std::string& field, const absl::Status& status) const {
  // A shortage of the host is not a mistake in the configuration.
  return absl::Status(status.code(), Error(field, status.message()).message());
}

absl::Status Validator::Kernel(const v1::Kernel& kernel, VmSpec& spec) const {
  spec.kernel_path = AbsolutePath(kernel.path());
  spec.initrd_path = AbsolutePath(kernel.initrd());
  if (!spec.kernel_path.empty()) {
    ASSIGN_OR_RETURN(spec.kernel, OpenBootFile("kernel.path", spec.kernel_path));
    if (!kernel.boot_entry().empty()) {
      return Error("kernel.boot_entry", "is given with kernel.path; an entry is one of a disk");
    }
  } else if (!spec.initrd_path.empty()) {
    return Error("kernel.initrd", "is given without kernel.path");
  }
  if (!spec.initrd_path.empty()) {
    ASSIGN_OR_RETURN(spec.initrd, OpenBootFile("kernel.initrd", spec.initrd_path));
  }
  const std::string& append = kernel.cmdline_append();
  spec.cmdline = kernel.cmdline();
  if (!append.empty()) absl::StrAppend(&spec.cmdline, spec.cmdline.empty() ? "" : " ", append);
  if (spec.cmdline.size() < layout::kCommandLineMaxBytes) return absl::OkStatus();
  return Error("kernel.cmdline", absl::StrCat("has ", spec.cmdline.size(), " bytes (at most ",
                                              layout::kCommandLineMaxBytes - 1, ")"));
}

absl::Status Validator::DiskBoot(const v1::Kernel& kernel, VmSpec& spec) const {
  absl::StatusOr<std::optional<DiskBootSpec>> chosen = ChooseBootDisk(kernel, spec);
  if (!chosen.ok()) return FileError("kernel.path", chosen.status());
  spec.disk_boot = *std::move(chosen);
  if (!spec.disk_boot.has_value()) {
    return Error(
        "kernel.path",
        "missing; give a vmlinux or bzImage with --kernel PATH or in the configuration, or "
        "a disk with a Linux on it");
  }
  ASSIGN_OR_RETURN(spec.disk_boot->program, FindBinary("kernel.path", "boot_loader"));
  return absl::OkStatus();
}

absl::StatusOr<VmSpec> Validator::Validate(const v1::VmConfig& config) {
  VmSpec spec;
  spec.name_given = !config.name().empty();
  vm_name_ = config.name();
  spec.name = spec.name_given ? vm_name_ : "vm";
  RETURN_IF_ERROR(CheckName("name", spec.name));
  spec.reboot_on_reset = config.on_reset() != v1::VmConfig::EXIT;
  spec.reboot_on_crash = config.on_crash() == v1::VmConfig::CRASH_REBOOT;
  spec.on_panic = ActionOf(config.on_panic());
  spec.on_watchdog = ActionOf(config.on_watchdog());
  RETURN_IF_ERROR(Sockets(config, spec));
  RETURN_IF_ERROR(Sandbox(config.sandbox(), spec));

  RETURN_IF_ERROR(Kernel(config.kernel(), spec));
  ASSIGN_OR_RETURN(spec.memory_bytes, Memory(config.memory()));
  memory_bytes_ = spec.memory_bytes;
  RETURN_IF_ERROR(MemoryBacking(config.memory_backing(), spec));
  spec.cpus = config.cpus();
  if (spec.cpus < 1 || spec.cpus > layout::kMaxVcpus) {
    return Error("cpus",
                 absl::StrCat(spec.cpus, " is out of range (1 to ", layout::kMaxVcpus, ")"));
  }

  RETURN_IF_ERROR(BinaryFolders(config));
  const bool has_cloud_init = HasCloudInit(config.cloud_init());
  const int devices = config.devices_size() + (has_cloud_init ? 1 : 0);
  if (devices >= static_cast<int>(layout::kMaxPciSlots)) {
    return Error("devices",
                 absl::StrCat("there are ", devices, " (at most ", layout::kMaxPciSlots - 1, ")"));
  }
  for (int i = 0; i < config.devices_size(); ++i) {
    ASSIGN_OR_RETURN(DeviceSpec device,
                     Device(absl::StrCat("devices[", i, "]"), config.devices(i)));
    spec.devices.push_back(std::move(device));
  }
  if (!balloon_.empty()) {
    const std::string problem = ProblemOfBalloon(spec);
    if (!problem.empty()) return Error(balloon_, problem);
  }
  spec.uses_standard_streams = !standard_streams_user_.empty();
  if (spec.kernel_path.empty()) RETURN_IF_ERROR(DiskBoot(config.kernel(), spec));
  // Last: nothing boots from it, and in the guest it comes behind the other disks.
  if (has_cloud_init) RETURN_IF_ERROR(AddCloudInit(config.cloud_init(), spec));
  return spec;
}

HostLimits CurrentHost() {
  HostLimits host;
  struct sysinfo info = {};
  if (sysinfo(&info) == 0) host.memory_bytes = uint64_t{info.totalram} * info.mem_unit;
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path));
  if (length > 0 && length < static_cast<ssize_t>(sizeof(path))) {
    const std::string executable(path, static_cast<size_t>(length));
    const std::string dir = executable.substr(0, executable.rfind('/'));
    host.device_dirs = {dir, absl::StrCat(dir, "/../devices"),
                        absl::StrCat(dir, "/../libexec/bulkhead")};
  }
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr uint32_t kAddressSizes = 0x80000008;
  if (__get_cpuid(kAddressSizes, &eax, &ebx, &ecx, &edx) != 0 && (eax & 0xff) != 0) {
    host.physical_address_bits = eax & 0xff;
  }
  return host;
}

absl::StatusOr<VmSpec> ValidateConfig(const v1::VmConfig& config, const FieldPlaces& places,
                                      const HostLimits& host) {
  return Validator(places, host).Validate(config);
}

}  // namespace bulkhead::vmm
