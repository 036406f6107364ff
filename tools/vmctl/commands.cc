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
away), REBOOTING, ENDING.

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
    {"device show", "all that is known of one device", kVmFlags | kJsonFlag, Argument::kDevice,
     absl::Seconds(10), R"(Example
  vmctl device show disk0
)",
     RunDeviceShow},
    {"device restart", "replace its process; the guest goes on",
     kVmFlags | kJsonFlag | kBinaryFlag | kDiscardStateFlag, Argument::kDevice, kLong,
     R"(A new process is started and checked first, then it takes over where the old one stopped. Works in
every state of the device, FAILED and STOPPED too. If the new process is not fit, the old one goes
on, and the exit code is 1.

--binary gives another binary, now and for later restarts; it must describe the same device. The
path is one of the vmm's host, relative ones of the folder that vmctl is called in.
--discard-state starts the device as after power-on: the guest's driver will likely have to be
loaded again. For a device whose state is what makes it fail.

Examples
  vmctl device restart disk0
  vmctl device restart disk0 --binary /opt/bulkhead/2.0/virtio_blk
)",
     RunDeviceRestart},
    {"device reset", "put it into its state after power-on", kVmFlags | kJsonFlag,
     Argument::kDevice, kLong,
     R"(The process stays. The guest's driver is not told, and will likely have to be loaded again.

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
    {"pci", "the guest's PCI devices, like lspci", kVmFlags | kJsonFlag | kVerboseFlag,
     Argument::kNone, absl::Seconds(10),
     R"(Address, class, vendor and device id, then the name and model of the device behind it. The host
bridge, 00:00.0, is the vmm's own and not shown.

Examples
  vmctl pci
  vmctl pci -v
)",
     RunPci},
    {"events", "what has happened, and what happens", kVmFlags | kJsonFlag | kFollowFlag,
     Argument::kNone, absl::Seconds(10),
     R"(The events that the VM remembers, with local time, and how everything is now. With --follow first
how everything is, and then each event, until Ctrl-C (exit code 0) or until the VM ends (0; 3 if it
did not say that it ends). --json gives one object a line, as the VM sends them.

Examples
  vmctl events --follow
  vmctl events --follow --json | jq -c 'select(.deviceEnded)'
)",
     RunEvents},
    {"metrics", "Prometheus text, or JSON", kVmFlags | kJsonFlag, Argument::kNone,
     absl::Seconds(10), R"(The text exposition format 0.0.4.

Example, for node_exporter's textfile collector
  vmctl metrics > web.prom.new && mv web.prom.new /var/lib/node_exporter/web.prom
)",
     RunMetrics},
    {"console", "the guest's serial console", kVmFlags | kEscapeFlag | kFollowFlag,
     Argument::kOptionalDevice, absl::Seconds(10),
     R"(Shows the last 64 KiB that the guest has printed, and what it prints from now on. On a terminal
every key goes to the guest, Ctrl-C too; Ctrl-] leaves, or the key that --escape gives, and the VM
goes on. Several may watch and type.

Standard input and output may be pipes or files: then no key leaves. At the end of input it ends,
once the guest has printed nothing for half a second, or after three seconds; with --follow it goes
on to print, until the VM ends or a signal comes. What this program takes too slowly is lost;
standard error says how much.

NAME is the console's device, for a VM with several. --timeout is for the first answer only.

Examples
  vmctl console
  vmctl console --escape ^A
  vmctl console </dev/null            what was printed lately
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
    {"resume", "let them run again", kVmFlags, Argument::kNone, kLong, R"(Example
  vmctl resume
)",
     RunResume},
    {"wake", "wake a guest that is suspended", kVmFlags, Argument::kNone, absl::Seconds(10),
     R"(Wakes a guest that has suspended itself to idle (`systemctl suspend`). Nothing happens to one that
is awake. The power button wakes it too, and is no more than that to a guest that sleeps.

A key on its serial console wakes a Linux guest only if the guest says so beforehand:
  echo enabled > /sys/class/tty/ttyS0/power/wakeup

Example
  vmctl wake
)",
     RunWake},
    {"shutdown", "press the guest's power button", kVmFlags | kWaitFlag, Argument::kNone, kLong,
     R"(A guest that listens to its ACPI power button powers off soon. If it has not enabled the button
yet, as while it starts, the press is kept until it does, even if it reboots before; vmctl says so.
A suspended guest is woken, no more: press again. With --wait this returns once the vmm has ended,
so that the VM can be started again; exit code 5 if --timeout passes first.

Example
  vmctl shutdown --wait --timeout 2m || vmctl stop
)",
     RunShutdown},
    {"stop", "end the VM at once, as pulling the plug", kVmFlags | kWaitFlag | kNoWaitFlag,
     Argument::kNone, kLong,
     R"(Returns once the vmm has ended, so that the VM can be started again: within five seconds, whatever
its devices do. Exit code 5 if --timeout passes first. --wait is the default; with --no-wait this
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
    {"help", "this text, or that of one command", kHelpFlag, Argument::kOptionalCommand,
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
