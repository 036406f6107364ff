"""tools/bench block: disk requests a second, and what recovery costs of them.

The same bare-metal guest measures each machine: our VMM with the disk in its own process; the same
without the record of requests in flight, by which a successor goes on; QEMU with the disk inside;
and QEMU with the disk in another process (vhost-user-blk). The disk is a file that the page cache
holds: what is measured is the way there and back.

Every round runs every machine once, one after the other; ratios are taken within a round, so that
drift of the machine falls on both sides, and the median of the rounds is shown.
"""
import statistics
import tempfile

from integration.bench import block_targets, host, table
from integration.bench.aims import conclude
from integration.bench.arguments import names_of, positive
from integration.bench.processes import BenchError, bench_lines

HELP = "disk requests a second, what recovery costs of them, and the peers"

OURS = "vmm"
WITHOUT = "vmm-no-record"
AIM_PERCENT = 3.0
_DISK_BYTES = 16 << 20


def add_arguments(parser):
    names = [target.name for target in block_targets.ALL]
    parser.add_argument("--rounds", type=positive, default=7, metavar="N",
                        help="runs of each machine (default: %(default)s)")
    parser.add_argument("--requests", type=positive, default=100000, metavar="N",
                        help="in each measurement (default: %(default)s)")
    parser.add_argument("--depths", default="1,16", metavar="N,...",
                        help="requests in flight at once, 1 to 21 (default: %(default)s)")
    parser.add_argument("--reads-only", action="store_true",
                        help="leave out the writes, which take most of the time")
    parser.add_argument("--bytes", type=int, default=4096, metavar="N",
                        help="of each request, up to 4096 (default: %(default)s)")
    parser.add_argument("--targets", type=names_of(block_targets.ALL), default=block_targets.ALL,
                        metavar="NAMES",
                        help="which machines, of: " + ",".join(names))
    parser.add_argument("--check", action="store_true",
                        help="exit with 3 if an aim is missed")


def parse(output, tsc_khz):
    """The guest's BENCH lines as {"read, 16 in flight": requests a second}."""
    rates = {}
    for fields in bench_lines(output):
        seconds = int(fields["cycles"]) / (tsc_khz * 1000)
        rates["%s, %s in flight" % (fields["name"], fields["depth"])] = (
            int(fields["requests"]) / seconds)
    if not rates:
        raise BenchError("the guest printed no figures:\n" + output)
    return rates


def summarize(rounds):
    """Medians over the rounds: {machine: {key: {"rate": a second, "over": {machine: ratio}}}}."""
    return {name: {key: {
        "rate": statistics.median(r[name][key] for r in rounds),
        "over": {other: statistics.median(r[name][key] / r[other][key] for r in rounds)
                 for other in rounds[0]},
    } for key in rounds[0][name]} for name in rounds[0]}


def judge_aims(summary):
    """Those aims that the machines measured allow to judge."""
    if OURS not in summary or WITHOUT not in summary:
        return []
    judged = []
    for key, entry in summary[OURS].items():
        cost = (1 - entry["over"][WITHOUT]) * 100
        judged.append({"met": cost <= AIM_PERCENT,
                       "text": "%s: the record costs %.1f %% of the requests a second, aim: "
                               "at most %g %%" % (key, cost, AIM_PERCENT)})
    return judged


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    tsc_khz = host.guest_tsc_khz()
    labels = sorted({block_targets.GUEST}.union(*(target.labels for target in args.targets)))
    files = dict(zip(labels, host.build(labels)))
    machines = [target(files) for target in args.targets]
    facts = host.describe()
    if facts["load_average"] > 1:
        print("this computer is busy (load average %.1f), which spoils figures: stop the rest" %
              facts["load_average"])
    rounds = []
    with tempfile.NamedTemporaryFile(prefix="bulkhead-bench-") as disk:
        disk.write(bytes(_DISK_BYTES))
        disk.flush()
        for number in range(args.rounds):
            print("round %d of %d" % (number + 1, args.rounds), flush=True)
            results = {machine.name: {} for machine in machines}
            for depth in args.depths.split(","):
                for machine in machines:
                    output = machine.run(
                        "run=bench_block write=%d requests=%d depth=%s bytes=%d" % (
                            not args.reads_only, args.requests, depth, args.bytes),
                        disk.name, timeout_s=300)
                    results[machine.name].update(parse(output, tsc_khz))
            rounds.append(results)
    summary = summarize(rounds)
    print("\n%(cpu)s, %(cpus)d CPUs, Linux %(kernel)s, load average %(load_average).1f, "
          "revision %(revision)s" % facts)
    print("thousand requests of %d bytes a second; medians over the rounds" % args.bytes)
    for machine in machines:
        print("  %-20s %s" % (machine.name, machine.description))
    print()
    rows = []
    for key in next(iter(summary.values())):
        for machine in machines:
            entry = summary[machine.name][key]
            rows.append([key + "  " + machine.name, "%.1f" % (entry["rate"] / 1000),
                         "%.2f" % (1 / entry["over"][OURS]) if OURS in entry["over"] else "-"])
    print("\n".join(table.render(["requests", "k/s", "vmm /"], rows)))
    print()
    figures = {"benchmark": "block", "machine": facts, "tsc_khz": tsc_khz, "rounds": rounds,
               "summary": summary}
    return conclude(args, figures, judge_aims(summary))
