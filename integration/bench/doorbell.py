"""tools/bench doorbell: a guest's write that wakes a device, and the interrupt back.

The same bare-metal guest measures each machine. A virtio disk is asked for its name, which is no
I/O; `bare` has no device and no other process: a thread that sleeps on the ioeventfd (KVM's doorbell)
writes the irqfd (KVM's interrupt). What our figures have more than that is the device's work on its
queue and the way between processes; what they have less is that our device polls a while before it
sleeps.

  ring  the guest's write alone, from user mode (CPL3), as the rest
  spin  from the write until a guest that spins has taken the interrupt
  halt  the same for a guest that halts
  hot   request after request; idle: a pause before each, so that the device sleeps

Every round runs every machine once, one after the other; ratios are taken within a round.
"""
import tempfile

from integration.bench import block_targets, host, mmio, mmio_targets, table
from integration.bench.aims import conclude
from integration.bench.arguments import names_of, positive
from integration.bench.block_targets import Disk
from integration.bench.processes import BenchError, bench_lines, use_realtime

HELP = "a doorbell and the interrupt back, beside bare ioeventfd and irqfd"

FLOOR = "bare"
QEMU = block_targets.QemuInProcess.name
_DISK_BYTES = 1 << 20
_AIM_OVER_FLOOR = 1.5  # of a device that sleeps and a guest that halts


class Bare(mmio_targets.InVmm):
    name = FLOOR
    description = "no device: a thread on the ioeventfd, which writes the irqfd"
    guest_options = "device=plain"

    def run(self, cmdline, disk, timeout_s):
        return super().run(cmdline, timeout_s)


ALL = (Bare, block_targets.Vmm, block_targets.QemuInProcess, block_targets.QemuVhostUser)


def add_arguments(parser):
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N",
                        help="runs of each machine (default: %(default)s)")
    parser.add_argument("--idle-ms", type=float, default=2.0, metavar="MS",
                        help="pause before an idle request (default: %(default)s)")
    parser.add_argument("--targets", type=names_of(ALL), default=ALL, metavar="NAMES",
                        help="which machines, of: " + ",".join(target.name for target in ALL))
    parser.add_argument("--realtime", action="store_true",
                        help="run the machines before everything else: for a busy computer")
    parser.add_argument("--check", action="store_true", help="exit with 3 if an aim is missed")


def parse(output, tsc_khz):
    """The guest's BENCH lines as {"spin hot": {"p50_us": microseconds, ...}, ...}."""
    lines = {"%s %s" % (fields["name"], fields["phase"]): {
        name + "_us": int(fields[name]) * 1000 / tsc_khz for name in ("min", *mmio.PERCENTILES, "max")}
             for fields in bench_lines(output)}
    if "halt hot" not in lines:
        raise BenchError("the guest printed no figures:\n" + output)
    return lines


def judge_aims(summary):
    over = summary.get("vmm", {}).get("halt idle", {}).get("over " + FLOOR)
    return [] if over is None else [{
        "text": "halt idle: %.2f times %s, aim: at most %g" % (over, FLOOR, _AIM_OVER_FLOOR),
        "met": over <= _AIM_OVER_FLOOR}]


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    tsc_khz = host.guest_tsc_khz()
    machines = mmio_targets.build_machines(args.targets)
    facts = host.describe()
    if args.realtime:
        use_realtime()
    else:
        host.warn_if_busy(facts)
    samples = 500 if args.quick else 5000
    rounds = []
    with tempfile.NamedTemporaryFile(prefix="bulkhead-bench-") as file:
        file.truncate(_DISK_BYTES)
        disk = Disk(file.name, direct=False, aio="io_uring", queues=1)
        for number in range(args.rounds):
            print("round %d of %d" % (number + 1, args.rounds), flush=True)
            rounds.append({machine.name: parse(machine.run(
                "run=bench_doorbell %s samples=%d idle=%d" % (
                    getattr(machine, "guest_options", "device=block"), samples,
                    args.idle_ms * tsc_khz), disk, timeout_s=120), tsc_khz)
                           for machine in machines})
    summary = mmio.summarize(rounds, (FLOOR, QEMU), "p50_us")
    _print_report(machines, rounds, summary, facts)
    return conclude(args, {"benchmark": "doorbell", "machine": facts, "idle_ms": args.idle_ms,
                           "rounds": rounds, "summary": summary}, judge_aims(summary))


def _print_report(machines, rounds, summary, facts):
    host.print_facts(facts, machines)
    rows = []
    for key in next(iter(summary.values())):
        for machine in machines:
            entry = summary[machine.name][key]
            p50 = [each[machine.name][key]["p50_us"] for each in rounds]
            rows.append([key + "  " + machine.name, "%.2f" % entry["p50_us"],
                         "%.2f-%.2f" % (min(p50), max(p50)), "%.2f" % entry["p99_us"],
                         *("%.2f" % entry["over " + other] if "over " + other in entry else "-"
                           for other in (FLOOR, QEMU))])
    print()
    print("\n".join(table.render(["microseconds, medians of the rounds", "p50", "least-most", "p99",
                                  "/ " + FLOOR, "/ qemu"], rows)))
    print()
