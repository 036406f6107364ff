"""--ram and --hugepages: benchmarks of devices that use much guest RAM."""
import argparse
import re

from integration.bench.processes import BenchError

ROUNDS = 2  # in which the kinds of RAM take turns
_HUGEPAGES = ("none", "thp", "2M")
_RESERVE_MIB = 2048  # that a VM must leave to the host


def _sizes(text):
    for word in text.split(","):
        if not re.fullmatch(r"[1-9][0-9]*[MG]", word):
            raise argparse.ArgumentTypeError("%r is not a size such as 64M or 8G" % word)
    return text.split(",")


def _kinds(text):
    for word in text.split(","):
        if word not in _HUGEPAGES:
            raise argparse.ArgumentTypeError("%r: give %s" % (word, ", ".join(_HUGEPAGES)))
    return text.split(",")


def add_arguments(parser, help_text):
    parser.add_argument("--ram", type=_sizes, metavar="SIZE,...", help=help_text)
    parser.add_argument("--hugepages", type=_kinds, metavar="KIND,...",
                        help="of which pages that RAM is made, each of: none, thp, 2M (memory_backing; "
                             "default: none)")


def mib(size):
    return int(size[:-1]) * (1024 if size.endswith("G") else 1)


def _why_not(ram, hugepages):
    """Why this computer cannot have a VM with so much RAM; "": it can."""
    with open("/proc/meminfo", encoding="ascii") as stream:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in stream}
    if hugepages == "2M":
        free = kib.get("HugePages_Free", 0) * 2
        return "" if free >= mib(ram) else (
            "the host's pool has %d MiB free; /proc/sys/vm/nr_hugepages" % free)
    if hugepages == "thp":
        with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", encoding="ascii") as stream:
            if re.search(r"\[(never|deny)\]", stream.read()):
                return "/sys/kernel/mm/transparent_hugepage/shmem_enabled is never"
    free = kib["MemAvailable"] // 1024
    return "" if free >= mib(ram) + _RESERVE_MIB else (
        "the host has %d MiB free, %d of which it keeps" % (free, _RESERVE_MIB))


def cells(args):
    """{"8G, 4K pages": {"ram": "8G", "hugepages": "none"}, ...}: those that this computer can have.
    Prints which it cannot. Raises BenchError if there is none."""
    found = {}
    for ram in args.ram or ["64M"]:
        for hugepages in args.hugepages or ["none"]:
            title = "%s, %s pages" % (ram, {"none": "4K"}.get(hugepages, hugepages))
            why = _why_not(ram, hugepages)
            if why:
                print("left out: %s (%s)" % (title, why))
            else:
                found[title] = {"ram": ram, "hugepages": hugepages}
    if not found:
        raise BenchError("there is nothing to measure on")
    return found
