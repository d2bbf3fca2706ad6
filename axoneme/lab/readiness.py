"""Waiting, with a bound, until the parts of a laboratory are ready; and saying why they are not.

Each wait polls a condition, ends at once when the process behind it died, and then shows the end of its log.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from axoneme.api.clustermesh.v1 import clustermesh_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.identity.v1 import identity_pb2
from axoneme.api.node.v1 import node_pb2
from axoneme.api.policy.v1 import policy_pb2
from axoneme.client import Client, load_context
from axoneme.lab import processes
from axoneme.lab.errors import LabError
from axoneme.lab.plan import ClusterPlan
from axoneme.lab.processes import Process
from axoneme.lib.errors import AxonemeError

POLL_SECONDS = 0.05
LIMIT_SECONDS = 30.0
CALL_SECONDS = 2.0

Check = Callable[[], str | None]
"""None when ready, else the reason why not yet."""


def connect(context: Path) -> Client:
    """A client of one cluster."""
    return Client(load_context(context))


def wait(check: Check, process: Process, *, seconds: float = LIMIT_SECONDS) -> None:
    """Polls until ready. Raises LabError with the end of the log when the process dies or time is up."""
    deadline = time.monotonic() + seconds
    while (reason := check()) is not None:
        if not processes.alive(process):
            raise LabError(failure(process, "ended while starting"))
        if time.monotonic() > deadline:
            raise LabError(failure(process, f"is not ready after {seconds:.0f} s: {reason}"))
        time.sleep(POLL_SECONDS)


def etcd(plan: ClusterPlan) -> Check:
    """Asks etcd's health page from inside its namespace."""
    names = ("ca.crt", "tls.crt", "tls.key")
    ca, cert, key = (str(plan.files.certificate("identity-etcd", name)) for name in names)
    command = [
        *plan.inside_control(),
        *("curl", "--silent", "--max-time", "2", "--cacert", ca),
        *("--cert", cert, "--key", key, f"https://{plan.addresses.etcd}/health"),
    ]

    def check() -> str | None:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return (
            None
            if '"health":"true"' in done.stdout
            else f"its health page says {done.stdout.strip() or 'nothing'}"
        )

    return check


def identity(client: Client) -> Check:
    request = identity_pb2.ListNodesRequest()
    return _answers(lambda: client.identity.ListNodes(request, timeout=CALL_SECONDS))


def policy(client: Client) -> Check:
    return _answers(
        lambda: client.policy.ListPolicies(policy_pb2.ListPoliciesRequest(), timeout=CALL_SECONDS)
    )


def clustermesh(client: Client) -> Check:
    request = clustermesh_pb2.ListServicesRequest()
    return _answers(lambda: client.clustermesh.ListServices(request, timeout=CALL_SECONDS))


def relay(client: Client, nodes: int) -> Check:
    """Ready when it is connected to every node."""

    def check() -> str | None:
        try:
            status = client.observer.ServerStatus(observer_pb2.ServerStatusRequest(), timeout=CALL_SECONDS)
        except AxonemeError as error:
            return words(error)
        connected = status.num_connected_nodes.value
        return None if connected >= nodes else f"connected to {connected} of {nodes} nodes"

    return check


def node(client: Client, name: str) -> Check:
    """Ready when every stream has its snapshot and is in step."""

    def check() -> str | None:
        try:
            status = client.node(name).GetNodeStatus(node_pb2.GetNodeStatusRequest(), timeout=CALL_SECONDS)
        except AxonemeError as error:
            return words(error)
        late = [one for one in status.streams if not one.synced or one.stale_seconds]
        if late or not status.streams:
            return f"not in step: {', '.join(f'{one.name} {one.error}' for one in late) or 'no stream'}"
        return None

    return check


def listening(process: Process, port: int) -> Check:
    """Ready when somebody in the process's network namespace listens on the TCP port."""
    wanted = f":{port:04X}"

    def check() -> str | None:
        for table in ("tcp", "tcp6"):
            try:
                text = Path(f"/proc/{process.pid}/net/{table}").read_text()
            except OSError:
                continue
            rows = [line.split() for line in text.splitlines()[1:]]
            if any(row[1].endswith(wanted) and row[3] == "0A" for row in rows):
                return None
        return f"nobody listens on TCP port {port}"

    return check


def _answers(call: Callable[[], object]) -> Check:
    def check() -> str | None:
        try:
            call()
        except AxonemeError as error:
            return words(error)
        return None

    return check


def words(error: AxonemeError) -> str:
    """What the other side said, clipped."""
    return str(error)[:256]


def failure(process: Process, fault: str) -> str:
    """Text of an error about a process: what is wrong, the end of its log, what to do."""
    lines = processes.last_lines(Path(process.log))
    shown = "".join(f"\n    {line}" for line in lines) if lines else " nothing was logged"
    return (
        f"{process.name} of cluster {process.cluster} {fault}; the end of {process.log}:{shown}\n"
        "  what to do: `axoneme lab up --keep` leaves everything in place for a look"
    )
