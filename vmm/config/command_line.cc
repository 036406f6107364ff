#include "vmm/config/command_line.h"

#include <getopt.h>
#include <stdint.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "proto/version.h"
#include "vmm/config/cloud_init_flag.h"
#include "vmm/config/config_reference.h"
#include "vmm/config/console_flag.h"
#include "vmm/config/device_flags.h"
#include "vmm/config/disk_flag.h"
#include "vmm/config/net_flag.h"
#include "vmm/config/share_flag.h"
#include "vmm/config/text_config.h"
#include "vmm/config/vhost_user_flag.h"
#include "vmm/config/vsock_flag.h"
#include "vmm/sandbox/policy_listing.h"

namespace bulkhead::vmm {
namespace {

constexpr absl::string_view kHelp = R"(usage: vmm --disk path=FILE [flags]
       vmm --kernel PATH [flags]
       vmm --config FILE [flags]

Runs a virtual machine. Each of its devices is a process of its own.

The virtual machine
  --config FILE     configuration in protobuf text format (see --help-config);
                    flags override it
  --kernel PATH     Linux vmlinux (PVH) or bzImage    (default: what the first disk boots)
  --initrd PATH     initial RAM disk
  --cmdline TEXT    kernel command line
  --cmdline-append TEXT
                    added to it, or to that of the disk
  --boot-entry N|NAME
                    of the disk's menu: its number (in a submenu: 1>0), title or id, or a
                    part of these                     (default: the one that the disk says)
  --ssh-key FILE    who has this public key may log in by ssh, if cloud-init is installed in
                    the guest; may be given several times
  --hostname NAME   the guest's name, by cloud-init
  --cloud-init user-data=FILE[,meta-data=FILE][,network-config=FILE]
                    more for cloud-init: one small read-only disk has all of it
  --memory SIZE     guest RAM: 512M, 2G                             (default: 512M)
  --cpus N          virtual CPUs, 1 to 32                           (default: 1)
  --name NAME       name of the VM                (default: vm, or vm-2, ... if that runs)
  --no-reboot       exit with code 3 when the guest asks for a reset
  --on-crash=exit|reboot
                    when the guest's processor shuts down (triple fault): exit with
                    code 4, or boot again, as a PC does             (default: exit)
  --on-panic=exit|reboot|pause|report
                    when the guest's kernel reports a crash through pvpanic: exit with
                    code 7, boot again, pause, or only an event     (default: exit)
  --control PATH|none
                    control socket        (default: NAME.sock in /run/bulkhead for root,
                    for others in $XDG_RUNTIME_DIR/bulkhead or /tmp/bulkhead-UID)

Devices; each flag starts one process, and may be given several times
  --disk path=FILE[,readonly][,direct][,shared][,discard=on|off][,serial=TEXT][,bps=SIZE]
                    [,iops=N][,bps-burst=SIZE][,iops-burst=N][,on-error=report|pause]
                    [,format=raw|qcow2][,backing=FILE]...[,name=NAME][,slot=N]
                    virtio-blk over a file or block device. direct: past the host's page
                    cache. shared: DANGEROUS: other writers are allowed; for cluster file
                    systems only. discard: what the guest discards gives its space back
                    (default: on). serial: what the guest sees, up to 20 bytes. bps, iops:
                    bytes (20M) and requests a second, at most; of a burst after a pause
                    (default: what comes in 100 ms). on-error: when the host has no space,
                    or the medium fails, report it to the guest, or pause the VM (default:
                    report). qcow2 (so are files *.qcow2): qemu-storage-daemon serves it, in
                    a sandbox; its backing files must be given, and limits, serial, discard
                    and on-error must not
  --net tap[=IFNAME][,bridge=BRIDGE][,mac=ADDRESS][,mtu=N][,queues=N][,fd=N]...[,name=NAME]
                    [,slot=N][,offloads=off][,bps=SIZE][,pps=N][,bps-burst=SIZE][,pps-burst=N]
                    virtio-net over a TAP: the one that exists or was inherited (fd, one a
                    queue), or else one that the vmm makes, which joins the bridge. bps, pps:
                    bytes (20M) and frames a second that the guest may send at most, and as
                    many that it may receive; of a burst after a pause (default: what comes in
                    100 ms)
  --net user[,forward=8022:22][,host-loopback][,mac=ADDRESS][,bps=SIZE]...
                    virtio-net by Debian's passt, for any user; TCP port 8022 of 127.0.0.1
                    leads to port 22 of the guest. host-loopback: the guest may use what
                    listens on the host's 127.0.0.1, at the address of its gateway
  --rng[=NAME]      virtio entropy source
  --balloon[=SIZE]  virtio-balloon: the guest gives back memory that it does not use, and as
                    much as SIZE says, which vmctl balloon changes     (default: 0M)
  --pvpanic         by which the guest's kernel reports that it has crashed
  --vsock cid=N,socket=PATH[,name=NAME][,slot=N]
                    virtio-vsock: a client of the unix socket PATH writes "CONNECT PORT";
                    the guest's connections to CID 2 and port P arrive at PATH_P
  --share path=DIR,tag=NAME[,readonly][,name=NAME][,slot=N]
                    a folder of the host, which the guest mounts by its tag
                    (mount -t virtiofs NAME /mnt); virtiofsd serves it, in a sandbox
  --vhost-user type=blk|fs,socket=PATH[,queues=N][,queue-size=N][,relay][,tag=NAME][,name=NAME]
                    [,slot=N]
                    a disk or (with its tag) a file system whose queues a vhost-user back end
                    serves, another program, which listens on the unix socket PATH. With relay
                    no back end of a disk takes requests with it when it dies.
                    DANGEROUS: it has all of the guest's memory, and no sandbox of the vmm
  --watchdog[=reboot|exit|pause|report]
                    i6300esb; when it expires: boot again, exit with code 8, pause, or
                    only an event                                   (default: reboot)
  --console=stdio|detached|none[,log=FILE][,log-size=SIZE][,log-keep=N]
                    serial port: on this terminal, or for vmctl console only
                                                  (default: stdio, or none with --config)
                    log=: what the guest prints goes to FILE as well; when it has SIZE
                    (default: 10M), it becomes FILE.1, and so on up to FILE.N (default: 3)
  --device name=NAME,binary=BIN[,arg=FLAG]...[,file:RES=PATH]...[,rofile:RES=PATH]...[,slot=N]
                    any device binary; RES is the resource's name. ',,' is a literal comma.
                    Also timeout=30s: the longest wait of an access, and poll=50us: how long
                    both sides poll before they sleep
  With --disk, --net, --vsock, --share, --vhost-user and --device, how a process that
  dies or hangs is replaced:
    restart=always|on-failure|never  when it has ended; on-failure: not after exit code 0
                                                                    (default: always)
    policy=wait|all-ones|pause-vm    accesses meanwhile wait, read all ones, or pause the VM
                                                                    (default: wait)
    heartbeat=TIME                   how often it must show progress, 0: never; five missed
                                     in a row are a hang            (default: 1s)
    spare                            keep a second process started and waiting
  --device-dir DIR  folder of device binaries                       (default: beside vmm)

