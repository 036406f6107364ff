#include "tools/vmctl/commands.h"

#include "absl/strings/strip.h"

namespace bulkhead::vmctl {
namespace {

// A device's process is replaced, or a guest's end awaited: that takes longer than an answer.
constexpr absl::Duration kLong = absl::Minutes(1);

const Command kCommands[] = {
    {"list", "the VMs that run", kTimeoutFlag | kJsonFlag | kHelpFlag, Argument::kNone,
     absl::Seconds(2),
     R"(Looks for control sockets, *.sock, in all places where this user's VMs may have them:
/run/bulkhead (root), $XDG_RUNTIME_DIR/bulkhead, /run/user/UID/bulkhead and /tmp/bulkhead-UID; if
$BULKHEAD_RUNTIME_DIR is set, in that folder only. A socket on which no process listens is not a
running VM.
--timeout is how long each VM may take to answer.

Examples
  vmctl list
  vmctl list --json | jq -r '.vms[].name'
)",
     RunList},
    {"status", "state, guest, uptime of the VM", kVmFlags | kJsonFlag, Argument::kNone,
     absl::Seconds(10),
     R"(States: STARTING, RUNNING, PAUSED (by a client, or because a device with the policy PAUSE_VM is
unavailable, or a disk with on-error=pause has an error), REBOOTING, ENDING.

Examples
  vmctl status
  vmctl status --vm web --json | jq -r .state
)",
     RunStatus},
    {"devices", "a table of the devices", kVmFlags | kJsonFlag, Argument::kNone, absl::Seconds(10),
     R"(GEN counts the processes that have served a device, HEARTBEAT says when its process last answered.
States: STARTING, RUNNING, RESTARTING (another process follows by itself), FAILED (it ended too
often, or its policy is never to restart: `vmctl device restart`), STOPPED (`vmctl device start`).

Examples
  vmctl devices
  watch -n1 vmctl devices
  vmctl devices --json | jq -r '.devices[] | select(.state != "RUNNING") | .name'
)",
     RunDevices},
    {"device show", "all details of one device", kVmFlags | kJsonFlag, Argument::kDevice,
     absl::Seconds(10), R"(Example
  vmctl device show disk0
)",
     RunDeviceShow},
    {"device restart", "replace its process while the guest runs",
     kVmFlags | kJsonFlag | kBinaryFlag | kDiscardStateFlag, Argument::kDevice, kLong,
     R"(Starts and checks a new process, which then resumes where the old one stopped. Works in every state
of the device, FAILED and STOPPED too. If the new process does not match, the old one continues, and
the exit code is 1.

--binary sets another binary, for later restarts too; it must describe the same device. The path is
on the vmm's host; a relative path begins at vmctl's working directory. The file must be in a folder
that the VM's configuration allows: those of the vmm's device binaries, and binary_dirs. The path
that the configuration has for the device is allowed, too.
--discard-state starts the device as after power-on: the guest may have to load its driver again.
For a device whose state makes it fail.

Examples
  vmctl device restart disk0
  vmctl device restart disk0 --binary /opt/bulkhead/2.0/virtio_blk
)",
     RunDeviceRestart},
    {"device resize", "make a disk larger", kVmFlags | kJsonFlag, Argument::kDeviceAndSize, kLong,
     R"(Makes the disk's image SIZE long (512M, 20G), and tells the guest. Without SIZE: the host has made
the image or the block device larger already. The disk's process is replaced for that, and the guest
notices only the new size. Nothing that the guest has on the disk is ever cut off: a smaller SIZE is
refused, and so is an image that has become smaller (`device restart` takes that as it is).

Examples
  vmctl device resize disk0 20G
  lvextend -L +5G vg/web && vmctl device resize disk0
)",
     RunDeviceResize},
    {"device limit", "change the rate limits of a disk or network", kVmFlags | kJsonFlag,
     Argument::kDeviceAndLimits, kLong,
     R"(Limits are those of `vmm --disk`: bps=SIZE and iops=N, bytes and requests a second at most, and
bps-burst=SIZE and iops-burst=N, what may come at once after a pause. 0 removes a limit, or gives a
burst its default: what comes in 100 ms. The others stay. A network device has pps=N and
pps-burst=N, frames, instead of iops: so many from the guest, and so many to it. The device's
process is replaced for that, which the guest does not notice, and later ones have the same limits,
until the VM ends.

Examples
  vmctl device limit disk0 iops=500 bps=20M
  vmctl device limit net0 bps=10M pps=20000
  vmctl device limit disk0 bps=0
)",
     RunDeviceLimit},
    {"device reset", "put it into its state after power-on", kVmFlags | kJsonFlag,
     Argument::kDevice, kLong,
     R"(The process stays. The guest's driver is not notified: the guest may have to load it again.

Example
  vmctl device reset rng0
)",
     RunDeviceReset},
    {"device stop", "end its process until `device start`", kVmFlags | kJsonFlag, Argument::kDevice,
     kLong, R"(The guest's accesses read all ones meanwhile.

Example
  vmctl device stop rng0
)",
     RunDeviceStop},
    {"device start", "start a stopped device again", kVmFlags | kJsonFlag, Argument::kDevice, kLong,
     R"(Example
  vmctl device start rng0
)",
     RunDeviceStart},
    {"device link", "plug the cable of a network device in or out", kVmFlags | kJsonFlag,
     Argument::kDeviceAndLink, absl::Seconds(10),
     R"(The guest gets or loses its carrier. Holds until the next such command, also when the device's
process is replaced or the guest reboots. Frames that come while the link is down are dropped.

Examples
  vmctl device link net0 down
  vmctl device link net0 up
)",
     RunDeviceLink},
    {"upgrade", "run the programs that are installed now", kVmFlags | kJsonFlag, Argument::kNone,
     kLong,
     R"(For a running VM, after an upgrade of the package: one device after the other gets a process
of the program to which its path leads now, and keeps that for later restarts; the guest runs on. A
device whose new program does not match keeps the old one, and the exit code is 1. A device that is
STOPPED is left as it is. The vmm itself stays the one that was started.

Example
  apt-get install ./bulkhead_0.2_amd64.deb && vmctl upgrade
)",
     RunUpgrade},
    {"pci", "the guest's PCI devices, like lspci", kVmFlags | kJsonFlag | kVerboseFlag,
     Argument::kNone, absl::Seconds(10),
     R"(Address, class, vendor and device id, then the name and model of the device behind it. The host
bridge, 00:00.0, is the vmm's own and not shown.

Examples
  vmctl pci
  vmctl pci -v
)",
     RunPci},
    {"balloon", "memory that the guest gives back", kVmFlags | kJsonFlag, Argument::kOptionalSize,
     absl::Seconds(10),
     R"(Without SIZE: how much of its memory the guest is to give up, and how much it has, by its own
word. With SIZE (512M, 2G, 0): it is to give up that much, or take back what is more. The guest
does so in its own time, and keeps what it needs; what it has given up the host has again. Holds
until the next such command, also when the device's process is replaced or the guest reboots. The
VM needs a balloon: `vmm --balloon`.

Examples
  vmctl balloon 1G
  vmctl balloon
  vmctl balloon 0
)",
     RunBalloon},
    {"events", "past events, and new ones", kVmFlags | kJsonFlag | kFollowFlag, Argument::kNone,
     absl::Seconds(10),
     R"(Prints the events that the VM still has, with local time, and the present state. With --follow:
the present state, then each new event, until Ctrl-C (exit code 0) or the end of the VM (0; 3 if it
did not announce its end). --json prints one object a line, as the VM sends them.

Examples
  vmctl events --follow
  vmctl events --follow --json | jq -c 'select(.deviceEnded)'
)",
     RunEvents},
    {"top", "what vCPUs and devices do, live",
     kVmFlags | kJsonFlag | kIntervalFlag | kCountFlag | kOnceFlag, Argument::kNone,
     absl::Seconds(10),
     R"(On a terminal a screen that q leaves, and Space brings up to date at once; else, and with --once
or --json, text or one JSON object a line for each --interval. Rates are means over an interval.

vCPUs: exits from guest code a second, by KVM's count, all and for some reasons: MMIO and PORT are
accesses to devices, HALT that the guest had nothing to do, IRQ the host's interrupts. GUEST and
HOST are the processor time in guest code and in the host for it, HALTED the time asleep. The rest
the vCPU waited, for a device or for a processor.

Devices: REQ/s are a disk's requests or a network's frames; MEAN and P99 how long requests took, of
those that were timed (P99: at most, for 99 of 100). IN and OUT are bytes to and from the guest,
ACC/s accesses to registers. STALLS counts accesses that waited for a full ring, found no process or
got no answer, and missed heartbeats; RESTARTS the replacements of its process. Both since the VM
started, and yellow while they grow. A terminal of 113 columns also has MEAN and P99 of the accesses
that the guest waited for, right of ACC/s, its notifications (KICK/s), interrupts (IRQ/s), and how
often rate limits held something back (LIMIT/s).

Examples
  vmctl top
  vmctl top --once
  vmctl top --json --interval 10s | jq -c '.devices[] | [.name, .requestsPerSecond]'
)",
     RunTop},
    {"metrics", "Prometheus text, or JSON", kVmFlags | kJsonFlag | kListenFlag | kAllowRemoteFlag,
     Argument::kNone, absl::Seconds(10),
     R"(The text exposition format 0.0.4.

With --listen it serves http://ADDR:PORT/metrics until a signal ends it: the metrics of all VMs that
`vmctl list` shows, or of the one that --vm or --socket names, each sample with the label vm. VMs
are found and asked anew for each request. bulkhead_vm_up is 0 for a VM that has not answered within
--timeout (here by default 3s, at most 1m). ADDR is a loopback address, such as 127.0.0.1 or [::1]:
every user of this host can read there what the VMs' sockets give to their users alone. Other
addresses need --allow-remote; there is neither encryption nor a password.

Examples
  vmctl metrics --listen 127.0.0.1:9707
  vmctl metrics > web.prom.new && mv web.prom.new /var/lib/node_exporter/web.prom
)",
     RunMetrics},
    {"trace", "what guest and devices do, on a time line", kVmFlags | kSecondsFlag | kOutputFlag,
     Argument::kNone, absl::Seconds(10),
     R"(Records for so many seconds each access of a vCPU to a device, doorbells, interrupts, the requests
of virtio devices from when they are taken to when they are completed, and what happens to device
processes and to the VM. FILE then opens in https://ui.perfetto.dev, which keeps it in the browser.
Ctrl-C ends the trace early; the file is whole. It is 256 MiB long at most, and one trace runs at a
time. While it runs, each access takes some 50 ns longer. --timeout is for the VM's answers. What is
shown, and how to read it: docs/tracing.md.

Example
  vmctl trace --seconds 5 --output trace.json
)",
     RunTrace},
    {"console", "the guest's serial console", kVmFlags | kEscapeFlag | kFollowFlag,
     Argument::kOptionalDevice, absl::Seconds(10),
     R"(Prints the last 64 KiB of the guest's output, then its further output. On a terminal every key goes
to the guest, Ctrl-C too; Ctrl-], or the key of --escape, leaves the console, and the VM continues.
Several clients may watch and type.

