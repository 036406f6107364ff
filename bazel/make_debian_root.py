#!/usr/bin/python3
"""Installs Debian packages into a disk image that a virtual machine boots from.

Run by the debian_root rule, as root. mmdebstrap installs them as debootstrap would, from a local
package repository, without network. Writes the image (ext4), and the kernel and initramfs that the
image has in its /boot.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile


def install(repository, packages, root):
    subprocess.run(
        [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", "--format=directory",
            "--include=" + ",".join(packages),
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",  # as debootstrap does
            # A third less to write: no test reads documentation.
            *("--dpkgopt=path-exclude=/usr/share/%s/*" % name for name in ("doc", "locale", "man")),
            "local", str(root), f"deb [trusted=yes] copy:{repository} ./",
        ],
        check=True,
    )  # fmt: skip


def add_files(files, root):
    for path, _, source in (argument.partition("=") for argument in files):
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o644)


def only(paths):
    found = list(paths)
    if len(found) != 1:
        sys.exit(f"make_debian_root: expected one kernel and one initramfs, found {found}")
    return found[0]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], fromfile_prefix_chars="@"
    )
    parser.add_argument("--packages", required=True, type=pathlib.Path, help="flat repository")
    parser.add_argument("--include", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("--file", action="append", default=[], metavar="PATH=SOURCE")
    parser.add_argument("--size", required=True, help="of the image, such as 512M")
    parser.add_argument("--image", required=True)
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--initrd", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="debian_root.") as scratch:
        root = pathlib.Path(scratch) / "root"
        # apt follows no links out of the execution root: a copy of its own.
        repository = pathlib.Path(scratch) / "packages"
        shutil.copytree(arguments.packages, repository)
        install(repository, arguments.include, root)
        add_files(arguments.file, root)
        shutil.copyfile(only(root.glob("boot/vmlinuz-*")), arguments.kernel)
        shutil.copyfile(only(root.glob("boot/initrd.img-*")), arguments.initrd)
        subprocess.run(
            ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, arguments.image, arguments.size],
            check=True,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )


if __name__ == "__main__":
    main()
