"""Real packets through the node's programs: sockets, devices with their offloads, a router that objects."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bpf import packets
from tests.bpf.conversation import MEGABYTE, EchoServer, exchange
from tests.bpf.nodeharness import Backend
from tests.bpf.nodenetwork import ENDS, HOPS, Network
from tests.bpf.nodescene import CLIENT, NODE, POD, REMOTE_POD, families

pytestmark = pytest.mark.root
NODE_PORT, TARGET = 30_080, 8080
offloads = pytest.mark.parametrize(
    "shared", [(), ENDS, HOPS], ids=["offloads", "ends", "hops"], indirect=True
)
kinds = pytest.mark.parametrize("datagrams", [False, True], ids=["tcp", "udp"])


@contextmanager
def routed(*software: tuple[str, str]) -> Iterator[Network]:
    """Direct routing; `software`: who fills in checksums."""
    one = Network()
    try:
        one.route_directly()
        one.start()
        one.checksums_by_software(*software)
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def shared(compiled: None, request: pytest.FixtureRequest) -> Iterator[Network]:
    with routed(*request.param) as one:
        yield one


@pytest.fixture
def network(shared: Network) -> Network:
    shared.forget()
    return shared


@pytest.fixture
def fresh(compiled: None) -> Iterator[Network]:
    """One that nobody has learned the ways of."""
    with routed() as one:
        yield one


def check(network: Network, family: int, server: str, *, datagrams: bool) -> tuple[str, int]:
    """A conversation of the client with the frontend on node A. Returns whom the backend saw."""
    with EchoServer(network, server, family, TARGET, datagrams=datagrams) as echo:
        peer, answer = exchange(network, "client", family, NODE[family], NODE_PORT, datagrams=datagrams)
    assert peer == (NODE[family], NODE_PORT)
    assert answer == (MEGABYTE[:1200] if datagrams else MEGABYTE)
    return echo.peers[0]


@families
@kinds
@offloads
def test_a_node_port_to_a_local_backend(network: Network, family: int, datagrams: bool) -> None:
    protocol = packets.UDP if datagrams else packets.TCP
    backend = Backend(POD[family], TARGET, local=True)
    network.nodes["a"].service(NODE[family], NODE_PORT, protocol, backend)
    assert check(network, family, "pa", datagrams=datagrams)[0] == CLIENT[family]


@families
@kinds
@offloads
def test_a_node_port_to_a_remote_backend(network: Network, family: int, datagrams: bool) -> None:
    protocol = packets.UDP if datagrams else packets.TCP
    network.nodes["a"].service(NODE[family], NODE_PORT, protocol, Backend(REMOTE_POD[family], TARGET))
    assert check(network, family, "pb", datagrams=datagrams)[0] == NODE[family]


@families
@kinds
@offloads
def test_a_pod_talks_to_the_world_as_the_node(network: Network, family: int, datagrams: bool) -> None:
    with EchoServer(network, "client", family, TARGET, datagrams=datagrams) as echo:
        _, answer = exchange(network, "pa", family, CLIENT[family], TARGET, datagrams=datagrams)
    assert answer == (MEGABYTE[:1200] if datagrams else MEGABYTE)
    assert echo.peers[0][0] == NODE[family]
    assert echo.peers[0][1] >= 61_000


@families
@pytest.mark.parametrize("shared", [()], ids=["offloads"], indirect=True)
def test_ping(network: Network, family: int) -> None:
    command = ["ip", "netns", "exec", network.name("pa"), "ping", "-c", "2", "-i", "0.1", "-W", "5"]
    subprocess.run([*command, CLIENT[family]], check=True, capture_output=True)
    (forward,) = [key for key in network.nodes["a"].translations() if key.side == 4]
    assert forward.endpoint_id == 0


@families
def test_the_world_objects_to_a_packets_size(fresh: Network, family: int) -> None:
    narrow(fresh, family)
    with EchoServer(fresh, "client", family, TARGET, datagrams=False) as echo:
        _, answer = exchange(fresh, "pa", family, CLIENT[family], TARGET)
    assert answer == MEGABYTE
    assert echo.peers[0][0] == NODE[family]
    assert path_mtu(fresh, "pa", family, CLIENT[family]) == 1300


@families
def test_the_way_to_a_client_behind_a_frontend_is_narrow(fresh: Network, family: int) -> None:
    """The router's objection to what the backend sent names the frontend: it must reach the backend."""
    narrow(fresh, family)
    backend = Backend(POD[family], TARGET, local=True)
    fresh.nodes["a"].service(NODE[family], NODE_PORT, packets.TCP, backend)
    assert check(fresh, family, "pa", datagrams=False)[0] == CLIENT[family]
    assert path_mtu(fresh, "pa", family, CLIENT[family]) == 1300


@families
def test_the_way_to_a_client_of_a_remote_backend_is_narrow(fresh: Network, family: int) -> None:
    narrow(fresh, family)
    fresh.nodes["a"].service(NODE[family], NODE_PORT, packets.TCP, Backend(REMOTE_POD[family], TARGET))
    assert check(fresh, family, "pb", datagrams=False)[0] == NODE[family]
    assert path_mtu(fresh, "pb", family, NODE[family]) == 1300


def narrow(network: Network, family: int) -> None:
    """The router takes 1300 bytes towards the client."""
    network.ip("router", f"-{family}", "route", "add", CLIENT[family], "dev", "far", "mtu", "lock", "1300")


def path_mtu(network: Network, machine: str, family: int, address: str) -> int:
    """What a machine believes of the way to an address."""
    command = ["ip", "-n", network.name(machine), f"-{family}", "route", "get", address]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(words[words.index("mtu") + 1]) if "mtu" in words else 0
