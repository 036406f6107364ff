"""What devices cost a VM whose guest does nothing, by their number.

The VM has disks and entropy sources by turns; its virtual CPUs halt.

  start  from the start of vmm until its first vCPU enters the guest; the numbers of devices take
         turns, round after round
  idle   CPU time of the vmm, its helpers (vmm-launcher, vmm-init) and its devices, in percent of one
         CPU: --seconds in ten slices, whose median, least and most are shown; and how often a second
         one of their threads wakes up
"""
import argparse
import os
import statistics
import tempfile
import time

from integration.bench import host, table, vm
from integration.bench.aims import conclude
from integration.bench.arguments import positive

HELP = "start time and idle CPU with 1 to 31 devices"

_LABELS = ["//vmm:vmm", "//kernel_images/baremetal:guest.elf", "//devices/virtio_blk:virtio_blk",
           "//devices/virtio_rng:virtio_rng"]
_MOST_DEVICES = 31
_SLICES = 10
_SETTLE_S = 3  # start-up pages are given back, what polls has fallen asleep
_KINDS = ("vmm", "helpers", "devices")
_AIM_IDLE_PERCENT = 0.1


def _numbers(text):
    numbers = [positive(word) for word in text.split(",")]
    if max(numbers) > _MOST_DEVICES:
        raise argparse.ArgumentTypeError("%d devices: PCI has room for %d" % (max(numbers),
                                                                              _MOST_DEVICES))
    return numbers


def add_arguments(parser):
    parser.add_argument("--quick", action="store_true",
                        help="5 rounds, 10 s; about half a minute")
    parser.add_argument("--start", type=_numbers, default=[1, 8, 16, 31], metavar="N,...",
                        help="devices of the VMs whose start is timed (default: 1,8,16,31)")
    parser.add_argument("--idle", type=_numbers, default=[1, 31], metavar="N,...",
                        help="devices of the VMs that idle (default: 1,31)")
    parser.add_argument("--cpus", type=positive, default=1, metavar="N",
                        help="virtual CPUs (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, metavar="N",
                        help="starts with each number of devices (default: 20)")
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
    start_ms = {devices: [] for devices in args.start}
    idle, wake_ups = {}, {}
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        def command(devices):
            return [vmm, "--verbose", "--console=none",
                    "--config", _config(folder, guest, disk, rng, devices, args.cpus)]

        for number in range(rounds):
            table.progress("start: round %d of %d" % (number + 1, rounds))
            for devices, times in start_ms.items():
                with vm.Vm(command(devices)) as machine:
                    machine.wait()
                    times.append(machine.guest_ms)
        for devices in args.idle:
            idle[devices], wake_ups[devices] = _idle(command(devices), devices, seconds)

    table.progress("")
    print("%(cpu)s, %(cpus)d CPUs, Linux %(kernel)s, load average %(load_average).1f, "
          "revision %(revision)s\n" % facts)
    print("\n".join(table.render(
        ["devices: start to the guest (ms)", "least", "p50", "most"],
        [[devices, *("%.1f" % f(times) for f in (min, statistics.median, max))]
         for devices, times in start_ms.items()])))
    print()
    print("\n".join(table.render(
        ["devices: idle, % of one CPU", *_KINDS, "all", "least-most", "wake-ups/s"],
        [[devices,
          *("%.3f" % statistics.median(percent[kind]) for kind in (*_KINDS, "all")),
          "%.3f-%.3f" % (min(percent["all"]), max(percent["all"])),
          "%.1f" % statistics.median(wake_ups[devices]["all"])] for devices, percent in idle.items()])))
    print()
    aims = [{"text": "%d devices at idle: %.3f %% of one CPU, aim: at most %g %%" % (
                 devices, statistics.fmean(percent["all"]), _AIM_IDLE_PERCENT),
             "met": statistics.fmean(percent["all"]) <= _AIM_IDLE_PERCENT}
            for devices, percent in idle.items() if devices == _MOST_DEVICES]
    figures = {"benchmark": "scale", "machine": facts, "cpus": args.cpus, "seconds": seconds,
               "start_ms": start_ms,
               "idle_cpu_percent": idle, "idle_wake_ups_per_second": wake_ups}
    return conclude(args, figures, aims)
