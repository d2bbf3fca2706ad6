"""Questions of a pod on their way to the node's DNS proxy, and the servers' answers: real packets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shim.flows import record
from shim.maps import lb, node
from tests.bpf import packets as p
from tests.bpf.nodeharness import Backend
from tests.bpf.nodenetwork import FAMILY, NODES
from tests.bpf.nodescene import POD, families
from tests.bpf.proxyscene import (
    DNS_PORT,
    LISTENER,
    LONG,
    LONG_ANSWER,
    OUT,
    PROXY_PORT,
    SERVERS,
    Client,
    Proxy,
    ProxyNetwork,
    Server,
    allowed,
    closing,
    redirected,
)

pytestmark = pytest.mark.root
FORWARDED, DROPPED, TO_PROXY = 1, 2, 5
CLUSTER_IP = {4: "10.96.0.10", 6: "fd00:96::10"}
QUICK = 0.4
kinds = pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
routings = pytest.mark.parametrize("host_routing", [False, True], ids=["stack", "host-routing"])
everywhere = pytest.mark.parametrize("machine", SERVERS)


@contextmanager
def begun(folders: pytest.TempPathFactory, **how: bool) -> Iterator[ProxyNetwork]:
    one = ProxyNetwork()
    try:
        one.begin(folders.mktemp("proxy") / "before", **how)
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def direct(compiled: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyNetwork]:
    with begun(tmp_path_factory) as one:
        yield one


@pytest.fixture(scope="module")
def tunnelled(compiled: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyNetwork]:
    with begun(tmp_path_factory, tunnel=True) as one:
        yield one


@pytest.fixture(scope="module", params=[False, True], ids=["direct", "tunnel"])
def early(
    compiled: None, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[ProxyNetwork]:
    """Nothing is at the pod's own interface that could turn an answer round."""
    with begun(tmp_path_factory, tunnel=request.param, last_hook=False) as one:
        yield one


def source_seen(machine: str, family: int, client: Client, *, stream: bool) -> tuple[str, int | None]:
    """Whom a server takes for the client: the pod and its port. Beyond the router the node masquerades; by
    TCP the proxy asks an address of its own node in its own name."""
    if machine == "client":
        return NODES["a"][family], None
    if machine == "a" and stream:
        return NODES["a"][family], None
    return POD[family], client.port


def check_answer(answer: str, machine: str, family: int, client: Client, *, stream: bool) -> None:
    proxied, source, port, question = answer.split(" ", 3)
    address, expected = source_seen(machine, family, client, stream=stream)
    assert (proxied, source, question) == ("proxied", address, "question")
    assert expected is None or int(port) == expected


def converse(network: ProxyNetwork, family: int, machine: str, *, stream: bool) -> list[tuple[int, int, int]]:
    """Several questions on one socket, by the proxy; returns the verdicts that the pod's programs told."""
    server = SERVERS[machine][family], DNS_PORT
    with closing(
        lambda: Proxy(network, family),
        lambda: Server(network, machine, family),
        lambda: Client(network, family, server, stream=stream),
    ) as (proxy, _, client):
        for _ in range(3):
            check_answer(client.ask(b"question"), machine, family, client, stream=stream)
        client.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.socket.recv(1)
        assert set(proxy.asked) == {(POD[family], server[0])}
        assert len(proxy.asked) == (1 if stream else 3)
        return network.events(record.POLICY_VERDICT, record.DROP)


@families
@kinds
@routings
@everywhere
def test_the_proxy_asks_in_the_pods_name(
    direct: ProxyNetwork, machine: str, family: int, stream: bool, host_routing: bool
) -> None:
    direct.reset(host_routing=host_routing)
    assert converse(direct, family, machine, stream=stream) == [(record.POLICY_VERDICT, TO_PROXY, 0)]


@families
@kinds
@pytest.mark.parametrize("machine", ["pb", "qa", "client"])
def test_through_the_tunnel(tunnelled: ProxyNetwork, machine: str, family: int, stream: bool) -> None:
    tunnelled.reset(host_routing=True)
    assert converse(tunnelled, family, machine, stream=stream) == [(record.POLICY_VERDICT, TO_PROXY, 0)]


@families
@kinds
@routings
@pytest.mark.parametrize("machine", ["client", "pb", "qa"])
def test_answers_are_taken_out_where_they_come_in(
    early: ProxyNetwork, machine: str, family: int, stream: bool, host_routing: bool
) -> None:
    early.reset(host_routing=host_routing)
    converse(early, family, machine, stream=stream)


