// What a configuration says of devices, and of the folders of their binaries.
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "vmm/config/cloud_init.h"
#include "vmm/config/cloud_init_volume.h"
#include "vmm/config/console_log_file.h"
#include "vmm/config/host_file.h"
#include "vmm/config/network.h"
#include "vmm/config/program_file.h"
#include "vmm/config/program_folders.h"
#include "vmm/config/supervision.h"
#include "vmm/config/tap.h"
#include "vmm/config/validator.h"
#include "vmm/config/vsock.h"
#include "vmm/memory/guest_layout.h"

namespace bulkhead::vmm {
namespace {

constexpr uint64_t kMebibyte = 1 << 20;
constexpr absl::Duration kDefaultAccessTimeout = absl::Seconds(30);
constexpr absl::Duration kMinAccessTimeout = absl::Milliseconds(1);
constexpr absl::Duration kMaxAccessTimeout = absl::Hours(1);
constexpr uint64_t kMinCgroupMemory = 8 * kMebibyte;
constexpr uint32_t kMaxCgroupWeight = 10'000;
constexpr uint32_t kMinCgroupProcesses = 16;
constexpr absl::Duration kMaxPoll = absl::Milliseconds(10);
constexpr uint64_t kDefaultLogBytes = 10 * kMebibyte;
constexpr uint64_t kMaxLogBytes = uint64_t{1} << 40;
constexpr uint32_t kDefaultLogs = 3;

// What a back end that serves `folder` could not execute any more: its program, or the folder with
// the loader and libraries of programs. Empty: nothing.
std::string NeededBelow(const std::string& folder, const std::string& program) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path real = fs::canonical(folder, error);
  for (const fs::path& needed : {fs::path(program), fs::path("/lib64/ld-linux-x86-64.so.2"),
                                 fs::path("/lib/x86_64-linux-gnu/libc.so.6")}) {
    const fs::path file = fs::canonical(needed, error);
    if (error) continue;
    const auto [end, rest] = std::mismatch(real.begin(), real.end(), file.begin(), file.end());
    if (end == real.end()) return file.string();
  }
  return "";
}

}  // namespace

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
      if (config.console().has_log()) {
        ASSIGN_OR_RETURN(spec.console_log,
                         Log(absl::StrCat(field, ".console.log"), config.console().log()));
      }
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
    case v1::ResourceConfig::kBalloon:
    case v1::ResourceConfig::SOURCE_NOT_SET:
      break;
  }
  return Error(field,
               "the source is missing; give file, console, tap, user_network, vm_link, vsock, "
               "unix_socket, back_end or balloon");
}

absl::StatusOr<std::shared_ptr<BalloonSwitch>> Validator::Balloon(
    const std::string& field, const v1::BalloonResource& config) {
  if (!balloon_.empty()) return Error(field, "is a second balloon; a VM has at most one");
  balloon_ = field;
  uint64_t size = 0;
  if (!config.size().empty()) {
    ASSIGN_OR_RETURN(size, Size(absl::StrCat(field, ".balloon.size"), config.size()));
  }
  if (size > memory_bytes_) {
    return Error(absl::StrCat(field, ".balloon.size"),
                 absl::StrCat("\"", config.size(), "\" is more than the guest's memory"));
  }
  return std::make_shared<BalloonSwitch>(size, memory_bytes_);
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
    if (config.serves_folder() && (stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode))) {
      return Error(absl::StrCat(field, ".file[", i, "].path"),
                   absl::StrCat("\"", path, "\" is not a folder"));
    }
    if (const std::string needed = NeededBelow(path, spec->binary);
        config.serves_folder() && !needed.empty()) {
      return Error(absl::StrCat(field, ".file[", i, "].path"),
                   absl::StrCat("\"", path, "\" has ", needed,
                                ", which the back end needs, and no program of a shared folder can "
                                "be executed; give another folder"));
    }
    spec->files.push_back({.path = path, .read_only = read_only});
  }
  spec->serves_folder = config.serves_folder();
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

absl::StatusOr<ConsoleLogFile> Validator::Log(const std::string& field,
                                              const v1::ConsoleLog& config) {
  const std::string path_field = absl::StrCat(field, ".path");
  if (config.path().empty()) return Error(path_field, "is missing");
  uint64_t size = kDefaultLogBytes;
  if (!config.size().empty()) {
    ASSIGN_OR_RETURN(size, Size(absl::StrCat(field, ".size"), config.size()));
    if (size == 0 || size > kMaxLogBytes) {
      return Error(absl::StrCat(field, ".size"),
                   absl::StrCat("\"", config.size(), "\" is out of range (1M to 1T)"));
    }
  }
  const uint32_t keep = config.has_keep() ? config.keep() : kDefaultLogs;
  if (keep > kMaxConsoleLogs) {
    return Error(absl::StrCat(field, ".keep"),
                 absl::StrCat(keep, " is out of range (0 to ", kMaxConsoleLogs, ")"));
  }
  absl::StatusOr<ConsoleLogFile> file = FindConsoleLog(config.path(), /*make=*/host_.lock_files);
  if (!file.ok()) {
    return Error(path_field, absl::StrCat("\"", config.path(), "\": ", file.status().message()));
  }
  file->size_bytes = size;
  file->keep = keep;
  return file;
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

absl::Status Validator::CheckTags(const std::string& field, const v1::DeviceConfig& config) {
  if (config.binary() != "vhost_user") return absl::OkStatus();
  for (int i = 0; i < config.arg_size(); ++i) {
    absl::string_view tag = config.arg(i);
    if (!absl::ConsumePrefix(&tag, "--tag=") || tags_.insert(std::string(tag)).second) continue;
    return Error(absl::StrCat(field, ".arg[", i, "]"),
                 absl::StrCat("the tag \"", tag, "\" is taken by another file system of this VM"));
  }
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
  RETURN_IF_ERROR(CheckTags(field, config));
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
    } else if (config.resources(i).has_balloon()) {
      const v1::ResourceConfig& given = config.resources(i);
      RETURN_IF_ERROR(CheckName(absl::StrCat(resource_field, ".name"), given.name()));
      ASSIGN_OR_RETURN(spec.balloon, Balloon(resource_field, given.balloon()));
      spec.resources.push_back({.name = given.name(), .connect = [balloon = spec.balloon] {
                                  return balloon->ForNextProcess();
                                }});
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

absl::Status Validator::AddCloudInit(const v1::CloudInit& config, VmSpec& spec) {
  constexpr char kName[] = "cloud-init";
  std::string part;
  const absl::StatusOr<CloudInitFiles> files = ReadCloudInit(config, spec.name, part);
  if (!files.ok()) return FileError(absl::StrCat("cloud_init.", part), files.status());
  v1::DeviceConfig device;
  device.set_name(kName);
  device.set_binary("virtio_blk");
  device.add_arg(absl::StrCat("--serial=", kName));
  ASSIGN_OR_RETURN(DeviceSpec added, Device("cloud_init", device));
  absl::StatusOr<UniqueFd> volume = MakeCloudInitVolume(*files);
  if (!volume.ok()) return FileError("cloud_init", volume.status());
  absl::StatusOr<std::unique_ptr<HostFile>> file =
      HostFile::OfMemory(*std::move(volume), absl::StrCat("memory:", kName));
  if (!file.ok()) return FileError("cloud_init", file.status());
  added.resources.push_back({.name = "disk", .file = *std::move(file), .read_only = true});
  spec.devices.push_back(std::move(added));
  return absl::OkStatus();
}

}  // namespace bulkhead::vmm
