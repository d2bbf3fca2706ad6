"""Services, host ports and this node as values, with the places that they name. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from axoneme.lib.errors import InvalidArgument
from shim.endpoints import HostPort
from shim.lb import maglev
from shim.maps.base import address_from_bytes

TCP, UDP, SCTP = 6, 17, 132
PROTOCOL_NAMES: Final = {TCP: "tcp", UDP: "udp", SCTP: "sctp"}
MAX_SLOTS: Final = 0xFFFF
RANDOM, MAGLEV = "random", "maglev"
SNAT, DSR = "snat", "dsr"
HOST_PORT_OWNER: Final = "~hostport:"


class State(IntEnum):
    """Life of a backend, as in the API."""

    ACTIVE = 1
    TERMINATING = 2
    MAINTENANCE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One address behind a service; `ports`: numbers that differ from the service's, by its port's name."""

    address: bytes
    state: State = State.ACTIVE
    node_name: str = ""
    ports: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One port of a service. `target_port` 0 without a name means `port`; `node_port` 0 is none."""

    protocol: int
    port: int
    name: str = ""
    target_port: int = 0
    target_port_name: str = ""
    node_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service of the stream. Addresses are 16 bytes; `source_ranges` None lets everybody in."""

    namespace: str
    name: str
    ports: tuple[Port, ...]
    cluster_ips: tuple[bytes, ...] = ()
    external_ips: tuple[bytes, ...] = ()
    load_balancer_ips: tuple[bytes, ...] = ()
    source_ranges: tuple[str, ...] | None = None
    node_ports: bool = False
    backends: tuple[Backend, ...] = ()
    external_local: bool = False
    internal_local: bool = False
    affinity_seconds: int = 0
    algorithm: str = ""
    maglev_table_size: int = 0
    forwarding: str = ""

    @property
    def key(self) -> str:
        """Key in the stream."""
        return f"service:{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPorts:
    """The host ports of one endpoint of this node."""

    endpoint_id: int
    addresses: tuple[bytes, ...]
    ports: tuple[HostPort, ...]

    @property
    def key(self) -> str:
        """Sorts behind every service: a service wins over a host port."""
        return f"{HOST_PORT_OWNER}{self.endpoint_id}"


Owner: TypeAlias = Service | HostPorts
"""What frontends belong to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """This node: its name, its own addresses, addresses of its endpoints, and its options.

    Through a `tunnel` no backend answers clients itself: what asks for DSR is forwarded by SNAT.
    """

    node_name: str
    addresses: tuple[bytes, ...] = ()
    endpoint_addresses: frozenset[bytes] = frozenset()
    algorithm: str = RANDOM
    maglev_table_size: int = 16_381
    forwarding: str = SNAT
    tunnel: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidArgument for a default that is none."""
        if self.maglev_table_size not in maglev.SIZES:
            text = f"{self.maglev_table_size} is none of {maglev.SIZES}"
            raise InvalidArgument.of_field("maglev_table_size", text)


class Target(NamedTuple):
    """A backend's address, port and protocol."""

    address: bytes
    port: int
    protocol: int

    @property
    def name(self) -> str:
        """`10.0.1.7:8080/tcp` or `[fd00::1]:53/udp`: the same on every node, so Maglev hashes it."""
        return place_name(self.address, self.port, self.protocol)


class Frontend(NamedTuple):
    """An address that clients dial, and where they are: LB_INSIDE or LB_OUTSIDE."""

    address: bytes
    port: int
    protocol: int
    scope: int

    @property
    def name(self) -> str:
        """For people."""
        return place_name(self.address, self.port, self.protocol)


def place_name(address: bytes, port: int, protocol: int) -> str:
    """`10.0.1.7:8080/tcp`, IPv6 in brackets."""
    shown = address_from_bytes(address)
    text = f"[{shown}]" if shown.version == 6 else str(shown)
    return f"{text}:{port}/{PROTOCOL_NAMES.get(protocol, protocol)}"


def is_ipv6(address: bytes) -> bool:
    """Family of 16 bytes."""
    return not address.startswith(b"\0\0\0\0\0\0\0\0\0\0\xff\xff")
