"""Kernel packages of Debian: found by their series, downloaded once, unpacked."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build/kernels"


class PackageError(LookupError):
    """No kernel can be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel."""

    release: str
    image: Path
    modules: Path


def kernel(series: str) -> Kernel:
    """The newest cloud kernel of a series such as 6.1; one that lies unpacked serves when none is offered.

    Raises PackageError without any.
    """
    try:
        package = newest(series)
    except PackageError:
        unpacked = [folder.name for folder in FOLDER.glob(f"linux-image-{series}[.-]*") if _is_whole(folder)]
        if not unpacked:
            raise
        package = max(unpacked, key=_version)
    folder = FOLDER / package
    if not _is_whole(folder):
        _unpack(package, folder)
    release = package.removeprefix("linux-image-").removesuffix("-unsigned")
    return Kernel(release, folder / "boot" / f"vmlinuz-{release}", folder / "lib/modules" / release)


def newest(series: str) -> str:
    """Name of the newest package of a series."""
    pattern = f"^linux-image-{re.escape(series)}[.-].*-cloud-amd64-unsigned$"
    found = _said("apt-cache", "search", "--names-only", pattern)
    names = [line.split(" ")[0] for line in found.splitlines() if line]
    if not names:
        raise PackageError(
            f"the package lists have no cloud kernel {series}: run apt-get update; 6.1 and 6.12 are in"
            " bookworm-security, which needs the network once"
        )
    return max(names, key=_version)


def _version(package: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", package)]


def _is_whole(folder: Path) -> bool:
    return (folder / "boot").is_dir() and (folder / "lib/modules").is_dir()


def _unpack(package: str, folder: Path) -> None:
    """Into a folder beside first: what is there is whole, also after an interruption."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=FOLDER) as scratch:
        Path(scratch).chmod(0o755)
        _said("apt-get", "download", "-qq", package, folder=scratch)
        (archive,) = Path(scratch).glob(f"{package}_*.deb")
        _said("dpkg", "-x", str(archive), f"{scratch}/whole")
        Path(scratch, "whole").rename(folder)


def _said(*command: str, folder: str | None = None) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    except FileNotFoundError as error:
        raise PackageError(f"{command[0]} is not installed: the kernels are Debian's packages") from error
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise PackageError(f"{' '.join(command)}: {reason[0]} (is there a network?)")
    return done.stdout
