#include "vmm/config/validate.h"

#include <cpuid.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "vmm/config/boot_disk.h"
#include "vmm/config/host_file.h"
#include "vmm/config/memory_backing.h"
#include "vmm/config/network.h"
#include "vmm/config/program_file.h"
#include "vmm/config/program_folders.h"
#include "vmm/config/supervision.h"
#include "vmm/config/tap.h"
#include "vmm/config/vsock.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kMebibyte = 1 << 20;
constexpr uint64_t kMinMemory = 16 * kMebibyte;
constexpr size_t kMaxNameLength = 64;
constexpr absl::Duration kDefaultAccessTimeout = absl::Seconds(30);
constexpr absl::Duration kMinAccessTimeout = absl::Milliseconds(1);
constexpr absl::Duration kMaxAccessTimeout = absl::Hours(1);
constexpr uint64_t kMinCgroupMemory = 8 * kMebibyte;
constexpr uint32_t kMaxCgroupWeight = 10'000;
constexpr uint32_t kMinCgroupProcesses = 16;
// So that every device's number is below 2^31.
constexpr uint32_t kMaxFirstUid = 0x7fff0000;
constexpr absl::Duration kMaxPoll = absl::Milliseconds(10);

// `path` as an absolute path, for messages. "" stays "".
std::string AbsolutePath(const std::string& path) {
  if (path.empty() || path[0] == '/') return path;
  char folder[PATH_MAX];
  return getcwd(folder, sizeof(folder)) == nullptr ? path : absl::StrCat(folder, "/", path);
}

std::optional<gid_t> GroupNumber(const std::string& name) {
  constexpr gid_t kNoGroup = static_cast<gid_t>(-1);
  constexpr size_t kEntryBytes = 1 << 20;  // a group may have many members
  gid_t number = 0;
  if (absl::SimpleAtoi(name, &number) && number != kNoGroup) return number;
  std::vector<char> buffer(kEntryBytes);
  group entry;
  group* found = nullptr;
  getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr) return std::nullopt;
  return found->gr_gid;
}

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

// Its errors name the place of the field.
class Validator {
 public:
  Validator(const FieldPlaces& places, const HostLimits& host) : places_(places), host_(host) {}

  absl::StatusOr<VmSpec> Validate(const v1::VmConfig& config);

 private:
  // "vm.textproto:7: devices[1].name: <problem>", or "--cpus: <problem>".
  absl::Status Error(const std::string& field, absl::string_view problem) const;

  absl::Status CheckName(const std::string& field, const std::string& name) const;
  absl::StatusOr<std::string> SocketPath(const std::string& field, const std::string& path) const;
  absl::Status Sockets(const v1::VmConfig& config, VmSpec& spec) const;
  absl::Status Sandbox(const v1::Sandbox& sandbox, VmSpec& spec) const;
  absl::StatusOr<uint64_t> Size(const std::string& field, const std::string& text) const;
  absl::StatusOr<uint64_t> Memory(const std::string& text) const;
  absl::Status MemoryBacking(const v1::MemoryBacking& config, VmSpec& spec) const;
  absl::StatusOr<UniqueFd> OpenBootFile(const std::string& field, const std::string& path) const;
  absl::Status Kernel(const v1::Kernel& kernel, VmSpec& spec) const;
  absl::Status DiskBoot(const v1::Kernel& kernel, VmSpec& spec) const;
  absl::Status FileError(const std::string& field, const absl::Status& status) const;
  absl::Status BinaryFolders(const v1::VmConfig& config);
  absl::StatusOr<ProgramFile> FindBinary(const std::string& field, const std::string& name) const;
  absl::StatusOr<CgroupLimits> Cgroup(const std::string& field,
                                      const v1::CgroupConfig& config) const;
  absl::StatusOr<DeviceSpec> Device(const std::string& field, const v1::DeviceConfig& config);
  absl::StatusOr<ResourceSpec> Resource(const std::string& field, const v1::ResourceConfig& config);
  absl::StatusOr<std::shared_ptr<const BackEndSpec>> BackEnd(const std::string& field,
                                                             const v1::BackEnd& config);
  absl::Status AddTap(const std::string& field, const v1::ResourceConfig& config, DeviceSpec& spec);
  absl::Status AddUserNetwork(const std::string& field, const v1::ResourceConfig& config,
                              DeviceSpec& spec);
  absl::Status StandardStreams(const std::string& field);

