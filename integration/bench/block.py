"""tools/bench block: disk requests a second of a driver that behaves as Linux's does.

The same bare-metal guest measures each machine: our VMM with the disk in its own process; QEMU with
the disk inside; QEMU with the disk in another process (vhost-user-blk). It negotiates flushes, the
event index and indirect descriptors, and rings the doorbell only when the device wants to hear it.
A cell is one combination of

  medium     tmpfs: a file in memory; cache: a file that the page cache holds; direct: a file past
             the page cache (O_DIRECT); null, only if --only names it: no I/O, so that what is left
             is the way of a request (ours: devices/virtio_blk/testing/null_disk.cc; QEMU's: null-co)
  mode       poll: interrupts off, the guest spins; interrupt: it halts until one comes
  operation  read, write: 4 KiB at random places; write+flush: the same and a flush after each;
             seq-read, seq-write: 128 KiB after 128 KiB
  depth      requests in flight, in each queue

Every round runs every machine once, one after the other; ratios are taken within a round, so that
drift of the machine falls on all sides. The table has medians of the rounds, and of rates and ratios
the least and the most.

  k/s        thousand requests a second; a write with its flush is one
  cycles     of the time-stamp counter, a request
  kicks      writes of the doorbell, a request
  irqs       interrupts that the guest took, a request
  p50, p99   microseconds from submission to completion
  / qemu     times qemu-in-process's requests a second in the same round

Examples:
  tools/bench block --quick                            polling and interrupts, about a minute
  tools/bench block --quick --only read,depth=1        less of it
  tools/bench block --only cache,poll,read,write,depth=1,depth=4
  tools/bench block --only direct,write+flush --ms=1000
  tools/bench block --only null,read,depth=1,depth=16  the way of a request alone
  tools/bench block --only direct,seq-read --pages=4K  guest RAM in small pages for QEMU, too
  tools/bench block --quick --targets=vmm,vmm-no-record    what the record of requests in flight,
                                                           by which a successor resumes, costs
On a computer that does other work too, run it as `nice -n -10 tools/bench block`.
"""
import os

from integration.bench import block_cells, block_targets, host, table
from integration.bench.aims import conclude
from integration.bench.arguments import names_of, positive
from integration.bench.mmio_targets import build_machines
from integration.bench.processes import BenchError, bench_lines
from integration.bench.rates import columns, summarize

HELP = "disk requests a second of polling and interrupted guests, and the peers"

OURS = "vmm"
WITHOUT = "vmm-no-record"
QEMU = "qemu-in-process"
PEERS = (QEMU, "qemu-vhost-user")
RECORD_PERCENT = 3.0
_SETTLE_MS = 2500  # as a guest that has run for a while: our VMM has gathered its RAM
# (mode, depth): at least so many times QEMU's reads, from memory.
READ_AIMS = {("poll", 1): 8.0, ("poll", 16): 5.0, ("interrupt", 1): 2.0, ("interrupt", 16): 2.0}


def add_arguments(parser):
    names = [target.name for target in block_targets.ALL]
    parser.add_argument("--quick", action="store_true",
                        help="page cache only: reads and writes, polling and interrupts, depths 1 "
                             "and 16; about a minute instead of about six")
    parser.add_argument("--only", type=block_cells.parse_only, metavar="WORD,...",
                        help="only cells of these media, modes, operations and depths (depth=N, 1 "
                             "to 32); of kinds that no word names, all")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N",
                        help="runs of each machine (default: %(default)s)")
    parser.add_argument("--ms", type=positive, default=100, metavar="N",
                        help="length of each measurement (default: %(default)s)")
    parser.add_argument("--think", type=int, default=0, metavar="US",
                        help="microseconds that the guest works after each completion, before its "
                             "next request (default: %(default)s)")
    parser.add_argument("--queues", type=int, choices=(1, 2), default=1,
                        help="queues of the disk, each with a virtual CPU of its own (default: "
                             "%(default)s)")
    parser.add_argument("--targets", type=names_of(block_targets.ALL),
                        default=block_targets.DEFAULT, metavar="NAMES",
                        help="which machines, of: " + ",".join(names) + " (default: the "
                             "first three)")
    parser.add_argument("--aio", choices=("io_uring", "threads"), default="io_uring",
                        help="how QEMU does its I/O (default: %(default)s)")
    parser.add_argument("--pages", choices=block_targets.PAGES, default="default",
                        help="of guest RAM: 4K or 2M for all machines (2M: from the host's pool, 256 "
                             "MiB); default: what each takes, for qemu-in-process transparent huge "
                             "pages where the host has them, for ours those that it gathers, for "
                             "qemu-vhost-user 4K")
    parser.add_argument("--folder", metavar="DIR",
                        help="for the files of cache and direct (default: that for temporary files, "
                             "or the home folder if that is a tmpfs)")
    parser.add_argument("--check", action="store_true",
                        help="exit with 3 if an aim is missed")


