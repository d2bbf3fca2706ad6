"""Cgroups of a laboratory: where they lie, how a command joins one, and that nothing stays."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from axoneme.lab import cgroups, topology


def test_the_hierarchy_is_found_wherever_it_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(cgroups, "MOUNTS", mounts)
    mounts.write_text("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n")
    assert cgroups.hierarchy() is None
    mounts.write_text("cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n")
    assert cgroups.hierarchy() == Path("/sys/fs/cgroup/unified")


def test_every_pod_has_one_and_nothing_stays(tmp_path: Path) -> None:
    built = topology.from_flags(clusters=2, nodes=1, pods=["a", "b"])
    cgroups.build(built, tmp_path)
    folder = cgroups.node_folder(built.clusters[1], "node1", tmp_path)
    assert folder == tmp_path / "axolab/west/node1"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "host"]
    assert cgroups.remove(tmp_path) == [f"cgroups {tmp_path / 'axolab'}"]
    assert cgroups.remove(tmp_path) == []


def test_a_command_joins_before_it_starts(tmp_path: Path) -> None:
    command = [*cgroups.joining(tmp_path), "echo", "two words"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "two words\n"
    assert (tmp_path / "cgroup.procs").read_text() == "0\n"


def test_without_the_hierarchy_nothing_is_made_or_joined() -> None:
    built = topology.from_flags(nodes=1)
    cgroups.build(built, None)
    assert cgroups.node_folder(built.clusters[0], "node1", None) is None
    assert cgroups.joining(None) == []
    assert cgroups.remove(None) == []