Standard input and output may be pipes or files: then no key leaves. After the end of input vmctl
ends once the guest has printed nothing for half a second, or after three seconds; with --follow it
prints until the VM ends or a signal comes. If vmctl is read too slowly, output is lost, and
standard error says how much.

NAME is the console's device, for a VM with several. --timeout limits the first answer only.

Examples
  vmctl console
  vmctl console --escape ^A
  vmctl console </dev/null            the recent output
  vmctl console --follow </dev/null >boot.log
  echo reboot | vmctl console
)",
     RunConsole},
    {"pause", "stop the vCPUs", kVmFlags, Argument::kNone, kLong,
     R"(Returns once no vCPU executes guest code. Pausing a paused VM is no error.

Example
  vmctl pause
)",
     RunPause},
    {"resume", "let the vCPUs run again, after pause", kVmFlags | kReportErrorsFlag,
     Argument::kNone, kLong,
     R"(If the VM was paused because the host had no space for a disk's request, or its medium failed
(on-error=pause), the request is tried again; if it fails once more, the VM is paused again. With
--report-errors the guest gets the error instead, if what failed cannot be mended.

Examples
  vmctl resume
  vmctl resume --report-errors
)",
     RunResume},
    {"wake", "wake a guest that is suspended", kVmFlags, Argument::kNone, absl::Seconds(10),
     R"(Wakes a guest that has suspended itself to idle (`systemctl suspend`). Does nothing to a guest that
is awake. The power button wakes a suspended guest too, and does nothing else to it.

A key on its serial console wakes a Linux guest only if the guest has enabled that:
  echo enabled > /sys/class/tty/ttyS0/power/wakeup

Example
  vmctl wake
)",
     RunWake},
    {"shutdown", "press the guest's power button", kVmFlags | kWaitFlag, Argument::kNone, kLong,
     R"(A guest that handles its ACPI power button powers off soon. If it has not enabled the button yet,
for example while it boots, the press is kept until it does, across reboots; vmctl says so. A
suspended guest only wakes up: press again. With --wait this returns once the vmm has ended, and the
VM can be started again; exit code 5 if --timeout passes first.

Example
  vmctl shutdown --wait --timeout 2m || vmctl stop
)",
     RunShutdown},
    {"stop", "end the VM at once, like pulling the plug", kVmFlags | kWaitFlag | kNoWaitFlag,
     Argument::kNone, kLong,
     R"(Returns once the vmm has ended, and the VM can be started again: within five seconds, even if its
devices hang. Exit code 5 if --timeout passes first. --wait is the default; with --no-wait this
returns at once.

Example
  vmctl stop
)",
     RunStop},
    {"completion", "a completion script for bash", kHelpFlag, Argument::kShell, absl::Seconds(1),
     R"(Completes commands, flags, names of VMs and of devices.

Example, for ~/.bashrc
  source <(vmctl completion bash)
)",
     RunCompletion},
    {"help", "this text, or the help of a command", kHelpFlag, Argument::kOptionalCommand,
     absl::Seconds(1), R"(Example
  vmctl help device restart
)",
     RunHelp},
};

}  // namespace

absl::Span<const Command> Commands() { return kCommands; }

const Command* FindCommand(absl::string_view name) {
  for (const Command& command : kCommands) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

std::vector<absl::string_view> Subcommands(absl::string_view word) {
  std::vector<absl::string_view> names;
  for (const Command& command : kCommands) {
    absl::string_view name = command.name;
    if (absl::ConsumePrefix(&name, word) && absl::ConsumePrefix(&name, " ")) names.push_back(name);
  }
  return names;
}

}  // namespace bulkhead::vmctl
