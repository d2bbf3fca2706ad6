"""Real connections through the endpoint programs: services, hairpin, host routing, partial checksums."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from axoneme.lib.policy.model import Direction
from shim.maps import node
from tests.bpf import packets as p
from tests.bpf.harness import PEER, POD, Datapath, allow
from tests.bpf.podnetwork import FAMILY, FAR, PodNetwork
from tests.bpf.servicescene import FRONTEND, LOOPBACK_ADDRESS, Services

pytestmark = pytest.mark.root

family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])
routed = pytest.mark.parametrize("flags", [0, node.NODE_HOST_ROUTING], ids=["stack", "host-routing"])
summed = pytest.mark.parametrize("software", [False, True], ids=["partial", "whole"])
PORT, WAIT = 8080, 5.0
MUCH = bytes(range(256)) * 2_000


@pytest.fixture(scope="module")
def built(loaded_datapath: Datapath) -> Iterator[PodNetwork]:
    network = PodNetwork(loaded_datapath)
    yield network
    network.close()


@pytest.fixture
def network(datapath: Datapath, built: PodNetwork) -> PodNetwork:
    """Everybody may talk to everybody."""
    for endpoint_id in (77, 78):
        datapath.policy(allow(Direction.INGRESS, 0) | allow(Direction.EGRESS, 0), endpoint_id=endpoint_id)
    built.describe()
    return built


@pytest.fixture
def services(datapath: Datapath, network: PodNetwork) -> Services:
    return Services(datapath)


def listener(network: PodNetwork, machine: str, v: int, kind: int, address: str = "") -> socket.socket:
    def make() -> socket.socket:
        one = socket.socket(FAMILY[v], kind)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.settimeout(WAIT)
        one.bind((address or ("0.0.0.0" if v == 4 else "::"), PORT))
        if kind == socket.SOCK_STREAM:
            one.listen()
        return one

    return network.inside(machine, make)


def serve_once(server: socket.socket, seen: list[str]) -> None:
    """Sends back all that one client sends, and notes where it came from."""
    connection, peer = server.accept()
    seen.append(peer[0])
    with connection:
        connection.settimeout(WAIT)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
        connection.sendall(received)


def talk(network: PodNetwork, client: str, v: int, server: socket.socket, target: str, port: int) -> str:
    """One TCP conversation with much data both ways. Returns the client's address as the server saw it."""
    seen: list[str] = []
    thread = threading.Thread(target=serve_once, args=(server, seen))
    thread.start()

    def speak() -> bytes:
        with socket.socket(FAMILY[v], socket.SOCK_STREAM) as one:
            one.settimeout(WAIT)
            one.connect((target, port))
            assert one.getpeername()[:2] == (target, port)
            one.sendall(MUCH)
            one.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := one.recv(65_536):
                received += chunk
            return received

    try:
        assert network.inside(client, speak) == MUCH
    finally:
        thread.join(WAIT)
    return seen[0]


@family
@routed
@summed
def test_tcp_to_a_service(
    datapath: Datapath, network: PodNetwork, services: Services, v: int, flags: int, software: bool
) -> None:
    network.checksums_by_software(on=software)
    services.node(flags=flags, uplink_ifindex=network.uplink())
    services.add(FRONTEND[v], p.TCP, [(PEER[v], PORT)])
    with listener(network, "p2", v, socket.SOCK_STREAM) as server:
        assert talk(network, "p1", v, server, FRONTEND[v], 80) == POD[v]


@family
@routed
@summed
def test_tcp_to_itself(
    datapath: Datapath, network: PodNetwork, services: Services, v: int, flags: int, software: bool
) -> None:
    network.checksums_by_software(on=software)
    services.node(flags=flags, uplink_ifindex=network.uplink())
    services.add(FRONTEND[v], p.TCP, [(POD[v], PORT)])
    with listener(network, "p1", v, socket.SOCK_STREAM) as server:
        assert talk(network, "p1", v, server, FRONTEND[v], 80) == LOOPBACK_ADDRESS[v]
    assert datapath.connections() == {}


