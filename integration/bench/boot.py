"""How long a Linux guest takes from the start of its VMM to its init, beside QEMU's.

The same kernel, initramfs and kernel command line on each machine, with a console, a disk and an
entropy source: our VMM, and QEMU as pc, q35 and microvm. Where this machine's KVM cannot run Linux,
all of it runs in the testbed, whose KVM is emulated: there seconds say little, ratios more.

From the start of the process, in milliseconds, until
  first instruction  the first vCPU enters the guest; QEMU's is the first exit of its guest, from
                     another start, which is traced
  first byte         on the serial console
  init               the guest's init has loaded its drivers, and says so
  end                the process has ended: the guest powers off as soon as that is said
and the power-off alone, from "init" to "end". "uptime" is what the guest thinks at "init": its clock
starts with the kernel, and before it has chosen a clock source it counts timer interrupts, of which
some are lost while it keeps them off. The time of the process is what counts.

Cells: "quiet": the kernel prints nothing; "printing": all of its messages go to the serial console.
Every round boots every machine once, by turns, after a round that is not counted; ratios are taken
within a round, and of all the median is shown.

Examples:
  tools/bench boot --quick
  tools/bench boot --only=quiet --rounds=10
  tools/bench boot --append=noreplace-smp    a kernel for one processor else rewrites its lock
                                             prefixes, which takes long where page tables are shadowed
On a computer that does other work too, run it as `nice -n -15 tools/bench boot`.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile

from integration.bench import host, table
from integration.bench.aims import conclude
from integration.bench.arguments import positive
from integration.bench.processes import BenchError

HELP = "boot of a Linux guest, from the start of the VMM to its init, beside QEMU's"

_LABELS = ["//vmm:vmm", "//devices/uart16550:uart16550", "//devices/virtio_blk:virtio_blk",
           "//devices/virtio_rng:virtio_rng", "//integration/testbed:testbed"]
_INITRAMFS = "//kernel_images:guest_initramfs"
_OURS = "vmm"
_MACHINES = {_OURS: "our VMM", "qemu-pc": "QEMU, machine pc", "qemu-q35": "QEMU, machine q35",
             "qemu-microvm": "QEMU, machine microvm with PCI"}
_CELLS = {"quiet": "quiet", "printing": ""}
_STEPS = ("first_instruction", "first_byte", "init", "end", "power_off", "guest_uptime")
_AIM = 0.5  # of the fastest peer's time to init


def _names(known):
    def parse(text):
        for word in text.split(","):
            if word not in known:
                raise argparse.ArgumentTypeError("%r: give %s" % (word, ", ".join(known)))
        return text.split(",")
    return parse


def add_arguments(parser):
    parser.add_argument("--quick", action="store_true", help="quiet kernels only, two rounds")
    parser.add_argument("--rounds", type=positive, metavar="N",
                        help="boots of each machine (default: 5)")
    parser.add_argument("--only", type=_names(_CELLS), metavar="CELL,...",
                        help="of: " + ",".join(_CELLS))
    parser.add_argument("--targets", type=_names(_MACHINES), default=[*_MACHINES], metavar="NAMES",
                        help="which machines, of: " + ",".join(_MACHINES))
    parser.add_argument("--kernel", choices=("vmlinux", "bzImage"), default="vmlinux")
    parser.add_argument("--memory", type=positive, default=256, metavar="MIB",
                        help="RAM of the guest (default: %(default)s)")
    parser.add_argument("--append", default="", metavar="TEXT",
                        help="further words for the kernel's command line")
    parser.add_argument("--limit", type=positive, default=60, metavar="S",
                        help="what is not up then is left out (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit with 3 if an aim is missed")


def _ours(files, args, cmdline):
    vmm, uart, blk, rng, _ = files
    return [vmm, "--verbose", "--control=none", "--console=stdio", "--no-reboot",
            "--device-dir=" + os.path.dirname(uart), "--kernel", args.kernel_path,
            "--initrd", args.initrd_path, "--cmdline", cmdline, "--memory=%dM" % args.memory,
            "--device=name=disk0,binary=%s,file:disk=%s" % (blk, args.disk),
            "--device=name=rng0,binary=" + rng]


def _qemu(machine, args, cmdline):
    if machine == "microvm":
        machine = "microvm,pcie=on,isa-serial=on,rtc=off,x-option-roms=on"
    return [host.find_program("qemu-system-x86_64", "qemu-system-x86"), "-accel", "kvm",
            "-cpu", "host", "-machine", machine, "-m", "%dM" % args.memory, "-nodefaults",
            "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", args.kernel_path,
            "-initrd", args.initrd_path, "-append", cmdline,
            "-drive", "file=%s,if=none,id=disk,format=raw" % args.disk,
            "-device", "virtio-blk-pci,drive=disk,disable-legacy=on",
            "-device", "virtio-rng-pci,disable-legacy=on"]


def _boots(files, args, cells):
    boots = []
    for cell in cells:
        cmdline = " ".join(["console=ttyS0 panic=-1", _CELLS[cell], args.append]).strip()
        for machine in args.targets:
            entry = {"machine": machine, "cell": cell}
            if machine == _OURS:
                entry["argv"] = _ours(files, args, cmdline)
            else:
                entry["argv"] = _qemu(machine.removeprefix("qemu-"), args, cmdline)
                entry["first_exit_argv"] = entry["argv"] + ["-trace", "kvm_run_exit"]
            boots.append(entry)
    return boots


def collect(lines, rounds, cells, on_line=lambda entry: None):
    """([{machine: {cell: figures}}], {machine: why it was left out}) of boot_run.py's lines."""
    found = [{} for _ in range(rounds)]
    left_out = {}
    for line in lines:
        if not line.startswith("{"):
            continue
        entry = json.loads(line)
        on_line(entry)
        if "error" in entry:
            left_out[entry["machine"]] = entry["error"]
        elif entry["round"] > 0:
            found[entry["round"] - 1].setdefault(entry["machine"], {})[entry["cell"]] = (
                entry["figures"])
    for each in found:
        for machine in left_out:
            each.pop(machine, None)
        if not each or any(set(each[machine]) != set(cells) for machine in each):
            raise BenchError("boots are missing; left out: %s" % (left_out or "none"))
    return found, left_out


