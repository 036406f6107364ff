"""Time from the start of vmm to the guest, and the memory of its processes at idle.

Starts a VM with a console, a disk, an entropy source and the rig; the guest idles. Times
begin when the process is created; every other start is without the sandbox of devices. Memory is proportional set size (PSS), without the guest's RAM,
which is counted apart; text that processes share counts in parts.
"""
import os
import statistics
import tempfile
import time

from integration.bench import host, table, vm
from integration.bench.aims import conclude
from integration.bench.arguments import positive

HELP = "time to the first guest instruction, memory of each process"

_VMM = "//vmm:vmm"
_GUEST = "//kernel_images/baremetal:guest.elf"
_DEVICES = ["//devices/uart16550:uart16550", "//devices/virtio_blk:virtio_blk",
            "//devices/virtio_rng:virtio_rng", "//devices/rig:rig"]
_SETTLE_S = 0.3  # after the start-up's last page was given back
_AIMS = {"vmm": 8.0, "device": 4.0, "first_instruction_ms": 60.0, "sandbox_ms": 3.0}


def add_arguments(parser):
    parser.add_argument("--rounds", type=positive, default=20, metavar="N",
                        help="starts to time (default: %(default)s)")
    parser.add_argument("--check", action="store_true",
                        help="exit with 3 if an aim is missed")


def _start_once(command, want_memory):
    """One VM. Returns (ms to the first instruction, to the first byte, [(process, MiB, MiB)])."""
    with vm.Vm(command) as machine:
        machine.wait(output=b"idle")
        memory = []
        if want_memory:
            time.sleep(_SETTLE_S)
            memory = [(name, *vm.memory(pid)) for pid, name in machine.processes()]
        return machine.guest_ms, machine.first_byte_ms, memory


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    vmm, guest, *_ = host.build([_VMM, _GUEST, *_DEVICES])
    rig = os.path.join(os.path.dirname(os.path.dirname(vmm)), "devices/rig/rig")
    facts = host.describe()
    host.warn_if_busy(facts)
    with tempfile.NamedTemporaryFile(prefix="bulkhead-bench-") as disk:
        disk.truncate(1 << 20)
        command = [vmm, "--verbose", "--control=none", "--kernel", guest, "--cmdline", "run=idle",
                   "--memory", "512M", "--cpus", "2", "--disk", "path=" + disk.name, "--rng",
                   "--device", "name=rig,binary=" + rig]
        rounds, bare = [], []
        for number in range(args.rounds):
            bare.append(_start_once(command + ["--sandbox=off"], False))
            rounds.append(_start_once(command, number == args.rounds - 1))
    instruction = [entry[0] for entry in rounds]
    bare_instruction = [entry[0] for entry in bare]
    line = [entry[1] for entry in rounds]
    memory = rounds[-1][2]
    devices = [entry for entry in memory[1:] if not vm.is_helper(entry[0])]
    sandbox_ms = ((statistics.median(instruction) - statistics.median(bare_instruction)) /
                  len(devices))

    print("%s, %d CPUs, Linux %s; %d starts" % (facts["cpu"], facts["cpus"], facts["kernel"],
                                                args.rounds))
    print()
    for text in table.render(
            ["from the start of vmm (ms)", "min", "p50", "max"],
            [[name, *("%.1f" % f(values) for f in (min, statistics.median, max))]
             for name, values in [("vCPUs enter the guest", instruction),
                                  ("the same, --sandbox=off", bare_instruction),
                                  ("first byte on the console", line)]]):
        print(text)
    print("the sandbox costs %.2f ms a device, of %d that start side by side" % (
        sandbox_ms, len(devices)))
    print()
    for text in table.render(["memory at idle (MiB PSS)", "own", "guest RAM"],
                             [[name, "%.1f" % own, "%.1f" % ram] for name, own, ram in memory]):
        print(text)
    print()
    aims = [
        ("vCPUs enter the guest within %g ms" % _AIMS["first_instruction_ms"],
         statistics.median(instruction) <= _AIMS["first_instruction_ms"]),
        ("the sandbox costs %g ms a device or less" % _AIMS["sandbox_ms"],
         sandbox_ms <= _AIMS["sandbox_ms"]),
        ("vmm within %g MiB" % _AIMS["vmm"], memory[0][1] <= _AIMS["vmm"]),
        ("each device within %g MiB" % _AIMS["device"],
         all(own <= _AIMS["device"] for _, own, _ in memory[1:])),
    ]
    figures = {
        "benchmark": "startup",
        "machine": facts,
        "first_instruction_ms": instruction,
        "first_instruction_without_sandbox_ms": bare_instruction,
        "first_console_byte_ms": line,
        "memory_mib": [{"process": name, "own": own, "guest_ram": ram}
                       for name, own, ram in memory],
    }
    return conclude(args, figures, [{"text": text, "met": met} for text, met in aims])
