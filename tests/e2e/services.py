"""Services in a running laboratory, mirrors as their backends, and the ways in which a client asks them.

A mirror answers with its name and the address that it saw; `ask` gives what clients got.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lab import network
from tests.e2e.probes import traffic_in
from tests.e2e.running import TRAFFIC, Running
from tests.waiting import eventually_sync

PORT, BACKEND_PORT = 80, 9000
COUNT = 12
# Below one second nothing is sent twice; where no answer is expected nobody waits long.
PATIENCE_SECONDS, STOPPED_SECONDS = 1.0, 0.3


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question got: who answered, whom the backend saw, whom the socket was connected to."""

    backend: str
    client: str = ""
    peer: str = ""


@contextmanager
def mirrors(lab: Running, *pods: str, port: int = BACKEND_PORT) -> Iterator[None]:
    """Mirrors in pods, as long as the block lasts."""
    with ExitStack() as stack:
        for pod in pods:
            stack.enter_context(mirror(lab.cluster.netns(pod), pod, port))
        yield


@contextmanager
def mirror(netns: str, name: str, port: int = BACKEND_PORT) -> Iterator[None]:
    with traffic_in(netns, "mirror", name, str(port)) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "READY\n"
            yield
        finally:
            server.communicate()


@contextmanager
def service(lab: Running, name: str, **fields: Any) -> Iterator[pb.Service]:
    """A service of the namespace default, in every node's kernel before the block begins."""
    message = described(lab, name, **fields)
    answer = lab.client.clustermesh.ApplyService(pb.ApplyServiceRequest(service=message))
    try:
        yield answer.service
    finally:
        lab.client.clustermesh.DeleteService(pb.DeleteServiceRequest(namespace="default", name=name))


@contextmanager
def echoing(lab: Running, pod: str, port: int = BACKEND_PORT) -> Iterator[None]:
    """An echo server in a pod, as long as the block lasts."""
    with traffic_in(lab.cluster.netns(pod), "echo-server", str(port)) as server:
        assert server.stdout is not None
        try:
            assert server.stdout.readline() == "READY\n"
            yield
        finally:
            server.communicate()


@contextmanager
def connected(
    lab: Running, pod: str, host: str, port: int = PORT, *, sockets: bool = True
) -> Iterator[Callable[[], int]]:
    """One TCP connection that talks all the time; the callable gives the number of echoes so far."""
    words = ("echo-client", host, str(port))
    netns = lab.cluster.netns(pod)
    with lab.python(pod, *words) if sockets else traffic_in(netns, *words) as client:
        stdin, stdout = client.stdin, client.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.readline() == "READY\n"

        def echoes() -> int:
            stdin.write("\n")
            stdin.flush()
            line = stdout.readline()
            assert line, "the connection broke"
            return int(line)

        yield echoes
        client.communicate()
        assert client.returncode == 0, "the connection broke"


def described(
    lab: Running,
    name: str,
    *,
    pods: Sequence[str] = (),
    selector: dict[str, str] | None = None,
    protocols: Sequence[int] = (pb.PROTOCOL_TCP, pb.PROTOCOL_UDP),
    states: dict[str, int] | None = None,
    **fields: Any,
) -> pb.Service:
    """A service with one port for each protocol; backends are pods by name, or by labels."""
    if selector is None:
        backends = [
            pb.Backend(ip=lab.ip(pod, version), state=(states or {}).get(pod, 0), node_name=node_of(lab, pod))  # type: ignore[arg-type]
            for pod in pods
            for version in (4, 6)
        ]
        source = pb.BackendSource(addresses=pb.BackendList(backends=backends))
    else:
        source = pb.BackendSource(selector=pb.LabelMatch(match_labels=selector))
    ports = [
        pb.ServicePort(name=f"p{one}", protocol=one, port=PORT, target_port=BACKEND_PORT)  # type: ignore[arg-type]
        for one in protocols
    ]
    return pb.Service(namespace="default", name=name, ports=ports, source=source, **fields)


def node_of(lab: Running, pod: str) -> str:
    return next(node.name for node, one in lab.cluster.pods() if one.name == pod)


def address(found: pb.Service, version: int) -> str:
    """The cluster IP of a family."""
    return next(ip for ip in found.cluster_ips if (":" in ip) == (version == 6))


def node_port(found: pb.Service, protocol: str = "tcp") -> int:
    wanted = {"tcp": pb.PROTOCOL_TCP, "udp": pb.PROTOCOL_UDP}[protocol]
    return next(port.node_port for port in found.ports if port.protocol == wanted)


def node_ip(lab: Running, name: str, version: int) -> str:
    node = next(node for node in lab.cluster.nodes if node.name == name)
    return lab.cluster.node_address6(node) if version == 6 else lab.cluster.node_address(node)


def ask(
    lab: Running,
    source: str,
    host: str,
    port: int = PORT,
    *,
    kind: str = "tcp",
    sockets: bool = True,
    count: int = COUNT,
    seconds: float = PATIENCE_SECONDS,
) -> list[Answer]:
    """Questions of a pod. With `sockets` its process is in the pod's cgroup, where sockets are translated;
    without, every packet has to be."""
    words = [sys.executable, TRAFFIC, "ask", kind, host, str(port), str(count), str(seconds)]
    command = (
        lab.inside(source, *words) if sockets else [*network.entering(lab.cluster.netns(source)), *words]
    )
    return answers(command)


def ask_from(
    netns: str,
    host: str,
    port: int,
    *,
    kind: str = "tcp",
    count: int = COUNT,
    seconds: float = PATIENCE_SECONDS,
) -> list[Answer]:
    """Questions of somebody who is no pod."""
    words = [sys.executable, TRAFFIC, "ask", kind, host, str(port), str(count), str(seconds)]
    return answers([*network.entering(netns), *words])


def answers(command: Sequence[str]) -> list[Answer]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [_answer(line) for line in done.stdout.splitlines()]


def _answer(line: str) -> Answer:
    words = line.split()
    return Answer("none") if words[0] == "none" else Answer(*words)


def who(found: Sequence[Answer]) -> set[str]:
    """Names of the backends that answered; `none` among them when something got no answer."""
    return set(Counter(answer.backend for answer in found))


def stopped(lab: Running, source: str, host: str, port: int = PORT, **how: Any) -> bool:
    """Whether two questions of a pod get no answer."""
    return who(ask(lab, source, host, port, count=2, seconds=STOPPED_SECONDS, **how)) == {"none"}


def stopped_from(netns: str, host: str, port: int, **how: Any) -> bool:
    """The same of somebody who is no pod."""
    return who(ask_from(netns, host, port, count=2, seconds=STOPPED_SECONDS, **how)) == {"none"}


def eventually_answers(lab: Running, source: str, host: str, port: int = PORT, **how: Any) -> None:
    """Waits until the service is in the kernel of the source's node."""
    eventually_sync(
        lambda: "none" not in who(ask(lab, source, host, port, count=1, **how)),
        message=f"{source} gets an answer of {host}:{port} {how}",
    )
