"""What all devices of a VM get done together, and how evenly: cells of the benchmark scale."""
import os
import statistics
import tempfile

from integration.bench import host, table
from integration.bench.block_targets import DISK
from integration.bench.mmio_targets import (QEMU_PASSED, UART, VMM, VMM_POWERED_OFF, QemuTarget,
                                            Target, build_machines)
from integration.bench.processes import BenchError, bench_lines, run

MODES = ("poll", "interrupt")
MOST_CPUS = 8
_DEPTH = 8
_DISK_BYTES = 4 << 20
_OURS = "vmm"
# Of two devices on one vCPU: neither gets less of what both get done.
_AIM_SHARE = 0.4


class Vmm(Target):
    name = _OURS
    description = "our VMM, each disk in a process of its own"
    labels = (VMM, UART, DISK)

    def run(self, cmdline, disks, cpus, timeout_s):
        argv = [self._files[VMM], "--kernel=" + self._guest, "--cmdline=" + cmdline, "--memory=64M",
                "--cpus=%d" % cpus, "--no-reboot", "--control=none",
                "--console=stdio", "--device-dir=" + os.path.dirname(self._files[UART])]
        with tempfile.NamedTemporaryFile("w", suffix=".textproto") as config:
            for number, disk in enumerate(disks):
                config.write('devices { name: "disk%d" binary: "%s"\n  resources { name: "disk" '
                             'file { path: "%s" } } }\n' % (number, self._files[DISK], disk))
            config.flush()
            argv += ["--config=" + config.name]
            return self._finish(argv, run(argv, timeout_s), VMM_POWERED_OFF)


class Qemu(QemuTarget):
    name = "qemu-in-process"
    description = "QEMU, each disk with an I/O thread of its own"

    def run(self, cmdline, disks, cpus, timeout_s):
        devices = []
        for number, disk in enumerate(disks):
            devices += [
                "-object", "iothread,id=io%d" % number,
                "-drive", "file=%s,file.locking=off,if=none,id=disk%d,format=raw,aio=io_uring" % (
                    disk, number),
                "-device", "virtio-blk-pci,drive=disk%d,iothread=io%d,disable-legacy=on,"
                           "num-queues=1" % (number, number)]
        argv = self._command(["-machine", "q35", "-m", "256M", "-smp", str(cpus), *devices], cmdline)
        return self._finish(argv, run(argv, timeout_s), QEMU_PASSED)


ALL = (Vmm, Qemu)


def cell_name(mode, devices, cpus):
    return "%s, %d devices, %d vCPUs" % (mode, devices, cpus)


def parse(output, tsc_khz):
    """The guest's BENCH lines as {"rate": requests a second of all, "least_share": of the device
    that gets the least, 1 if all get the same}."""
    rates = [int(fields["requests"]) * tsc_khz * 1000 / int(fields["cycles"])
             for fields in bench_lines(output)]
    if not rates or not sum(rates):
        raise BenchError("the guest printed no figures:\n" + output)
    return {"rate": sum(rates), "least_share": min(rates) * len(rates) / sum(rates)}


def measure(args, rounds, ms):
    """[{machine: {cell: figures}}]: one a round."""
    tsc_khz = host.guest_tsc_khz()
    machines = build_machines(args.targets)
    cells = [(mode, devices, cpus) for mode in MODES for devices in args.busy
             for cpus in args.busy_cpus if cpus <= devices]
    found = []
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        disks = ["%s/disk%d" % (folder, number) for number in range(max(args.busy))]
        for disk in disks:
            with open(disk, "wb") as stream:
                stream.write(b"\xa5" * _DISK_BYTES)
        for number in range(rounds):
            found.append({machine.name: {} for machine in machines})
            for mode, devices, cpus in cells:
                cell = cell_name(mode, devices, cpus)
                table.progress("busy: round %d of %d: %s" % (number + 1, rounds, cell))
                for machine in machines:
                    found[-1][machine.name][cell] = parse(machine.run(
                        "run=bench_scale mode=%s cpus=%d depth=%d cycles=%d" % (
                            mode, cpus, _DEPTH, ms * tsc_khz),
                        disks[:devices], cpus, timeout_s=120), tsc_khz)
    return found


def report(rounds):
    """Lines of a table."""
    rows = []
    for cell in next(iter(rounds[0].values())):
        for machine in rounds[0]:
            rates = [each[machine][cell]["rate"] / 1000 for each in rounds]
            shares = [each[machine][cell]["least_share"] for each in rounds]
            over = [each[_OURS][cell]["rate"] / each[machine][cell]["rate"]
                    for each in rounds if _OURS in each]
            rows.append([cell + "  " + machine, "%.1f" % statistics.median(rates),
                         "%.1f-%.1f" % (min(rates), max(rates)),
                         "%.2f" % statistics.median(over) if over else "-",
                         "%.2f" % statistics.median(shares),
                         "%.2f-%.2f" % (min(shares), max(shares))])
    return table.render(["busy: 4 KiB reads, %d in flight at each device" % _DEPTH, "k/s",
                         "least-most", "vmm /", "least share", "least-most"], rows)


def judge_aims(rounds):
    """Two devices on one vCPU."""
    aims = []
    for mode in MODES:
        shares = [each[_OURS][cell_name(mode, 2, 1)]["least_share"] / 2 for each in rounds
                  if cell_name(mode, 2, 1) in each.get(_OURS, {})]
        if shares:
            aims.append({"text": "%s, two busy devices on one vCPU: one gets %.0f %%, aim: at least "
                                 "%.0f %%" % (mode, statistics.median(shares) * 100,
                                              _AIM_SHARE * 100),
                         "met": statistics.median(shares) >= _AIM_SHARE})
    return aims
