"""The record of a running laboratory, lab.json: enough to show it, to enter its pods and to remove it.

Written before the first process starts and after each change, so that a crash at any moment leaves a record
that `down` can use; `down` also works without it.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from axoneme.lab import cgroups
from axoneme.lab import topology as topologies
from axoneme.lab.files import ClusterFiles, write_json
from axoneme.lab.plan import ClusterPlan
from axoneme.lab.processes import Process
from axoneme.lab.topology import Cluster, Topology

FILE = "lab.json"
VERSION = 1


@dataclass(slots=True, kw_only=True)
class LabState:
    """What runs. `ips_by_pod`: addresses by `cluster/pod`. `complete`: `up` reached its end."""

    root: Path
    topology: Topology
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    processes: list[Process] = field(default_factory=list)
    ips_by_pod: dict[str, list[str]] = field(default_factory=dict)
    complete: bool = False

    def files(self, cluster: Cluster) -> ClusterFiles:
        return ClusterFiles(self.root, cluster.name)

    def plan(self, cluster: Cluster) -> ClusterPlan:
        root = None if self.topology.simulated else cgroups.hierarchy()
        return ClusterPlan(cluster, self.files(cluster), self.topology.simulated, root)

    def process(self, cluster: str, name: str) -> Process:
        """The newest record of a process. Raises KeyError when there never was one."""
        for process in reversed(self.processes):
            if (process.cluster, process.name) == (cluster, name):
                return process
        raise KeyError(f"{cluster}/{name}")

    def record(self, process: Process) -> None:
        """Replaces the record of the process's predecessor."""
        self.processes = [p for p in self.processes if (p.cluster, p.name) != (process.cluster, process.name)]
        self.processes.append(process)
        self.save()

    def save(self) -> None:
        write_json(
            self.root / FILE,
            {
                "version": VERSION,
                "complete": self.complete,
                "simulated": self.topology.simulated,
                "clusters": [cluster.name for cluster in self.topology.clusters],
                "token": self.token,
                "topology": topologies.to_document(self.topology),
                "pods": self.ips_by_pod,
                "processes": [dataclasses.asdict(process) for process in self.processes],
            },
        )


def load(root: Path) -> LabState | None:
    """The recorded laboratory; None when there is none or its record cannot be read."""
    try:
        document = json.loads((root / FILE).read_text())
        topology = topologies.from_document(document["topology"], where=FILE, simulated=document["simulated"])
        return LabState(
            root=root,
            topology=topology,
            token=document["token"],
            processes=[Process(**fields) for fields in document["processes"]],
            ips_by_pod=document["pods"],
            complete=document["complete"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
