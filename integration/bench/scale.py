"""What devices cost a VM by their number, and what they get done together.

For start and idle the VM has disks and entropy sources by turns; its virtual CPUs halt.

  start  from the start of vmm until its first vCPU enters the guest; the numbers of devices take
         turns, round after round
  idle   CPU time of the vmm, its helpers (vmm-launcher, vmm-init) and its devices, in percent of one
         CPU: --seconds in ten slices, whose median, least and most are shown; and how often a second
         one of their threads wakes up
  busy   the guest keeps all devices, disks, busy with 4 KiB reads from the page cache: requests a
         second of all together, and the share of the one that gets the least (1: all get the same),
         for guests that poll and guests that halt until an interrupt comes; beside QEMU in the same
         rounds. Virtual CPU n serves the devices n, n + CPUs, ...

Examples:
  tools/bench scale --quick
  tools/bench scale --only=busy --busy=2 --busy-cpus=1     is one of two devices starved?
  tools/bench scale --only=start --start=1,31 --rounds=100
On a computer that does other work too, run it as `nice -n -15 tools/bench scale`.
"""
import argparse
import os
import statistics
import tempfile
import time

from integration.bench import host, scale_busy, table, vm
from integration.bench.aims import conclude
from integration.bench.arguments import names_of, positive

HELP = "start time, idle CPU, throughput and fairness with 1 to 31 devices"

_LABELS = ["//vmm:vmm", "//kernel_images/baremetal:guest.elf", "//devices/virtio_blk:virtio_blk",
           "//devices/virtio_rng:virtio_rng"]
_MOST_DEVICES = 31
_SLICES = 10
_SETTLE_S = 3  # start-up pages are given back, what polls has fallen asleep
_KINDS = ("vmm", "helpers", "devices")
_AIM_IDLE_PERCENT = 0.1
_PARTS = ("start", "idle", "busy")


def _numbers(text, most=_MOST_DEVICES):
    numbers = [positive(word) for word in text.split(",")]
    if max(numbers) > most:
        raise argparse.ArgumentTypeError("%d: give 1 to %d" % (max(numbers), most))
    return numbers


def _busy(text):
    return _numbers(text, _MOST_DEVICES - 1)  # beside the console, by which the guest reports


def _cpus(text):
    return _numbers(text, scale_busy.MOST_CPUS)


def _parts(text):
    for word in text.split(","):
        if word not in _PARTS:
            raise argparse.ArgumentTypeError("%r: give %s" % (word, ", ".join(_PARTS)))
    return text.split(",")


def add_arguments(parser):
    parser.add_argument("--quick", action="store_true",
                        help="5 rounds, 10 s; about two minutes")
    parser.add_argument("--only", type=_parts, default=_PARTS, metavar="PART,...",
                        help="of: " + ",".join(_PARTS))
    parser.add_argument("--start", type=_numbers, default=[1, 8, 16, 31], metavar="N,...",
                        help="devices of the VMs whose start is timed (default: 1,8,16,31)")
    parser.add_argument("--idle", type=_numbers, default=[1, 31], metavar="N,...",
                        help="devices of the VMs that idle (default: 1,31)")
    parser.add_argument("--busy", type=_busy, default=[1, 2, 8, 30], metavar="N,...",
                        help="devices of the VMs whose devices are busy (default: 1,2,8,30)")
    parser.add_argument("--busy-cpus", type=_cpus, default=[1, 2], metavar="N,...",
                        help="virtual CPUs of these (default: 1,2; at most %d)" %
                             scale_busy.MOST_CPUS)
    parser.add_argument("--targets", type=names_of(scale_busy.ALL), default=scale_busy.ALL,
                        metavar="NAMES", help="whose devices are busy, of: " +
                        ",".join(target.name for target in scale_busy.ALL))
    parser.add_argument("--ms", type=positive, default=200, metavar="N",
                        help="how long devices are busy (default: %(default)s)")
    parser.add_argument("--cpus", type=positive, default=1, metavar="N",
                        help="virtual CPUs of start and idle (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, metavar="N",
                        help="starts with each number of devices (default: 20), runs of each busy VM "
                             "(default: 5)")
    parser.add_argument("--seconds", type=positive, metavar="N",
                        help="how long each VM idles (default: 30)")
    parser.add_argument("--check", action="store_true", help="exit with 3 if an aim is missed")


