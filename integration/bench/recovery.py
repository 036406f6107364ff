"""How soon a dead device process is noticed, and how soon another one serves in its place.

Starts a VM with a console, a disk, an entropy source and the rig; the guest idles. Kills
the process of one device after the other, each time once all are RUNNING again, and takes the times
from the VM's event stream (vmctl events): from just before kill(2) to the vmm's notice, and to
RUNNING. Then the same without the sandbox of devices.
"""
import calendar
import json
import os
import select
import signal
import subprocess
import tempfile
import time

from integration.bench import host, table
from integration.bench.aims import conclude
from integration.bench.processes import BenchError
from integration.bench.storm import percentile

HELP = "death of a device process: time to its detection, and to its successor"

_LABELS = ["//vmm:vmm", "//tools/vmctl:vmctl", "//kernel_images/baremetal:guest.elf",
           "//devices/uart16550:uart16550", "//devices/virtio_blk:virtio_blk",
           "//devices/virtio_rng:virtio_rng", "//devices/rig:rig"]
_LIMIT_S = 30
_AIM_DETECTION_MS = 1.0
_AIM_RESTART_MS = 30.0
_AIM_SANDBOX_MS = 1.0


def add_arguments(parser):
    parser.add_argument("--kills", type=int, default=100, metavar="N",
                        help="of each device (default: %(default)s)")
    parser.add_argument("--spare", action="store_true", help="with a warm spare for each device")
    parser.add_argument("--check", action="store_true", help="exit with 3 if an aim is missed")


def _config(folder, guest, rig, spare):
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
        stream.write('memory: "64M" cpus: 1\ncontrol_socket: "%s/vm.sock"\n' % folder)
        stream.write('kernel { path: "%s" cmdline: "run=idle" }\n' % guest)
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


def _measure(vmm, vmctl, guest, rig, args, sandbox):
    """Returns (names, ms to the notice by device, ms to RUNNING by device)."""
    detection, restart = {}, {}
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
        config, names = _config(folder, guest, rig, args.spare)
        process = subprocess.Popen([vmm, "--config", config, "--sandbox=" + sandbox],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        os.set_blocking(process.stderr.fileno(), False)
        events = None
        try:
            socket = os.path.join(folder, "vm.sock")
            deadline = time.monotonic() + _LIMIT_S
            while not os.path.exists(socket):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise BenchError("the VM did not come up:\n" +
                                     (process.stderr.read() or b"").decode())
                time.sleep(0.02)
            time.sleep(0.3)
            events = _Events(vmctl, socket)
            first = events.next(time.monotonic() + _LIMIT_S)
            pids = {device["name"]: device["pid"] for device in first["snapshot"]["devices"]}
            for name in names:
                detection[name], restart[name] = [], []
                for _ in range(args.kills):
                    noticed, running, pids[name] = _kill_once(events, name, pids[name])
                    detection[name].append(noticed)
                    restart[name].append(running)
                    # A spare takes its time to be ready again.
                    time.sleep(0.4 if args.spare else 0.005)
        finally:
            if events is not None:
                events.close()
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stderr.close()

    return names, detection, restart


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    vmm, vmctl, guest, *_, rig = host.build(_LABELS)
    facts = host.describe()
    if facts["load_average"] > 1:
        print("this computer is busy (load average %.1f): times are too long"
              % facts["load_average"])
    names, detection, restart = _measure(vmm, vmctl, guest, rig, args, "on")
    _, bare_detection, bare_restart = _measure(vmm, vmctl, guest, rig, args, "off")

    print("%s, %d CPUs, Linux %s; %d kills of each device%s" % (
        facts["cpu"], facts["cpus"], facts["kernel"], args.kills,
        ", with a warm spare" if args.spare else ""))
    print()
    rows = []
    for title, notices, successors in [("", detection, restart),
                                       (" --sandbox=off", bare_detection, bare_restart)]:
        for name in names:
            rows.append([name + title] + ["%.2f" % percentile(values[name], p)
                                          for values in (notices, successors)
                                          for p in (50, 99, 100)])
    for line in table.render(["milliseconds from kill(2) to", "notice p50", "p99", "max",
                              "RUNNING p50", "p99", "max"], rows):
        print(line)
    every = [value for values in detection.values() for value in values]
    again = [value for values in restart.values() for value in values]
    bare = [value for values in bare_restart.values() for value in values]
    sandbox_ms = percentile(again, 50) - percentile(bare, 50)
    aims = [{"text": "detection p50 under %g ms" % _AIM_DETECTION_MS,
             "met": percentile(every, 50) < _AIM_DETECTION_MS},
            {"text": "restart p50 under %g ms" % _AIM_RESTART_MS,
             "met": percentile(again, 50) < _AIM_RESTART_MS},
            {"text": "the sandbox costs a restart %.2f ms at p50, within %g ms" % (
                sandbox_ms, _AIM_SANDBOX_MS),
             "met": sandbox_ms <= _AIM_SANDBOX_MS}]
    print()
    figures = {"benchmark": "recovery", "machine": facts, "spare": args.spare,
               "detection_ms": detection, "restart_ms": restart,
               "restart_without_sandbox_ms": bare_restart}
    return conclude(args, figures, aims)
