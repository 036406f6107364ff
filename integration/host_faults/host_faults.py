#!/usr/bin/env python3
"""Injects one fault of the host after another into a VM under load, and checks the promises.

Each fault gets two VMs. The first one lives through it: during the fault the other devices serve;
afterwards all devices serve, the guest has seen no wrong byte and no error, and its disk holds what
the guest wrote. The second gets SIGTERM during the fault, and ends in bounded time. Neither leaves a process, a socket, a mount or a control group behind.
"""
import argparse
import math
import os
import shutil
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from integration.host_faults import block_faults, faults, host  # noqa: E402
from integration.host_faults.vm import END_S, Failure, Tools, Vm  # noqa: E402

_DEFAULT_MAX_CRASHES = 5  # within a minute, and the device is given up


def _mounts():
    with open("/proc/self/mountinfo", encoding="utf-8") as stream:
        return {line.split()[4] for line in stream}


def _with_vm(tools, fault, body):
    """Runs `body` with a VM under load for this fault, and cleans up in any case."""
    folder = tempfile.mkdtemp(prefix="hf")
    vm = None
    try:
        vm = Vm(tools, folder)
        if fault.kills >= _DEFAULT_MAX_CRASHES:
            vm.restart = "restart { max_crashes: %d }" % (
                -1 if math.isinf(fault.kills) else fault.kills + 1)
        fault.prepare(vm)
        vm.start()
        body(vm)
    finally:
        try:
            # In this order: the fault may be what keeps a process from dying.
            if vm is not None:
                vm.kill_vmm()
            fault.close()
            if vm is not None:
                vm.destroy()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _live_through(fault, vm):
    fault.inject(vm)
    if fault.disk_serves:
        vm.await_progress()
    if fault.others_serve:
        vm.await_running(*fault.bystanders)
    fault.heal(vm)
    vm.await_progress()
    vm.await_running()
    errors = vm.finish()
    if (errors > 0) != fault.disk_fails:
        raise Failure("the guest saw %d errors" % errors)
    vm.check_nothing_left()


def _end_meanwhile(fault, vm):
    fault.inject(vm)
    vm.terminate()
    if fault.vmm_hears:
        vm.await_end({6}, END_S)
    fault.heal(vm)
    if not fault.vmm_hears:
        vm.await_end({6}, END_S)
    vm.check_nothing_left()


def run_fault(tools, kind, long_form):
    """None, or what was wrong."""
    before = _mounts()
    for what, body in (("lives through it", _live_through), ("ends meanwhile", _end_meanwhile)):
        fault = kind(long_form)
        began = time.monotonic()
        try:
            _with_vm(tools, fault, lambda vm, f=fault, b=body: b(f, vm))
        except Failure as failure:
            return "%s: %s" % (what, failure)
        except Exception:  # a fault of the test itself: it goes on with the next one
            return "%s: %s" % (what, traceback.format_exc())
        print("   %-24s %-18s %5.1f s" % (kind.name, what, time.monotonic() - began), flush=True)
    left = _mounts() - before
    return "left mounted: %s" % sorted(left) if left else None


def _data(path):
    """A built program: among a test's data, or in bazel-bin."""
    runfiles = os.environ.get("TEST_SRCDIR")
    root = os.path.join(runfiles, "bulkhead") if runfiles else os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", "..", "bazel-bin")
    return os.path.realpath(os.path.join(root, path))


def main():
    kinds = {kind.name: kind for kind in faults.FAULTS + block_faults.FAULTS}
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=sorted(kinds), default=[],
                        help="this fault; may be given several times")
    parser.add_argument("--except", action="append", choices=sorted(kinds), default=[],
                        dest="left_out", help="all but this fault; likewise")
    parser.add_argument("--where", choices=["here", "testbed"], default="here",
                        help="testbed: also faults that change what is the whole machine's, and "
                        "only these; run it under tools/testbed (default: here)")
    parser.add_argument("--long", action="store_true", help="outages of 30 s, more repetitions")
    parser.add_argument("--list", action="store_true", help="the faults, and end")
    arguments = parser.parse_args()
    if arguments.list:
        for kind in kinds.values():
            print("%-24s %-8s %s" % (kind.name, kind.needs, (kind.__doc__ or "").split("\n")[0]))
        return 0
    wanted = [kinds[name] for name in arguments.only] or [
        kind for kind in kinds.values() if (kind.needs == "testbed") == (arguments.where == "testbed")
        and kind.name not in arguments.left_out]
    tools = Tools(_data("vmm/vmm"), _data("tools/vmctl/vmctl"),
                  _data("kernel_images/baremetal/guest.elf"),
                  [_data("devices/%s/%s" % (name, name))
                   for name in ("uart16550", "virtio_balloon", "virtio_blk", "virtio_net", "virtio_rng",
                                "virtio_vsock", "rig")])
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # losetup, dmsetup, modprobe
    host.enter_namespace()
    problems = []
    for kind in wanted:
        problem = run_fault(tools, kind, arguments.long)
        if problem is not None:
            problems.append(kind.name)
            print("FAILED %s: %s" % (kind.name, problem), flush=True)
    print("%d faults, %d failed%s" % (len(wanted), len(problems),
                                      ": " + ", ".join(problems) if problems else ""))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
