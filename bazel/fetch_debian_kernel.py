#!/usr/bin/python3
"""Fetches a Debian kernel package and lays out what a virtual machine needs of it.

Run by the debian_kernel repository rule. Nothing is installed: the package is
downloaded with `apt-get download` (apt checks its signed hash; it is checked here
once more), unpacked beside the caller, and reduced to

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

# Setup header of a bzImage (Linux: Documentation/x86/boot.rst).
SETUP_SECTS = 0x1F1
BOOT_FLAG = 0x1FE
HEADER_MAGIC = 0x202
PAYLOAD_OFFSET = 0x248
PAYLOAD_LENGTH = 0x24C

NETWORK_TIMEOUT_S = 600


class FetchError(Exception):
    """One line for the user."""


def run(*command, timeout=60):
    try:
        return subprocess.run(
            command, check=True, timeout=timeout, capture_output=True, text=True
        ).stdout
    except FileNotFoundError as error:
        raise FetchError(f"{command[0]}: not found; tools/setup installs it") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{' '.join(command)}: no end after {timeout} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip()).splitlines()[-1:]
        raise FetchError(f"{' '.join(command)}: {''.join(last) or error}") from error


def package_fields(package):
    """The fields of the version that apt would install."""
    fields = {}
    for line in run("apt-cache", "show", "--no-all-versions", package).splitlines():
        if line[:1].isspace() or ": " not in line:
            continue
        name, value = line.split(": ", 1)
        fields.setdefault(name, value)
    if "SHA256" not in fields:
        raise FetchError(f"apt knows no package {package}")
    return fields


def resolve(meta_package):
    """The versioned package that a meta package such as linux-image-amd64 stands for."""
    depends = package_fields(meta_package).get("Depends", "")
    for dependency in depends.split(","):
        name = dependency.split()[0] if dependency.split() else ""
        if name.startswith("linux-image-"):
            return package_fields(name)
    raise FetchError(f"{meta_package} depends on no linux-image package: {depends!r}")


def download(meta_package):
    package = resolve(meta_package)
    name, version = package["Package"], package["Version"]
    print(f"{meta_package}: downloading {name} {version}", file=sys.stderr, flush=True)
    # Root downloads into a folder that the user _apt need not be able to write.
    run(
        "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", f"{name}={version}",
        timeout=NETWORK_TIMEOUT_S,
    )
    debs = list(pathlib.Path(".").glob(f"{name}_*.deb"))
    if len(debs) != 1:
        raise FetchError(f"apt-get download {name} left {len(debs)} files")
    digest = hashlib.sha256(debs[0].read_bytes()).hexdigest()
    if digest != package["SHA256"]:
        raise FetchError(f"{debs[0]}: SHA256 is {digest}, apt lists {package['SHA256']}")
    return debs[0]


def download_updating_once(meta_package):
    """Stale or missing package lists are refreshed once."""
    try:
        return download(meta_package)
    except FetchError as error:
        print(f"{error}; apt-get update", file=sys.stderr, flush=True)
    run("apt-get", "-qq", "update", timeout=NETWORK_TIMEOUT_S)
    return download(meta_package)


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
    if payload.startswith(b"\xfd7zXZ\0"):
        vmlinux = lzma.LZMADecompressor().decompress(payload)
    elif payload.startswith(b"\x02\x21\x4c\x18"):
        # The legacy LZ4 stream has no end mark, and the kernel's build appends the
        # uncompressed size, which lz4 would take for another block.
        try:
            vmlinux = subprocess.run(
                ["lz4", "-dc"], input=payload[:-4], check=True, capture_output=True, timeout=60
            ).stdout
        except (OSError, subprocess.SubprocessError) as error:
            raise FetchError(f"lz4 -dc of the kernel: {error}") from error
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


def lay_out(deb, loaded, available):
    unpacked = pathlib.Path("unpacked")
    run("dpkg-deb", "-x", str(deb), str(unpacked), timeout=300)
    images = list(unpacked.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise FetchError(f"{deb} has {len(images)} kernels")
    release = images[0].name[len("vmlinuz-") :]
    modules = unpacked / "lib/modules" / release
    run("depmod", "-b", str(unpacked), release, timeout=300)
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
    shutil.move(images[0], "bzImage")
    pathlib.Path("vmlinux").write_bytes(extract_vmlinux(pathlib.Path("bzImage").read_bytes()))
    shutil.rmtree(unpacked)
    deb.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--package", required=True, help="meta package, such as linux-image-amd64")
    parser.add_argument(
        "--module", action="append", default=[], help="to load at once; may be given repeatedly"
    )
    parser.add_argument(
        "--available", action="append", default=[], help="as --module, but left out of modules.load"
    )
    arguments = parser.parse_args()
    try:
        lay_out(download_updating_once(arguments.package), arguments.module, arguments.available)
    except FetchError as error:
        sys.exit(f"cannot fetch {arguments.package}: {error}")


if __name__ == "__main__":
    main()
