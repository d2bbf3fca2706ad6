"""Every kind of service on real packets: pods and strangers as clients, both families, TCP and UDP."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lab.topology import FABRIC
from tests.e2e import outside as machine
from tests.e2e import policies
from tests.e2e.outside import NETNS as OUTSIDE
from tests.e2e.running import Running
from tests.e2e.services import (
    BACKEND_PORT,
    PORT,
    address,
    ask,
    ask_from,
    connected,
    described,
    echoing,
    eventually_answers,
    mirrors,
    node_ip,
    node_port,
    service,
    stopped,
    stopped_from,
    who,
)
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

BOTH = ("backend", "backend-near")
VERSIONS = pytest.mark.parametrize("version", [4, 6])
KINDS = pytest.mark.parametrize("kind", ["tcp", "udp"])
SOCKETS = pytest.mark.parametrize("sockets", [True, False], ids=["socket", "packet"])
NODE_PORT, LOAD_BALANCER = pb.SERVICE_TYPE_NODE_PORT, pb.SERVICE_TYPE_LOAD_BALANCER
# Every address that the machine outside may choose as its own.
STRANGERS = ("169.254.78.0/30", "192.0.2.0/24", "198.51.100.0/24", "fd00:198:18:ff::/64", "2001:db8::/32")
EXTERNAL = {4: "203.0.113.10", 6: "2001:db8:f::10"}


@pytest.fixture
def mirrored(lab: Running) -> Iterator[Running]:
    with mirrors(lab, *BOTH):
        yield lab


@VERSIONS
@KINDS
@SOCKETS
def test_a_cluster_ip_leads_to_every_backend(
    mirrored: Running, version: int, kind: str, sockets: bool
) -> None:
    lab = mirrored
    with service(lab, "web", pods=BOTH) as web:
        vip = address(web, version)
        eventually_answers(lab, "frontend", vip, kind=kind, sockets=sockets)
        found = ask(lab, "frontend", vip, kind=kind, sockets=sockets, count=30)
    assert who(found) == set(BOTH)
    # The backend sees the pod, the pod sees the service: nobody sees the translation.
    assert {answer.client for answer in found} == {lab.ip("frontend", version)}
    assert {answer.peer for answer in found} == {vip}


@VERSIONS
def test_backends_by_labels_come_and_go(mirrored: Running, version: int) -> None:
    lab = mirrored
    with service(lab, "picked", selector={"app": "backend"}) as picked:
        vip = address(picked, version)
        eventually_answers(lab, "batch", vip)
        assert who(ask(lab, "batch", vip)) == {"backend"}
        changed = described(lab, "picked", selector={"app": "nobody"})
        lab.client.clustermesh.ApplyService(pb.ApplyServiceRequest(service=changed))
        eventually_sync(lambda: stopped(lab, "batch", vip), message="the backend is gone")


@VERSIONS
@SOCKETS
def test_policy_sees_the_backend_on_every_way(mirrored: Running, version: int, sockets: bool) -> None:
    """However a backend is reached, one verdict (CVE-2025-30162, CVE-2026-26963, CVE-2026-33726)."""
    lab = mirrored
    with (
        service(lab, "web", pods=BOTH, type=NODE_PORT, external_ips=[*EXTERNAL.values()]) as web,
        service(lab, "there", pods=["backend"], type=NODE_PORT) as there,
    ):
        near, far = node_ip(lab, "node1", version), node_ip(lab, "node2", version)
        ways = [
            (lab.ip("backend", version), BACKEND_PORT),
            (lab.ip("backend-near", version), BACKEND_PORT),
            (address(web, version), PORT),
            (EXTERNAL[version], PORT),
            (near, node_port(web)),
            # Only to a backend of that node: to another one it would go on with the node's own address.
            (far, node_port(there)),
        ]
        for host, number in ways:
            eventually_answers(lab, "frontend", host, number, sockets=sockets)
        for backend in BOTH:
            lab.in_force(policies.allow(backend, "frontend", BACKEND_PORT))
        for host, number in ways:
            assert "none" not in who(ask(lab, "frontend", host, number, sockets=sockets, count=4)), host
            assert stopped(lab, "batch", host, number, sockets=sockets), host


@VERSIONS
@KINDS
def test_a_node_port_serves_strangers(mirrored: Running, version: int, kind: str) -> None:
    lab = mirrored
    with machine.outside(lab), service(lab, "web", pods=BOTH, type=NODE_PORT) as web:
        for node in ("node1", "node2"):
            host, port = node_ip(lab, node, version), node_port(web, kind)
            eventually_sync(
                lambda host=host, port=port: (  # type: ignore[misc]
                    "none" not in who(ask_from(OUTSIDE, host, port, kind=kind, count=1))
                ),
                message=f"{node} answers",
            )
            found = ask_from(OUTSIDE, host, port, kind=kind, count=30)
            assert who(found) == set(BOTH)
            here = "backend-near" if node == "node1" else "backend"
            # A backend of the node itself sees the client; one elsewhere sees the node, to answer through it.
            assert {a.client for a in found if a.backend == here}.isdisjoint({host})
            assert {a.client for a in found if a.backend != here} == {host}


@VERSIONS
def test_local_traffic_policy_stays_on_the_node(mirrored: Running, version: int) -> None:
    lab = mirrored
    local = pb.TRAFFIC_POLICY_LOCAL
    with (
        machine.outside(lab),
        service(lab, "web", pods=["backend"], type=NODE_PORT, external_traffic_policy=local) as web,
    ):
        port = node_port(web)
        near, far = node_ip(lab, "node1", version), node_ip(lab, "node2", version)
        eventually_sync(lambda: who(ask_from(OUTSIDE, far, port, count=1)) == {"backend"})
        found = ask_from(OUTSIDE, far, port)
        assert {answer.client for answer in found}.isdisjoint({far})
        assert stopped_from(OUTSIDE, near, port)


@VERSIONS
def test_load_balancer_addresses_know_their_clients(mirrored: Running, version: int) -> None:
    lab = mirrored
    ranges = pb.SourceRanges(cidrs=[*STRANGERS])
    fields = {"load_balancer_ips": [*EXTERNAL.values()], "load_balancer_source_ranges": ranges}
    with (
        machine.outside(lab),
        routed_to(lab, "node1"),
        service(lab, "web", pods=BOTH, type=LOAD_BALANCER, **fields),
    ):
        host = EXTERNAL[version]
        eventually_sync(lambda: "none" not in who(ask_from(OUTSIDE, host, PORT, count=1)))
        changed = described(
            lab,
            "web",
            pods=BOTH,
            type=LOAD_BALANCER,
            load_balancer_ips=[*EXTERNAL.values()],
            load_balancer_source_ranges=pb.SourceRanges(cidrs=["10.0.0.0/8", "2001:db9::/32"]),
        )
        lab.client.clustermesh.ApplyService(pb.ApplyServiceRequest(service=changed))
        eventually_sync(lambda: stopped_from(OUTSIDE, host, PORT))


@VERSIONS
@SOCKETS
def test_affinity_keeps_a_client_on_its_backend(mirrored: Running, version: int, sockets: bool) -> None:
    lab = mirrored
    affinity = pb.SessionAffinity(timeout_seconds=60)
    with service(lab, "web", pods=BOTH, session_affinity=affinity) as web:
        vip = address(web, version)
        eventually_answers(lab, "frontend", vip, sockets=sockets)
        assert len(who(ask(lab, "frontend", vip, sockets=sockets, count=30))) == 1


@VERSIONS
@SOCKETS
def test_a_pod_reaches_itself_through_its_service(mirrored: Running, version: int, sockets: bool) -> None:
    lab = mirrored
    with service(lab, "self", pods=["backend-near"]) as own:
        vip = address(own, version)
        eventually_answers(lab, "frontend", vip, sockets=sockets)
        lab.in_force(policies.allow("backend-near", "frontend", BACKEND_PORT))
        assert who(ask(lab, "backend-near", vip, sockets=sockets)) == {"backend-near"}


@VERSIONS
def test_a_service_without_backends_says_so_at_once(mirrored: Running, version: int) -> None:
    lab = mirrored
    with service(lab, "empty") as empty:
        vip = address(empty, version)
        eventually_sync(lambda: stopped(lab, "frontend", vip, sockets=False))

        def reported() -> bool:
            found = lab.flows("--last", "50", "--verdict", "DROPPED", "--ip", vip)
            return any(flow.get("drop_reason_desc") == "SERVICE_BACKEND_NOT_FOUND" for flow in found)

        # A flow follows its packet by a moment.
        eventually_sync(reported, message="the drop is seen with its reason")


@VERSIONS
def test_maglev_tables_are_the_same_on_every_node(mirrored: Running, version: int) -> None:
    lab = mirrored
    with service(lab, "hashed", pods=BOTH, algorithm=pb.ALGORITHM_MAGLEV, maglev_table_size=251) as hashed:
        vip = address(hashed, version)
        eventually_answers(lab, "frontend", vip, sockets=False)
        eventually_sync(
            lambda: lab.maglev_table("node1", vip, PORT) == lab.maglev_table("node2", vip, PORT) != []
        )
        assert len(lab.maglev_table("node1", vip, PORT)) == 251
        assert who(ask(lab, "frontend", vip, sockets=False, count=40)) == set(BOTH)


@VERSIONS
@SOCKETS
def test_a_connection_stays_on_its_backend(lab: Running, version: int, sockets: bool) -> None:
    """Through a leaving backend, another one that comes, and a killed shim (graceful termination)."""
    with (
        echoing(lab, "backend-near"),
        echoing(lab, "backend"),
        service(lab, "echo", pods=["backend-near"], protocols=[pb.PROTOCOL_TCP]) as echo,
    ):
        vip = address(echo, version)
        eventually_answers(lab, "frontend", vip, kind="echo", sockets=sockets)
        with connected(lab, "frontend", vip, sockets=sockets) as count:
            before = count()
            leaving = described(
                lab,
                "echo",
                pods=["backend-near", "backend"],
                states={"backend-near": pb.BACKEND_STATE_TERMINATING},
                protocols=[pb.PROTOCOL_TCP],
            )
            lab.client.clustermesh.ApplyService(pb.ApplyServiceRequest(service=leaving))
            lab.kill_shim("node1")
            eventually_sync(lambda: count() > before + 10, message="the connection goes on")


class routed_to:  # noqa: N801 - used as a statement
    """The fabric sends the external addresses to a node, as a load balancer's announcement would."""

    def __init__(self, lab: Running, node: str) -> None:
        self._routes = [
            [f"{EXTERNAL[v]}/{32 if v == 4 else 128}", "via", node_ip(lab, node, v)] for v in (4, 6)
        ]

    def __enter__(self) -> None:
        for route in self._routes:
            subprocess.run(["ip", "-n", FABRIC, "route", "add", *route], check=True)

    def __exit__(self, *_: object) -> None:
        for route in self._routes:
            subprocess.run(["ip", "-n", FABRIC, "route", "delete", *route], check=True)
