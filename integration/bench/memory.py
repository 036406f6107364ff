"""What each process of an idle VM has of the host's memory.

Starts a VM with a console, a disk, an entropy source and the rig, again and again; the guest halts.
Memory is proportional set size (PSS), without the guest's RAM, which is counted apart; text that
processes share counts in parts.
"""
import statistics
import tempfile
import time

from integration.bench import host, table, vm
from integration.bench.aims import conclude
from integration.bench.arguments import positive

HELP = "memory of the vmm and of each device (PSS)"

_SETTLE_S = 0.3  # after the start-up's last page was given back
_AIM_VMM_MIB = 8.0
_AIM_DEVICE_MIB = 4.0


def add_arguments(parser):
    parser.add_argument("--quick", action="store_true", help="5 starts")
    parser.add_argument("--rounds", type=positive, metavar="N",
                        help="starts of the VM (default: 20)")
    parser.add_argument("--check", action="store_true", help="exit with 3 if an aim is missed")


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    facts = host.describe()
    own, guest_ram = {}, {}
    rounds = args.rounds or (5 if args.quick else 20)
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        command = vm.build_idle_vm(folder)
        for number in range(rounds):
            table.progress("start %d of %d" % (number + 1, rounds))
            with vm.Vm(command) as machine:
                machine.wait(output=b"idle")
                time.sleep(_SETTLE_S)
                for pid, name in machine.processes():
                    for values, mib in zip((own, guest_ram), vm.memory(pid)):
                        values.setdefault(name, []).append(mib)
    table.progress("")
    print("%(cpu)s, %(cpus)d CPUs, Linux %(kernel)s, revision %(revision)s\n" % facts)
    rows = [[name, "%.1f" % statistics.median(values), "%.1f-%.1f" % (min(values), max(values)),
             "%.1f" % statistics.median(guest_ram[name])] for name, values in own.items()]
    rows.append(["all", "%.1f" % statistics.median(map(sum, zip(*own.values()))), "",
                 "%.1f" % statistics.median(map(sum, zip(*guest_ram.values())))])
    print("\n".join(table.render(
        ["memory at idle (MiB PSS)", "own p50", "least-most", "guest RAM"], rows)))
    print()
    aims = [("vmm within %g MiB" % _AIM_VMM_MIB, statistics.median(own["vmm"]) <= _AIM_VMM_MIB),
            ("each device within %g MiB" % _AIM_DEVICE_MIB,
             all(statistics.median(values) <= _AIM_DEVICE_MIB
                 for name, values in own.items() if name != "vmm"))]
    return conclude(args, {"benchmark": "memory", "machine": facts, "own_mib": own,
                           "guest_ram_mib": guest_ram},
                    [{"text": text, "met": met} for text, met in aims])
