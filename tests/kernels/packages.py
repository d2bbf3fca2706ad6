"""Kernel packages of Debian: found by their series, downloaded once, unpacked."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build/kernels"


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel."""

    release: str
    image: Path
    modules: Path


def kernel(series: str) -> Kernel:
    """The newest cloud kernel of a series such as 6.1. Raises LookupError when the archive has none."""
    package = newest(series)
    folder = FOLDER / package
    if not (folder / "boot").is_dir():
        _unpack(package, folder)
    release = package.removeprefix("linux-image-").removesuffix("-unsigned")
    return Kernel(release, folder / "boot" / f"vmlinuz-{release}", folder / "lib/modules" / release)


def newest(series: str) -> str:
    """Name of the newest package of a series."""
    command = [
        "apt-cache",
        "search",
        "--names-only",
        f"^linux-image-{re.escape(series)}[.-].*-cloud-amd64-unsigned$",
    ]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    names = [line.split(" ")[0] for line in found if line]
    if not names:
        raise LookupError(f"the package archive has no cloud kernel {series}; run apt-get update")
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _unpack(package: str, folder: Path) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-qq", package], check=True, cwd=FOLDER, capture_output=True)
    (archive,) = FOLDER.glob(f"{package}_*.deb")
    subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
    archive.unlink()
