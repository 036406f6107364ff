"""Time from the start of vmm to the guest, and the memory of its processes at idle.

Starts a VM with a console, a disk, an entropy source and the rig; the guest idles. Times
begin when the process is created; every other start is without the sandbox of devices. Memory is proportional set size (PSS), without the guest's RAM,
which is counted apart; text that processes share counts in parts.
"""
import os
import re
import select
import signal
import statistics
import subprocess
import tempfile
import time

from integration.bench import host, table
from integration.bench.aims import conclude
from integration.bench.arguments import positive
from integration.bench.processes import BenchError

HELP = "time to the first guest instruction, memory of each process"

_VMM = "//vmm:vmm"
_GUEST = "//kernel_images/baremetal:guest.elf"
_DEVICES = ["//devices/uart16550:uart16550", "//devices/virtio_blk:virtio_blk",
            "//devices/virtio_rng:virtio_rng", "//devices/rig:rig"]
_LIMIT_S = 30
_SETTLE_S = 0.3  # after the start-up's last page was given back
_AIMS = {"vmm": 8.0, "device": 4.0, "first_instruction_ms": 60.0, "sandbox_ms": 3.0}


def add_arguments(parser):
    parser.add_argument("--rounds", type=positive, default=20, metavar="N",
                        help="starts to time (default: %(default)s)")
    parser.add_argument("--check", action="store_true",
                        help="exit with 3 if an aim is missed")


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


def _memory(pid):
    try:
        with open("/proc/%d/smaps" % pid, encoding="ascii", errors="replace") as stream:
            return memory_of(stream.read())
    except PermissionError as error:
        raise BenchError("the memory of a device process: needs root") from error


def _children(pid):
    found = []
    for task in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/children" % (pid, task), encoding="ascii") as stream:
            found += [int(child) for child in stream.read().split()]
    return sorted(found)


def _name(pid):
    with open("/proc/%d/comm" % pid, encoding="ascii", errors="replace") as stream:
        name = stream.read().strip()
    if name.startswith("vmm-"):  # the launcher and its init
        return name
    with open("/proc/%d/cmdline" % pid, "rb") as stream:
        return os.path.basename(stream.read().split(b"\0")[0].decode())


def _start_once(command, want_memory):
    """One VM. Returns (ms to the first instruction, to the first line, [(process, MiB, MiB)])."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    try:
        log = output = b""
        runs = first_line = None
        streams = [process.stdout, process.stderr]
        while runs is None or b"idle" not in output:
            left = begin + _LIMIT_S - time.monotonic()
            ready = select.select(streams, [], [], max(left, 0))[0]
            now = time.monotonic()
            for stream in ready:
                data = os.read(stream.fileno(), 65536)
                if stream is process.stderr:
                    log += data
                else:
                    output += data
                    first_line = first_line or now
                if not data:
                    streams.remove(stream)
            if runs is None and b"the guest runs" in log:
                runs = now
            if not ready or not streams:
                raise BenchError("the VM did not come up:\n" + (log + output).decode().strip())
        memory = []
        if want_memory:
            time.sleep(_SETTLE_S)
            for pid in [process.pid] + _children(process.pid):
                memory.append((_name(pid), *_memory(pid)))
        return (runs - begin) * 1000, (first_line - begin) * 1000, memory
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def run(args):
    """Returns (exit code, figures for --json)."""
    host.require_kvm()
    vmm, guest, *_ = host.build([_VMM, _GUEST, *_DEVICES])
    rig = os.path.join(os.path.dirname(os.path.dirname(vmm)), "devices/rig/rig")
    facts = host.describe()
    if facts["load_average"] > 1:
        print("this computer is busy (load average %.1f): times are too long"
              % facts["load_average"])
    with tempfile.NamedTemporaryFile(prefix="bulkhead-bench-") as disk:
        disk.truncate(1 << 20)
        command = [vmm, "--verbose", "--control=none", "--kernel", guest, "--cmdline", "run=idle",
                   "--memory", "512M", "--cpus", "2", "--disk", "path=" + disk.name, "--rng",
                   "--device", "name=rig,binary=" + rig]
        rounds, bare = [], []
        for number in range(args.rounds):
            bare.append(_start_once(command + ["--sandbox=off"], False))
            rounds.append(_start_once(command, number == args.rounds - 1))
    instruction = [entry[0] for entry in rounds]
    bare_instruction = [entry[0] for entry in bare]
    line = [entry[1] for entry in rounds]
    memory = rounds[-1][2]
    devices = [entry for entry in memory[1:] if not entry[0].startswith("vmm-")]
    sandbox_ms = ((statistics.median(instruction) - statistics.median(bare_instruction)) /
                  len(devices))

    print("%s, %d CPUs, Linux %s; %d starts" % (facts["cpu"], facts["cpus"], facts["kernel"],
                                                args.rounds))
    print()
    for text in table.render(
            ["from the start of vmm (ms)", "min", "p50", "max"],
            [[name, *("%.1f" % f(values) for f in (min, statistics.median, max))]
             for name, values in [("vCPUs enter the guest", instruction),
                                  ("the same, --sandbox=off", bare_instruction),
                                  ("first byte on the console", line)]]):
        print(text)
    print("the sandbox costs %.2f ms a device, of %d that start side by side" % (
        sandbox_ms, len(devices)))
    print()
    for text in table.render(["memory at idle (MiB PSS)", "own", "guest RAM"],
                             [[name, "%.1f" % own, "%.1f" % ram] for name, own, ram in memory]):
        print(text)
    print()
    aims = [
        ("vCPUs enter the guest within %g ms" % _AIMS["first_instruction_ms"],
         statistics.median(instruction) <= _AIMS["first_instruction_ms"]),
        ("the sandbox costs %g ms a device or less" % _AIMS["sandbox_ms"],
         sandbox_ms <= _AIMS["sandbox_ms"]),
        ("vmm within %g MiB" % _AIMS["vmm"], memory[0][1] <= _AIMS["vmm"]),
        ("each device within %g MiB" % _AIMS["device"],
         all(own <= _AIMS["device"] for _, own, _ in memory[1:])),
    ]
    figures = {
        "benchmark": "startup",
        "machine": facts,
        "first_instruction_ms": instruction,
        "first_instruction_without_sandbox_ms": bare_instruction,
        "first_console_byte_ms": line,
        "memory_mib": [{"process": name, "own": own, "guest_ram": ram}
                       for name, own, ram in memory],
    }
    return conclude(args, figures, [{"text": text, "met": met} for text, met in aims])
