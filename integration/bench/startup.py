"""Time from the start of vmm to the guest.

Starts a VM with a console, a disk, an entropy source and the rig. Times begin when the process is
created; every other start is without the sandbox of devices.
"""
import statistics
import tempfile

from integration.bench import host, table, vm
from integration.bench.aims import conclude
from integration.bench.arguments import positive

HELP = "time to the first guest instruction"

_DEVICES = 4
_AIMS = {"first_instruction_ms": 60.0, "sandbox_ms": 3.0}


def add_arguments(parser):
    parser.add_argument("--rounds", type=positive, default=20, metavar="N",
                        help="starts to time (default: %(default)s)")
    parser.add_argument("--check", action="store_true",
                        help="exit with 3 if an aim is missed")


def _start_once(command):
    """One VM. Returns ms to the first instruction, and to the first byte."""
    with vm.Vm(command) as machine:
        machine.wait(output=b"idle")
        return machine.guest_ms, machine.first_byte_ms


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    rounds, bare = [], []
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        command = vm.build_idle_vm(folder)
        facts = host.describe()
        host.warn_if_busy(facts)
        for number in range(args.rounds):
            table.progress("round %d of %d" % (number + 1, args.rounds))
            bare.append(_start_once(command + ["--sandbox=off"]))
            rounds.append(_start_once(command))
    table.progress("")
    instruction = [entry[0] for entry in rounds]
    bare_instruction = [entry[0] for entry in bare]
    line = [entry[1] for entry in rounds]
    sandbox_ms = (statistics.median(instruction) - statistics.median(bare_instruction)) / _DEVICES

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
        sandbox_ms, _DEVICES))
    print()
    aims = [
        ("vCPUs enter the guest within %g ms" % _AIMS["first_instruction_ms"],
         statistics.median(instruction) <= _AIMS["first_instruction_ms"]),
        ("the sandbox costs %g ms a device or less" % _AIMS["sandbox_ms"],
         sandbox_ms <= _AIMS["sandbox_ms"]),
    ]
    figures = {
        "benchmark": "startup",
        "machine": facts,
        "first_instruction_ms": instruction,
        "first_instruction_without_sandbox_ms": bare_instruction,
        "first_console_byte_ms": line,
    }
    return conclude(args, figures, [{"text": text, "met": met} for text, met in aims])