  --sandbox=on|off  off: device processes may do what this user may do. DANGEROUS: for
                    debugging                                       (default: on)
  --sandbox-waive=LAYER[,LAYER]...
                    do without layers that this host lacks: user, uid, pid, mount, net,
                    ipc, uts, cgroup, caps, rlimits, landlock, seccomp, vmm

  --check           check the configuration and exit, also beside the running VM: fields and
                    files, that the kernel loads, that each device binary accepts its flags
                    and resources. Takes no lock, needs no KVM
  --verbose         log more
  -h, --help        this text
  --help-config     all fields of a configuration file
  --sandbox-policy BINARY
                    the system calls that this device binary may make
  --version         version, contract with device binaries, and build

Exit codes
  0 the guest powered off          3 the guest asked for a reset, with --no-reboot
  1 the vmm or its host failed     4 the guest's processor shut down (triple fault)
  2 bad configuration              5 KVM could not run the guest any further
  7 the guest's kernel crashed     6 ended from outside: SIGINT, SIGTERM, SIGHUP, SIGQUIT
  8 the guest's watchdog expired

Examples
  vmm --disk path=debian.raw --memory 2G --net user,forward=8022:22 \
      --ssh-key ~/.ssh/id_ed25519.pub
  vmm --kernel vmlinux --initrd initrd.img --cmdline 'console=ttyS0' \
      --memory 512M --cpus 2 --disk path=disk.img,readonly --rng
)";

enum Flag : int {
  kConfig = 256,
  kKernel,
  kInitrd,
  kCmdline,
  kCmdlineAppend,
  kBootEntry,
  kSshKey,
  kHostname,
  kCloudInit,
  kMemory,
  kCpus,
  kName,
  kNoReboot,
  kOnCrash,
  kOnPanic,
  kControl,
  kDisk,
  kNet,
  kRng,
  kBalloon,
  kPvpanic,
  kVsock,
  kVhostUser,
  kShare,
  kWatchdog,
  kConsole,
  kDevice,
  kDeviceDir,
  kSandbox,
  kSandboxWaive,
  kCheck,
  kVerbose,
  kHelpFlag = 'h',
  kHelpConfig = 512,
  kSandboxPolicy,
  kVersionFlag,
};

constexpr option kOptions[] = {
    {"config", required_argument, nullptr, kConfig},
    {"kernel", required_argument, nullptr, kKernel},
    {"initrd", required_argument, nullptr, kInitrd},
    {"cmdline", required_argument, nullptr, kCmdline},
    {"cmdline-append", required_argument, nullptr, kCmdlineAppend},
    {"boot-entry", required_argument, nullptr, kBootEntry},
    {"ssh-key", required_argument, nullptr, kSshKey},
    {"hostname", required_argument, nullptr, kHostname},
    {"cloud-init", required_argument, nullptr, kCloudInit},
    {"memory", required_argument, nullptr, kMemory},
    {"cpus", required_argument, nullptr, kCpus},
    {"name", required_argument, nullptr, kName},
    {"no-reboot", no_argument, nullptr, kNoReboot},
    {"on-crash", required_argument, nullptr, kOnCrash},
    {"on-panic", required_argument, nullptr, kOnPanic},
    {"control", required_argument, nullptr, kControl},
    {"disk", required_argument, nullptr, kDisk},
    {"net", required_argument, nullptr, kNet},
    {"rng", optional_argument, nullptr, kRng},
    {"balloon", optional_argument, nullptr, kBalloon},
    {"pvpanic", no_argument, nullptr, kPvpanic},
    {"vsock", required_argument, nullptr, kVsock},
    {"vhost-user", required_argument, nullptr, kVhostUser},
    {"share", required_argument, nullptr, kShare},
    {"watchdog", optional_argument, nullptr, kWatchdog},
    {"console", required_argument, nullptr, kConsole},
    {"device", required_argument, nullptr, kDevice},
    {"device-dir", required_argument, nullptr, kDeviceDir},
    {"sandbox", required_argument, nullptr, kSandbox},
    {"sandbox-waive", required_argument, nullptr, kSandboxWaive},
    {"check", no_argument, nullptr, kCheck},
    {"verbose", no_argument, nullptr, kVerbose},
    {"help", no_argument, nullptr, kHelpFlag},
    {"help-config", no_argument, nullptr, kHelpConfig},
    {"sandbox-policy", required_argument, nullptr, kSandboxPolicy},
    {"version", no_argument, nullptr, kVersionFlag},
    {nullptr, 0, nullptr, 0},
};

absl::Status ParseDevice(absl::string_view text, CommandLine& line) {
  v1::DeviceConfig device;
  for (const std::string& part : SplitParts(text)) {
    ASSIGN_OR_RETURN(const bool taken, ParseSupervision("--device", part, device));
    if (taken) continue;
    absl::string_view value = part;
    if (absl::ConsumePrefix(&value, "name=")) {
      device.set_name(std::string(value));
    } else if (absl::ConsumePrefix(&value, "binary=")) {
      device.set_binary(std::string(value));
    } else if (absl::ConsumePrefix(&value, "arg=")) {
      device.add_arg(std::string(value));
    } else if (absl::ConsumePrefix(&value, "timeout=")) {
      device.set_access_timeout(std::string(value));
    } else if (absl::ConsumePrefix(&value, "poll=")) {
      device.set_max_poll(std::string(value));
    } else if (absl::ConsumePrefix(&value, "slot=")) {
      RETURN_IF_ERROR(ParseSlot("--device", value, device));
    } else if (absl::StartsWith(value, "file:") || absl::StartsWith(value, "rofile:")) {
      const bool read_only = absl::ConsumePrefix(&value, "ro");
      absl::ConsumePrefix(&value, "file:");
      const size_t equals = value.find('=');
      if (equals == absl::string_view::npos) {
        return FlagError("--device",
                         absl::StrCat("\"", part, "\" has no path; give file:RES=PATH"));
      }
      AddFile(device, value.substr(0, equals), value.substr(equals + 1), read_only);
    } else {
      return FlagError("--device",
                       absl::StrCat("\"", part, "\" is unknown; give name=, binary=, arg=, ",
                                    "file:RES=PATH, rofile:RES=PATH, timeout=, poll=, slot=, ",
                                    "restart=, policy=, heartbeat=, spare"));
    }
  }
  AddDevice(line, "--device") = std::move(device);
  return absl::OkStatus();
}

// A device that only reports to the vmm.
void AddReporter(CommandLine& line, absl::string_view flag, absl::string_view binary) {
  v1::DeviceConfig& device = AddDevice(line, flag);
  device.set_name(std::string(binary));
  device.set_binary(std::string(binary));
  v1::ResourceConfig& link = *device.add_resources();
  link.set_name("vm");
  link.mutable_vm_link();
}

void AddBalloon(CommandLine& line, const std::string& size) {
  v1::DeviceConfig& device = AddDevice(line, "--balloon");
  device.set_name("balloon");
  device.set_binary("virtio_balloon");
  v1::ResourceConfig& target = *device.add_resources();
  target.set_name("target");
  target.mutable_balloon()->set_size(size);
}

// Sets the one field that a plain flag stands for.
absl::Status ApplyScalar(int flag, const std::string& value, CommandLine& line) {
  v1::VmConfig& config = line.config;
  switch (flag) {
    case kKernel:
      config.mutable_kernel()->set_path(value);
      line.places["kernel.path"] = "--kernel";
      break;
    case kInitrd:
      config.mutable_kernel()->set_initrd(value);
      line.places["kernel.initrd"] = "--initrd";
      break;
    case kCmdline:
      config.mutable_kernel()->set_cmdline(value);
      line.places["kernel.cmdline"] = "--cmdline";
      break;
    case kCmdlineAppend:
      config.mutable_kernel()->set_cmdline_append(value);
      line.places["kernel.cmdline_append"] = "--cmdline-append";
      break;
    case kBootEntry:
      config.mutable_kernel()->set_boot_entry(value);
      line.places["kernel.boot_entry"] = "--boot-entry";
      break;
    case kSshKey:
      if (value.empty()) return FlagError("--ssh-key", "the path is empty");
      AddSshKey(value, line);
      break;
    case kHostname:
      if (value.empty()) return FlagError("--hostname", "the name is empty");
      SetHostname(value, line);
      break;
    case kMemory:
      config.set_memory(value);
      line.places["memory"] = "--memory";
      break;
    case kName:
      config.set_name(value);
      line.places["name"] = "--name";
      break;
    case kNoReboot:
      config.set_on_reset(v1::VmConfig::EXIT);
      break;
    case kOnCrash:
      if (value != "exit" && value != "reboot") {
        return FlagError("--on-crash",
                         absl::StrCat("\"", value, "\" is not valid; give exit or reboot"));
      }
      config.set_on_crash(value == "reboot" ? v1::VmConfig::CRASH_REBOOT
                                            : v1::VmConfig::CRASH_EXIT);
      break;
    case kOnPanic: {
      const auto action = value == "exit"     ? v1::VmConfig::PANIC_EXIT
                          : value == "reboot" ? v1::VmConfig::PANIC_REBOOT
                          : value == "pause"  ? v1::VmConfig::PANIC_PAUSE
                          : value == "report" ? v1::VmConfig::PANIC_REPORT
                                              : v1::VmConfig::ON_PANIC_UNSPECIFIED;
      if (action == v1::VmConfig::ON_PANIC_UNSPECIFIED) {
        return FlagError("--on-panic", absl::StrCat("\"", value,
                                                    "\" is not valid; give exit, reboot, pause or "
                                                    "report"));
      }
      config.set_on_panic(action);
      break;
    }
    case kControl:
      if (value.empty()) return FlagError("--control", "the path is empty; give a path or none");
      config.set_control_socket(value);
      line.places["control_socket"] = "--control";
      break;
    case kSandbox:
      if (value != "on" && value != "off") {
        return FlagError("--sandbox", absl::StrCat("\"", value, "\" is not valid; give on or off"));
      }
      config.mutable_sandbox()->set_off(value == "off");
      break;
    case kSandboxWaive:
      for (const absl::string_view layer : absl::StrSplit(value, ',')) {
        line.places[absl::StrCat("sandbox.waive[", config.sandbox().waive_size(), "]")] =
            "--sandbox-waive";
        config.mutable_sandbox()->add_waive(std::string(layer));
      }
      break;
    case kCpus: {
      uint32_t cpus = 0;
      if (!absl::SimpleAtoi(value, &cpus)) {
        return FlagError("--cpus", absl::StrCat("\"", value, "\" is not a whole number (1 to 32)"));
      }
      config.set_cpus(cpus);
      line.places["cpus"] = "--cpus";
      break;
    }
    default:
      break;
  }
  return absl::OkStatus();
}

struct GivenFlag {
  int flag;
  std::string value;
};

absl::StatusOr<std::vector<GivenFlag>> Scan(int argc, char** argv) {
  std::vector<GivenFlag> given;
  optind = 0;  // a fresh scan, also in tests
  opterr = 0;
  int flag;
  while ((flag = getopt_long(argc, argv, "+:h", kOptions, nullptr)) != -1) {
    if (flag == ':') {
      return FlagError(argv[optind - 1], "needs a value; see vmm --help");
    }
    if (flag == '?') {
      return FlagError(argv[optind - 1], "unknown or ambiguous flag; see vmm --help");
    }
    given.push_back({flag, optarg == nullptr ? "" : optarg});
  }
  if (optind < argc) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", argv[optind], "\" is not a flag; see vmm --help"));
  }
  return given;
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, char** argv) {
  CommandLine line;
  ASSIGN_OR_RETURN(const std::vector<GivenFlag> given, Scan(argc, argv));
  bool has_file = false;
  for (const GivenFlag& flag : given) {
    if (flag.flag == kHelpFlag) line.answer = std::string(kHelp);
    if (flag.flag == kHelpConfig) line.answer = std::string(ConfigReference());
    if (flag.flag == kVersionFlag) line.answer = VersionLine("vmm");
    if (flag.flag == kSandboxPolicy) {
      absl::StatusOr<std::string> policy = ListPolicyOf(std::string(flag.value));
      if (!policy.ok()) return FlagError("--sandbox-policy", policy.status().message());
      line.answer = *std::move(policy);
    }
    if (flag.flag != kConfig) continue;
    if (has_file) return FlagError("--config", "given twice; one file describes one VM");
    has_file = true;
  }
  if (!line.answer.empty()) return line;
  // The file first, wherever its flag stands: flags are laid over it.
  for (const GivenFlag& flag : given) {
    if (flag.flag == kConfig) RETURN_IF_ERROR(ReadTextConfig(flag.value, line.config, line.places));
  }
  bool console_given = false;
  for (const auto& [flag, value] : given) {
    switch (flag) {
      case kDisk:
        RETURN_IF_ERROR(ParseDisk(value, line));
        break;
      case kNet:
        RETURN_IF_ERROR(ParseNet(value, line));
        break;
      case kVhostUser:
        RETURN_IF_ERROR(ParseVhostUser(value, line));
        break;
      case kShare:
        RETURN_IF_ERROR(ParseShare(value, line));
        break;
      case kCloudInit:
        RETURN_IF_ERROR(ParseCloudInit(value, line));
        break;
      case kDevice:
        RETURN_IF_ERROR(ParseDevice(value, line));
        break;
      case kVsock:
        RETURN_IF_ERROR(ParseVsock(value, line));
        break;
      case kRng: {
        const std::string name = value.empty() ? FreeName(line, "rng") : value;
        v1::DeviceConfig& device = AddDevice(line, "--rng");
        device.set_name(name);
        device.set_binary("virtio_rng");
        break;
      }
      case kBalloon:
        AddBalloon(line, value);
        break;
      case kWatchdog: {
        const auto action = value.empty()       ? v1::VmConfig::WATCHDOG_REBOOT
                            : value == "reboot" ? v1::VmConfig::WATCHDOG_REBOOT
                            : value == "exit"   ? v1::VmConfig::WATCHDOG_EXIT
                            : value == "pause"  ? v1::VmConfig::WATCHDOG_PAUSE
                            : value == "report" ? v1::VmConfig::WATCHDOG_REPORT
                                                : v1::VmConfig::ON_WATCHDOG_UNSPECIFIED;
        if (action == v1::VmConfig::ON_WATCHDOG_UNSPECIFIED) {
          return FlagError("--watchdog", absl::StrCat("\"", value,
                                                      "\" is not valid; give reboot, exit, pause "
                                                      "or report"));
        }
        line.config.set_on_watchdog(action);
        AddReporter(line, "--watchdog", "i6300esb");
        break;
      }
      case kPvpanic:
        AddReporter(line, "--pvpanic", "pvpanic");
        break;
      case kConsole:
        if (console_given) return FlagError("--console", "given twice; a VM has at most one");
        RETURN_IF_ERROR(ParseConsole(value, line));
        console_given = true;
        break;
      case kDeviceDir:
        line.device_dir = value;
        break;
      case kCheck:
        line.check_only = true;
        break;
      case kVerbose:
        line.verbose = true;
        break;
      default:
        RETURN_IF_ERROR(ApplyScalar(flag, value, line));
    }
  }
  if (!has_file && !console_given) RETURN_IF_ERROR(ParseConsole("stdio", line));
  if (line.config.memory().empty() && line.places.count("memory") == 0)
    line.config.set_memory("512M");
  // The message does not distinguish "0" from "not given"; the place does.
  if (line.config.cpus() == 0 && line.places.count("cpus") == 0) line.config.set_cpus(1);
  return line;
}

}  // namespace bulkhead::vmm
