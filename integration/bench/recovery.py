"""How soon a dead device process is noticed, and how soon another one serves in its place.

Starts a VM with a console, a disk, an entropy source and the rig, whose guest halts, and another one
without the sandbox of devices. Kills the process of one device after the other, in both VMs by turns,
each time once all are RUNNING again, and takes the times from the VM's event stream (vmctl events):
from just before kill(2) to the vmm's notice, and to RUNNING.

With --ram it kills the disk's process alone, in VMs of these sizes, after the disk has read to all
of the guest's RAM: once for each kill, so that each process that dies has used all of it. The sizes
take turns, in two rounds.
"""
import calendar
import collections
import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time

from integration.bench import guest_ram, host, table
from integration.bench.aims import conclude
from integration.bench.arguments import positive
from integration.bench.processes import BenchError, terminate
from integration.bench.storm import percentile

HELP = "death of a device process: time to its detection, and to its successor"

_LABELS = ["//vmm:vmm", "//tools/vmctl:vmctl", "//kernel_images/baremetal:guest.elf",
           "//devices/uart16550:uart16550", "//devices/virtio_blk:virtio_blk",
           "//devices/virtio_rng:virtio_rng", "//devices/rig:rig"]
_LIMIT_S = 30
_TOUCH_LIMIT_S = 300
Programs = collections.namedtuple("Programs", "vmm vmctl guest rig")
_AIM_DETECTION_MS = 1.0
_AIM_RESTART_MS = 30.0
_AIM_SANDBOX_MS = 1.0


def add_arguments(parser):
    parser.add_argument("--kills", type=positive, metavar="N",
                        help="of each device (default: 100; with --ram 20)")
    guest_ram.add_arguments(parser, "kill a disk that has used all of so much guest RAM: 64M,8G,16G")
    parser.add_argument("--quick", action="store_true", help="a tenth of the kills")
    parser.add_argument("--spare", action="store_true", help="with a warm spare for each device")
    parser.add_argument("--check", action="store_true", help="exit with 3 if an aim is missed")


def _config(folder, guest, rig, spare, ram="64M", hugepages="none", program="idle halt=1"):
    supervision = ('  restart { max_crashes: -1 min_backoff: "0" max_backoff: "0" }\n' +
                   ("  spare: true\n" if spare else ""))
    disk = os.path.join(folder, "disk.img")
    with open(disk, "wb") as stream:
        stream.truncate(1 << 20)
    devices = [("console", "uart16550",
                'resources { name: "console" console { standard_streams: true } }'),
               ("disk0", "virtio_blk", 'resources { name: "disk" file { path: "%s" } }' % disk),
               ("rng0", "virtio_rng", ""), ("rig", rig, "")]
    path = os.path.join(folder, "vm.textproto")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write('memory: "%s" cpus: 1\ncontrol_socket: "%s/vm.sock"\n' % (ram, folder))
        stream.write('memory_backing { hugepages: "%s" }\n' % hugepages)
        stream.write('kernel { path: "%s" cmdline: "run=%s" }\n' % (guest, program))
        for name, binary, resource in devices:
            stream.write('devices {\n  name: "%s" binary: "%s"\n%s  %s\n}\n' % (
                name, binary, supervision, resource))
    return path, [name for name, _, _ in devices]


