"""tools/bench console: bytes a second of the serial console, and what they cost the guest.

The same bare-metal guest prints on each machine, first by polling, then from an interrupt handler
that works as Linux's does: until nothing is pending. Our VMM cuts such a run off after 2 ms (or 64
bytes) and leaves the line quiet for an eighth of that time, so that a flood on the console does not
hold a processor with its interrupts off; that costs some of the rate.

Every round runs every machine once, one after the other; ratios are taken within a round, and the
median of the rounds is shown.
"""
import os
import statistics

from integration.bench import host, table
from integration.bench.aims import conclude
from integration.bench.arguments import names_of, positive
from integration.bench.mmio_targets import (QEMU_PASSED, UART, VMM, VMM_POWERED_OFF,
                                            QemuTarget, Target, build_machines)
from integration.bench.processes import BenchError, bench_lines, run as run_process, use_realtime

HELP = "bytes a second of the serial console, beside QEMU's"

OURS = "vmm"
PEER = "qemu"
# Of one run of a handler that does not run out of data.
AIM_LONGEST_MS = 10.0


class Vmm(Target):
    name = OURS
    description = "our VMM, the serial port in a process of its own"
    labels = (VMM, UART)

    def run(self, cmdline, timeout_s):
        argv = [
            self._files[VMM], "--kernel=" + self._guest, "--cmdline=" + cmdline, "--memory=64M",
            "--no-reboot", "--control=none",
            "--device-dir=" + os.path.dirname(self._files[UART]),
        ]
        return self._finish(argv, run_process(argv, timeout_s), VMM_POWERED_OFF)


class Qemu(QemuTarget):
    name = PEER
    description = "QEMU, its serial port inside its process"

    def run(self, cmdline, timeout_s):
        argv = self._command(["-machine", "q35", "-m", "256M"], cmdline)
        return self._finish(argv, run_process(argv, timeout_s), QEMU_PASSED)


ALL = (Vmm, Qemu)


def add_arguments(parser):
    parser.add_argument("--rounds", type=positive, default=5, metavar="N",
                        help="runs of each machine (default: %(default)s)")
    parser.add_argument("--bytes", type=positive, default=50000, metavar="N",
                        help="printed in each measurement (default: %(default)s)")
    parser.add_argument("--realtime", action="store_true",
                        help="run the machines before everything else: for a busy computer")
    parser.add_argument("--targets", type=names_of(ALL), default=ALL, metavar="NAMES",
                        help="which machines, of: " + ",".join(target.name for target in ALL))
    parser.add_argument("--check", action="store_true",
                        help="exit with 3 if an aim is missed")


def parse(output, tsc_khz):
    """The guest's BENCH lines as {"poll": {...}, "interrupt": {...}}."""
    found = {}
    for fields in bench_lines(output):
        ms = {key: int(value) / tsc_khz for key, value in fields.items() if key.endswith("cycles")}
        entry = {"bytes_a_second": int(fields["bytes"]) / ms["cycles"] * 1000}
        if "interrupts" in fields:
            entry["interrupts"] = int(fields["interrupts"])
            entry["most_bytes"] = int(fields["most_bytes"])
            entry["longest_ms"] = ms["longest_cycles"]
            entry["handler_share"] = ms["handler_cycles"] / ms["cycles"]
        found[fields["name"]] = entry
    if set(found) != {"poll", "interrupt"}:
        raise BenchError("the guest printed no figures:\n" + output[-2000:])
    return found


def summarize(rounds):
    """Medians over the rounds: {machine: {way: {figure: value, "over": {machine: ratio}}}}."""
    return {name: {way: {
        **{key: statistics.median(r[name][way][key] for r in rounds) for key in entry},
        "over": {other: statistics.median(
            r[name][way]["bytes_a_second"] / r[other][way]["bytes_a_second"] for r in rounds)
                 for other in rounds[0]},
    } for way, entry in ways.items()} for name, ways in rounds[0].items()}


def judge_aims(summary):
    if OURS not in summary:
        return []
    longest = summary[OURS]["interrupt"]["longest_ms"]
    return [{"met": longest <= AIM_LONGEST_MS,
             "text": "longest run of an interrupt handler: %.1f ms, aim: at most %g ms" %
                     (longest, AIM_LONGEST_MS)}]


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    tsc_khz = host.guest_tsc_khz()
    machines = build_machines(args.targets)
    facts = host.describe()
    if facts["load_average"] > 1:
        print("this computer is busy (load average %.1f), which spoils figures: stop the rest" %
              facts["load_average"])
    if args.realtime:
        use_realtime()
    rounds = []
    for number in range(args.rounds):
        print("round %d of %d" % (number + 1, args.rounds), flush=True)
        rounds.append({machine.name: parse(
            machine.run("run=bench_console bytes=%d" % args.bytes, timeout_s=300), tsc_khz)
                       for machine in machines})
    summary = summarize(rounds)
    host.print_facts(facts, machines)
    print("medians over the rounds; handler: of one run with interrupts off")
    print()
    rows = []
    for way in ("poll", "interrupt"):
        for machine in machines:
            entry = summary[machine.name][way]
            rows.append([
                way + "  " + machine.name, "%.1f" % (entry["bytes_a_second"] / 1000),
                "%.2f" % (1 / entry["over"][OURS]) if OURS in entry["over"] else "-",
                "%d" % entry["most_bytes"] if "most_bytes" in entry else "-",
                "%.1f" % entry["longest_ms"] if "longest_ms" in entry else "-",
                "%.0f %%" % (entry["handler_share"] * 100) if "handler_share" in entry else "-"])
    print("\n".join(table.render(
        ["output", "kB/s", "vmm /", "most bytes", "longest ms", "in handler"], rows)))
    print()
    figures = {"benchmark": "console", "machine": facts, "tsc_khz": tsc_khz, "rounds": rounds,
               "summary": summary}
    return conclude(args, figures, judge_aims(summary))