@family
@routed
@summed
def test_tcp_beyond_the_uplink(
    datapath: Datapath, network: PodNetwork, services: Services, v: int, flags: int, software: bool
) -> None:
    """Directly and by a service whose backend is no endpoint."""
    network.checksums_by_software(on=software)
    services.node(flags=flags, uplink_ifindex=network.uplink())
    services.add(FRONTEND[v], p.TCP, [(FAR[v], PORT)])
    with listener(network, "far", v, socket.SOCK_STREAM) as server:
        for target, port in ((FAR[v], PORT), (FRONTEND[v], 80)):
            assert talk(network, "p1", v, server, target, port) == POD[v]


def forwarded(network: PodNetwork, v: int) -> int:
    """Packets that the node's stack has forwarded."""
    if v == 6:
        lines = network.inside("n", lambda: Path("/proc/thread-self/net/snmp6").read_text()).splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Ip6OutForwDatagrams"))
    lines = network.inside("n", lambda: Path("/proc/thread-self/net/snmp").read_text()).splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    return int(values[names.index("ForwDatagrams")])


@family
@routed
def test_who_forwards(
    datapath: Datapath, network: PodNetwork, services: Services, v: int, flags: int
) -> None:
    """With host routing the node's stack forwards nothing, between its pods and to other machines."""
    services.node(flags=flags, uplink_ifindex=network.uplink())
    for machine, target in (("p2", PEER[v]), ("far", FAR[v])):
        before = forwarded(network, v)
        with listener(network, machine, v, socket.SOCK_STREAM) as server:
            talk(network, "p1", v, server, target, PORT)
        sent = forwarded(network, v) - before
        # What comes from beyond the uplink is the business of the uplink's program.
        assert (sent > 10) == (flags == 0 or machine == "far")
        if flags and machine == "p2":
            assert sent == 0


@family
@routed
def test_udp_fragments_to_a_service(
    datapath: Datapath, network: PodNetwork, services: Services, v: int, flags: int
) -> None:
    services.node(flags=flags, uplink_ifindex=network.uplink())
    services.add(FRONTEND[v], p.UDP, [(PEER[v], PORT)])
    datagram = MUCH[:6_000]

    def ask() -> bytes:
        with socket.socket(FAMILY[v], socket.SOCK_DGRAM) as one:
            one.settimeout(WAIT)
            one.connect((FRONTEND[v], 80))
            one.send(datagram)
            return one.recv(65_536)

    with listener(network, "p2", v, socket.SOCK_DGRAM, PEER[v]) as server:

        def answer() -> None:
            received, peer = server.recvfrom(65_536)
            server.sendto(received[::-1], peer)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            assert network.inside("p1", ask) == datagram[::-1]
        finally:
            thread.join(WAIT)


@family
@routed
@summed
def test_a_closed_port_behind_a_service(
    datapath: Datapath, network: PodNetwork, services: Services, v: int, flags: int, software: bool
) -> None:
    """The backend's ICMP error reaches the socket that believes to talk to the frontend."""
    network.checksums_by_software(on=software)
    services.node(flags=flags, uplink_ifindex=network.uplink())
    for backend in (PEER[v], POD[v]):
        services.add(FRONTEND[v], p.UDP, [(backend, 9999)])

        def ask() -> int:
            with socket.socket(FAMILY[v], socket.SOCK_DGRAM) as one:
                one.settimeout(WAIT)
                one.connect((FRONTEND[v], 80))
                one.send(b"anyone?")
                try:
                    one.recv(100)
                except OSError as error:
                    return error.errno or 0
                return 0

        assert network.inside("p1", ask) == errno.ECONNREFUSED


@family
@routed
def test_policy_holds_on_every_way(
    datapath: Datapath, network: PodNetwork, services: Services, v: int, flags: int
) -> None:
    """The receiver's denial, by its address and by the service's."""
    services.node(flags=flags, uplink_ifindex=network.uplink())
    services.add(FRONTEND[v], p.TCP, [(PEER[v], PORT)])
    datapath.policy(allow(Direction.INGRESS, 4242), endpoint_id=78)

    def knock(target: str, port: int) -> int:
        with socket.socket(FAMILY[v], socket.SOCK_STREAM) as one:
            one.settimeout(0.5)
            return one.connect_ex((target, port))

    with listener(network, "p2", v, socket.SOCK_STREAM):
        for target, port in ((PEER[v], PORT), (FRONTEND[v], 80)):
            assert network.inside("p1", partial(knock, target, port)) == errno.EAGAIN
    drops = {(int(e["endpoint_id"]), int(e["drop_reason"])) for e in datapath.drain() if e["event_type"] == 1}
    assert drops == {(78, 133)}
