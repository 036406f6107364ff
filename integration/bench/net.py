"""tools/bench net: frames and bytes a second of a driver that behaves as Linux's does.

The same bare-metal guest measures each machine over a TAP in a network namespace that the benchmark
makes: our VMM with the network device in its own process; QEMU with the device inside; QEMU with
the device in the host's kernel (vhost), where the host has that. It takes interrupts and halts,
and negotiates the event index, indirect descriptors, mergeable buffers, checksum and segmentation
offloads. A cell is one of

  send-64, send-1514           frames of so many bytes from the guest to the host's kernel, which
                               drops them
  send-64k                     segments of TCP of 64 KiB, which nobody cuts
  receive-64, -1514, -64k      the same from a process of the host to the guest, at most 384 frames
                               (64k: 32) ahead of what the guest has acknowledged
  request                      64 bytes to a process of the host and back, one at a time

Every round runs every machine once, one after the other; ratios are taken within a round, so that
drift of the machine falls on all sides. The table has medians of the rounds, and of rates and ratios
the least and the most.

  k/s        thousand frames a second that have arrived; of requests: answers
  Gbit/s     the same in bits
  lost       frames that were sent and have not arrived, in all rounds
  kicks      writes of doorbells, a frame
  irqs       interrupts that the guest took, a frame
  p50, p99   microseconds from a request to its answer
  / qemu     times qemu-in-process's frames a second in the same round

Examples:
  tools/bench net                                  about a minute
  tools/bench net --cells=request,send-64 --rounds=3
It needs root, for the namespace. On a computer that does other work too, run it as
`nice -n -10 tools/bench net`.
"""
import argparse

from integration.bench import host, net_targets, rates, table
from integration.bench.aims import conclude
from integration.bench.arguments import names_of, positive
from integration.bench.mmio_targets import build_machines
from integration.bench.processes import BenchError, bench_lines

HELP = "frames and bytes a second over a TAP, request to answer, and the peers"

OURS = "vmm"
QEMU = "qemu-in-process"
CELLS = ("send-64", "send-1514", "send-64k", "receive-64", "receive-1514", "receive-64k",
         "request")


def _cells(text):
    for name in text.split(","):
        if name not in CELLS:
            raise argparse.ArgumentTypeError("%r is unknown; give some of %s" % (
                name, ",".join(CELLS)))
    return text.split(",")


def add_arguments(parser):
    parser.add_argument("--cells", type=_cells, default=CELLS, metavar="NAME,...",
                        help="which, of: %s (default: all)" % ",".join(CELLS))
    parser.add_argument("--rounds", type=positive, default=7, metavar="N",
                        help="runs of each machine (default: %(default)s)")
    parser.add_argument("--ms", type=positive, default=200, metavar="N",
                        help="length of each measurement (default: %(default)s)")
    parser.add_argument("--targets", type=names_of(net_targets.ALL),
                        default=net_targets.default(), metavar="NAMES",
                        help="which machines, of: %s (default: all that the host has)" %
                             ",".join(target.name for target in net_targets.ALL))
    parser.add_argument("--check", action="store_true",
                        help="exit with 3 if an aim is missed")


def parse(output, tsc_khz):
    """The guest's BENCH lines as {cell: figures}."""
    cells = {}
    for fields in bench_lines(output):
        frames = max(1, int(fields["frames"]))
        rate = int(fields["frames"]) * tsc_khz * 1000 / int(fields["cycles"])
        cells[fields["name"]] = {
            "rate": rate,
            "gbit": rate * int(fields["bytes"]) * 8 / 1e9,
            "lost": int(fields["lost"]),
            "kicks": int(fields["kicks"]) / frames,
            "interrupts": int(fields["interrupts"]) / frames,
            "p50_us": int(fields["p50"]) * 1000 / tsc_khz,
            "p99_us": int(fields["p99"]) * 1000 / tsc_khz,
        }
    if not cells:
        raise BenchError("the guest printed no figures:\n" + output)
    return cells


def summarize(rounds):
    return rates.summarize(rounds, totals=("lost",))


def judge_aims(summary):
    """Those aims that the machines measured allow to judge."""
    judged = []
    for cell, entry in summary.get(OURS, {}).items():
        if QEMU not in entry["over"]:
            continue
        over = entry["over"][QEMU]["median"]
        judged.append({"met": over > 1,
                       "text": "%s: %.2f times %s, aim: ahead" % (cell, over, QEMU)})
    return judged


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    tsc_khz = host.guest_tsc_khz()
    machines = build_machines(args.targets)
    facts = host.describe()
    host.warn_if_busy(facts)
    cmdline = "run=bench_net cells=%s cycles=%d" % (",".join(args.cells), args.ms * tsc_khz)
    rounds = []
    with net_targets.Network():
        for number in range(args.rounds):
            print("round %d of %d" % (number + 1, args.rounds), flush=True)
            rounds.append({machine.name: parse(
                machine.run(cmdline, timeout_s=60 + len(args.cells) * (5 + args.ms / 200)),
                tsc_khz) for machine in machines})
    summary = summarize(rounds)
    _print_report(machines, summary, facts)
    figures = {"benchmark": "net", "machine": facts, "tsc_khz": tsc_khz, "ms": args.ms,
               "rounds": rounds, "summary": summary}
    return conclude(args, figures, judge_aims(summary))


def _print_report(machines, summary, facts):
    host.print_facts(facts, machines)
    rows = []
    for cell in next(iter(summary.values())):
        for machine in machines:
            entry = summary[machine.name][cell]
            ratio = entry["over"].get(QEMU)
            is_request = cell == "request"
            rows.append(["%-12s %s" % (cell, machine.name)] +
                        rates.columns(entry["rate"], "%.1f", 1000) +
                        ["-" if is_request else "%.2f" % entry["gbit"]["median"],
                         str(entry["lost"])] +
                        ["%.2f" % entry[field]["median"] for field in ("kicks", "interrupts")] +
                        ["%.1f" % entry[field]["median"] if is_request else "-"
                         for field in ("p50_us", "p99_us")] +
                        (rates.columns(ratio, "%.2f", 1) if ratio else ["-", "-"]))
    print()
    print("\n".join(table.render(["cell, machine", "k/s", "least-most", "Gbit/s", "lost", "kicks",
                                  "irqs", "p50 µs", "p99 µs", "/ qemu", "least-most"], rows)))
    print()