def judge_aims(rounds):
    """To init in at most half of the time of the fastest peer."""
    aims = []
    for cell in rounds[0].get(_OURS, {}):
        ratios = [each[_OURS][cell]["init_ms"] / min(
            each[peer][cell]["init_ms"] for peer in each if peer != _OURS)
                  for each in rounds if len(each) > 1]
        if ratios:
            aims.append({"text": "%s: to init in %.2f times the time of the fastest peer, aim: at "
                                 "most %g" % (cell, statistics.median(ratios), _AIM),
                         "met": statistics.median(ratios) <= _AIM})
    return aims


def _report(rounds, cells):
    rows = []
    for cell in cells:
        for machine in rounds[0]:
            entries = [each[machine][cell] for each in rounds]
            init = [entry["init_ms"] for entry in entries]
            row = ["%s  %s" % (cell, machine)]
            row += ["%.0f" % statistics.median(entry[step + "_ms"] for entry in entries)
                    for step in _STEPS]
            row.insert(4, "%.0f-%.0f" % (min(init), max(init)))
            row.append("%.2f" % statistics.median(
                each[_OURS][cell]["init_ms"] / each[machine][cell]["init_ms"] for each in rounds)
                       if _OURS in rounds[0] else "-")
            rows.append(row)
    return table.render(["milliseconds, medians", "first instr.", "first byte", "init", "least-most",
                         "end", "power-off", "uptime", "vmm /"], rows)


def run(args):
    """Returns (exit code, figures for --json)."""
    rounds = args.rounds or (2 if args.quick else 5)
    cells = args.only or (["quiet"] if args.quick else [*_CELLS])
    files = host.build(_LABELS, others=["//kernel_images:guest_vmlinux", _INITRAMFS])
    args.kernel_path = os.path.join(host.bazel("info", "output_base"),
                                    "external/debian_guest_kernel", args.kernel)
    args.initrd_path = os.path.join(host.ROOT, "bazel-bin",
                                    _INITRAMFS[2:].replace(":", "/") + ".cpio")
    probe = subprocess.run([os.path.join(host.ROOT, "tools/testbed"), "--probe", "--quiet"],
                           capture_output=True, text=True, check=False)
    testbed = probe.stdout.split()[:1] != ["native"]
    facts = host.describe()
    host.warn_if_busy(facts)
    with tempfile.NamedTemporaryFile(prefix="bulkhead-bench-") as disk:
        disk.truncate(1 << 20)
        args.disk = disk.name
        boots = _boots(files, args, cells)
        command = ["python3", "-B", os.path.join(host.ROOT, "integration/bench/boot_run.py"),
                   json.dumps({"rounds": rounds, "limit_s": args.limit, "boots": boots})]
        if testbed:
            limit = (rounds + 1) * len(boots) * args.limit
            command = [files[4], "--timeout=%ds" % limit, "--", *command]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   text=True)
        try:
            found, left_out = collect(
                process.stdout, rounds, cells, lambda entry: table.progress(
                    "round %(round)d: %(machine)s, %(cell)s" % entry))
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    table.progress("")
    for machine, why in left_out.items():
        print("left out: %s: %s" % (machine, why.splitlines()[0]))
    host.print_facts(facts)
    print("%s%s, %d MiB" % (args.kernel, ", in the testbed" if testbed else "", args.memory))
    for machine in found[0]:
        print("  %-14s %s" % (machine, _MACHINES[machine]))
    print("\n" + "\n".join(_report(found, cells)) + "\n")
    return conclude(args, {"benchmark": "boot", "machine": facts, "testbed": testbed,
                           "kernel": args.kernel, "memory": args.memory, "append": args.append,
                           "left_out": left_out, "rounds": found}, judge_aims(found))
