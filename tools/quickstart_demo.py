#!/usr/bin/env python3
"""The scripted demonstration of tools/quickstart: one guest, looked at from inside and outside.

usage: quickstart_demo.py --vmm PATH --vmctl PATH --intruder PATH --kernel PATH --initrd PATH
                          [--cpus N] [--memory SIZE]

Boots the guest with a console, a read-only disk of random bytes and an entropy source, shows
the processes, lets the guest report on itself, compares the disk's checksum on both sides. Then the
devices fail: the disk's process is killed again and again while the guest reads, an attacker takes the
entropy source's over and tries to break out, its successor hangs, the console's is replaced, and then all
are, as after an upgrade of the package; the guest must not notice. At last it reboots, and powers off.
Exit code 0: all of it was as it should be.
"""
import argparse
import base64
import hashlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from integration.bench.processes import terminate  # noqa: E402

DISK_BYTES = 16 << 20
BOOT_SECONDS = 180  # to boot and to report
FAILURES_SECONDS = 180
HANG_SECONDS = 60
# As the guest must find them: a host bridge, a disk, an entropy source.
PCI = ["0000:00:00.0 0x1b36 0x0008 0x060000 none", "0000:00:01.0 0x1af4 0x1042 0x010000 virtio-pci",
       "0000:00:02.0 0x1af4 0x1044 0xff0000 virtio-pci"]
GUEST_SCRIPT = r"""
echo "== boot"
read first
if [ -z "$first" ]; then
  sha256sum /dev/vda
  echo "== rebooted"
  read answer
  exit
fi
echo "== kernel"
uname -a
echo "== processors"
grep -c ^processor /proc/cpuinfo
echo "== pci"
for d in /sys/bus/pci/devices/*; do
  driver=none
  [ -e $d/driver ] && driver=$(basename $(readlink $d/driver))
  echo "$(basename $d) $(cat $d/vendor) $(cat $d/device) $(cat $d/class) $driver"
done
echo "== disk"
sha256sum /dev/vda
echo "== hwrng"
dd if=/dev/hwrng bs=32 count=1 2>/dev/null | hexdump -v -e '32/1 "%02x" "\n"'
echo "== failures"
for i in 1 2 3 4 5 6 7 8; do
  echo 3 > /proc/sys/vm/drop_caches
  sha256sum /dev/vda
done
echo "== killed"
read answer
dd if=/dev/hwrng bs=32 count=1 2>/dev/null | hexdump -v -e '32/1 "%02x" "\n"'
echo "== hung"
read answer
echo "the console still prints"
dmesg -r | grep '^<[0-4]>' | grep -v 'hrtimer: interrupt took'
echo "== log"
read answer
sha256sum /dev/vda
echo "== upgraded"
read answer
reboot -f
"""
# More would be too many for vmm's default policy: 5 ends within a minute, and it gives up.
KILLS = 4
KILL_EVERY_S = 0.8


class Failure(Exception):
    pass


def devices_of(vmm):
    """Its children, but for the launcher and its init."""
    return [child for child in children_of(vmm) if not name_of(child).startswith("vmm-")]


