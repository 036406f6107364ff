"""The faults of a host, each with what brings it about and what ends it: one table.

To add one: a class with the four steps, and a line in FAULTS. The checks are not its business: see
host_faults.py."""
import contextlib
import itertools
import math
import os
import random
import shutil
import signal
import subprocess
import time

from integration.host_faults import host
from integration.host_faults.vm import END_S, Failure, wait_for


class Fault:
    """Nothing goes wrong. The base of all others."""
    name = "none"
    needs = "any"  # "testbed": changes what belongs to the whole machine
    disk_serves = True    # while it lasts
    others_serve = True   # likewise: the devices in `bystanders`
    bystanders = ("console", "rng0", "net0", "vsock0", "balloon", "rig")
    vmm_hears = True      # likewise: SIGTERM ends it; else as soon as the fault is over
    disk_fails = False    # the guest must see I/O errors; else none
    # How many processes of one device it kills, at most. More are crashes that the default restart
    # policy may take for too many: it is to be shown that the fault itself is none.
    kills = 1

    def __init__(self, long_form):
        self.long_form = long_form
        self.stack = contextlib.ExitStack()

    def prepare(self, vm):
        """Before the VM starts."""

    def inject(self, vm):
        """It begins, and lasts when this returns."""

    def heal(self, vm):
        """It ends."""

    def close(self):
        """Removes all traces from the host. The VM has ended."""
        self.stack.close()


class UnreadLog(Fault):
    """The terminal that is the vmm's standard error is full and not read."""
    name = "unread_log"
    kills = 3

    def inject(self, vm):
        vm.log.stop_reading_and_fill()
        for _ in range(3):  # there is much to log
            vm.kill("rng0")
            vm.await_running("rng0")
            vm.kill("disk0")
            vm.await_progress()

    def heal(self, vm):
        vm.log.read_on()


class UnreadConsole(Fault):
    """The pipe that is the guest's console is full and not read."""
    name = "unread_console"

    def inject(self, vm):
        vm.console.stop_reading_and_fill()
        vm.kill("console")

    def heal(self, vm):
        vm.console.read_on()


class FullLogDisk(Fault):
    """Standard error is a file on a file system that is full."""
    name = "full_log_disk"

    def prepare(self, vm):
        self.files = host.SmallFileSystem(os.path.join(vm.folder, "log"))
        self.stack.callback(self.files.close)
        vm.log_path = os.path.join(self.files.path, "vmm.log")

    def inject(self, vm):
        self.files.fill()
        vm.kill("rng0")
        vm.kill("disk0")

    def heal(self, vm):
        self.files.free()


class FullImageDisk(Fault):
    """The file system of the disk's image, a sparse file, is full: the guest sees errors, and
    tries again."""
    name = "full_image_disk"
    disk_fails = True

    def prepare(self, vm):
        self.files = host.SmallFileSystem(os.path.join(vm.folder, "image"), mib=2)
        self.stack.callback(self.files.close)
        size = os.path.getsize(vm.disk)
        vm.disk = os.path.join(self.files.path, "disk.img")
        with open(vm.disk, "wb") as stream:
            stream.truncate(size)
        self.files.fill()

    def inject(self, vm):
        vm.kill("disk0")
        vm.await_progress()

    def heal(self, vm):
        self.files.free()


class FullRuntimeFolder(Fault):
    """No file can be made in the folder of control sockets: another VM does not start there, and
    says so; this one is operated as ever."""
    name = "full_runtime_folder"

    def prepare(self, vm):
        self.files = host.SmallFileSystem(vm.runtime)
        self.stack.callback(self.files.close)

    def _start_another(self, vm):
        return subprocess.run(
            [vm.tools.vmm, "--kernel", vm.tools.guest, "--cmdline", "run=hello", "--console=none",
             "--name=another"], env=vm.environment(), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=END_S,
            check=False)

    def inject(self, vm):
        self.files.fill()
        other = self._start_another(vm)
        if other.returncode not in (1, 2) or "No space left on device" not in other.stderr:
            raise Failure("a VM without a socket: exit code %d: %s" % (other.returncode,
                                                                      other.stderr))
        vm.vmctl("status")

    def heal(self, vm):
        self.files.free()
        other = self._start_another(vm)
        if other.returncode != 0:
            raise Failure("there is room again: exit code %d: %s" % (other.returncode,
                                                                    other.stderr))


