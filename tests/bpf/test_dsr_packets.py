"""Real packets with direct server return: clients come in by one node, the answers leave another."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shim.maps import lb
from shim.maps.base import address_bytes
from tests.bpf import frames, packets
from tests.bpf.conversation import MEGABYTE, EchoServer, exchange
from tests.bpf.namespaces import mac_in
from tests.bpf.nodeharness import Backend
from tests.bpf.nodenetwork import ENDS, FAMILY, HOPS, NODES, Network
from tests.bpf.nodescene import CLIENT, NODE, REMOTE_POD, VIP, families
from tests.bpf.test_dsr import named
from tests.waiting import eventually_sync

pytestmark = pytest.mark.root
NODE_PORT, TARGET = 30_080, 8080
ALL_PROTOCOLS = 3  # ETH_P_ALL
offloads = pytest.mark.parametrize(
    "network", [(), ENDS, HOPS], ids=["offloads", "ends", "hops"], indirect=True
)
kinds = pytest.mark.parametrize("datagrams", [False, True], ids=["tcp", "udp"])


@pytest.fixture(scope="module")
def shared(compiled: None) -> Iterator[dict[object, Network]]:
    """Networks by who fills in checksums, made when they are asked for."""
    made: dict[object, Network] = {}
    yield made
    for one in made.values():
        one.close()


@pytest.fixture
def network(shared: dict[object, Network], request: pytest.FixtureRequest) -> Network:
    software = getattr(request, "param", ())
    if software not in shared:
        shared[software] = one = Network()
        one.route_directly()
        one.start()
        one.checksums_by_software(*software)
    shared[software].forget()
    return shared[software]


def serve(network: Network, family: int, protocol: int) -> None:
    """The same service on both nodes: a node port, with its backend on node B."""
    for letter, node in network.nodes.items():
        backend = Backend(REMOTE_POD[family], TARGET, local=letter == "b")
        node.service(NODES[letter][family], NODE_PORT, protocol, backend, flags=lb.LB_DSR)


class Watch:
    """Sees what passes a machine's eth0 both ways."""

    def __init__(self, network: Network, machine: str) -> None:
        def make() -> socket.socket:
            one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
            one.bind(("eth0", ALL_PROTOCOLS))
            one.setblocking(False)
            return one

        self._socket = network.inside(machine, make)

    def close(self) -> None:
        self._socket.close()

    def to_client(self, family: int) -> int:
        """Transport packets whose destination is the client, seen until now."""
        found = 0
        while True:
            try:
                one = self._socket.recv(1 << 17)
            except BlockingIOError:
                return found
            at, size, protocol = (30, 4, 23) if family == 4 else (38, 16, 20)
            is_family = one[12:14] == (b"\x08\x00" if family == 4 else b"\x86\xdd")
            client = socket.inet_pton(FAMILY[family], CLIENT[family])
            transport = one[protocol] in (packets.TCP, packets.UDP)
            found += is_family and transport and one[at : at + size] == client


@contextmanager
def watched(network: Network) -> Iterator[dict[str, Watch]]:
    watches = {letter: Watch(network, letter) for letter in "ab"}
    try:
        yield watches
    finally:
        for one in watches.values():
            one.close()


@families
@kinds
@offloads
def test_the_backends_node_answers_the_client(network: Network, family: int, datagrams: bool) -> None:
    serve(network, family, packets.UDP if datagrams else packets.TCP)
    with watched(network) as watches:
        with EchoServer(network, "pb", family, TARGET, datagrams=datagrams) as echo:
            peer, answer = exchange(network, "client", family, NODE[family], NODE_PORT, datagrams=datagrams)
        passed = {letter: one.to_client(family) for letter, one in watches.items()}
    assert peer == (NODE[family], NODE_PORT)
    assert answer == (MEGABYTE[:1200] if datagrams else MEGABYTE)
    assert echo.peers[0][0] == CLIENT[family], "the client's own address"
    assert passed["a"] == 0
    assert passed["b"] > 0


@families
def test_a_datagram_without_room_for_the_option_is_translated(network: Network, family: int) -> None:
    serve(network, family, packets.UDP)
    data = MEGABYTE[: 1500 - (28 if family == 4 else 48)]
    one = network.inside("client", lambda: socket.socket(FAMILY[family], socket.SOCK_DGRAM))
    with EchoServer(network, "pb", family, TARGET, datagrams=True) as echo, one:
        one.settimeout(5)
        one.connect((NODE[family], NODE_PORT))
        one.send(data)
        assert one.recv(65_535) == data
    assert echo.peers[0][0] == NODE[family]


@families
@pytest.mark.parametrize("frontend", [VIP, CLIENT], ids=["frontend", "anything"])
def test_a_strangers_option_is_refused(network: Network, family: int, frontend: dict[int, str]) -> None:
    """Sent past node A to the backend's node, naming what is no frontend of ours."""
    serve(network, family, packets.UDP)
    body = packets.udp(5555, TARGET, b"forged")
    plain = frames.sealed(CLIENT[family], REMOTE_POD[family], packets.UDP, body)
    forged = mac_in(network.name("b"), "eth0") + named(plain, frontend[family], 53)[6:]
    node = network.nodes["b"]
    node.drain()

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as one:
            one.bind(("lanb", 0))
            one.send(forged)

    network.inside("router", send)
    source = address_bytes(CLIENT[family])

    def reasons() -> set[int]:
        events = node.drain()
        return {
            int(e["drop_reason"])
            for e in events
            if e["event_type"] == 1 and e["source_ip"].tobytes() == source
        }

    eventually_sync(lambda: reasons() == {134})
    assert node.translations() == {}
