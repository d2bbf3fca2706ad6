"""Random lives of a node: after each step the maps are what a slow function says from scratch.

LbNode looks after every single write whether each frontend leads to a whole set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from shim.endpoints import HostPort
from shim.lb.model import Backend, Port, Service, State
from shim.maps import lb
from shim.maps.base import address_from_bytes
from tests.unit.shim.lb.lbnode import CLUSTER, EXTERNAL, NODE, PODS, LbNode, Shown, backend, service

SIZE = 251
ADDRESSES = (NODE, NODE[:1], (*NODE, "192.0.2.2"))
FAMILIES = st.sampled_from([(4,), (6,), (4, 6)])


@dataclass
class World:
    """Everything that was told."""

    services: dict[str, Service] = field(default_factory=dict)
    endpoints: dict[int, tuple[tuple[str, ...], tuple[HostPort, ...]]] = field(default_factory=dict)
    addresses: tuple[str, ...] = NODE


@st.composite
def backends(draw: st.DrawFn) -> tuple[Backend, ...]:
    chosen = draw(st.lists(st.tuples(st.integers(1, 5), FAMILIES), max_size=4, unique_by=lambda one: one[0]))
    made = []
    for number, families in chosen:
        state = draw(st.sampled_from([State.ACTIVE, State.ACTIVE, State.TERMINATING, State.MAINTENANCE]))
        node = draw(st.sampled_from(["node1", "node2", ""]))
        ports = draw(st.sampled_from([{}, {}, {"dns": 5300 + number}]))
        made += [backend(PODS[family].format(number), state, node, **ports) for family in families]
    return tuple(made)


PORTS = (
    Port(protocol=6, port=80, target_port=8080, name="http", node_port=30_080),
    Port(protocol=17, port=53, target_port_name="dns", name="dns"),
    Port(protocol=132, port=5000, name="sctp", node_port=30_500),
)


@st.composite
def services(draw: st.DrawFn) -> Service:
    number = draw(st.integers(1, 3))
    families = draw(FAMILIES)
    # Now and then two services want one address, which the service that allocates them would not let happen.
    shared = draw(st.sampled_from([number, number, number, 9]))
    return service(
        f"s{number}",
        *draw(backends()),
        ports=tuple(draw(st.lists(st.sampled_from(PORTS), min_size=1, max_size=3, unique=True))),
        cluster_ips=tuple(CLUSTER[family].format(shared) for family in families),
        external_ips=tuple(
            draw(st.sampled_from([(), (EXTERNAL[4].format(shared), EXTERNAL[6].format(shared))]))
        ),
        load_balancer_ips=draw(st.sampled_from([(), (EXTERNAL[6].format(100 + number),)])),
        source_ranges=draw(st.sampled_from([None, (), ("2001:db8:5::/48", "203.0.113.0/24")])),
        node_ports=draw(st.booleans()),
        external_local=draw(st.booleans()),
        internal_local=draw(st.booleans()),
        affinity_seconds=draw(st.sampled_from([0, 0, 600])),
        algorithm=draw(st.sampled_from(["", "random", "maglev"])),
        maglev_table_size=SIZE,
        forwarding=draw(st.sampled_from(["", "dsr"])),
    )


HOST_PORTS = st.lists(
    st.sampled_from(
        [
            HostPort(8443, 443, 6, ""),
            HostPort(30_080, 80, 6, ""),
            HostPort(5353, 53, 17, "192.0.2.1"),
            HostPort(5353, 53, 17, "2001:db8::1"),
            HostPort(9000, 9000, 6, "127.0.0.1"),
        ]
    ),
    max_size=2,
    unique=True,
)
ENDPOINTS = st.tuples(st.integers(1, 3), FAMILIES, HOST_PORTS)
STEPS = st.one_of(
    st.tuples(st.just("put"), st.lists(services(), min_size=1, max_size=3)),
    st.tuples(st.just("put"), st.lists(services(), min_size=1, max_size=3)),
    st.tuples(st.just("remove"), st.integers(1, 3)),
    st.tuples(st.just("endpoint"), ENDPOINTS),
    st.tuples(st.just("no endpoint"), st.integers(1, 3)),
    st.tuples(st.just("addresses"), st.sampled_from(ADDRESSES)),
    st.tuples(st.just("restart"), st.booleans()),
    st.tuples(st.just("time"), st.floats(0.1, 3.0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=10))
def test_any_sequence(steps: list[tuple[str, object]]) -> None:
    asyncio.run(live(steps))


async def live(steps: list[tuple[str, object]]) -> None:
    node, world = LbNode(), World()
    await node.balancer.restore()
    await node.complete()
    for name, what in steps:
        await take(node, world, name, what)
        assert node.shown() == frontends(world)
        assert {n: f for n, f in node.backends().items() if n in targets(world)} == targets(world)
    await node.settle()
    assert node.shown() == frontends(world)
    assert node.backends() == targets(world)
    nothing_left_over(node)
    assert await node.balancer.audit() == []


async def take(node: LbNode, world: World, name: str, what: object) -> None:
    """One step of both."""
    if name == "put":
        assert isinstance(what, list)
        world.services.update((one.key, one) for one in what)
        await node.put(*what)
    elif name == "remove":
        key = f"service:default/s{what}"
        world.services.pop(key, None)
        await node.put(removed=(key,))
    elif name == "endpoint":
        assert isinstance(what, tuple)
        number, families, host_ports = what
        ips = tuple(PODS[family].format(number) for family in families)
        world.endpoints[number] = (ips, tuple(host_ports))
        node.add_endpoint(number, *ips, host_ports=tuple(host_ports))
        await node.put()
    elif name == "no endpoint":
        assert isinstance(what, int)
        world.endpoints.pop(what, None)
        node.endpoints.remove(what)
        await node.put()
    elif name == "addresses":
        assert isinstance(what, tuple)
        world.addresses = what
        node.balancer.set_addresses(what)
        await node.put()
    elif name == "restart":
        await restart(node, world, stored=bool(what))
    else:
        assert isinstance(what, float)
        node.clock.now += what
        await node.balancer.retry()


async def restart(node: LbNode, world: World, *, stored: bool) -> None:
    """Another life over the same maps: everything stays in force, and sets keep their numbers."""
    before, numbers = node.shown(), sets_by_frontend(node)
    last = (node.balancer.books.backends.last.last, node.balancer.books.last_set.last) if stored else (0, 0)
    node.start()
    node.balancer.set_addresses(world.addresses)
    await node.balancer.restore(*last)
    assert node.shown() == before
    for number, (ips, host_ports) in world.endpoints.items():
        node.add_endpoint(number, *ips, host_ports=host_ports)
    await node.complete(*world.services.values())
    assert sets_by_frontend(node) == numbers


def sets_by_frontend(node: LbNode) -> dict[bytes, int]:
    return {key: lb.LbService.unpack(raw).set_id for key, raw in node.map(lb.LB).items()}


def nothing_left_over(node: LbNode) -> None:
    """Every slot, table and range belongs to a set that a frontend names."""
    named = {one for one in sets_by_frontend(node).values() if one}
    assert {lb.LbSlotKey.unpack(key).set_id for key, _ in node.map(lb.LB_SLOTS).items()} <= named
    assert {lb.LbSourceKey.unpack(key).set_id for key, _ in node.map(lb.LB_SOURCE).items()} <= named
    assert {int.from_bytes(key, "little") for key, _ in node.map(lb.MAGLEV).items()} <= named


# --- the slow function


def frontends(world: World) -> dict[tuple[str, str], Shown]:
    """Every frontend by name; who comes first by name overwrites the others."""
    found: dict[tuple[str, str], Shown] = {}
    for number in sorted(world.endpoints, reverse=True):
        found.update(host_frontends(world, *world.endpoints[number]))
    for key in sorted(world.services, reverse=True):
        one = world.services[key]
        for port in one.ports:
            for kind, address, number in dialled(world, one, port):
                for scope in ("inside", "outside"):
                    if kind != "cluster" or scope == "inside":
                        found[shown_at(address, number, port), scope] = answer(
                            world, one, port, kind, address, scope
                        )
    return found


def dialled(world: World, one: Service, port: Port) -> Iterator[tuple[str, str, int]]:
    if one.node_ports and port.node_port:
        yield from (("node", address, port.node_port) for address in world.addresses)
    for kind, addresses in (
        ("external", one.external_ips),
        ("balancer", one.load_balancer_ips),
        ("cluster", one.cluster_ips),
    ):
        yield from ((kind, str(address_from_bytes(address)), port.port) for address in addresses)


def answer(world: World, one: Service, port: Port, kind: str, address: str, scope: str) -> Shown:
    local = one.internal_local if kind == "cluster" else scope == "outside" and one.external_local
    own = {ip for ips, _ in world.endpoints.values() for ip in ips}
    usable = []
    for found in one.backends:
        ip = str(address_from_bytes(found.address))
        number = dict(found.ports).get(port.name) or (
            0 if port.target_port_name else port.target_port or port.port
        )
        if found.state is State.MAINTENANCE or not number or (":" in ip) != (":" in address):
            continue
        if not local or ip in own or found.node_name == "node1":
            usable.append((shown_at(ip, number, port), found.state))
    active = [name for name, state in usable if state is State.ACTIVE]
    names = tuple(sorted(active or [name for name, _ in usable]))
    flags = lb.LB_AFFINITY if one.affinity_seconds and names else 0
    if scope == "inside":
        flags |= lb.LB_NOT_SOCKET if port.protocol == 132 else 0
    elif one.external_local:
        flags |= lb.LB_LOCAL_ONLY
    elif one.forwarding == "dsr":
        flags |= lb.LB_DSR
    if scope == "outside" and kind == "balancer" and one.source_ranges is not None and names:
        flags |= lb.LB_SOURCE_RANGES
    size = SIZE if one.algorithm == "maglev" and len(names) > 1 else 0
    return Shown(names, flags, one.affinity_seconds, size)


def host_frontends(
    world: World, ips: tuple[str, ...], host_ports: tuple[HostPort, ...]
) -> Iterator[tuple[tuple[str, str], Shown]]:
    for port in host_ports:
        for ip in ips:
            for address in (port.host_ip,) if port.host_ip else world.addresses:
                if (":" in ip) == (":" in address):
                    like = Port(protocol=port.protocol, port=1)
                    shown = Shown((shown_at(ip, port.container_port, like),), 0, 0, 0)
                    name = shown_at(address, port.host_port, like)
                    yield (name, "inside"), shown
                    if address != "127.0.0.1":
                        yield (name, "outside"), shown


def targets(world: World) -> dict[str, int]:
    """Every backend of every service that has an address of its family, and of host ports, with flags."""
    own = {ip for ips, _ in world.endpoints.values() for ip in ips}
    said: dict[str, list[int]] = {}
    for one in world.services.values():
        for port in one.ports:
            versions = {":" in address for _, address, _ in dialled(world, replace(one), port)}
            if one.node_ports:
                versions |= {":" in address for address in world.addresses}
            for found in one.backends:
                ip = str(address_from_bytes(found.address))
                number = dict(found.ports).get(port.name) or (
                    0 if port.target_port_name else port.target_port or port.port
                )
                if found.state is State.MAINTENANCE or not number or (":" in ip) not in versions:
                    continue
                flags = lb.BACKEND_TERMINATING if found.state is State.TERMINATING else 0
                flags |= lb.BACKEND_LOCAL if ip in own or found.node_name == "node1" else 0
                said.setdefault(shown_at(ip, number, port), []).append(flags)
    for ips, host_ports in world.endpoints.values():
        for host_port in host_ports:
            for ip in ips:
                name = shown_at(ip, host_port.container_port, Port(protocol=host_port.protocol, port=1))
                said.setdefault(name, []).append(lb.BACKEND_LOCAL)
    everyone = lb.BACKEND_TERMINATING
    return {
        name: (everyone if all(one & everyone for one in flags) else 0)
        | (lb.BACKEND_LOCAL if any(one & lb.BACKEND_LOCAL for one in flags) else 0)
        for name, flags in said.items()
    }


def shown_at(ip: str, number: int, port: Port) -> str:
    protocol = {6: "tcp", 17: "udp", 132: "sctp"}[port.protocol]
    return f"[{ip}]:{number}/{protocol}" if ":" in ip else f"{ip}:{number}/{protocol}"