  const FieldPlaces& places_;
  const HostLimits& host_;
  std::string vm_name_;  // "": none was given
  std::shared_ptr<const ProgramFolders> binary_folders_;
  std::set<std::string> device_names_;
  std::set<uint32_t> pci_slots_;
  bool has_vsock_ = false;
  std::string standard_streams_user_;  // field path of the console that has them
};

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
  return Error("monitor_group",
               absl::StrCat("\"", config.monitor_group(),
                            "\" is not a group of this host; give its name or its number"));
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

absl::StatusOr<CgroupLimits> Validator::Cgroup(const std::string& field,
                                               const v1::CgroupConfig& config) const {
  CgroupLimits limits = {.memory_bytes = 0,
                         .cpu_weight = config.cpu_weight(),
                         .io_weight = config.io_weight(),
                         .processes = config.processes()};
  if (!config.memory().empty()) {
    ASSIGN_OR_RETURN(limits.memory_bytes, Size(absl::StrCat(field, ".memory"), config.memory()));
    if (limits.memory_bytes < kMinCgroupMemory) {
      return Error(absl::StrCat(field, ".memory"),
                   absl::StrCat("\"", config.memory(),
                                "\" is out of range: ", kMinCgroupMemory / kMebibyte, "M or more"));
    }
  }
  const std::pair<const char*, uint32_t> weights[] = {{"cpu_weight", limits.cpu_weight},
                                                      {"io_weight", limits.io_weight}};
  for (const auto& [name, weight] : weights) {
    if (weight > kMaxCgroupWeight) {
      return Error(absl::StrCat(field, ".", name),
                   absl::StrCat(weight, " is out of range (1 to ", kMaxCgroupWeight, ")"));
    }
  }
  if (limits.processes != 0 && limits.processes < kMinCgroupProcesses) {
    return Error(absl::StrCat(field, ".processes"),
                 absl::StrCat(limits.processes, " is out of range: ", kMinCgroupProcesses,
                              " or more, since a device has about ten threads"));
  }
  return limits;
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

absl::Status Validator::BinaryFolders(const v1::VmConfig& config) {
  auto folders = std::make_shared<ProgramFolders>();
  for (int i = 0; i < config.binary_dirs_size(); ++i) {
    const std::string& path = config.binary_dirs(i);
    const std::string field = absl::StrCat("binary_dirs[", i, "]");
    if (path.empty() || path[0] != '/') {
      return Error(field, absl::StrCat("\"", path, "\" is not an absolute path"));
    }
    if (const absl::Status added = folders->Add(path); !added.ok()) {
      return FileError(
          field, absl::Status(absl::IsResourceExhausted(added) ? added.code()
                                                               : absl::StatusCode::kInvalidArgument,
                              absl::StrCat("\"", path, "\": ", added.message())));
    }
  }
  // Not all of these exist.
  for (const std::string& path : host_.device_dirs) folders->Add(path).IgnoreError();
  binary_folders_ = std::move(folders);
  return absl::OkStatus();
}

absl::StatusOr<ProgramFile> Validator::FindBinary(const std::string& field,
                                                  const std::string& name) const {
  if (name.empty())
    return Error(field, "missing; give the device's binary, such as \"virtio_blk\"");
  std::vector<std::string> candidates;
  if (absl::StrContains(name, '/')) {
    candidates.push_back(name);
  } else {
    for (const std::string& dir : host_.device_dirs) {
      // Installed side by side, or as the build lays them out.
      candidates.push_back(absl::StrCat(dir, "/", name));
      candidates.push_back(absl::StrCat(dir, "/", name, "/", name));
    }
  }
  for (const std::string& path : candidates) {
    absl::StatusOr<ProgramFile> file = ProgramFile::Open(AbsolutePath(path));
    if (file.ok()) return file;
    // A shortage of the host: another candidate must not hide it.
    if (absl::IsResourceExhausted(file.status())) return file.status();
  }
  return Error(field, absl::StrCat("\"", name, "\" is not an executable file; searched: ",
                                   absl::StrJoin(candidates, ", ")));
}

absl::StatusOr<ResourceSpec> Validator::Resource(const std::string& field,
                                                 const v1::ResourceConfig& config) {
  RETURN_IF_ERROR(CheckName(absl::StrCat(field, ".name"), config.name()));
  ResourceSpec spec;
  spec.name = config.name();
  switch (config.source_case()) {
    case v1::ResourceConfig::kFile: {
      const std::string path_field = absl::StrCat(field, ".file.path");
      const v1::FileResource& given = config.file();
      if (given.path().empty()) return Error(path_field, "missing; give the path of a file");
      if (given.read_only() && given.shared()) {
        return Error(absl::StrCat(field, ".file.shared"),
                     "shared cannot be combined with readonly; leave one of them out");
      }
      spec.read_only = given.read_only();
      absl::StatusOr<std::unique_ptr<HostFile>> file =
          HostFile::Open(given.path(), {.read_only = given.read_only(),
                                        .direct = given.direct(),
                                        .shared = given.shared(),
                                        .lock = host_.lock_files});
      if (!file.ok()) return FileError(path_field, file.status());
      spec.file = *std::move(file);
      return spec;
    }
    case v1::ResourceConfig::kConsole:
      spec.is_console = true;
      spec.has_standard_streams = config.console().standard_streams();
      if (spec.has_standard_streams) RETURN_IF_ERROR(StandardStreams(field));
      return spec;
    case v1::ResourceConfig::kVmLink:
      spec.is_vm_link = true;
      return spec;
    case v1::ResourceConfig::kVsock: {
      const std::string socket_field = absl::StrCat(field, ".vsock.socket");
      const std::string problem = ProblemOfVsockSocket(config.vsock().socket());
      if (!problem.empty()) return Error(socket_field, problem);
      if (std::exchange(has_vsock_, true)) {
        return Error(field, "is a second vsock; a VM has at most one");
      }
      return spec;  // main.cc connects it: see FindVsock()
    }
    case v1::ResourceConfig::kUnixSocket: {
      const std::string path_field = absl::StrCat(field, ".unix_socket.path");
      if (config.unix_socket().path().empty()) {
        return Error(path_field, "missing; give the path of the socket on which a program listens");
      }
      // As it is: an absolute one may be too long for a socket.
      ASSIGN_OR_RETURN(spec.socket_path, SocketPath(path_field, config.unix_socket().path()));
      return spec;
    }
    case v1::ResourceConfig::kBackEnd: {
      ASSIGN_OR_RETURN(spec.back_end, BackEnd(absl::StrCat(field, ".back_end"), config.back_end()));
      return spec;
    }
    case v1::ResourceConfig::kTap:
    case v1::ResourceConfig::kUserNetwork:
    case v1::ResourceConfig::SOURCE_NOT_SET:
      break;
  }
  return Error(field,
               "the source is missing; give file, console, tap, user_network, vm_link, vsock, "
               "unix_socket or back_end");
}

absl::StatusOr<std::shared_ptr<const BackEndSpec>> Validator::BackEnd(const std::string& field,
                                                                      const v1::BackEnd& config) {
  auto spec = std::make_shared<BackEndSpec>();
  spec->binary = config.binary();
  struct stat info = {};
  if (spec->binary.empty() || spec->binary[0] != '/' || stat(spec->binary.c_str(), &info) != 0 ||
      !S_ISREG(info.st_mode) || access(spec->binary.c_str(), X_OK) != 0) {
    return Error(absl::StrCat(field, ".binary"),
                 absl::StrCat("\"", spec->binary, "\" is not the absolute path of a program"));
  }
  spec->args.assign(config.arg().begin(), config.arg().end());
  for (int i = 0; i < config.file_size(); ++i) {
    const std::string path = AbsolutePath(config.file(i).path());
    const bool read_only = config.file(i).read_only();
    if (config.file(i).path().empty() ||
        access(path.c_str(), read_only ? R_OK : R_OK | W_OK) != 0) {
      return Error(absl::StrCat(field, ".file[", i, "].path"),
                   absl::StrCat("\"", path, "\": ", strerror(errno)));
    }
    spec->files.push_back({.path = path, .read_only = read_only});
  }
  return spec;
}

absl::Status Validator::AddTap(const std::string& field, const v1::ResourceConfig& config,
                               DeviceSpec& spec) {
  RETURN_IF_ERROR(CheckName(absl::StrCat(field, ".name"), config.name()));
  std::string part;
  std::shared_ptr<const Tap> tap;
  absl::Status status;
  if (host_.lock_files) {
    absl::StatusOr<std::unique_ptr<Tap>> opened = Tap::Open(config.tap(), part);
    status = opened.status();
    if (opened.ok()) tap = *std::move(opened);
  } else {
    status = Tap::Check(config.tap(), part);
  }
  if (!status.ok()) return FileError(absl::StrCat(field, ".tap.", part), status);
  const uint32_t queues = TapQueues(config.tap());
  for (uint32_t i = 0; i < queues; ++i) {
    ResourceSpec resource;
    resource.name = i == 0 ? config.name() : absl::StrCat(config.name(), ".", i);
    if (tap != nullptr) resource.connect = [tap, i] { return tap->ForNextProcess(i); };
    spec.resources.push_back(std::move(resource));
  }
  const uint32_t mtu = tap == nullptr ? config.tap().mtu() : tap->mtu();
  if (queues > 1) spec.args.push_back(absl::StrCat("--queues=", queues));
  return FinishNetwork(config.tap().mac(), mtu, !config.tap().no_offloads(), vm_name_, spec);
}

absl::Status Validator::AddUserNetwork(const std::string& field, const v1::ResourceConfig& config,
                                       DeviceSpec& spec) {
  RETURN_IF_ERROR(CheckName(absl::StrCat(field, ".name"), config.name()));
  std::string part;
  absl::StatusOr<UserNetSpec> network = ReadUserNetwork(config.user_network(), part);
  if (!network.ok()) {
    return FileError(absl::StrCat(field, ".user_network.", part), network.status());
  }
  spec.resources.push_back({.name = config.name(), .user_net = *std::move(network)});
  return FinishNetwork(config.user_network().mac(), kUserNetMtu, /*offloads=*/false, vm_name_,
                       spec);
}

absl::Status Validator::StandardStreams(const std::string& field) {
  const std::string flag = absl::StrCat(field, ".console.standard_streams");
  if (!standard_streams_user_.empty()) {
    return Error(flag, absl::StrCat(standard_streams_user_,
                                    " already has the standard streams; only one console can"));
  }
  standard_streams_user_ = field;
  return absl::OkStatus();
}

absl::StatusOr<DeviceSpec> Validator::Device(const std::string& field,
                                             const v1::DeviceConfig& config) {
  DeviceSpec spec;
  spec.name = config.name();
  RETURN_IF_ERROR(CheckName(absl::StrCat(field, ".name"), spec.name));
  if (!device_names_.insert(spec.name).second) {
    return Error(absl::StrCat(field, ".name"),
                 absl::StrCat("\"", spec.name, "\" is taken by another device; names are unique"));
  }
  ASSIGN_OR_RETURN(spec.binary, FindBinary(absl::StrCat(field, ".binary"), config.binary()));
  spec.binary_folders = binary_folders_;
  spec.args.assign(config.arg().begin(), config.arg().end());
  ASSIGN_OR_RETURN(spec.cgroup_limits, Cgroup(absl::StrCat(field, ".cgroup"), config.cgroup()));

  spec.access_timeout = kDefaultAccessTimeout;
  std::optional<FieldProblem> problem =
      ReadDuration("access_timeout", config.access_timeout(), kMinAccessTimeout, kMaxAccessTimeout,
                   spec.access_timeout);
  if (!problem) {
    problem =
        ReadDuration("max_poll", config.max_poll(), absl::ZeroDuration(), kMaxPoll, spec.max_poll);
  }
  if (!problem) problem = ReadSupervision(config, spec);
  if (problem) return Error(absl::StrCat(field, ".", problem->field), problem->problem);

  spec.pci_slot = config.pci_slot();
  if (spec.pci_slot != 0) {
    if (spec.pci_slot >= layout::kMaxPciSlots) {
      return Error(
          absl::StrCat(field, ".pci_slot"),
          absl::StrCat(spec.pci_slot, " is out of range (1 to ", layout::kMaxPciSlots - 1, ")"));
    }
    if (!pci_slots_.insert(spec.pci_slot).second) {
      return Error(absl::StrCat(field, ".pci_slot"),
                   absl::StrCat(spec.pci_slot, " is taken by another device"));
    }
  }
  std::set<std::string> resource_names;
  size_t checked = 0;
  bool has_console = false;
  bool has_vm_link = false;
  bool has_network = false;
  for (int i = 0; i < config.resources_size(); ++i) {
    const std::string resource_field = absl::StrCat(field, ".resources[", i, "]");
    if (config.resources(i).has_tap() || config.resources(i).has_user_network()) {
      if (std::exchange(has_network, true)) {
        return Error(resource_field, "is a second network; a device has at most one");
      }
      std::string flag;
      if (const int at = FindNetworkFlag(config, flag); at >= 0) {
        return Error(absl::StrCat(field, ".arg[", at, "]"),
                     absl::StrCat("\"", config.arg(at), "\" is given by the vmm; set the field ",
                                  flag, " of the tap"));
      }
      RETURN_IF_ERROR(config.resources(i).has_tap()
                          ? AddTap(resource_field, config.resources(i), spec)
                          : AddUserNetwork(resource_field, config.resources(i), spec));
    } else {
      ASSIGN_OR_RETURN(ResourceSpec resource, Resource(resource_field, config.resources(i)));
      if (config.resources(i).file().on_error() == v1::FileResource::PAUSE) {
        spec.args.push_back("--on_error=pause");
        spec.resources.push_back({.name = "errors", .is_error_link = true});
      }
      if (resource.is_console && std::exchange(has_console, true)) {
        return Error(resource_field, "is a second console; a device has at most one");
      }
      if (resource.is_vm_link && std::exchange(has_vm_link, true)) {
        return Error(resource_field, "is a second vm_link; a device has at most one");
      }
      spec.resources.push_back(std::move(resource));
    }
    for (; checked < spec.resources.size(); ++checked) {  // a TAP is several
      const std::string& name = spec.resources[checked].name;
      if (!resource_names.insert(name).second) {
        return Error(absl::StrCat(resource_field, ".name"),
                     absl::StrCat("\"", name, "\" is given twice"));
      }
    }
  }
  return spec;
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
  ASSIGN_OR_RETURN(spec.disk_boot, ChooseBootDisk(kernel, spec));
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
  RETURN_IF_ERROR(MemoryBacking(config.memory_backing(), spec));
  spec.cpus = config.cpus();
  if (spec.cpus < 1 || spec.cpus > layout::kMaxVcpus) {
    return Error("cpus",
                 absl::StrCat(spec.cpus, " is out of range (1 to ", layout::kMaxVcpus, ")"));
  }

  RETURN_IF_ERROR(BinaryFolders(config));
  if (config.devices_size() >= static_cast<int>(layout::kMaxPciSlots)) {
    return Error("devices", absl::StrCat("there are ", config.devices_size(), " (at most ",
                                         layout::kMaxPciSlots - 1, ")"));
  }
  for (int i = 0; i < config.devices_size(); ++i) {
    ASSIGN_OR_RETURN(DeviceSpec device,
                     Device(absl::StrCat("devices[", i, "]"), config.devices(i)));
    spec.devices.push_back(std::move(device));
  }
  spec.uses_standard_streams = !standard_streams_user_.empty();
  if (spec.kernel_path.empty()) RETURN_IF_ERROR(DiskBoot(config.kernel(), spec));
  return spec;
}

}  // namespace

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
