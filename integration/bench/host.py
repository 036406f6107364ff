"""The machine that figures were taken on, and what is built on it."""
import fcntl
import os
import platform
import shutil
import subprocess

from integration.bench.processes import BenchError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_KVM_CREATE_VM = 0xAE01
_KVM_CREATE_VCPU = 0xAE41
_KVM_GET_TSC_KHZ = 0xAEA3


def require_kvm():
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise BenchError("/dev/kvm cannot be opened: figures need KVM (tools/testbed has one, in "
                         "software emulation: good for a trial, not for figures)")


def guest_tsc_khz():
    """The rate of a guest's timestamp counter, in which the guest programs count."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    fds = [kvm]
    try:
        fds.append(fcntl.ioctl(kvm, _KVM_CREATE_VM, 0))
        fds.append(fcntl.ioctl(fds[-1], _KVM_CREATE_VCPU, 0))
        return fcntl.ioctl(fds[-1], _KVM_GET_TSC_KHZ, 0)
    except OSError as error:
        raise BenchError("KVM does not report the rate of its time-stamp counter: %s" %
                         error.strerror) from error
    finally:
        for fd in reversed(fds):
            os.close(fd)


def describe():
    """What a reader of the figures needs to know about the machine."""
    model = ""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    revision = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"],
                              capture_output=True, text=True, timeout=30, check=False)
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "revision": revision.stdout.strip(),
        "load_average": os.getloadavg()[0],
    }


def print_facts(facts, machines=()):
    """Begins a report: where it was measured, and what."""
    print("\n%(cpu)s, %(cpus)d CPUs, Linux %(kernel)s, load average %(load_average).1f, "
          "revision %(revision)s" % facts)
    for machine in machines:
        print("  %-20s %s" % (machine.name, machine.description))


def warn_if_busy(facts):
    if facts["load_average"] > 1:
        print("this computer is busy (load average %.1f): times are too long"
              % facts["load_average"])


def bazel(*arguments):
    """Runs it and returns what it prints."""
    command = ["bazel", *arguments]
    if shutil.which("bazel") is None:
        raise BenchError("bazel is not installed: run tools/setup bench")
    result = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, timeout=1800, check=False)
    if result.returncode != 0:
        raise BenchError("%s failed:\n%s" % (" ".join(command), result.stderr))
    return result.stdout.strip()


def build(labels, flags=(), others=()):
    """Builds Bazel targets and returns the files of `labels`, in the same order."""
    bazel("build", "--show_result=0", "--noshow_progress", *flags, *labels, *others)
    files = [os.path.join(ROOT, "bazel-bin", label[2:].replace(":", "/")) for label in labels]
    for file in files:
        if not os.path.exists(file):
            raise BenchError("%s was not built where it was expected" % file)
    return files


def find_program(name, package):
    """The path of a program of a Debian package."""
    path = shutil.which(name)
    if path is None:
        raise BenchError("%s is not installed (package %s): run tools/setup bench" %
                         (name, package))
    return path
