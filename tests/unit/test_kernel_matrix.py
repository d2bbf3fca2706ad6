"""The kernel matrix without a machine: how kernels are found, and what is made of a console."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shim.bpf.manifest import read_manifest
from tests.kernels import packages
from tests.kernels.report import MARK, heard
from tests.kernels.verdict import Verdict, words

PACKAGE = "linux-image-9.9.0-7-cloud-amd64-unsigned"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages lie; the only programs are those that a test puts into `bin`."""
    monkeypatch.setattr(packages, "FOLDER", tmp_path / "kernels")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_without_apt_there_is_no_kernel(folder: Path) -> None:
    with pytest.raises(packages.PackageError, match="apt-cache is not installed"):
        packages.kernel("9.9")


def test_an_unknown_series_says_what_to_do(folder: Path) -> None:
    tool(folder, "apt-cache", "exit 0")
    with pytest.raises(packages.PackageError, match=r"no cloud kernel 9\.9: run apt-get update"):
        packages.kernel("9.9")


def test_without_a_network_the_download_says_so(folder: Path) -> None:
    tool(folder, "apt-cache", f"echo '{PACKAGE} - a kernel'")
    tool(folder, "apt-get", "echo 'E: Failed to fetch' >&2; exit 100")
    with pytest.raises(packages.PackageError, match=r"Failed to fetch \(is there a network\?\)"):
        packages.kernel("9.9")
    assert list((folder / "kernels").iterdir()) == []


def test_an_unpacked_kernel_needs_no_lists(folder: Path) -> None:
    for part in ("boot", "lib/modules"):
        (folder / "kernels" / PACKAGE / part).mkdir(parents=True)
    assert packages.kernel("9.9").release == "9.9.0-7-cloud-amd64"


def test_only_whole_lines_of_ours_are_heard() -> None:
    assert heard("[  1.0] " + MARK + json.dumps({"kind": "ended"})) == {"kind": "ended"}
    assert heard(MARK + '{"kind": "en') is None
    assert heard("a kernel message") is None


def test_a_machine_that_stops_early_is_a_failure() -> None:
    verdict = Verdict(tests=True)
    verdict.take({"kind": "test", "name": "test_x", "phase": "call", "words": "why"})
    faults = verdict.faults()
    assert "failed: test_x" in faults
    assert "the machine stopped before its end" in faults
    assert "no test passed" in faults


def test_a_complete_run_is_a_success() -> None:
    verdict = Verdict(tests=True)
    for name in read_manifest().get("objects", {}):
        verdict.take({"kind": "object", "object": name, "programs": {}, "seconds": 1})
    counts = {"kind": "tests", "file": "f", "seconds": 1, "skips": ["why"], "passed": 2, "skipped": 1}
    verdict.take(counts)
    verdict.take({"kind": "ended"})
    assert verdict.faults() == []
    assert list(words(counts)) == ["f: 2 passed, 1 skipped, 1 s (why)"]
