"""What the fetch_debian_* scripts share: apt, used as a user would.

Nothing is installed. Files come from the host's own package sources, or from those of one other
suite of Debian, and apt checks their signed hashes.
"""

import os
import pathlib
import subprocess
import sys

NETWORK_TIMEOUT_S = 600

MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class FetchError(Exception):
    """One line for the user."""


def run(*command, timeout=60, environment=None):
    try:
        return subprocess.run(
            command, check=True, timeout=timeout, capture_output=True, text=True, env=environment
        ).stdout
    except FileNotFoundError as error:
        raise FetchError(f"{command[0]}: not found; tools/setup installs it") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{' '.join(command)}: no end after {timeout} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip()).splitlines()[-1:]
        raise FetchError(f"{' '.join(command)}: {''.join(last) or error}") from error


class Apt:
    """The host's apt. With a suite: package lists of that suite alone, in the current folder."""

    def __init__(self, suite=""):
        self._environment = None
        if suite:
            self._use_suite(suite)

    def _use_suite(self, suite):
        state = pathlib.Path("apt").absolute()
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
        (state / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{state}/sources.list";\n'
            'Dir::Etc::sourceparts "-";\n'
            f'Dir::State::lists "{state}/lists";\n'
            f'Dir::Cache "{state}/cache";\n'
        )
        self._environment = dict(os.environ, APT_CONFIG=str(state / "apt.conf"))
        self.update()

    def _run(self, *command, timeout=60):
        return run(*command, timeout=timeout, environment=self._environment)

    def get(self, *arguments):
        # Root downloads into a folder that the user _apt need not be able to write.
        return self._run(
            "apt-get", "-qq", "-o", "APT::Sandbox::User=root", *arguments,
            timeout=NETWORK_TIMEOUT_S,
        )

    def update(self):
        self.get("update")

    def fields(self, package):
        """The fields of the version that apt would install."""
        fields = {}
        shown = self._run("apt-cache", "show", "--no-all-versions", package)
        for line in shown.splitlines():
            if line[:1].isspace() or ": " not in line:
                continue
            name, value = line.split(": ", 1)
            fields.setdefault(name, value)
        if "SHA256" not in fields:
            raise FetchError(f"apt knows no package {package}")
        return fields

    def updating_once(self, action):
        """Runs action(); stale or missing package lists are refreshed once."""
        try:
            return action()
        except FetchError as error:
            print(f"{error}; apt-get update", file=sys.stderr, flush=True)
        self.update()
        return action()
