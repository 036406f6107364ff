"""tools/bench mmio: cycles of one MMIO read and one posted write, and what they compare to.

The same bare-metal guest measures each machine: our VMM with the rig in its own
process, the same access answered inside the VMM (the floor), QEMU with an in-process device, and
QEMU with a device in another process. `hot`: access after access, so that the device polls.
`idle`: a pause before each, so that it sleeps and must be woken.

Every round runs every machine once, one after the other; ratios are taken within a round, so
that drift of the machine falls on both sides, and the median of the rounds is shown.
"""
import argparse
import statistics

from integration.bench import host, mmio_targets, table
from integration.bench.aims import conclude
from integration.bench.arguments import names_of, positive
from integration.bench.processes import BenchError, bench_lines, use_realtime

HELP = "one MMIO read and one posted write to a device"

FLOOR = "in-vmm"
OURS = "vmm"
PEER = "qemu-multi-process"
PERCENTILES = ("p50", "p90", "p99")

# (access, over which target, ratio of the p50s, at most or at least), all hot.
AIMS = (
    ("read", FLOOR, 1.3, "at most"),
    ("write", FLOOR, 1.1, "at most"),
    ("read", PEER, 6.0, "at least"),
)


def add_arguments(parser):
    names = [target.name for target in mmio_targets.ALL]
    parser.add_argument("--rounds", type=positive, default=5, metavar="N",
                        help="runs of each machine (default: %(default)s)")
    parser.add_argument("--samples", type=_samples, default=2000, metavar="N",
                        help="hot accesses of each kind in a run, at most 20000 "
                             "(default: %(default)s)")
    parser.add_argument("--idle-ms", type=float, default=2.0, metavar="MS",
                        help="pause before an idle access; 0: none are made (default: %(default)s)")
    parser.add_argument("--targets", type=names_of(mmio_targets.ALL), default=mmio_targets.ALL,
                        metavar="NAMES",
                        help="which machines, of: " + ",".join(names))
    parser.add_argument("--level", type=int, choices=(0, 3), default=0,
                        help="privilege level of the guest's accesses (default: %(default)s)")
    parser.add_argument("--realtime", action="store_true",
                        help="give every machine real-time priority: for a computer that does "
                             "other work too")
    parser.add_argument("--check", action="store_true",
                        help="exit with 3 if an aim is missed")


def _samples(text):
    value = positive(text)
    if value > 20000:
        raise argparse.ArgumentTypeError("the guest has room for 20000")
    return value


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    tsc_khz = host.guest_tsc_khz()
    machines = mmio_targets.build_machines(args.targets)
    machine_facts = host.describe()
    if args.realtime:
        use_realtime()
    elif machine_facts["load_average"] > 1:
        print("this computer is busy (load average %.1f), which spoils what polls most: stop the "
              "rest, or try --realtime" % machine_facts["load_average"])

    rounds = []
    for number in range(args.rounds):
        print("round %d of %d" % (number + 1, args.rounds), flush=True)
        rounds.append({m.name: parse(m.run(_cmdline(m, args, tsc_khz), timeout_s=120))
                       for m in machines})
    summary = summarize(rounds)
    _print_report(machines, summary, tsc_khz, machine_facts)
    figures = {
        "benchmark": "mmio",
        "machine": machine_facts,
        "tsc_khz": tsc_khz,
        "options": {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str))},
        "rounds": rounds,
        "summary": summary,
    }
    return conclude(args, figures, judge_aims(summary))


def _cmdline(machine, args, tsc_khz):
    idle_cycles = int(args.idle_ms * tsc_khz)
    return "run=bench_mmio %s level=%d samples=%d idle=%d" % (
        machine.guest_options, args.level, args.samples, idle_cycles)


def parse(output):
    """The guest's BENCH lines as {"read hot": {"p50": cycles, ...}, ...}.

    Taken off each: the median cost of reading the counter without an access between.
    """
    lines = {}
    for fields in bench_lines(output):
        key = "%s %s" % (fields["name"], fields["phase"])
        lines[key] = {name: int(fields[name]) for name in ("min", *PERCENTILES, "max")}
    if "none hot" not in lines or "read hot" not in lines or "write hot" not in lines:
        raise BenchError("the guest printed no figures:\n" + output)
    cost = lines.pop("none hot")["p50"]
    return {key: {name: max(0, cycles - cost) for name, cycles in line.items()}
            for key, line in lines.items()}


def summarize(rounds, others=(FLOOR, PEER), compared="p50"):
    """Medians over the rounds, and of the ratios of `compared` taken within each round."""
    summary = {}
    for name in rounds[0]:
        summary[name] = {}
        for key in rounds[0][name]:
            entry = {field: statistics.median(r[name][key][field] for r in rounds)
                     for field in rounds[0][name][key]}
            for other in others:
                if other in rounds[0]:
                    entry["over " + other] = statistics.median(
                        r[name][key][compared] / (r[other][key][compared] or 1) for r in rounds)
            summary[name][key] = entry
    return summary


def _print_report(machines, summary, tsc_khz, facts):
    host.print_facts(facts, machines)
    print("cycles of a %.0f MHz counter; medians over the rounds; the cost of measuring is taken "
          "off" % (tsc_khz / 1000))
    keys = list(next(iter(summary.values())))
    rows = []
    for key in keys:
        for machine in machines:
            entry = summary[machine.name][key]
            rows.append([key + "  " + machine.name] +
                        ["%d" % entry[field] for field in PERCENTILES] +
                        ["%.2f" % (entry["p50"] * 1000 / tsc_khz)] +
                        [_ratio(entry, FLOOR, 1), _ratio(entry, PEER, -1)])
    print()
    print("\n".join(table.render(
        ["access", *PERCENTILES, "p50 µs", "/ " + FLOOR, PEER + " /"], rows)))


def _ratio(entry, other, power):
    key = "over " + other
    return "%.2f" % entry[key] ** power if key in entry else "-"


def judge_aims(summary):
    """Those aims that the machines measured allow to judge."""
    judged = []
    for access, other, limit, sense in AIMS:
        if OURS not in summary or other not in summary:
            continue
        over = summary[OURS][access + " hot"]["over " + other]
        if sense == "at most":
            met, text = over <= limit, "%.2f times %s, aim: at most %.1f" % (over, other, limit)
        else:
            met, text = 1 / over >= limit, "%.1f times faster than %s, aim: at least %.0f" % (
                1 / over, other, limit)
        judged.append({"met": met, "text": "polled %s %s" % (access, text)})
    return judged
