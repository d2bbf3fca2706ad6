"""A cgroup for each pod, below one of its node: socket programs of a node see its own workloads only.

    <cgroup v2>/axolab/<cluster>/<node>/<pod>

On a host with both hierarchies version 2 is mounted beside the first. Without it a lab works the same, and
service addresses are translated packet by packet. `remove` finds everything by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from axoneme.lab.topology import PREFIX, Cluster, Topology

MOUNTS = Path("/proc/mounts")
# Joins a cgroup, then becomes the command: `sh -c SCRIPT sh FOLDER COMMAND…`.
_JOIN = 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"'


def hierarchy() -> Path | None:
    """Where cgroup v2 is mounted; None where it is not."""
    rows = [line.split() for line in MOUNTS.read_text().splitlines()]
    return next((Path(row[1]) for row in rows if row[2] == "cgroup2"), None)


def node_folder(cluster: Cluster, node: str, root: Path | None) -> Path | None:
    """The cgroup of a node's workloads."""
    return root / PREFIX / cluster.name / node if root else None


def joining(folder: Path | None) -> list[str]:
    """Start of a command line that runs the rest inside a cgroup."""
    return ["sh", "-c", _JOIN, "sh", str(folder)] if folder else []


def build(topology: Topology, root: Path | None) -> None:
    """Makes the cgroups of all pods, and one named `host` for commands on a node."""
    for cluster in topology.clusters:
        for node in cluster.nodes:
            folder = node_folder(cluster, node.name, root)
            for name in ("host", *(pod.name for pod in node.pods)) if folder else ():
                (folder / name).mkdir(parents=True, exist_ok=True)  # type: ignore[operator]


def remove(root: Path | None) -> list[str]:
    """Removes every cgroup of the laboratory whose processes are gone. Returns what it removed."""
    top = root / PREFIX if root else None
    if top is None or not top.is_dir():
        return []
    _remove_all([*_below(top), top])
    return [] if top.exists() else [f"cgroups {top}"]


def _below(folder: Path) -> Sequence[Path]:
    """Folders below one, the deepest first."""
    return sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)


def _remove_all(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
