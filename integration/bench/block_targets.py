"""Machines with one virtio disk each, on which the same guest program measures requests."""
import collections
import os
import shutil
import tempfile
import time

from integration.bench import host
from integration.bench.mmio_targets import (GUEST, QEMU_PASSED, UART, VMM, VMM_POWERED_OFF,
                                            QemuTarget, Target)
from integration.bench.processes import Background, BenchError, run

DISK = "//devices/virtio_blk:virtio_blk"
NULL_DISK = "//devices/virtio_blk/testing:null_disk"
_LIMIT_S = 10

# The file behind the disk. direct: past the page cache. aio: how QEMU does I/O on it. queues: each
# with a virtual CPU of its own. pages: of guest RAM, of PAGES. null: the file gives the size only,
# and there is no I/O.
Disk = collections.namedtuple("Disk", "path direct aio queues pages null",
                              defaults=("default", False))
PAGES = ("default", "4K", "2M")
_QEMU_RAM = "256M"


def _shared_ram(pages):
    """QEMU's arguments for memory that another process can map."""
    huge = ",hugetlb=on,hugetlbsize=2M" if pages == "2M" else ""
    return ["-object", "memory-backend-memfd,id=ram,size=%s,share=on%s" % (_QEMU_RAM, huge),
            "-machine", "q35,memory-backend=ram", "-m", _QEMU_RAM]


def _null_node(disk):
    """QEMU's node that does no I/O."""
    return "driver=null-co,node-name=disk,size=%d,read-zeroes=off" % os.path.getsize(disk.path)


def _on_off(flag):
    return "on" if flag else "off"


class Vmm(Target):
    name = "vmm"
    description = "our VMM, the disk in a process of its own"
    labels = (VMM, UART, DISK, NULL_DISK)
    arguments = ()  # of the disk's process, unless it is the null disk's

    def binary(self, disk):
        return self._files[NULL_DISK if disk.null else DISK]

    def run(self, cmdline, disk, timeout_s):
        with tempfile.NamedTemporaryFile("w", suffix=".textproto") as config:
            arguments = " ".join('arg: "%s"' % argument for argument in
                                 ("--queues=%d" % disk.queues,
                                  *(() if disk.null else self.arguments)))
            config.write('devices { name: "disk" binary: "%s" %s\n  resources { '
                         'name: "disk" file { path: "%s" direct: %s } } }\n' % (
                             self.binary(disk), arguments, disk.path, str(disk.direct).lower()))
            if disk.pages != "default":
                config.write('memory_backing { hugepages: "%s" }\n' % (
                    "none" if disk.pages == "4K" else disk.pages))
            config.flush()
            argv = [
                self._files[VMM], "--config=" + config.name, "--kernel=" + self._guest,
                "--cmdline=" + cmdline, "--memory=64M", "--cpus=%d" % disk.queues, "--no-reboot",
                "--control=none", "--console=stdio", "--device-dir=" + os.path.dirname(self._files[UART]),
            ]
            return self._finish(argv, run(argv, timeout_s), VMM_POWERED_OFF)


class VmmIoUring(Vmm):
    name = "vmm-io_uring"
    description = "the same with --io_engine=io_uring: no threads that write"
    arguments = ("--io_engine=io_uring",)


class VmmThreads(Vmm):
    name = "vmm-threads"
    description = "the same with --io_engine=threads: no io_uring"
    arguments = ("--io_engine=threads",)


class VmmWithoutLog(Vmm):
    name = "vmm-no-record"
    description = "the same without the record of requests in flight: for this benchmark only"

    def __init__(self, files):
        super().__init__(files)
        self._folder = tempfile.TemporaryDirectory(prefix="bulkhead-bench-")
        labels = [DISK, NULL_DISK]
        built = host.build(labels, ["--define=in_flight_log=none"])
        self._files = {**files, **{label: shutil.copy(file, self._folder.name)
                                   for label, file in zip(labels, built)}}
        host.build(labels)  # what lies there is what it is otherwise


class QemuInProcess(QemuTarget):
    name = "qemu-in-process"
    description = "QEMU, virtio-blk inside its process, an I/O thread of its own"

    def run(self, cmdline, disk, timeout_s):
        # Its lock stays for a moment after its end, and would keep the next one out.
        backend = ["-drive", "file=%s,file.locking=off,if=none,id=disk,format=raw,cache=%s,aio=%s" % (
            disk.path, "none" if disk.direct else "writeback", disk.aio)]
        argv = self._command([
            *(["-machine", "q35", "-m", _QEMU_RAM] if disk.pages == "default" else
              _shared_ram(disk.pages)),
            "-smp", str(disk.queues), "-object", "iothread,id=io",
            *(["-blockdev", _null_node(disk)] if disk.null else backend),
            "-device", "virtio-blk-pci,drive=disk,iothread=io,disable-legacy=on,num-queues=%d" %
                       disk.queues], cmdline)
        return self._finish(argv, run(argv, timeout_s), QEMU_PASSED)


class QemuVhostUser(QemuTarget):
    name = "qemu-vhost-user"
    description = "QEMU, vhost-user-blk, served by qemu-storage-daemon"

    def run(self, cmdline, disk, timeout_s):
        with tempfile.TemporaryDirectory(prefix="bulkhead-bench-") as folder:
            path = os.path.join(folder, "vhost.sock")
            backend = [
                "--blockdev", "driver=file,node-name=file,filename=%s,aio=%s,locking=off,"
                              "cache.direct=%s" % (disk.path, disk.aio, _on_off(disk.direct)),
                "--blockdev", "driver=raw,node-name=disk,file=file,cache.direct=%s" %
                              _on_off(disk.direct)]
            daemon = [
                host.find_program("qemu-storage-daemon", "qemu-system-common"),
                *(["--blockdev", _null_node(disk)] if disk.null else backend),
                "--export", "type=vhost-user-blk,id=export,node-name=disk,writable=on,"
                            "num-queues=%d,addr.type=unix,addr.path=%s" % (disk.queues, path),
            ]
            argv = self._command([
                *_shared_ram(disk.pages), "-smp", str(disk.queues),
                "-chardev", "socket,id=disk,path=" + path,
                "-device", "vhost-user-blk-pci,chardev=disk,disable-legacy=on,num-queues=%d" %
                           disk.queues], cmdline)
            with Background(daemon):
                deadline = time.monotonic() + _LIMIT_S
                while not os.path.exists(path):
                    if time.monotonic() > deadline:
                        raise BenchError("qemu-storage-daemon did not come up")
                    time.sleep(0.02)
                return self._finish(argv, run(argv, timeout_s), QEMU_PASSED)


ALL = (Vmm, QemuInProcess, QemuVhostUser, VmmIoUring, VmmThreads, VmmWithoutLog)
DEFAULT = ALL[:3]