def parse(output, tsc_khz):
    """The guest's BENCH lines as {(mode, operation, depth): figures}."""
    cells = {}
    for fields in bench_lines(output):
        requests = max(1, int(fields["requests"]))
        cells[fields["mode"], fields["name"], int(fields["depth"])] = {
            "rate": int(fields["requests"]) * tsc_khz * 1000 / int(fields["cycles"]),
            "kicks": int(fields["kicks"]) / requests,
            "interrupts": int(fields["interrupts"]) / requests,
            "p50_us": int(fields["p50"]) * 1000 / tsc_khz,
            "p99_us": int(fields["p99"]) * 1000 / tsc_khz,
        }
    if not cells:
        raise BenchError("the guest printed no figures:\n" + output)
    return cells


def judge_aims(summary, think_us=0):
    """Those aims that the machines measured allow to judge."""
    judged = []
    for cell, entry in summary.get(OURS, {}).items():
        medium, mode, operation, depth = cell
        if medium == "null":
            continue  # there is no aim
        title = "%s, %s, %s, depth %d" % cell
        over = {name: spread["median"] for name, spread in entry["over"].items()}
        if WITHOUT in over:
            cost = (1 - over[WITHOUT]) * 100
            judged.append({"met": cost <= RECORD_PERCENT,
                           "text": "%s: the record costs %.1f %% of the requests a second, aim: at "
                                   "most %g %%" % (title, cost, RECORD_PERCENT)})
        if think_us != 0:
            continue
        if operation == "read":
            least = READ_AIMS.get((mode, depth))
            if least is not None and medium != "direct" and QEMU in over:
                judged.append({"met": over[QEMU] >= least,
                               "text": "%s: %.2f times %s, aim: at least %g" % (
                                   title, over[QEMU], QEMU, least)})
            continue
        peers = [peer for peer in PEERS if peer in over]
        if peers:
            ratios = " and ".join("%.2f times %s" % (over[peer], peer) for peer in peers)
            judged.append({"met": all(over[peer] > 1 for peer in peers),
                           "text": "%s: %s, aim: ahead" % (title, ratios)})
    return judged


def _measure(machine, disk, selection, args, tsc_khz):
    cells = len(selection.modes) * len(selection.operations) * len(selection.depths)
    output = machine.run(
        "run=bench_block modes=%s operations=%s depths=%s cycles=%d think=%d queues=%d "
        "settle=%d" % (
            ",".join(selection.modes), ",".join(selection.operations),
            ",".join(map(str, selection.depths)), args.ms * tsc_khz, args.think * tsc_khz // 1000,
            disk.queues, _SETTLE_MS * tsc_khz),
        disk, timeout_s=60 + cells * (5 + args.ms / 200))
    return parse(output, tsc_khz)


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    tsc_khz = host.guest_tsc_khz()
    selection = block_cells.select(args.quick, args.only)
    machines = build_machines(args.targets)
    facts = host.describe()
    if facts["load_average"] > 1:
        print("this computer is busy (load average %.1f), which spoils figures: stop the rest%s" % (
            facts["load_average"], ", or run this at nice -n -10" if os.nice(0) >= 0 else ""))
    rounds = []
    with block_cells.Media(selection.media, args.folder, args.aio, args.queues,
                           args.pages) as media:
        for name, why in media.missing.items():
            print("left out: %s (%s)" % (name, why))
        if not media.disks:
            raise BenchError("there is nothing to measure on")
        for number in range(args.rounds):
            print("round %d of %d" % (number + 1, args.rounds), flush=True)
            results = {machine.name: {} for machine in machines}
            for medium, disk in media.disks.items():
                for machine in machines:
                    block_cells.settle(disk)
                    for cell, figures in _measure(machine, disk, selection, args, tsc_khz).items():
                        results[machine.name][medium, *cell] = figures
            rounds.append(results)
    summary = summarize(rounds)
    _print_report(machines, summary, facts, tsc_khz)
    figures = {"benchmark": "block", "machine": facts, "tsc_khz": tsc_khz, "ms": args.ms,
               "think_us": args.think, "aio": args.aio, "queues": args.queues, "pages": args.pages,
               "rounds": [_with_text_keys(r) for r in rounds], "summary": _with_text_keys(summary)}
    return conclude(args, figures, judge_aims(summary, args.think))


def _with_text_keys(by_machine):
    """For JSON: "cache poll read 1" instead of a tuple."""
    return {name: {" ".join(map(str, cell)): entry for cell, entry in cells.items()}
            for name, cells in by_machine.items()}


def _print_report(machines, summary, facts, tsc_khz):
    host.print_facts(facts, machines)
    rows = []
    for cell in next(iter(summary.values())):
        for machine in machines:
            entry = summary[machine.name][cell]
            ratio = entry["over"].get(QEMU)
            rows.append(["%-6s %-9s %-11s %2d  %s" % (*cell, machine.name)] +
                        columns(entry["rate"], "%.1f", 1000) +
                        ["%.0f" % (tsc_khz * 1000 / entry["rate"]["median"])] +
                        ["%.2f" % entry[field]["median"] for field in ("kicks", "interrupts")] +
                        ["%.1f" % entry[field]["median"] for field in ("p50_us", "p99_us")] +
                        (columns(ratio, "%.2f", 1) if ratio else ["-", "-"]))
    print()
    print("\n".join(table.render(["medium, mode, operation, depth, machine", "k/s", "least-most",
                                  "cycles", "kicks", "irqs", "p50 µs", "p99 µs", "/ qemu", "least-most"],
                                 rows)))
    print()
