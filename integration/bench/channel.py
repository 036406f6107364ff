"""The shared-memory ring between the vmm and a device process alone: no guest, no device's work.

One process plays the vmm, another one a device that answers each access at once.

  round trip  of one read, both ends polling, or both asleep; `floor` is what two processes can do at
              best: a word that both spin on, and two eventfds that they sleep on. "device asleep":
              the vmm's end polls for the answer
  posted      one write alone, to a device that polls or sleeps: what a vCPU waits for
  reads, writes by N vCPUs
              as fast as they go, each vCPU a thread; a write that finds the ring full, of 16 or 256
              slots, waits for room

Every round runs each of them once, one after the other; ratios are taken within a round. Two CPUs are
needed: more threads than CPUs measure the scheduler.

Examples:
  tools/bench channel --quick
  tools/bench channel --realtime       on a computer that does other work too
"""
import json
import statistics

from integration.bench import host, table
from integration.bench.aims import conclude
from integration.bench.arguments import positive
from integration.bench.processes import BenchError, run as run_process, use_realtime

HELP = "the ring between vmm and device alone, beside eventfds and a word to spin on"

_PROGRAM = "//proto/channel:channel_benchmark"
_FILTER = "^(Bare|ReadPolled|ReadAsleep|ReadFrom|ReadThroughput|PostedWrite)"
_OURS, _FLOOR = "vmm", "floor"
# Name of the program's benchmark -> (machine, cell).
_CELLS = {
    "ReadPolled": (_OURS, "round trip, polled"),
    "BareRoundTrip<SharedWords>": (_FLOOR, "round trip, polled"),
    "ReadAsleep": (_OURS, "round trip, asleep"),
    "BareRoundTrip<EventFds>": (_FLOOR, "round trip, asleep"),
    "ReadFromASleepingDevice": (_OURS, "round trip, device asleep"),
    "PostedWriteToAPollingDevice": (_OURS, "posted, device polls"),
    "PostedWriteToASleepingDevice": (_OURS, "posted, device asleep"),
    **{"ReadThroughput/threads:%d" % n: (_OURS, "reads by %d vCPUs" % n) for n in (1, 2, 4)},
    **{"PostedWriteThroughput/%d/threads:%d" % (slots, n):
       (_OURS, "writes by %d vCPUs, %d slots" % (n, slots)) for slots in (16, 256)
       for n in (1, 2, 4)},
}
_AIMS = {"round trip, asleep": 1.3}  # at most so many times the floor


def add_arguments(parser):
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N",
                        help="runs of each (default: %(default)s)")
    parser.add_argument("--realtime", action="store_true",
                        help="run before everything else: for a busy computer")
    parser.add_argument("--check", action="store_true", help="exit with 3 if an aim is missed")


def parse(text):
    """The program's output as {machine: {cell: {"p50_us", "p99_us" and, of throughput, "rate"}}}."""
    found = {_OURS: {}, _FLOOR: {}}
    for entry in json.loads(text)["benchmarks"]:
        name = entry["name"].replace("/real_time", "").split("/iterations")[0]
        if entry.get("error_occurred"):
            raise BenchError("%s: %s" % (name, entry["error_message"]))
        if name in _CELLS:
            machine, cell = _CELLS[name]
            found[machine][cell] = {field + "_us": entry[field + "_ns"] / 1000
                                    for field in ("p50", "p99")}
            if "items_per_second" in entry:
                found[machine][cell]["rate"] = entry["items_per_second"]
    missing = [cell for machine, cell in _CELLS.values() if cell not in found[machine]]
    if missing:
        raise BenchError("%s printed no figures of: %s" % (_PROGRAM, "; ".join(missing)))
    return found


def ratios(rounds, cell):
    """p50 over that of the floor, in each round; empty: there is no floor."""
    return [each[_OURS][cell]["p50_us"] / each[_FLOOR][cell]["p50_us"] for each in rounds
            if cell in each[_FLOOR]]


def judge_aims(rounds):
    return [{"text": "%s: %.2f times the floor, aim: at most %g" % (
                 cell, statistics.median(ratios(rounds, cell)), limit),
             "met": statistics.median(ratios(rounds, cell)) <= limit}
            for cell, limit in _AIMS.items()]


def run(args):
    """Returns (exit code, figures for --json)."""
    program, = host.build([_PROGRAM])
    facts = host.describe()
    if args.realtime:
        use_realtime()
    else:
        host.warn_if_busy(facts)
    command = [program, "--benchmark_format=json", "--benchmark_filter=" + _FILTER,
               "--benchmark_min_time=" + ("0.02" if args.quick else "0.2")]
    rounds = []
    for number in range(args.rounds):
        table.progress("round %d of %d" % (number + 1, args.rounds))
        code, output, errors = run_process(command, timeout_s=300)
        if code != 0:
            raise BenchError("%s ended with code %d:\n%s" % (_PROGRAM, code, errors))
        rounds.append(parse(output))
    table.progress("")
    host.print_facts(facts)
    print()
    rows = []
    for machine, cell in sorted(set(_CELLS.values()), key=list(_CELLS.values()).index):
        entries = [each[machine][cell] for each in rounds]
        p50 = [entry["p50_us"] for entry in entries]
        over = ratios(rounds, cell) if machine == _OURS else []
        rows.append(["%s  %s" % (cell, machine), "%.2f" % statistics.median(p50),
                     "%.2f-%.2f" % (min(p50), max(p50)),
                     "%.2f" % statistics.median(entry["p99_us"] for entry in entries),
                     "%.2f" % statistics.median(over) if over else "-",
                     "%.2f" % (statistics.median(entry["rate"] for entry in entries) / 1e6)
                     if "rate" in entries[0] else "-"])
    print("\n".join(table.render(["microseconds, medians of the rounds", "p50", "least-most", "p99",
                                  "/ floor", "million/s"], rows)))
    print()
    return conclude(args, {"benchmark": "channel", "machine": facts, "rounds": rounds},
                    judge_aims(rounds))
