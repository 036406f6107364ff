"""Machines with one network device each over the same kind of TAP, on which the same guest program
measures frames."""
import ctypes
import os
import subprocess
import tempfile

from integration.bench import host
from integration.bench.mmio_targets import (GUEST, QEMU_PASSED, UART, VMM, VMM_POWERED_OFF, QemuTarget,
                                            Target)
from integration.bench.processes import Background, BenchError, run

NET = "//devices/virtio_net:virtio_net"
PEER = "//integration/bench:net_peer"
TAP = "bench0"
VHOST = "/dev/vhost-net"

_CLONE_NEWNET = 0x40000000


class Network:
    """A context in which this thread, and all that it starts, is in a network namespace of its own, where
    nothing is but the TAP."""

    def __enter__(self):
        self._outside = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._libc = ctypes.CDLL(None, use_errno=True)
        if self._libc.unshare(_CLONE_NEWNET) != 0:
            os.close(self._outside)
            raise BenchError("no network namespace can be made: %s: run this as root" %
                             os.strerror(ctypes.get_errno()))
        try:
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    @staticmethod
    def _set_up():
        ip = host.find_program("ip", "iproute2")
        if os.path.exists("/proc/sys/net/ipv6"):
            with open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w", encoding="ascii") as file:
                file.write("1")
            with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w",
                      encoding="ascii") as file:
                file.write("1")
        for words in (["tuntap", "add", TAP, "mode", "tap"],
                      ["link", "set", TAP, "txqueuelen", "1000", "up"]):
            result = subprocess.run([ip, *words], capture_output=True, text=True, timeout=30,
                                    check=False)
            if result.returncode != 0:
                raise BenchError("ip %s: %s" % (" ".join(words), result.stderr.strip()))

    def __exit__(self, *unused):
        self._libc.setns(self._outside, _CLONE_NEWNET)
        os.close(self._outside)


class _NetTarget(Target):
    """run() wants a Network around it."""

    def run(self, cmdline, timeout_s):
        with Background([self._files[PEER], TAP]):
            return self._run(cmdline, timeout_s)


class Vmm(_NetTarget):
    name = "vmm"
    description = "our VMM, the network device in a process of its own"
    labels = (VMM, UART, NET, PEER)

    def _run(self, cmdline, timeout_s):
        with tempfile.NamedTemporaryFile("w", suffix=".textproto") as config:
            config.write('devices { name: "net" binary: "%s"\n'
                         '  resources { name: "tap" tap { name: "%s" } } }\n' % (
                             self._files[NET], TAP))
            config.flush()
            argv = [
                self._files[VMM], "--config=" + config.name, "--kernel=" + self._guest,
                "--cmdline=" + cmdline, "--memory=64M", "--no-reboot", "--control=none",
                "--console=stdio", "--device-dir=" + os.path.dirname(self._files[UART]),
            ]
            return self._finish(argv, run(argv, timeout_s), VMM_POWERED_OFF)


class QemuInProcess(_NetTarget, QemuTarget):
    name = "qemu-in-process"
    description = "QEMU, virtio-net inside its process"
    labels = (PEER,)
    vhost = "off"

    def _run(self, cmdline, timeout_s):
        argv = self._command([
            "-machine", "q35", "-m", "256M",
            "-netdev", "tap,id=net,ifname=%s,script=no,downscript=no,vhost=%s" % (TAP, self.vhost),
            "-device", "virtio-net-pci,netdev=net,disable-legacy=on"], cmdline)
        return self._finish(argv, run(argv, timeout_s), QEMU_PASSED)


class QemuVhost(QemuInProcess):
    name = "qemu-vhost"
    description = "QEMU, virtio-net in the host's kernel (vhost=on)"
    vhost = "on"


ALL = (Vmm, QemuInProcess, QemuVhost)


def default():
    return ALL if os.access(VHOST, os.R_OK | os.W_OK) else ALL[:2]