class Shortage(Fault):
    """The vmm cannot have what a new process costs, at random moments of its devices' deaths."""
    disk_serves = False
    bystanders = ("rig",)  # whose process is not killed

    def __init__(self, long_form):
        super().__init__(long_form)
        self.rounds = 10 if long_form else 3
        self.kills = self.rounds + 1

    def cut(self, vm):
        raise NotImplementedError

    def restore(self, vm):
        raise NotImplementedError

    def inject(self, vm):
        chance = random.Random(1)
        for _ in range(self.rounds):
            self.restore(vm)
            vm.await_running(limit=90)
            vm.kill("disk0")
            vm.kill("rng0")
            time.sleep(chance.uniform(0, 0.02))
            self.cut(vm)
            time.sleep(chance.uniform(0.5, 2))  # tries fail meanwhile
        # Surely away now: also the spare.
        for pid, name in vm.children().items():
            if name in ("virtio_blk", "virtio_rng"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.cut(vm)
        time.sleep(1.5)

    def heal(self, vm):
        self.restore(vm)


class FewDescriptors(Shortage):
    """RLIMIT_NOFILE is below what the vmm has open."""
    name = "few_descriptors"

    def prepare(self, vm):
        self.limit = None

    def cut(self, vm):
        self.limit.cut(8)

    def restore(self, vm):
        if self.limit is None:
            self.limit = host.DescriptorLimit(vm.pid)
        self.limit.close()

    def inject(self, vm):
        # vmctl's own connection needs a descriptor of the vmm: it is asked before.
        self.limit = host.DescriptorLimit(vm.pid)
        super().inject(vm)

    others_serve = False  # the vmm does not answer


class FewProcesses(Shortage):
    """The control group may have no further process or thread (as RLIMIT_NPROC for users other than
    root), or a few: then a process starts and cannot start its threads."""
    name = "few_processes"
    further = itertools.cycle((-8, 4, 8, 0))

    def prepare(self, vm):
        self.group = host.Cgroup("pids")
        self.stack.callback(self.group.close)
        self.joined = False

    def _join(self, vm):
        if not self.joined:
            for pid in [vm.pid, *vm.children()]:
                self.group.add(pid)
            self.joined = True

    def cut(self, vm):
        self._join(vm)
        self.group.limit_processes(max(self.group.count() + next(self.further), 1))

    def restore(self, vm):
        self._join(vm)
        self.group.limit_processes(None)


class RemovedBinaries(Fault):
    """The files of the devices' binaries are gone, as after the removal of a package."""
    name = "removed_binaries"

    def inject(self, vm):
        for name in os.listdir(vm.binaries):
            os.unlink(os.path.join(vm.binaries, name))
        for device in vm.devices():
            vm.kill(device)


class ReplacedBinaries(RemovedBinaries):
    """Other programs are in their places, as while a package is upgraded."""
    name = "replaced_binaries"

    def inject(self, vm):
        for name in os.listdir(vm.binaries):
            path = os.path.join(vm.binaries, name)
            with open(path + ".new", "wb") as stream, open("/bin/false", "rb") as source:
                stream.write(source.read())
            os.chmod(path + ".new", 0o755)
            os.rename(path + ".new", path)
        for device in vm.devices():
            vm.kill(device)


class Frozen(Fault):
    """A control group's freezer holds a process: it cannot even be killed."""

    def victim(self, vm):
        raise NotImplementedError

    def prepare(self, vm):
        self.group = host.Cgroup("freezer")
        self.stack.callback(self.group.close)
        self.stack.callback(self.group.freeze, False)

    def inject(self, vm):
        self.group.add(self.victim(vm))
        self.group.freeze(True)
        # Longer than a hang takes to be noticed (5 s).
        time.sleep(30 if self.long_form else 7)

    def heal(self, vm):
        self.group.freeze(False)


class FrozenBystander(Frozen):
    name = "frozen_bystander"
    bystanders = ("console", "net0", "vsock0", "balloon", "rig")

    def victim(self, vm):
        return vm.pid_of("rng0")


class FrozenDisk(Frozen):
    name = "frozen_disk"
    disk_serves = False

    def victim(self, vm):
        return vm.pid_of("disk0")


class FrozenSpare(Frozen):
    """... and the disk's process dies: a fresh one must serve instead."""
    name = "frozen_spare"

    def victim(self, vm):
        return vm.spare_of_disk()

    def inject(self, vm):
        self.group.add(self.victim(vm))
        self.group.freeze(True)
        vm.kill("disk0")


class FrozenVmm(Frozen):
    name = "frozen_vmm"
    disk_serves = others_serve = vmm_hears = False

    def victim(self, vm):
        return vm.pid


class StoppedVmm(Fault):
    """SIGSTOP, as from a debugger or a shell."""
    name = "stopped_vmm"
    disk_serves = others_serve = vmm_hears = False

    def inject(self, vm):
        vm.process.send_signal(signal.SIGSTOP)
        time.sleep(30 if self.long_form else 4)

    def heal(self, vm):
        vm.process.send_signal(signal.SIGCONT)


class StoppedDisk(Fault):
    """SIGSTOP to the process that serves: a hang, which is noticed."""
    name = "stopped_disk"

    def inject(self, vm):
        vm.kill("disk0", signal.SIGSTOP)


class FrozenConnector(Frozen):
    """... which makes the guest's vsock connections."""
    name = "frozen_vsock_connector"

    def victim(self, vm):
        return vm.helper("vmm-vsock")


class LostConnector(Fault):
    """The same process is killed, and is not replaced."""
    name = "lost_vsock_connector"

    def inject(self, vm):
        os.kill(vm.helper("vmm-vsock"), signal.SIGKILL)
        vm.kill("vsock0")


class FewBytesOfMemory(Fault):
    """The control group of the disk's process has no memory left."""
    name = "no_memory_for_the_disk"
    kills = math.inf  # the kernel's

    def prepare(self, vm):
        self.group = host.Cgroup("memory")
        self.stack.callback(self.group.close)
        if not host.is_in_memory(vm.folder):
            return
        files = host.DiskFileSystem(os.path.join(vm.folder, "image"),
                                    os.path.join(vm.folder, "ext4.img"), mib=64)
        self.stack.callback(files.close)
        vm.disk = shutil.copy(vm.disk, files.path)

    def inject(self, vm):
        # In this order: a limit below what is used already may be refused.
        self.group.limit_memory(64 * 1024)
        self.group.add(vm.pid_of("disk0"))
        # Pages of the image that it brings into the page cache are its own; those there are not.
        with open(vm.disk, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        vm.kill("rng0")

    def heal(self, vm):
        if self.group.memory_limit_hits() == 0:
            raise Failure("the limit was never met: nothing was shown")
        self.group.limit_memory(None)


FAULTS = [
    UnreadLog, UnreadConsole, FullLogDisk, FullImageDisk, FullRuntimeFolder, FewDescriptors,
    FewProcesses, RemovedBinaries, ReplacedBinaries, FrozenBystander, FrozenDisk, FrozenSpare, FrozenVmm,
    StoppedVmm, StoppedDisk, FrozenConnector, LostConnector, FewBytesOfMemory,
]
