#!/usr/bin/python3
"""Fetches Debian packages, with all that they depend on, as a small package repository.

Run by the debian_packages repository rule. Nothing is installed. In the current folder:

  debs/*.deb       the packages, those that every Debian system has among them
  debs/Packages    their index, and
  debs/Release     its description: together what apt takes as a flat repository
"""

import argparse
import hashlib
import pathlib
import sys

from debian_apt import Apt, FetchError, run


def download(apt, packages):
    """All packages that a system consisting of these would have: apt resolves them against a
    system that has none."""
    pathlib.Path("status").touch()
    pathlib.Path("debs/partial").mkdir(parents=True, exist_ok=True)
    apt.get(
        "-y", "--download-only", "--no-install-recommends",
        "-o", f"Dir::State::status={pathlib.Path('status').absolute()}",
        "-o", f"Dir::Cache::archives={pathlib.Path('debs').absolute()}",
        "install", "?essential", *packages,
    )  # fmt: skip


def write_index(folder):
    entries = []
    for deb in sorted(folder.glob("*.deb")):
        control = run("dpkg-deb", "--field", str(deb))
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        entries.append(
            f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
        )
    if not entries:
        raise FetchError("apt has downloaded nothing")
    index = "\n".join(entries).encode()
    (folder / "Packages").write_bytes(index)
    digest = hashlib.sha256(index).hexdigest()
    (folder / "Release").write_text(
        f"Suite: local\nCodename: local\nArchitectures: amd64\n"
        f"SHA256:\n {digest} {len(index)} Packages\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", nargs="+")
    arguments = parser.parse_args()
    try:
        apt = Apt()
        apt.updating_once(lambda: download(apt, arguments.packages))
        for folder in ("debs/partial", "debs/lock"):
            path = pathlib.Path(folder)
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        write_index(pathlib.Path("debs"))
    except FetchError as error:
        sys.exit(f"cannot fetch {' '.join(arguments.packages)}: {error}")


if __name__ == "__main__":
    main()
