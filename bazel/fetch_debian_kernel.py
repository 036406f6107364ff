#!/usr/bin/python3
"""Fetches a Debian kernel package and lays out what a virtual machine needs of it.

Run by the debian_kernel repository rule. Nothing is installed: the package is
downloaded with apt (which checks its signed hash; it is checked here once more),
unpacked beside the caller, and reduced to

  bzImage                   the kernel as Debian ships it
  vmlinux                   the ELF file inside it (has the PVH entry note)
  release                   `uname -r` of this kernel
  lib/modules/RELEASE/      the asked-for modules and all that they depend on, with
                            the indexes that modprobe reads
  modules.load              the paths below lib/modules/RELEASE/ of those to load at once,
                            dependencies first
"""

import argparse
import hashlib
import lzma
import pathlib
import shutil
import struct
import subprocess
import sys

from debian_apt import Apt, FetchError, run

# Setup header of a bzImage (Linux: Documentation/x86/boot.rst).
SETUP_SECTS = 0x1F1
BOOT_FLAG = 0x1FE
HEADER_MAGIC = 0x202
PAYLOAD_OFFSET = 0x248
PAYLOAD_LENGTH = 0x24C

PACKAGE_PREFIXES = ("linux-image-", "linux-base-", "linux-binary-", "linux-modules-")


def packages_of(apt, meta_package):
    """What a meta package such as linux-image-amd64 stands for: the versioned kernel, which newer
    suites split into several packages."""
    found = {}

    def visit(name):
        for dependency in apt.fields(name).get("Depends", "").split(","):
            words = dependency.split()
            if words and words[0] not in found and words[0].startswith(PACKAGE_PREFIXES):
                found[words[0]] = apt.fields(words[0])
                visit(words[0])

    visit(meta_package)
    versioned = [fields for name, fields in found.items() if name.split("-")[2][:1].isdigit()]
    if not versioned:
        raise FetchError(f"{meta_package} depends on no versioned linux-image package")
    return versioned


def download(apt, meta_package):
    debs = []
    for package in packages_of(apt, meta_package):
        name, version = package["Package"], package["Version"]
        print(f"{meta_package}: downloading {name} {version}", file=sys.stderr, flush=True)
        apt.get("download", f"{name}={version}")
        files = list(pathlib.Path(".").glob(f"{name}_*.deb"))
        if len(files) != 1:
            raise FetchError(f"apt-get download {name} left {len(files)} files")
        digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
        if digest != package["SHA256"]:
            raise FetchError(f"{files[0]}: SHA256 is {digest}, apt lists {package['SHA256']}")
        debs.append(files[0])
    return debs


def filter_through(program, data):
    try:
        return subprocess.run(
            [program, "-dc"], input=data, check=True, capture_output=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise FetchError(f"{program} -dc of the kernel: {error}") from error


def extract_vmlinux(bzimage):
    """The ELF kernel inside a bzImage."""
    if (
        len(bzimage) < 0x250
        or struct.unpack_from("<H", bzimage, BOOT_FLAG)[0] != 0xAA55
        or bzimage[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS"
    ):
        raise FetchError("the kernel image is no bzImage")
    (offset,) = struct.unpack_from("<I", bzimage, PAYLOAD_OFFSET)
    (length,) = struct.unpack_from("<I", bzimage, PAYLOAD_LENGTH)
    start = ((bzimage[SETUP_SECTS] or 4) + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if len(payload) != length:
        raise FetchError("the kernel image is shorter than its header says")
    # The kernel's build appends the uncompressed size, which is no part of the stream.
    if payload.startswith(b"\xfd7zXZ\0"):
        vmlinux = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x02\x21\x4c\x18"):
        vmlinux = filter_through("lz4", payload[:-4])
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        vmlinux = filter_through("zstd", payload[:-4])
    else:
        raise FetchError(f"kernel compressed in an unknown way: {payload[:4].hex()}")
    (size,) = struct.unpack("<I", payload[-4:])
    if not vmlinux.startswith(b"\x7fELF") or len(vmlinux) != size:
        raise FetchError(f"the kernel's payload is no ELF file of {size} bytes")
    return vmlinux


def load_order(modules, wanted):
    """Paths of the wanted modules and their dependencies, dependencies first.

    modules: folder with modules.dep, whose lines are "path: dependency dependency".
    """
    dependencies = {}
    path_of = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        dependencies[path] = needs.split()
        path_of[pathlib.PurePath(path).stem.replace("-", "_")] = path
    builtin = {
        pathlib.PurePath(line).stem.replace("-", "_")
        for line in (modules / "modules.builtin").read_text().splitlines()
    }
    order = []

    def add(path):
        if path not in order:
            for need in dependencies[path]:
                add(need)
            order.append(path)

    for name in wanted:
        canonical = name.replace("-", "_")
        if canonical in path_of:
            add(path_of[canonical])
        elif canonical not in builtin:
            raise FetchError(f"this kernel has no module {name}")
    return order


def unpack(debs):
    """Returns the kernel's image and the folder of its modules, which are not compressed."""
    unpacked = pathlib.Path("unpacked")
    for deb in debs:
        run("dpkg-deb", "-x", str(deb), str(unpacked), timeout=300)
        deb.unlink()
    if not (unpacked / "lib").exists():  # newer packages know /usr/lib only
        (unpacked / "lib").symlink_to("usr/lib")
    # The newest have the image beside its modules.
    images = [*unpacked.glob("boot/vmlinuz-*"), *unpacked.glob("lib/modules/*/vmlinuz")]
    folders = list(unpacked.glob("lib/modules/*"))
    if len(images) != 1 or len(folders) != 1:
        raise FetchError(f"{debs} have {len(images)} kernels and modules for {len(folders)}")
    modules = folders[0]
    for module in modules.rglob("*.ko.xz"):
        module.with_suffix("").write_bytes(lzma.decompress(module.read_bytes()))
        module.unlink()
    run("depmod", "-b", str(unpacked), modules.name, timeout=300)
    return images[0], modules


def lay_out(debs, loaded, available):
    image, modules = unpack(debs)
    release = modules.name
    order = load_order(modules, loaded)

    kept = pathlib.Path("lib/modules") / release
    for path in load_order(modules, loaded + available):
        (kept / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(modules / path, kept / path)
    for index in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.move(modules / index, kept / index)
    run("depmod", "-b", ".", release)
    pathlib.Path("modules.load").write_text("".join(path + "\n" for path in order))
    pathlib.Path("release").write_text(release + "\n")
    shutil.move(image, "bzImage")
    pathlib.Path("vmlinux").write_bytes(extract_vmlinux(pathlib.Path("bzImage").read_bytes()))
    shutil.rmtree("unpacked")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", required=True, help="meta package, such as linux-image-amd64")
    parser.add_argument(
        "--module", action="append", default=[], help="to load at once; may be given repeatedly"
    )
    parser.add_argument(
        "--available", action="append", default=[], help="as --module, but left out of modules.load"
    )
    parser.add_argument("--suite", default="", help="of Debian; default: the host's sources")
    arguments = parser.parse_args()
    try:
        apt = Apt(arguments.suite)
        debs = apt.updating_once(lambda: download(apt, arguments.package))
        lay_out(debs, arguments.module, arguments.available)
    except FetchError as error:
        sys.exit(f"cannot fetch {arguments.package}: {error}")


if __name__ == "__main__":
    main()
