"""What a laboratory looks like to its user: processes, pods, and the next things to try."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from axoneme.lab import processes as running
from axoneme.lab.state import LabState


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """One process; `state` is running or stopped."""

    cluster: str
    name: str
    state: str
    pid: int
    log: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRow:
    """One pod with its addresses."""

    cluster: str
    node: str
    name: str
    namespace: str
    labels: tuple[str, ...]
    ips: tuple[str, ...]


def processes(lab: LabState) -> list[ProcessRow]:
    return [
        ProcessRow(
            cluster=process.cluster,
            name=process.name,
            state="running" if running.alive(process) else "stopped",
            pid=process.pid,
            log=process.log,
        )
        for process in lab.processes
    ]


def pods(lab: LabState) -> list[PodRow]:
    return [
        PodRow(
            cluster=cluster.name,
            node=node.name,
            name=pod.name,
            namespace=pod.namespace,
            labels=pod.labels,
            ips=tuple(lab.ips_by_pod.get(f"{cluster.name}/{pod.name}", ())),
        )
        for cluster in lab.topology.clusters
        for node, pod in cluster.pods()
    ]


def document(lab: LabState) -> dict[str, Any]:
    return {
        "simulated": lab.topology.simulated,
        "processes": [asdict(row) for row in processes(lab)],
        "pods": [asdict(row) for row in pods(lab)],
    }


def text(lab: LabState) -> str:
    """Two tables; the first line says so when no packet flows."""
    heading = ["simulated: no packets"] if lab.topology.simulated else []
    process_table = [["CLUSTER", "PROCESS", "STATE", "PID", "LOG"]]
    process_table += [[row.cluster, row.name, row.state, str(row.pid), row.log] for row in processes(lab)]
    return "\n".join([*heading, *_table(process_table), "", *_table(_pod_table(lab))])


def summary(lab: LabState) -> str:
    """What `up` says at its end."""
    simulated = lab.topology.simulated
    hints = [] if simulated else _request(lab)
    hints += ["axoneme status", "axoneme lab status"]
    heading = "the lab is up (simulated: no packets)" if simulated else "the lab is up"
    lines = [heading, "", *_table(_pod_table(lab)), "", "try:", *(f"  {hint}" for hint in hints)]
    return "\n".join([*lines, "  axoneme lab down"])


def _request(lab: LabState) -> list[str]:
    """A request that works in this lab: from a pod, at best one without a server, to another that has one."""
    for cluster in lab.topology.clusters:
        pods_here = [pod for _, pod in cluster.pods()]
        servers = [pod for pod in pods_here if pod.http_port]
        for client in sorted(pods_here, key=lambda pod: pod.http_port != 0):
            for server in servers:
                if server != client:
                    name = f"{cluster.name}/{client.name}" if len(lab.topology.clusters) > 1 else client.name
                    return [f"axoneme lab exec {name} -- curl -sS http://{server.name}:{server.http_port}"]
    return []


def _pod_table(lab: LabState) -> list[list[str]]:
    rows = [[row.cluster, row.node, row.name, ",".join(row.labels), " ".join(row.ips)] for row in pods(lab)]
    return [["CLUSTER", "NODE", "POD", "LABELS", "ADDRESSES"], *rows]


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
