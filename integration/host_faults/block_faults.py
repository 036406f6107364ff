"""Faults of what lies under the disk, and of what belongs to the whole machine: these run in the
testbed, the machine that is ours alone."""
import contextlib
import os
import shutil
import subprocess
import sys
import time

from integration.host_faults import host
from integration.host_faults.faults import Fault
from integration.host_faults.vm import Failure

_SECTOR = 512


class Stalled(Fault):
    """The base of faults with a file on FUSE whose server does not answer for a while."""
    server_options = ()

    def on_fuse(self, vm, path):
        """The path of this file there."""
        mountpoint = os.path.join(vm.folder, "fuse")
        os.mkdir(mountpoint)
        if not os.path.exists("/dev/fuse"):
            host.run("modprobe", "fuse")
        self.server = subprocess.Popen(
            [sys.executable, os.path.join(os.path.dirname(__file__), "fuse_server.py"), mountpoint,
             path, *self.server_options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.stack.callback(self._end, mountpoint)
        if self.server.stdout.readline() != b"mounted\n":
            raise OSError("FUSE cannot be mounted here")
        return os.path.join(mountpoint, "disk.img")

    def _end(self, mountpoint):
        with contextlib.suppress(OSError):
            self._tell(b"go\n")
        with contextlib.suppress(OSError):
            host.run("umount", "-l", mountpoint)
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def _tell(self, command):
        self.server.stdin.write(command)
        self.server.stdout.readline()

    def inject(self, vm):
        self._tell(b"stall\n")

    def heal(self, vm):
        self._tell(b"go\n")


class StalledFuse(Stalled):
    """The disk is a file on FUSE whose server does not answer for a while, in which devices die."""
    name = "stalled_fuse"
    disk_serves = False
    # close(2) of a file on FUSE waits for the server, and so does the end of a process that has one
    # open, SIGKILL or not (fuse_flush()): the vmm says so after 2 s, and is gone when that ends.
    vmm_hears = False

    def prepare(self, vm):
        vm.disk = self.on_fuse(vm, vm.disk)

    def inject(self, vm):
        super().inject(vm)
        time.sleep(1)
        vm.kill("disk0")
        for _ in range(3):
            vm.kill("rng0")
            vm.await_running("rng0")
        time.sleep(30 if self.long_form else 10)


class StalledFuseWithoutFlush(StalledFuse):
    """The same, but the disk's process can end, and its successor cannot open the file."""
    name = "stalled_fuse_no_flush"
    server_options = ("no-flush",)
    vmm_hears = True


class StalledBinary(Stalled):
    """The binary of a device is there, and the device's process dies: no other starts meanwhile,
    and other devices are supervised as ever."""
    name = "stalled_binary"
    kills = 8
    bystanders = ("console", "rig")

    def prepare(self, vm):
        binary = os.path.join(vm.binaries, "virtio_rng")
        copy = os.path.join(vm.folder, "virtio_rng")
        shutil.copy(binary, copy)
        host.run("mount", "--bind", self.on_fuse(vm, copy), binary)
        self.stack.callback(host.run, "umount", "-l", binary)

    def inject(self, vm):
        super().inject(vm)
        vm.kill("rng0")
        # Beyond the limit of one start (10 s), and the tries that follow.
        for _ in range(8 if self.long_form else 3):
            for device in ("disk0", "rig"):
                vm.kill(device)
            vm.await_progress()
            vm.await_running("disk0", "rig")
            time.sleep(4)
        if vm.devices()["rng0"]["state"] == "RUNNING":
            raise Failure("rng0 has a process: nothing was shown")


class DeviceMapper(Fault):
    """The base of faults of a block device."""
    needs = "testbed"
    table = ("linear", "{device} 0")  # at the start: target and arguments

    def prepare(self, vm):
        for module in ("loop", "dm_mod", "dm_delay", "dm_crypt", "dm_flakey"):
            subprocess.run(["modprobe", module], stderr=subprocess.DEVNULL, check=False)
        self.device = host.run("losetup", "--find", "--show", vm.disk).strip()
        self.stack.callback(host.run, "losetup", "--detach", self.device)
        self.sectors = os.path.getsize(vm.disk) // _SECTOR
        self.mapping = "host-faults-%d" % os.getpid()
        # The agent of the testbed has no udev.
        os.environ["DM_DISABLE_UDEV"] = "1"
        host.run("dmsetup", "create", self.mapping, "--table", self._table(*self.table))
        self.stack.callback(self._remove)
        vm.disk = "/dev/mapper/" + self.mapping

    def _remove(self):
        for _ in range(100):  # a process that has just ended may still have it open
            with contextlib.suppress(OSError):
                host.run("dmsetup", "remove", self.mapping)
                return
            time.sleep(0.1)
        host.run("dmsetup", "remove", "--force", self.mapping)

    def _table(self, target, arguments):
        return "0 %d %s %s" % (self.sectors, target, arguments.format(device=self.device))

    def change(self, target, arguments):
        host.run("dmsetup", "suspend", "--nolockfs", self.mapping)
        host.run("dmsetup", "load", self.mapping, "--table", self._table(target, arguments))
        host.run("dmsetup", "resume", self.mapping)

    def heal(self, vm):
        self.change(*self.table)


class SuspendedDisk(DeviceMapper):
    """No request of the block device ends for a while (dm suspended)."""
    name = "suspended_disk"
    disk_serves = False

    def prepare(self, vm):
        vm.disk_options = "direct: true"
        super().prepare(vm)

    def inject(self, vm):
        host.run("dmsetup", "suspend", "--nolockfs", "--noflush", self.mapping)
        time.sleep(30 if self.long_form else 10)

    def heal(self, vm):
        host.run("dmsetup", "resume", self.mapping)


class SlowDisk(DeviceMapper):
    """Each request of the block device takes a second (dm-delay)."""
    name = "slow_disk"

    def prepare(self, vm):
        vm.disk_options = "direct: true"
        super().prepare(vm)

    def inject(self, vm):
        self.change("delay", "{device} 0 1000")
        vm.kill("disk0")


class EncryptedDisk(DeviceMapper):
    """The disk is on dm-crypt, and its process dies."""
    name = "encrypted_disk"
    kills = 3
    table = ("crypt", "aes-xts-plain64 " + "0f" * 64 + " 0 {device} 0")

    def inject(self, vm):
        for _ in range(3):
            vm.kill("disk0")
            vm.await_progress()

    def heal(self, vm):
        pass


class FailingDisk(DeviceMapper):
    """Each request of the block device fails (dm-error): the guest sees errors, and tries again."""
    name = "failing_disk"
    disk_fails = True

    def prepare(self, vm):
        vm.disk_options = "direct: true"  # else a failed write is known at the next flush only
        super().prepare(vm)

    def inject(self, vm):
        self.change("error", "")
        vm.await_progress()
        vm.kill("disk0")


class FlakyDisk(FailingDisk):
    """The block device fails for two seconds of every three (dm-flakey)."""
    name = "flaky_disk"

    def inject(self, vm):
        self.change("flakey", "{device} 0 1 2")
        time.sleep(4)
        vm.kill("disk0")


class CorePattern(Fault):
    """Core files go to a program that takes its time, and the disk's process crashes."""
    name = "core_pattern"
    needs = "testbed"

    def prepare(self, vm):
        self._path = "/proc/sys/kernel/core_pattern"
        with open(self._path, encoding="utf-8") as stream:
            before = stream.read()
        self.stack.callback(self._write, before)

    def _write(self, text):
        with open(self._path, "w", encoding="utf-8") as stream:
            stream.write(text)

    def inject(self, vm):
        self._write("|/bin/sleep 60")
        vm.kill("disk0", 11)
        # What is not so if the crashed one's memory is written out first.
        vm.await_progress(limit=20)


class SteppedClock(Fault):
    """The wall clock is set, an hour ahead and two back."""
    name = "stepped_clock"
    kills = 4
    needs = "testbed"

    def prepare(self, vm):
        begin, steady = time.time(), time.monotonic()
        self._true_time = lambda: begin + time.monotonic() - steady
        self.stack.callback(self._set, 0)

    def _set(self, offset):
        time.clock_settime(time.CLOCK_REALTIME, self._true_time() + offset)

    def inject(self, vm):
        for offset in (3600, -7200, 0, -3600):
            self._set(offset)
            vm.kill("disk0")
            vm.await_progress()
            vm.await_running()

    def heal(self, vm):
        self._set(0)


FAULTS = [StalledFuse, StalledFuseWithoutFlush, StalledBinary, SuspendedDisk, SlowDisk, EncryptedDisk,
          FailingDisk, FlakyDisk, CorePattern, SteppedClock]