def name_of(pid):
    try:
        with open("/proc/%d/comm" % pid, encoding="ascii", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def children_of(pid):
    found = []
    try:
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as stream:
                found += [int(child) for child in stream.read().split()]
    except OSError:
        pass
    return sorted(found)


def describe(pid):
    """One line: pid, command, proportional memory without the guest's RAM, threads."""
    try:
        with open("/proc/%d/cmdline" % pid, "rb") as stream:
            words = stream.read().rstrip(b"\0").split(b"\0")
        pss = 0
        in_guest_ram = False
        with open("/proc/%d/smaps" % pid) as stream:
            for line in stream:
                if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                    in_guest_ram = "memfd:guest-ram" in line
                elif line.startswith("Pss:") and not in_guest_ram:
                    pss += int(line.split()[1])
        threads = len(os.listdir("/proc/%d/task" % pid))
    except PermissionError:  # a device process hides its memory from other users than root
        return "%6d  (only root sees its memory)" % pid
    except OSError:
        return "%6d  (ended)" % pid
    name = os.path.basename(words[0].decode(errors="replace"))
    return "%6d  %-12s %5.1f MiB (PSS, without guest RAM)  %2d threads" % (
        pid, name, pss / 1024, threads)


def process_of(vmm, binary):
    """The process that serves with that binary; None while there is none."""
    for child in children_of(vmm):
        try:
            with open("/proc/%d/cmdline" % child, "rb") as stream:
                if os.path.basename(stream.read().split(b"\0")[0]) == binary.encode():
                    return child
        except OSError:
            pass
    return None


class Killer(threading.Thread):
    """Kills the process of a device KILLS times, or until it is told to stop."""

    def __init__(self, vmm, binary):
        super().__init__(daemon=True)
        self.vmm, self.binary = vmm, binary
        self.kills = 0
        self._stop_now = threading.Event()

    def run(self):
        while self.kills < KILLS and not self._stop_now.wait(KILL_EVERY_S):
            pid = process_of(self.vmm, self.binary)
            if pid is not None:
                try:
                    os.kill(pid, signal.SIGKILL)
                    self.kills += 1
                except ProcessLookupError:
                    pass

    def stop(self):
        self._stop_now.set()
        self.join()


class Guest:
    """The vmm with its console on pipes."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.text = ""
        self.deadline = None
        self.expect_within(BOOT_SECONDS)

    def expect_within(self, seconds):
        self.deadline = time.monotonic() + seconds

    def wait_for(self, marker):
        """The lines before the one that is `marker`."""
        pattern = re.compile(r"(?m)^%s\r?\n" % re.escape(marker))
        while True:
            match = pattern.search(self.text)
            if match:
                before, self.text = self.text[:match.start()], self.text[match.end():]
                return [line.rstrip("\r") for line in before.splitlines()]
            left = self.deadline - time.monotonic()
            ready = left > 0 and select.select([self.process.stdout], [], [], left)[0]
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise Failure("the guest %s before it printed \"%s\"; its last lines:\n%s" % (
                    "ended" if ready else "took too long", marker,
                    "\n".join(self.text.splitlines()[-15:])))
            self.text += data.decode(errors="replace")

    def section(self, name):
        return [line for line in self.wait_for("== " + name) if line]

    def answer(self, text=""):
        """Lets the script go on."""
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def finish(self):
        """Drains the console and returns the exit code."""
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failure("the guest did not power off")
            if not os.read(self.process.stdout.fileno(), 65536):
                return self.process.wait(timeout=10)


def await_successor(vmm, binary, old, what):
    """Waits until another process than `old` serves. Returns the seconds that it took."""
    started = time.monotonic()
    while process_of(vmm, binary) in (old, None):
        if time.monotonic() - started > HANG_SECONDS:
            raise Failure("the entropy source %s and is not replaced" % what)
        time.sleep(0.05)
    return time.monotonic() - started


def fail_devices(options, guest, socket, checksum, problems):
    """Kills, hangs and replaces device processes while the guest works."""
    vmm = guest.process.pid

    def vmctl(*arguments):
        result = subprocess.run([options.vmctl, "--socket", socket, *arguments],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        if result.returncode != 0:
            problems.append("vmctl %s: %s" % (" ".join(arguments), result.stdout.strip()))
        return result.stdout.rstrip()

    guest.expect_within(FAILURES_SECONDS)
    killer = Killer(vmm, "virtio_blk")
    killer.start()
    try:
        sums = guest.section("killed")
    finally:
        killer.stop()
    good = [line for line in sums if line.split()[0] == checksum]
    print("\nThe disk's process, killed %d times while the guest read the whole disk %d times\n"
          "  %d of %d checksums are right" % (killer.kills, len(sums), len(good), len(sums)))
    if len(good) != 8 or len(sums) != 8 or killer.kills == 0:
        problems.append("the guest noticed that the disk's process was killed: %s" % sums)

    taken = process_of(vmm, "virtio_rng")
    if taken is None:
        raise Failure("the entropy source has no process")
    print("\nAn attacker in the entropy source's process")
    if os.geteuid() == 0:
        intruder = subprocess.run([options.intruder, str(taken)], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  timeout=60, check=False)
        for line in intruder.stdout.splitlines():
            print("  " + line)
        if intruder.returncode != 0:
            problems.append("the sandbox let an attempt pass: %s" % intruder.stdout)
        await_successor(vmm, "virtio_rng", taken, "was taken over")
        while '"RUNNING"' not in vmctl("device", "show", "rng0", "--json"):
            time.sleep(0.05)
    else:
        print("  left out: only root can step into the process to try")

    hung = process_of(vmm, "virtio_rng")
    if hung is None:
        raise Failure("the entropy source has no process")
    os.kill(hung, signal.SIGSTOP)
    replaced = await_successor(vmm, "virtio_rng", hung, "hangs")
    guest.answer()
    entropy = guest.section("hung")
    print("\nThe entropy source's process, stopped (SIGSTOP): replaced after %.1f s\n  guest  %s" % (
        replaced, entropy[0] if entropy else ""))
    if len(entropy) != 1 or not re.fullmatch("[0-9a-f]{64}", entropy[0]):
        problems.append("no random bytes from the successor: %s" % entropy)

    vmctl("device", "restart", "console")
    guest.answer()
    log = guest.section("log")
    print("\nvmctl device restart console\n  guest  %s" % (log[0] if log else ""))
    if log != ["the console still prints"]:
        problems.append("after the console's restart: %s" % log)

    print("\nvmctl upgrade: each device gets a process of the installed program while the guest reads")
    guest.answer()
    for line in vmctl("upgrade").splitlines():
        print("  " + line)
    sums = guest.section("upgraded")
    if [line.split()[0] for line in sums] != [checksum]:
        problems.append("after the upgrade the checksum is %s" % sums)

    print("\nThe guest reboots")
    guest.answer()
    guest.expect_within(BOOT_SECONDS)
    guest.section("boot")
    guest.answer()
    sums = guest.section("rebooted")
    good = [line for line in sums if line.split()[0] == checksum]
    print("  %d of %d checksums are right" % (len(good), len(sums)))
    if len(good) != 1 or len(sums) != 1:
        problems.append("after the reboot the guest reads %s" % sums)

    print("\nvmctl devices")
    for line in vmctl("devices").splitlines():
        print("  " + line)
    print("\nvmctl events, the last ones")
    for line in vmctl("events").splitlines()[-16:]:
        print("  " + line)
    guest.answer()


def run(options, disk, socket, checksum):
    cmdline = "console=ttyS0 quiet panic=-1 bulkhead.run=%s" % base64.b64encode(
        GUEST_SCRIPT.encode()).decode()
    started = time.monotonic()
    guest = Guest([options.vmm, "--kernel", options.kernel, "--initrd", options.initrd,
                   "--memory", options.memory, "--cpus", str(options.cpus),
                   "--cmdline", cmdline, "--disk", "path=%s,readonly" % disk, "--rng",
                   "--control", socket])
    try:
        guest.section("boot")
        guest.answer("first")
        guest.section("kernel")
        print("The guest is up after %.1f s." % (time.monotonic() - started))
        kernel = guest.section("processors")
        processors = guest.section("pci")
        pci = guest.section("disk")
        disk_lines = guest.section("hwrng")
        entropy = guest.section("failures")

        print("\nProcesses on the host: the vmm, two helpers, and one for each device, in a sandbox")
        print(describe(guest.process.pid))
        for child in children_of(guest.process.pid):
            print("  " + describe(child))
        devices = devices_of(guest.process.pid)
        print("\nThe guest's kernel, on %s processors\n  %s" % (processors[0], kernel[0]))
        print("\nIts PCI devices: address, ids, class, driver")
        for line in pci:
            print("  " + line)
        print("\nSHA-256 of the disk\n  guest  %s\n  host   %s" % (
            disk_lines[0].split()[0], checksum))
        print("\n32 bytes from the guest's /dev/hwrng\n  %s" % entropy[0])

        problems = []
        if len(devices) != 3:
            problems.append("%d device processes instead of 3" % len(devices))
        if int(processors[0]) != options.cpus:
            problems.append("%s processors instead of %d" % (processors[0], options.cpus))
        if pci != PCI:
            problems.append("its PCI devices are %s instead of %s" % (pci, PCI))
        if not kernel[0].startswith("Linux "):
            problems.append("its kernel is %s" % kernel[0])
        if disk_lines[0].split()[0] != checksum:
            problems.append("the checksums of the disk differ")
        if not re.fullmatch("[0-9a-f]{64}", entropy[0]) or entropy[0] == "0" * 64:
            problems.append("no random bytes")
        fail_devices(options, guest, socket, checksum, problems)
        devices = children_of(guest.process.pid)
        code = guest.finish()
        print("\nThe guest powered off; vmm ended with exit code %d." % code)
        if code != 0:
            problems.append("vmm's exit code is %d" % code)
        for child in devices:
            if os.path.exists("/proc/%d" % child):
                problems.append("device process %d is left over" % child)
        if problems:
            raise Failure("; ".join(problems))
    finally:
        terminate(guest.process, timeout_s=5)


def failed(why):
    sys.stdout.flush()
    print("demonstration failed: %s" % why, file=sys.stderr)
    return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vmm", required=True)
    parser.add_argument("--vmctl", required=True)
    parser.add_argument("--intruder", required=True)
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--memory", default="512M")
    parser.add_argument("--cpus", type=int, default=2)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="bulkhead-") as folder, \
            tempfile.NamedTemporaryFile(prefix="bulkhead-disk-") as disk:
        content = os.urandom(DISK_BYTES)
        disk.write(content)
        disk.flush()
        try:
            run(options, disk.name, os.path.join(folder, "vm.sock"),
                hashlib.sha256(content).hexdigest())
        except Failure as failure:
            return failed(failure)
        except subprocess.TimeoutExpired:
            return failed("vmm did not end after it closed the console")
        except (IndexError, ValueError) as error:  # a section of its report is not as expected
            return failed("the guest's report is odd: %s" % error)
        except OSError as error:
            return failed(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