@families
@kinds
@routings
@pytest.mark.parametrize("machine", ["b", "qa", "a", "client"])
def test_a_service_before_the_proxy(
    direct: ProxyNetwork, machine: str, family: int, stream: bool, host_routing: bool
) -> None:
    """The pod hears the service, the proxy the backend."""
    direct.reset(host_routing=host_routing)
    protocol = p.TCP if stream else p.UDP
    backend = Backend(SERVERS[machine][family], DNS_PORT)
    direct.programs.service(CLUSTER_IP[family], 5300, protocol, backend, scope=lb.LB_INSIDE)
    with closing(
        lambda: Proxy(direct, family),
        lambda: Server(direct, machine, family),
        lambda: Client(direct, family, (CLUSTER_IP[family], 5300), stream=stream),
    ) as (proxy, _, client):
        for _ in range(2):
            check_answer(client.ask(b"question"), machine, family, client, stream=stream)
        assert set(proxy.asked) == {(POD[family], SERVERS[machine][family])}


@families
@kinds
@routings
@pytest.mark.parametrize("machine", ["b", "qa", "a"])
def test_without_a_proxy_nothing_passes(
    direct: ProxyNetwork, machine: str, family: int, stream: bool, host_routing: bool
) -> None:
    direct.reset(host_routing=host_routing)
    with closing(lambda: Server(direct, machine, family)), pytest.raises(TimeoutError):
        _ask_quickly(direct, machine, family, stream=stream)
    assert direct.events(record.POLICY_VERDICT, record.DROP)[:2] == [
        (record.POLICY_VERDICT, TO_PROXY, 0),
        (record.DROP, DROPPED, 180),
    ]


def _ask_quickly(network: ProxyNetwork, machine: str, family: int, *, stream: bool) -> str:
    server = SERVERS[machine][family], DNS_PORT
    with closing(lambda: Client(network, family, server, stream=stream, seconds=QUICK)) as (client,):
        return str(client.ask(b"question"))


@families
@kinds
def test_another_process_on_the_proxys_port_gets_nothing(
    direct: ProxyNetwork, family: int, stream: bool
) -> None:
    direct.reset()

    def stranger() -> socket.socket:
        made = socket.socket(FAMILY[family], socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        made.bind((LISTENER[family], PROXY_PORT))
        if stream:
            made.listen()
        made.setblocking(False)
        return made

    with closing(lambda: direct.inside("a", stranger)) as (taken,):
        with pytest.raises(TimeoutError):
            _ask_quickly(direct, "b", family, stream=stream)
        with pytest.raises(BlockingIOError):
            taken.accept() if stream else taken.recv(1)
    assert (record.DROP, DROPPED, 180) in direct.events(record.DROP)


@families
@pytest.mark.parametrize("machine", ["b", "qa", "a"])
def test_a_connection_that_is_up_does_not_go_on_past_the_proxy(
    direct: ProxyNetwork, machine: str, family: int
) -> None:
    """Even where the server is a process of this node, whose socket has the tuple that the look-up finds."""
    direct.reset()
    direct.policy("pa", allowed(OUT))
    server = SERVERS[machine][family], DNS_PORT
    with closing(
        lambda: Proxy(direct, family),
        lambda: Server(direct, machine, family),
        lambda: Client(direct, family, server, stream=True),
    ) as (proxy, _, client):
        assert client.ask(b"question") == f"{POD[family]} {client.port} question"
        direct.policy("pa", redirected())
        client.socket.settimeout(0.5)  # what passes would come within a millisecond
        with pytest.raises((ConnectionError, TimeoutError)):
            client.ask(b"another")
        assert proxy.asked == []


@families
@routings
@everywhere
def test_an_answer_in_fragments(direct: ProxyNetwork, machine: str, family: int, host_routing: bool) -> None:
    direct.reset(host_routing=host_routing)
    server = SERVERS[machine][family], DNS_PORT
    with closing(
        lambda: Proxy(direct, family),
        lambda: Server(direct, machine, family),
        lambda: Client(direct, family, server, stream=False),
    ) as (_, _, client):
        assert client.ask(LONG) == f"proxied {LONG_ANSWER}"


@families
@kinds
def test_a_policy_that_allows_ends_the_redirect(direct: ProxyNetwork, family: int, stream: bool) -> None:
    direct.reset()
    converse(direct, family, "b", stream=stream)
    direct.policy("pa", allowed(OUT))
    with closing(
        lambda: Server(direct, "b", family),
        lambda: Client(direct, family, (SERVERS["b"][family], DNS_PORT), stream=stream),
    ) as (_, client):
        assert client.ask(b"question") == f"{POD[family]} {client.port} question"


@families
def test_a_question_without_bits_and_flag_still_has_its_answer(direct: ProxyNetwork, family: int) -> None:
    """The pod's own interface is the last hook: what earlier ones let pass turns round there."""
    direct.reset()
    direct.programs.configure(flags=direct.programs.config.flags & ~node.NODE_PROXY)
    converse(direct, family, "a", stream=False)
