#!/usr/bin/python3
"""Writes a cpio archive (newc) that Linux takes as initramfs, or as one more part of it.

The same inputs give the same bytes. No device nodes: the kernel's own built-in archive
has /dev/console, and an init mounts devtmpfs over it.
"""

import argparse
import os
import pathlib
import stat
import sys

HEADER = "070701" + "%08X" * 13


class Archive:
    """Collects entries; folders appear by themselves before what they hold."""

    def __init__(self):
        self._entries = {}

    def _add(self, path, mode, data):
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self._entries:
            self._add(parent, stat.S_IFDIR | 0o755, b"")
        if self._entries.setdefault(path, (mode, data)) != (mode, data):
            raise ValueError(f"/{path} is given twice")

    def add_folder(self, path):
        self._add(path, stat.S_IFDIR | 0o755, b"")

    def add_link(self, path, target):
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def add_file(self, path, source):
        executable = os.access(source, os.X_OK)
        data = pathlib.Path(source).read_bytes()
        if executable and is_dynamic_elf(data):
            raise ValueError(f"{source}: needs a dynamic linker; an initramfs has none")
        self._add(path, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def write(self, output):
        entries = list(self._entries.items()) + [("TRAILER!!!", (0, b""))]
        for inode, (path, (mode, data)) in enumerate(entries, start=1):
            name = path.encode() + b"\0"
            links = 2 if stat.S_ISDIR(mode) else 1
            # inode, mode, uid, gid, links, mtime, size, 4 device numbers, name size, check
            header = HEADER % (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
            output.write(padded(header.encode() + name))
            output.write(padded(data))


def padded(data):
    return data + b"\0" * (-len(data) % 4)


def is_dynamic_elf(data):
    """Whether the data is a 64-bit ELF program with a PT_INTERP segment."""
    if not data.startswith(b"\x7fELF\x02"):
        return False
    table = int.from_bytes(data[0x20:0x28], "little")
    entry_size = int.from_bytes(data[0x36:0x38], "little")
    count = int.from_bytes(data[0x38:0x3A], "little")
    interp = 3
    return any(
        int.from_bytes(data[table + i * entry_size :][:4], "little") == interp
        for i in range(count)
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], fromfile_prefix_chars="@"
    )
    parser.add_argument("--output", required=True)
    parser.add_argument("--base", help="archive to begin with; later files replace its own")
    parser.add_argument("--file", action="append", default=[], metavar="PATH=SOURCE")
    parser.add_argument("--folder", action="append", default=[], metavar="PATH")
    parser.add_argument("--link", action="append", default=[], metavar="PATH=TARGET")
    arguments = parser.parse_args()
    archive = Archive()
    try:
        for path in arguments.folder:
            archive.add_folder(path)
        for path, _, source in (argument.partition("=") for argument in arguments.file):
            archive.add_file(path, source)
        for path, _, target in (argument.partition("=") for argument in arguments.link):
            archive.add_link(path, target)
        with open(arguments.output, "wb") as output:
            if arguments.base:
                output.write(padded(pathlib.Path(arguments.base).read_bytes()))
            archive.write(output)
    except (OSError, ValueError) as error:
        sys.exit(f"make_initramfs: {error}")


if __name__ == "__main__":
    main()
