"""Every place where a resolver can be, over both transports and families: the same verdicts, and the address
that came back is reachable with the first packet."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lab import internet, network
from tests.e2e.dns import KUBE_DNS, dig, fetch, names_policy, trial_names, url_of
from tests.e2e.running import Running
from tests.e2e.services import node_ip
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

VERSIONS = pytest.mark.parametrize("version", [4, 6])
SHOP = internet.site("shop.example.com")
NAMES = ("shop.example.com",)
CLUSTER = f"toEndpoints: [{KUBE_DNS}]"
OUTSIDE = "toCIDR: [198.18.254.53/32, fd00:198:18:fe::53/128]"


@pytest.fixture(scope="module", params=["direct", "tunnel"])
def mode(request: pytest.FixtureRequest, laboratory_of_the_session: Running) -> Iterator[str]:
    """The way between nodes; the one inside of a node is past the stack."""
    lab = laboratory_of_the_session
    if request.param == "tunnel":
        lab.reconfigure_nodes(routing_mode="tunnel")
    yield request.param
    if request.param == "tunnel":
        lab.reconfigure_nodes()


def judged(lab: Running, server: str, version: int, *, sockets: bool = True) -> None:
    """Names pass and are refused over UDP and TCP, and what came back is reachable at once."""
    ip = SHOP.ips[version == 6]
    kind = "AAAA" if version == 6 else "A"
    for tcp in (False, True):
        lab.forget_names()
        assert not fetch(lab, "frontend", url_of(ip), seconds=0.3), "nothing is learned yet"
        how = {"server": server, "tcp": tcp, "sockets": sockets}
        assert dig(lab, "frontend", "shop.example.com", kind=kind, **how).ips == (ip,)  # type: ignore[arg-type]
        assert fetch(lab, "frontend", url_of(ip)), f"the first packet after an answer, tcp={tcp}"
        assert dig(lab, "frontend", "api.example.com", **how).status == "REFUSED"  # type: ignore[arg-type]


@VERSIONS
@pytest.mark.parametrize("resolver", ["dns-near", "dns"])
def test_a_pod_here_or_on_another_node(lab: Running, mode: str, resolver: str, version: int) -> None:
    lab.in_force(names_policy(*NAMES, servers=CLUSTER))
    judged(lab, lab.ip(resolver, version), version)


@VERSIONS
def test_outside_of_the_cluster(lab: Running, mode: str, version: int) -> None:
    lab.in_force(names_policy(*NAMES, servers=OUTSIDE))
    judged(lab, internet.DNS[version == 6], version)
    assert dig(lab, "frontend", "shop.example.com", server=lab.ip("dns"), seconds=1).status == "none", (
        "another server is not allowed"
    )


def test_a_pod_here_through_the_stack(lab: Running) -> None:
    """Without bpf_redirect_peer; other servers without it are in the tests of the kernel's programs."""
    lab.reconfigure_nodes(host_routing=False)
    try:
        lab.in_force(names_policy(*NAMES, servers=CLUSTER))
        for version in (4, 6):
            judged(lab, lab.ip("dns-near", version), version)
    finally:
        lab.reconfigure_nodes()


@VERSIONS
@pytest.mark.parametrize("sockets", [True, False], ids=["by-socket", "per-packet"])
def test_behind_a_cluster_ip(lab: Running, mode: str, version: int, sockets: bool) -> None:
    lab.in_force(names_policy(*NAMES, servers=CLUSTER))
    with kube_dns(lab) as ips:
        server = ips[version == 6]
        message = "the service answers"
        eventually_sync(lambda: dig(lab, "batch", "shop.example.com", server=server).ok, message=message)
        judged(lab, server, version, sockets=sockets)


@VERSIONS
def test_a_process_of_the_node(lab: Running, version: int) -> None:
    lab.in_force(names_policy(*NAMES, servers="toEntities: [host]"))
    server = node_ip(lab, "node1", version)
    with resolver_on(lab, "node1", server):
        judged(lab, server, version)


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("pod", ["backend-near", "backend"])
def test_the_resolver_sees_the_pods_address_and_port(lab: Running, pod: str, tcp: bool) -> None:
    """A server that tells who asked: the pod, from the very port of its socket."""
    lab.in_force(names_policy("client.test", servers=f"toEndpoints: [{{matchLabels: {{app: {pod}}}}}]"))
    own, port = lab.ip("frontend"), 40_123
    with trial_names(lab.cluster.netns(pod), lab.ip(pod), 53):
        answer = dig(
            lab, "frontend", "client.test", server=lab.ip(pod), tcp=tcp, words=("-b", f"{own}#{port}")
        )
    assert (answer.ips, answer.ttl) == ((own,), port)


@contextmanager
def kube_dns(lab: Running) -> Iterator[tuple[str, str]]:
    """A ClusterIP of both families in front of both resolvers."""
    ports = [
        pb.ServicePort(name=name, protocol=protocol, port=53, target_port=53)
        for name, protocol in (("dns", pb.PROTOCOL_UDP), ("dns-tcp", pb.PROTOCOL_TCP))
    ]
    source = pb.BackendSource(selector=pb.LabelMatch(match_labels={"k8s-app": "kube-dns"}))
    wanted = pb.Service(namespace="kube-system", name="kube-dns", ports=ports, source=source)
    made = lab.client.clustermesh.ApplyService(pb.ApplyServiceRequest(service=wanted)).service
    try:
        v4, v6 = sorted(made.cluster_ips, key=lambda ip: ":" in ip)
        yield v4, v6
    finally:
        gone = pb.DeleteServiceRequest(namespace="kube-system", name="kube-dns")
        lab.client.clustermesh.DeleteService(gone)


@contextmanager
def resolver_on(lab: Running, node: str, ip: str) -> Iterator[None]:
    """A resolver among the processes of a node, at one address of it."""
    command = [*internet.resolver(), f"--listen-address={ip}", "--bind-interfaces"]
    inside = [*network.entering(lab.cluster.netns(node)), *command]
    with subprocess.Popen(inside, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            message = "the resolver of the node answers"
            eventually_sync(lambda: dig(lab, "batch", "shop.example.com", server=ip).ok, message=message)
            yield
        finally:
            process.kill()
