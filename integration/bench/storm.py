"""Kills device processes at random moments under a guest that works without a pause.

The guest checks every byte and every completion. bare-metal: the program disk_storm, at full speed
on /dev/kvm; every completed write must be on the disk afterwards, every completion come once.
linux: a Debian guest with console, disk and entropy source, in the testbed where this machine's KVM
cannot run it; no request may fail, no byte be wrong, its kernel log must stay clean and its uptime
unbroken.

With --ram the bare-metal guest has so much RAM, set aside at the start, and the data of each request
lies in another part of it, so that the process that dies has used 64 KiB of it for each request since
its start: all of it, if it lived for long enough (--min-interval, --max-interval).

"kill" takes the time from each kill to the first request that the guest gets back. Exit code 1 if
anything was lost, doubled or wrong.
"""
import json
import os
import subprocess

from integration.bench import guest_ram, host, table
from integration.bench.aims import conclude
from integration.bench.processes import BenchError

HELP = "kill device processes under load: nothing lost, and how long the guest waited"

_PROGRAM = "//integration/storm:storm_program"
_AIMS_MS = {False: (15, 40), True: (2, 10)}  # with a spare or without: p50 and p99


def add_arguments(parser):
    parser.add_argument("--kills", type=int, default=200, metavar="N",
                        help="device processes to kill (default: %(default)s)")
    parser.add_argument("--guest", choices=["bare-metal", "linux"], default="bare-metal")
    parser.add_argument("--way", choices=["kill", "stop", "all", "upgrade"], default="kill",
                        help="SIGKILL or SIGSTOP to the disk's process, SIGKILL to all at once, or "
                             "replacing the disk's process by another version, with refused ones "
                             "between")
    parser.add_argument("--spare", action="store_true", help="with a warm spare for each device")
    parser.add_argument("--min-interval", default="0", metavar="TIME")
    parser.add_argument("--max-interval", default=None, metavar="TIME",
                        help="between two kills, at random (default: 0 to 40ms; linux: to 300ms)")
    parser.add_argument("--guest-options", default="", metavar="OPTION,...",
                        help="of disk_storm: depth=1, indirect=1, event_index=1, ...")
    guest_ram.add_arguments(parser, "of a bare-metal guest, and the device uses all of it: 64M,8G,16G")
    parser.add_argument("--check", action="store_true", help="exit with 3 if an aim is missed")


def percentile(values, percent):
    """The value that `percent` of all do not exceed: nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _command(args, program):
    runfiles = program + ".runfiles"
    interval = args.max_interval or ("300ms" if args.guest == "linux" else "40ms")
    command = [program, "--guest=" + args.guest, "--way=" + args.way, "--kills=%d" % args.kills,
               "--min_interval=" + args.min_interval, "--max_interval=" + interval,
               "--guest_options=" + args.guest_options]
    if args.spare:
        command.append("--spare")
    command = ["env", "TEST_SRCDIR=" + runfiles, *command]
    if args.guest == "linux":
        probe = subprocess.run([os.path.join(host.ROOT, "tools/testbed"), "--probe", "--quiet"],
                               capture_output=True, text=True, check=False)
        if probe.stdout.split()[:1] != ["native"]:
            command = [os.path.join(host.ROOT, "tools/testbed"), "--timeout=30m", "--", *command]
    return command


def _storm(command):
    """Its report, and whether all was well."""
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                            timeout=3600, check=False)
    if not result.stdout.strip().startswith("{"):
        raise BenchError("the storm was not finished")
    return json.loads(result.stdout), result.returncode == 0


def _judge(times, spare, title=""):
    return [{"text": "%skill to first completion, p%d within %d ms" % (title, p, aim),
             "met": percentile(times, p) <= aim}
            for p, aim in zip((50, 99), _AIMS_MS[spare])] if times else []


def _run_over_ram(args, program, facts):
    """Storms with each kind of RAM, by turns."""
    cells = guest_ram.cells(args)
    times, recoveries = ({title: [] for title in cells} for _ in range(2))
    well, requests = True, dict.fromkeys(cells, 0)
    for number in range(guest_ram.ROUNDS):
        for title, cell in cells.items():
            table.progress("round %d of %d: %s" % (number + 1, guest_ram.ROUNDS, title))
            report, good = _storm(_command(args, program) + [
                "--memory=" + cell["ram"], "--hugepages=" + cell["hugepages"],
                "--guest_options=" + ",".join(filter(None, [args.guest_options, "spread=1"])),
                "--kills=%d" % -(-args.kills // guest_ram.ROUNDS), "--seed=%d" % (number + 1)])
            times[title] += report["first_completions_ms"]
            recoveries[title] += report["recoveries_ms"]
            requests[title] += report["requests"]
            well = well and good
            for problem in report["problems"]:
                print("PROBLEM: %s: %s" % (title, problem))
    table.progress("")
    host.print_facts(facts)
    print("\n" + "\n".join(table.render(
        ["kill to first completion (ms)", "kills", "requests", "p50", "p99", "most"],
        [[title, len(values), requests[title],
          *("%.1f" % percentile(values, p) for p in (50, 99, 100))]
         for title, values in times.items() if values])) + "\n")
    code, figures = conclude(args, {
        "benchmark": "storm", "machine": facts, "way": args.way, "spare": args.spare,
        "first_completions_ms": times, "recoveries_ms": recoveries},
                             [aim for title, values in times.items()
                              for aim in _judge(values, args.spare, title + ": ")])
    return (code if well else 1), figures


def run(args):
    """Returns (exit code, figures for --json)."""
    if args.guest == "bare-metal":
        host.require_kvm()
    program, = host.build([_PROGRAM])
    facts = host.describe()
    if args.ram or args.hugepages:
        if args.guest != "bare-metal":
            raise BenchError("--ram and --hugepages are of bare-metal guests")
        return _run_over_ram(args, program, facts)
    report, good = _storm(_command(args, program))
    print("%s, %d CPUs, Linux %s; %s guest, %s%s" % (
        facts["cpu"], facts["cpus"], facts["kernel"], args.guest,
        {"kill": "SIGKILL to the disk's process", "stop": "SIGSTOP to the disk's process",
         "all": "SIGKILL to all device processes",
         "upgrade": "the disk's process replaced by another version"}[args.way],
        ", with a warm spare" if args.spare else ""))
    print()
    rows = [["processes hit", report["kills"]], ["requests completed", report["requests"]],
            ["requests failed", report["failed"]], ["wrong bytes", report["wrong_bytes"]],
            ["seconds", "%.1f" % report["seconds"]],
            ["longest stall (ms)", "%.1f" % report["longest_stall_ms"]]]
    for key, what in (("first_completions_ms", "kill to first completion"),
                      ("recoveries_ms", "loss of a process to RUNNING")):
        if report[key]:
            rows += [["%s, p%d (ms)" % (what, p), "%.1f" % percentile(report[key], p)]
                     for p in (50, 99)]
    aims = _judge(report["first_completions_ms"], args.spare)
    for line in table.render(["", ""], rows)[2:]:
        print(line)
    for problem in report["problems"]:
        print("PROBLEM: " + problem)
    figures = {"benchmark": "storm", "machine": facts, "guest": args.guest, "way": args.way,
               "spare": args.spare, **report}
    code, figures = conclude(args, figures, aims)
    return (code if good else 1), figures