def _seconds(text):
    """The time of an event, as time.time()."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    parsed = time.strptime(whole, "%Y-%m-%dT%H:%M:%S")
    return calendar.timegm(parsed) + float("0." + (fraction or "0"))


class _Events:
    """Lines of `vmctl events --follow --json`."""

    def __init__(self, vmctl, socket):
        self._process = subprocess.Popen(
            [vmctl, "--socket", socket, "events", "--follow", "--json"], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE)
        self._buffer = b""

    def next(self, deadline):
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise BenchError("the VM sent no event for %d s" % _LIMIT_S)
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise BenchError("the VM's events ended")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def _kill_once(events, device, pid):
    """Kills one process. Returns (ms to detection, ms to RUNNING, the successor's pid)."""
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _LIMIT_S
    detected = None
    while True:
        event = events.next(deadline)
        ended = event.get("deviceEnded")
        if ended and ended["device"] == device and ended["pid"] == pid:
            detected = _seconds(event["time"])
        changed = event.get("deviceState")
        if changed and changed["device"] == device and changed["to"] == "RUNNING":
            if detected is None:
                raise BenchError("%s is RUNNING, but no event reported its end" % device)
            return ((detected - killed) * 1000, (_seconds(event["time"]) - killed) * 1000,
                    changed["pid"])


class Machine:
    """A context in which a VM runs, whose device processes are killed. .names: its devices'."""

    def __init__(self, programs, spare, sandbox="on", **config):
        self._programs = programs
        self._spare = spare
        self._sandbox = sandbox
        self._config = config
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with self._stack:
            folder = self._stack.enter_context(
                tempfile.TemporaryDirectory(prefix="bulkhead-bench-"))
            config, self.names = _config(folder, self._programs.guest, self._programs.rig,
                                         self._spare, **self._config)
            self._vmm = subprocess.Popen(
                [self._programs.vmm, "--config", config, "--sandbox=" + self._sandbox],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            self._stack.callback(terminate, self._vmm, _LIMIT_S)
            os.set_blocking(self._vmm.stderr.fileno(), False)
            socket = os.path.join(folder, "vm.sock")
            deadline = time.monotonic() + _LIMIT_S
            while not os.path.exists(socket):
                if time.monotonic() > deadline or self._vmm.poll() is not None:
                    raise BenchError("the VM did not come up:\n" +
                                     (self._vmm.stderr.read() or b"").decode())
                time.sleep(0.02)
            time.sleep(0.3)
            self._events = _Events(self._programs.vmctl, socket)
            self._stack.callback(self._events.close)
            first = self._events.next(time.monotonic() + _LIMIT_S)
            self._pids = {device["name"]: device["pid"]
                          for device in first["snapshot"]["devices"]}
            self._stack = self._stack.pop_all()
        return self

    def kill(self, name):
        """Returns (ms to detection, ms to RUNNING)."""
        noticed, running, self._pids[name] = _kill_once(self._events, name, self._pids[name])
        # A spare takes its time to be ready again.
        time.sleep(0.4 if self._spare else 0.005)
        return noticed, running

    def touch_ram(self):
        """The program touch_ram goes through its RAM once."""
        self._vmm.stdin.write(b"t")
        self._vmm.stdin.flush()
        deadline = time.monotonic() + _TOUCH_LIMIT_S
        output = b""
        while b"touched" not in output:
            left = max(0, deadline - time.monotonic())
            if not select.select([self._vmm.stdout], [], [], left)[0]:
                raise BenchError("the guest did not touch its RAM within %d s" % _TOUCH_LIMIT_S)
            data = os.read(self._vmm.stdout.fileno(), 65536)
            output += data
            if not data or b"BULKHEAD-FAIL" in output:
                raise BenchError("the guest failed: " + output.decode())

    def __exit__(self, *unused):
        self._stack.close()


def _kill_each(programs, args, kills):
    """By sandbox, "on" and "off": ({device: ms to the notice}, {device: ms to RUNNING})."""
    with contextlib.ExitStack() as stack:
        machines = {sandbox: stack.enter_context(Machine(programs, args.spare, sandbox))
                    for sandbox in ("on", "off")}
        found = {sandbox: ({}, {}) for sandbox in machines}
        for name in machines["on"].names:
            table.progress("killing " + name)
            for _ in range(kills):
                for sandbox, machine in machines.items():
                    for values, ms in zip(found[sandbox], machine.kill(name)):
                        values.setdefault(name, []).append(ms)
    return found


def _kill_disks(programs, args, kills):
    """({size of RAM and kind of pages: ms to the notice}, {...: ms to RUNNING})."""
    cells = guest_ram.cells(args)
    detection, restart = {}, {}
    for number in range(guest_ram.ROUNDS):
        for title, cell in cells.items():
            with Machine(programs, args.spare, program="touch_ram", **cell) as machine:
                for kill in range(kills):
                    table.progress("round %d of %d: %s: kill %d of %d" % (
                        number + 1, guest_ram.ROUNDS, title, kill + 1, kills))
                    machine.touch_ram()
                    noticed, running = machine.kill("disk0")
                    detection.setdefault(title, []).append(noticed)
                    restart.setdefault(title, []).append(running)
    return detection, restart


def _print_table(facts, title, results):
    table.progress("")
    print("%s, %d CPUs, Linux %s, load average %.1f; %s\n" % (
        facts["cpu"], facts["cpus"], facts["kernel"], facts["load_average"], title))
    rows = [[name + suffix] + ["%.2f" % percentile(values[name], p)
                               for values in (notices, successors) for p in (50, 99, 100)]
            for suffix, notices, successors in results for name in notices]
    for line in table.render(["milliseconds from kill(2) to", "notice p50", "p99", "max",
                              "RUNNING p50", "p99", "max"], rows):
        print(line)
    print()


def _flat(values_by_name):
    return [value for values in values_by_name.values() for value in values]


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    vmm, vmctl, guest, *_, rig = host.build(_LABELS)
    programs = Programs(vmm, vmctl, guest, rig)
    facts = host.describe()
    host.warn_if_busy(facts)
    if args.hugepages and not args.ram:
        args.ram = ["64M"]
    kills = args.kills or (20 if args.ram else 100)
    if args.quick:
        kills = max(2, kills // 10)
    figures = {"benchmark": "recovery", "machine": facts, "spare": args.spare}
    spare = ", with a warm spare" if args.spare else ""
    if args.ram:
        detection, restart = _kill_disks(programs, args, -(-kills // guest_ram.ROUNDS))
        _print_table(facts, "%d kills of a disk that has used all RAM%s" % (kills, spare),
                     [("", detection, restart)])
        return conclude(args, {**figures, "ram": args.ram, "detection_ms": detection,
                               "restart_ms": restart}, [])

    found = _kill_each(programs, args, kills)
    (detection, restart), (bare_detection, bare_restart) = found["on"], found["off"]
    _print_table(facts, "%d kills of each device%s" % (kills, spare),
                 [("", detection, restart), (" --sandbox=off", bare_detection, bare_restart)])
    noticed, again = percentile(_flat(detection), 50), percentile(_flat(restart), 50)
    sandbox_ms = again - percentile(_flat(bare_restart), 50)
    aims = [{"text": "detection p50 %.2f ms, under %g ms" % (noticed, _AIM_DETECTION_MS),
             "met": noticed < _AIM_DETECTION_MS},
            {"text": "restart p50 %.2f ms, under %g ms" % (again, _AIM_RESTART_MS),
             "met": again < _AIM_RESTART_MS},
            {"text": "the sandbox costs a restart %.2f ms at p50, within %g ms" % (
                sandbox_ms, _AIM_SANDBOX_MS),
             "met": sandbox_ms <= _AIM_SANDBOX_MS}]
    return conclude(args, {**figures, "detection_ms": detection, "restart_ms": restart,
                           "restart_without_sandbox_ms": bare_restart}, aims)