def _config(folder, guest, disk, rng, devices, cpus):
    path = os.path.join(folder, "%d.textproto" % devices)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write('memory: "64M" cpus: %d control_socket: "none"\n' % cpus)
        stream.write('kernel { path: "%s" cmdline: "run=idle halt=1" }\n' % guest)
        for number in range(devices):
            if number % 2:
                stream.write('devices { name: "rng%d" binary: "%s" }\n' % (number, rng))
                continue
            image = os.path.join(folder, "disk%d.img" % number)
            with open(image, "wb") as file:
                file.truncate(1 << 20)
            stream.write('devices { name: "disk%d" binary: "%s"\n  resources { name: "disk" '
                         'file { path: "%s" } } }\n' % (number, disk, image))
    return path


def _kind(name):
    return "helpers" if vm.is_helper(name) else "vmm" if name == "vmm" else "devices"


def _idle(command, devices, seconds):
    """In each slice, by kind of process and for "all": percent of one CPU, wake-ups a second."""
    with vm.Vm(command) as machine:
        machine.wait()
        time.sleep(_SETTLE_S)
        processes = [(pid, _kind(name)) for pid, name in machine.processes()]
        begin = time.monotonic()
        samples = []
        for number in range(_SLICES + 1):
            time.sleep(max(0, begin + number * seconds / _SLICES - time.monotonic()))
            used, woken = dict.fromkeys(_KINDS, 0.0), dict.fromkeys(_KINDS, 0)
            now = time.monotonic()
            for pid, kind in processes:
                used[kind] += vm.cpu_seconds(pid)
                woken[kind] += vm.wake_ups(pid)
            samples.append((now, used, woken))
            table.progress("%d devices idle: %d of %d s" % (devices, number * seconds / _SLICES,
                                                            seconds))

    def rates(index, unit):
        by_kind = {kind: [(b[index][kind] - a[index][kind]) / (b[0] - a[0]) * unit
                          for a, b in zip(samples, samples[1:])] for kind in _KINDS}
        return {**by_kind, "all": [sum(slices) for slices in zip(*by_kind.values())]}
    return rates(1, 100), rates(2, 1)


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    rounds = args.rounds or (5 if args.quick else 20)
    seconds = args.seconds or (10 if args.quick else 30)
    vmm, guest, disk, rng = host.build(_LABELS)
    facts = host.describe()
    host.warn_if_busy(facts)
    start_ms = {devices: [] for devices in args.start if "start" in args.only}
    idle, wake_ups, busy = {}, {}, []
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        def command(devices):
            return [vmm, "--verbose", "--console=none",
                    "--config", _config(folder, guest, disk, rng, devices, args.cpus)]

        for number in range(rounds if start_ms else 0):
            table.progress("start: round %d of %d" % (number + 1, rounds))
            for devices, times in start_ms.items():
                with vm.Vm(command(devices)) as machine:
                    machine.wait()
                    times.append(machine.guest_ms)
        for devices in args.idle if "idle" in args.only else ():
            idle[devices], wake_ups[devices] = _idle(command(devices), devices, seconds)

    if "busy" in args.only:
        busy = scale_busy.measure(args, args.rounds or 5, args.ms)

    table.progress("")
    host.print_facts(facts)
    if start_ms:
        print("\n" + "\n".join(table.render(
            ["devices: start to the guest (ms)", "least", "p50", "most"],
            [[devices, *("%.1f" % f(times) for f in (min, statistics.median, max))]
             for devices, times in start_ms.items()])))
    if idle:
        print("\n" + "\n".join(table.render(
            ["devices: idle, % of one CPU", *_KINDS, "all", "least-most", "wake-ups/s"],
            [[devices,
              *("%.3f" % statistics.median(percent[kind]) for kind in (*_KINDS, "all")),
              "%.3f-%.3f" % (min(percent["all"]), max(percent["all"])),
              "%.1f" % statistics.median(wake_ups[devices]["all"])]
             for devices, percent in idle.items()])))
    if busy:
        print("\n" + "\n".join(scale_busy.report(busy)))
    print()
    aims = [{"text": "%d devices at idle: %.3f %% of one CPU, aim: at most %g %%" % (
                 devices, statistics.fmean(percent["all"]), _AIM_IDLE_PERCENT),
             "met": statistics.fmean(percent["all"]) <= _AIM_IDLE_PERCENT}
            for devices, percent in idle.items() if devices == _MOST_DEVICES]
    figures = {"benchmark": "scale", "machine": facts, "cpus": args.cpus, "seconds": seconds,
               "start_ms": start_ms, "idle_cpu_percent": idle,
               "idle_wake_ups_per_second": wake_ups, "rounds": busy}
    return conclude(args, figures, aims + scale_busy.judge_aims(busy))
