#!/usr/bin/env python3
"""The scripted demonstration of tools/quickstart: one guest, looked at from inside and outside.

usage: quickstart_demo.py --vmm PATH --kernel PATH --initrd PATH [--cpus N] [--memory SIZE]

Boots the guest with a console, a read-only disk of random bytes and an entropy source, shows
the processes, lets the guest report on itself, compares the disk's checksum on both sides, and
waits for the clean power-off. Exit code 0: all of it was as it should be.
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
import time

DISK_BYTES = 16 << 20
BOOT_SECONDS = 180
GUEST_SCRIPT = r"""
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
echo "== proceed"
read answer
"""


class Failure(Exception):
    pass


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
    except OSError:
        return "%6d  (ended)" % pid
    name = os.path.basename(words[0].decode(errors="replace"))
    return "%6d  %-12s %5.1f MiB (PSS, without guest RAM)  %2d threads" % (
        pid, name, pss / 1024, threads)


class Guest:
    """The vmm with its console on pipes."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.text = ""
        self.deadline = time.monotonic() + BOOT_SECONDS

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

    def finish(self):
        """Drains the console and returns the exit code."""
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failure("the guest did not power off")
            if not os.read(self.process.stdout.fileno(), 65536):
                return self.process.wait(timeout=10)


def run(options, disk, checksum):
    cmdline = "console=ttyS0 quiet panic=-1 bulkhead.run=%s" % base64.b64encode(
        GUEST_SCRIPT.encode()).decode()
    started = time.monotonic()
    guest = Guest([options.vmm, "--kernel", options.kernel, "--initrd", options.initrd,
                   "--memory", options.memory, "--cpus", str(options.cpus),
                   "--cmdline", cmdline, "--disk", "path=%s,readonly" % disk, "--rng"])
    try:
        guest.section("kernel")
        print("The guest is up after %.1f s." % (time.monotonic() - started))
        kernel = guest.section("processors")
        processors = guest.section("pci")
        pci = guest.section("disk")
        disk_lines = guest.section("hwrng")
        entropy = guest.section("proceed")

        print("\nProcesses on the host: the vmm, and one for each device")
        print(describe(guest.process.pid))
        devices = children_of(guest.process.pid)
        for child in devices:
            print("  " + describe(child))
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
        if disk_lines[0].split()[0] != checksum:
            problems.append("the checksums of the disk differ")
        if not re.fullmatch("[0-9a-f]{64}", entropy[0]) or entropy[0] == "0" * 64:
            problems.append("no random bytes")
        guest.process.stdin.write(b"\n")
        guest.process.stdin.flush()
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
        if guest.process.poll() is None:
            guest.process.send_signal(signal.SIGTERM)
            try:
                guest.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                guest.process.kill()
                guest.process.wait()


def failed(why):
    sys.stdout.flush()
    print("demonstration failed: %s" % why, file=sys.stderr)
    return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vmm", required=True)
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    parser.add_argument("--memory", default="512M")
    parser.add_argument("--cpus", type=int, default=2)
    options = parser.parse_args()

    with tempfile.NamedTemporaryFile(prefix="bulkhead-disk-") as disk:
        content = os.urandom(DISK_BYTES)
        disk.write(content)
        disk.flush()
        try:
            run(options, disk.name, hashlib.sha256(content).hexdigest())
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
