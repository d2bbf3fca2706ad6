"""What a service or host ports come to on this node: a plan. No I/O, no clock.

A plan names frontends, the list of backends behind each, and the backends themselves; numbers of the kernel
come later. Which list a client gets:

    scope     frontend                                             list
    INSIDE    cluster IP                                           by internal_traffic_policy
    INSIDE    node port, external IP, load balancer IP             all: a client inside is no external traffic
    OUTSIDE   node port, external IP, load balancer IP             by external_traffic_policy
    both      host port                                            the one endpoint

A family without backends of its own has an empty list: its clients are dropped, not sent elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple

from shim.endpoints import HostPort
from shim.lb import maglev
from shim.lb.model import (
    DSR,
    MAGLEV,
    MAX_SLOTS,
    SCTP,
    Backend,
    Frontend,
    HostPorts,
    NodeView,
    Owner,
    Port,
    Service,
    State,
    Target,
    is_ipv6,
)
from shim.maps.base import address_bytes, address_from_bytes
from shim.maps.lb import (
    BACKEND_LOCAL,
    BACKEND_TERMINATING,
    LB_AFFINITY,
    LB_DSR,
    LB_INSIDE,
    LB_LOCAL_ONLY,
    LB_NOT_SOCKET,
    LB_OUTSIDE,
    LB_SOURCE_RANGES,
)


class BackendSet(NamedTuple):
    """A list of backends, sorted by name, with everything that hangs on its number.

    `label` keeps ports apart; `table_size` 0 is a random choice; `ranges` are who may use it from outside,
    where a frontend asks. Equal sets of one owner are one set in the kernel.
    """

    label: tuple[int, int, bool]
    targets: tuple[Target, ...]
    table_size: int = 0
    ranges: tuple[str, ...] = ()


class Answer(NamedTuple):
    """What a frontend holds; `flags` are those of LbService."""

    backends: BackendSet
    flags: int
    affinity_seconds: int


@dataclass(slots=True)
class Plan:
    """What one owner comes to on this node; `targets` have the flags of LbBackend."""

    frontends: dict[Frontend, Answer] = field(default_factory=dict)
    targets: dict[Target, int] = field(default_factory=dict)
    excess: int = 0  # backends of the largest list, when they are more than fit

    def sets(self) -> set[BackendSet]:
        """Sets that have backends, each once."""
        return {answer.backends for answer in self.frontends.values() if answer.backends.targets}


def plan(owner: Owner, node: NodeView) -> Plan:
    """Everything that an owner comes to on a node."""
    return _plan_service(owner, node) if isinstance(owner, Service) else _plan_host_ports(owner, node)


def target_port(port: Port, backend: Backend) -> int:
    """The port of a backend; 0 when its workload has no port of the wanted name."""
    own = next((number for name, number in backend.ports if name == port.name), 0)
    return own or (0 if port.target_port_name else port.target_port or port.port)


def _plan_service(service: Service, node: NodeView) -> Plan:
    made = Plan()
    backends = [backend for backend in service.backends if backend.state is not State.MAINTENANCE]
    families = {is_ipv6(address) for address in _addresses(service, node)}
    for port in service.ports:
        for ipv6 in families:
            lists = _Lists(service, port, node, [b for b in backends if is_ipv6(b.address) is ipv6], ipv6)
            made.targets.update(lists.targets)
            for frontend, answer in _frontends(service, port, node, lists):
                made.frontends[frontend] = answer
                made.excess = max(made.excess, len(answer.backends.targets))
    made.excess = made.excess if made.excess > MAX_SLOTS else 0
    return made


def _addresses(service: Service, node: NodeView) -> Iterator[bytes]:
    yield from (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips)
    if service.node_ports:
        yield from node.addresses


class _Lists:
    """Backends of one port and one family: all of them, and those on this node."""

    def __init__(
        self, service: Service, port: Port, node: NodeView, backends: Iterable[Backend], ipv6: bool
    ) -> None:
        self._service, self._node = service, node
        self._label = (port.port, port.protocol, ipv6)
        self.ipv6 = ipv6
        self.targets: dict[Target, int] = {}
        for backend in backends:
            number = target_port(port, backend)
            if not number:
                continue
            flags = BACKEND_TERMINATING if backend.state is State.TERMINATING else 0
            if backend.address in node.endpoint_addresses or backend.node_name == node.node_name:
                flags |= BACKEND_LOCAL
            self.targets[Target(backend.address, number, port.protocol)] = flags
        self.everywhere = self._set(self.targets)
        self.here = self.everywhere
        if service.external_local or service.internal_local:
            near = {target: flags for target, flags in self.targets.items() if flags & BACKEND_LOCAL}
            self.here = self._set(near)

    def _set(self, targets: Mapping[Target, int]) -> BackendSet:
        """Those that are not on their way out, unless no other is left."""
        serving = [target for target, flags in targets.items() if not flags & BACKEND_TERMINATING]
        chosen = serving or list(targets)
        if len(chosen) > 1:
            chosen.sort(key=lambda target: target.name)
        return BackendSet(
            self._label, tuple(chosen), self._table_size(len(chosen)), self._service.source_ranges or ()
        )

    def _table_size(self, count: int) -> int:
        """None for one backend: any choice is the same. More backends than elements need a larger one."""
        service, node = self._service, self._node
        if count <= 1 or (service.algorithm or node.algorithm) != MAGLEV:
            return 0
        wanted = service.maglev_table_size or node.maglev_table_size
        return next((size for size in maglev.SIZES if size >= max(wanted, count)), 0)


def _frontends(
    service: Service, port: Port, node: NodeView, lists: _Lists
) -> Iterator[tuple[Frontend, Answer]]:
    affinity = LB_AFFINITY if service.affinity_seconds else 0
    not_socket = LB_NOT_SOCKET if port.protocol == SCTP else 0  # its sockets pass no connect hook

    def answer(backends: BackendSet, flags: int) -> Answer:
        # An empty list has no number, and so neither ranges nor clients to remember.
        kept = flags | affinity if backends.targets else flags & ~LB_SOURCE_RANGES
        return Answer(backends, kept, service.affinity_seconds)

    inside = lists.here if service.internal_local else lists.everywhere
    outside = lists.here if service.external_local else lists.everywhere
    way = LB_DSR if (service.forwarding or node.forwarding) == DSR and not service.external_local else 0
    way |= LB_LOCAL_ONLY if service.external_local else 0
    ranges = LB_SOURCE_RANGES if service.source_ranges is not None else 0

    def external(addresses: Iterable[bytes], number: int, flags: int) -> Iterator[tuple[Frontend, Answer]]:
        for address in addresses:
            if is_ipv6(address) is lists.ipv6:
                yield (
                    Frontend(address, number, port.protocol, LB_INSIDE),
                    answer(lists.everywhere, not_socket),
                )
                yield Frontend(address, number, port.protocol, LB_OUTSIDE), answer(outside, way | flags)

    if port.node_port and service.node_ports:
        yield from external(node.addresses, port.node_port, 0)
    yield from external(service.external_ips, port.port, 0)
    yield from external(service.load_balancer_ips, port.port, ranges)
    for address in service.cluster_ips:
        if is_ipv6(address) is lists.ipv6:
            yield Frontend(address, port.port, port.protocol, LB_INSIDE), answer(inside, not_socket)


def _plan_host_ports(owner: HostPorts, node: NodeView) -> Plan:
    made = Plan()
    for port in owner.ports:
        wanted = listening(port, node.addresses)
        for address in owner.addresses:
            target = Target(address, port.container_port, port.protocol)
            ipv6 = is_ipv6(address)
            backends = BackendSet((port.host_port, port.protocol, ipv6), (target,))
            made.targets[target] = BACKEND_LOCAL
            for own in wanted:
                if is_ipv6(own) is not ipv6:
                    continue
                socket = LB_NOT_SOCKET if port.protocol == SCTP else 0
                inside = Frontend(own, port.host_port, port.protocol, LB_INSIDE)
                made.frontends[inside] = Answer(backends, socket, 0)
                if not address_from_bytes(own).is_loopback:
                    made.frontends[inside._replace(scope=LB_OUTSIDE)] = Answer(backends, 0, 0)
    return made


def listening(port: HostPort, node_addresses: Iterable[bytes]) -> tuple[bytes, ...]:
    """Addresses on which a host port listens; empty and unspecified ones mean every address of the node."""
    if not port.host_ip or ip_address(port.host_ip).is_unspecified:
        return tuple(node_addresses)
    return (address_bytes(port.host_ip),)
