"""A VM that runs while it is measured, its processes and what they use."""
import os
import re
import select
import subprocess
import time

from integration.bench import host
from integration.bench.processes import BenchError, terminate

_LABELS = ["//vmm:vmm", "//kernel_images/baremetal:guest.elf", "//devices/rig:rig",
           "//devices/uart16550:uart16550", "//devices/virtio_blk:virtio_blk",
           "//devices/virtio_rng:virtio_rng"]
_LIMIT_S = 30


def build_idle_vm(folder):
    """The command of a VM with a console, a disk in `folder`, an entropy source and the rig, whose
    guest halts once it has printed "idle"."""
    vmm, guest, rig, *_ = host.build(_LABELS)
    disk = os.path.join(folder, "disk.img")
    with open(disk, "wb") as stream:
        stream.truncate(1 << 20)
    return [vmm, "--verbose", "--control=none", "--kernel", guest, "--cmdline", "run=idle halt=1",
            "--memory", "512M", "--cpus", "2", "--disk", "path=" + disk, "--rng",
            "--device", "name=rig,binary=" + rig]


class Vm:
    """A context in which `command` runs: vmm with --verbose.

    .guest_ms and .first_byte_ms, set by wait(): milliseconds from the start of the process until the
    first vCPU enters the guest, and until the first byte on the console.
    """

    def __init__(self, command):
        self._command = command
        self.guest_ms = self.first_byte_ms = None

    def __enter__(self):
        self._begin = time.monotonic()
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return self

    def wait(self, output=b""):
        """Until the guest runs and has printed `output`."""
        log = printed = b""
        streams = [self._process.stdout, self._process.stderr]
        while self.guest_ms is None or output not in printed:
            left = self._begin + _LIMIT_S - time.monotonic()
            ready = select.select(streams, [], [], max(left, 0))[0]
            now_ms = (time.monotonic() - self._begin) * 1000
            for stream in ready:
                data = os.read(stream.fileno(), 65536)
                if stream is self._process.stderr:
                    log += data
                else:
                    printed += data
                    self.first_byte_ms = self.first_byte_ms or now_ms
                if not data:
                    streams.remove(stream)
            if self.guest_ms is None and b"the guest runs" in log:
                self.guest_ms = now_ms
            if not ready or self._process.stderr not in streams:
                raise BenchError("the VM did not come up:\n" + (log + printed).decode().strip())

    def processes(self):
        """[(pid, name)]: the vmm first, then its helpers and devices."""
        pid = self._process.pid
        return [(each, _name(each)) for each in [pid, *_children(pid)]]

    def __exit__(self, *unused):
        terminate(self._process, timeout_s=10)


def _children(pid):
    found = []
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/children" % (pid, task), encoding="ascii") as stream:
            found += [int(child) for child in stream.read().split()]
    return sorted(found)


def _name(pid):
    with open("/proc/%d/comm" % pid, encoding="ascii", errors="replace") as stream:
        name = stream.read().strip()
    if is_helper(name):
        return name
    with open("/proc/%d/cmdline" % pid, "rb") as stream:
        return os.path.basename(stream.read().split(b"\0")[0].decode())


def is_helper(name):
    """The launcher and its init."""
    return name.startswith("vmm-")


def memory_of(smaps):
    """(MiB of its own, MiB of guest RAM) of one process, from the text of /proc/PID/smaps."""
    own = guest = 0
    in_guest_ram = False
    for line in smaps.splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            in_guest_ram = "memfd:guest-ram" in line
        elif line.startswith("Pss:"):
            kib = int(line.split()[1])
            if in_guest_ram:
                guest += kib
            else:
                own += kib
    return own / 1024, guest / 1024


def memory(pid):
    """memory_of() of a process."""
    try:
        with open("/proc/%d/smaps" % pid, encoding="ascii", errors="replace") as stream:
            return memory_of(stream.read())
    except PermissionError as error:
        raise BenchError("the memory of a device process: needs root") from error


def cpu_seconds(pid):
    """User and system time of a process, with its ended threads: to the nanosecond, of which
    /proc/PID/stat shows hundredths of a second."""
    cpu_clock_of_process = (~pid << 3) | 2  # clock_getcpuclockid(3)
    try:
        return time.clock_gettime(cpu_clock_of_process)
    except OSError as error:
        raise BenchError("process %d has ended" % pid) from error


def wake_ups(pid):
    """How often its threads, but those that have ended, have slept until something woke them."""
    count = 0
    for task in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/status" % (pid, task), encoding="ascii",
                      errors="replace") as stream:
                status = stream.read()
        except FileNotFoundError:
            continue  # it has ended since
        count += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", status, re.MULTILINE)[1])
    return count
