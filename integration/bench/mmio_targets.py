"""Machines with one PCI device each, on which the same guest program measures accesses.

A target has a `name`, a `description`, `guest_options` with which the guest program finds the
device's registers are, and run(), which boots it once and returns what the guest printed.
"""
import os
import socket

from integration.bench import host
from integration.bench.processes import Background, BenchError, run

GUEST = "//kernel_images/baremetal:guest.elf"
VMM = "//vmm:vmm"
UART = "//devices/uart16550:uart16550"
RIG = "//devices/rig:rig"
IN_VMM = "//integration/bench:vmm_with_device_inside"

_RIG_REGISTERS = "vendor=0x1209 device=0xb001 bar=0 read=0x00 write=0x80"
QEMU_PASSED = 33  # isa-debug-exit
VMM_POWERED_OFF = 0


class Target:
    labels = ()  # what must be built for it, beside the guest

    def __init__(self, files):
        """`files`: label -> path of what was built."""
        self._files = files
        self._guest = files[GUEST]

    def _finish(self, argv, result, passed):
        code, output, errors = result
        if code != passed or "BULKHEAD-PASS" not in output:
            raise BenchError("%s: %s ended with code %d:\n%s" % (
                self.name, os.path.basename(argv[0]), code, (output + errors).strip()))
        return output


def build_machines(targets):
    """A machine of each target, of these or another module's, with all that it needs built."""
    labels = sorted({GUEST}.union(*(target.labels for target in targets)))
    files = dict(zip(labels, host.build(labels)))
    return [target(files) for target in targets]


class QemuTarget(Target):
    def _command(self, arguments, cmdline):
        return [
            host.find_program("qemu-system-x86_64", "qemu-system-x86"),
            # Some KVMs cannot set the MSR behind arch-capabilities.
            "-accel", "kvm", "-cpu", "host,-arch-capabilities",
            "-bios", "qboot.rom",  # SeaBIOS takes seconds where kernel mode is interpreted
            "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
            "-kernel", self._guest, "-append", cmdline, *arguments,
        ]


class QemuEdu(QemuTarget):
    name = "qemu-in-process"
    description = "QEMU, device `edu` inside its process"
    guest_options = "vendor=0x1234 device=0x11e8 bar=0 read=0x00 write=0x04"

    def run(self, cmdline, timeout_s):
        argv = self._command(["-machine", "q35", "-m", "256M", "-device", "edu"], cmdline)
        return self._finish(argv, run(argv, timeout_s), QEMU_PASSED)


class QemuMultiProcess(QemuTarget):
    name = "qemu-multi-process"
    description = "QEMU, device `lsi53c895a` in a process of its own (x-remote)"
    # DSA, a plain data register.
    guest_options = "vendor=0x1000 device=0x0012 bar=1 read=0x10 write=0x10"

    def run(self, cmdline, timeout_s):
        near, far = socket.socketpair()
        with near, far:
            remote = [
                host.find_program("qemu-system-x86_64", "qemu-system-x86"),
                "-machine", "x-remote,vfio-user=off", "-nodefaults", "-display", "none",
                "-monitor", "none", "-device", "lsi53c895a,id=lsi0",
                "-object", "x-remote-object,id=remote0,devid=lsi0,fd=%d" % far.fileno(),
            ]
            argv = self._command([
                "-object", "memory-backend-memfd,id=ram,size=256M,share=on",
                "-machine", "q35,memory-backend=ram", "-m", "256M",
                "-device", "x-pci-proxy-dev,id=lsi0,fd=%d" % near.fileno(),
            ], cmdline)
            with Background(remote, [far.fileno()]):
                far.close()
                return self._finish(argv, run(argv, timeout_s, [near.fileno()]), QEMU_PASSED)


class InVmm(Target):
    name = "in-vmm"
    description = "our VMM with the register inside it: the floor, for this benchmark only"
    labels = (IN_VMM,)
    guest_options = _RIG_REGISTERS

    def run(self, cmdline, timeout_s):
        argv = [self._files[IN_VMM], "--kernel=" + self._guest, "--cmdline=" + cmdline]
        return self._finish(argv, run(argv, timeout_s), VMM_POWERED_OFF)


class Vmm(Target):
    name = "vmm"
    description = "our VMM, rig in a process of its own"
    labels = (VMM, UART, RIG)
    guest_options = _RIG_REGISTERS

    def run(self, cmdline, timeout_s):
        argv = [
            self._files[VMM], "--kernel=" + self._guest, "--cmdline=" + cmdline, "--memory=64M",
            "--no-reboot",  # how a program that failed ends
            "--control=none",
            # The console's binary is found there by its name.
            "--device-dir=" + os.path.dirname(self._files[UART]),
            "--device=name=rig,binary=" + self._files[RIG],
        ]
        return self._finish(argv, run(argv, timeout_s), VMM_POWERED_OFF)


# In the order of the table.
ALL = (InVmm, Vmm, QemuEdu, QemuMultiProcess)
