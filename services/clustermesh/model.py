"""Services, ports and backends as the service thinks of them. Pure data, frozen; equal means the same.

Addresses are canonical texts, ports are 1–65535, protocols are IANA's numbers.
"""

from __future__ import annotations

import enum
import socket

import msgspec


class Protocol(enum.IntEnum):
    """Transport protocol of a port."""

    TCP = 6
    UDP = 17
    SCTP = 132


class ServiceType(enum.StrEnum):
    """Where a service can be reached."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class TrafficPolicy(enum.StrEnum):
    """Which backends a client gets."""

    CLUSTER = "Cluster"
    LOCAL = "Local"


class Algorithm(enum.StrEnum):
    """How a backend is chosen; the default is each node's own."""

    DEFAULT = ""
    RANDOM = "random"
    MAGLEV = "maglev"


class ForwardingMode(enum.StrEnum):
    """How packets from outside travel to backends elsewhere; the default is each node's own."""

    DEFAULT = ""
    SNAT = "snat"
    DSR = "dsr"


class BackendState(enum.StrEnum):
    """Life of a backend."""

    ACTIVE = "active"
    TERMINATING = "terminating"
    MAINTENANCE = "maintenance"


class ServiceKey(msgspec.Struct, frozen=True, order=True):
    """Name of a service in its namespace."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Port(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One port; `target_port` is 0 when `target_port_name` names it, `node_port` is 0 for none."""

    name: str = ""
    protocol: Protocol = Protocol.TCP
    port: int
    target_port: int = 0
    target_port_name: str = ""
    node_port: int = 0

    @property
    def slot(self) -> tuple[Protocol, int]:
        """What makes a port unique in its service."""
        return self.protocol, self.port


class Backend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One address behind a service; `ports` has (port name, number) pairs, sorted."""

    ip: str
    state: BackendState = BackendState.ACTIVE
    node_name: str = ""
    ports: tuple[tuple[str, int], ...] = ()


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service as somebody applied it, completed with what was allocated.

    `selector` and `addresses` are None when they are not the source; `source_ranges` is None for anybody;
    `affinity_seconds` is 0 for no affinity.
    """

    key: ServiceKey
    labels: tuple[tuple[str, str], ...] = ()
    type: ServiceType = ServiceType.CLUSTER_IP
    cluster_ips: tuple[str, ...] = ()
    headless: bool = False
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] | None = None
    ports: tuple[Port, ...] = ()
    selector: tuple[tuple[str, str], ...] | None = None
    addresses: tuple[Backend, ...] | None = None
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    internal_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    affinity_seconds: int = 0
    algorithm: Algorithm = Algorithm.DEFAULT
    maglev_table_size: int = 0
    forwarding_mode: ForwardingMode = ForwardingMode.DEFAULT

    @property
    def on_nodes(self) -> bool:
        """Whether ports of the nodes lead to the service."""
        return self.type is not ServiceType.CLUSTER_IP

    @property
    def reserved_ips(self) -> tuple[str, ...]:
        """Addresses of which the service has single ports: external ones and those of load balancers."""
        return tuple(dict.fromkeys((*self.external_ips, *self.load_balancer_ips)))

    @property
    def families(self) -> frozenset[int]:
        """The families (4, 6) in which the service has addresses; both for one without any."""
        found = frozenset(map(family, (*self.cluster_ips, *self.reserved_ips)))
        return found or frozenset((4, 6))


def family(ip: str) -> int:
    """4 or 6, of an address or prefix in canonical text."""
    return 6 if ":" in ip else 4


def address_order(ip: str) -> tuple[int, bytes]:
    """Key that sorts addresses in canonical text by family and number."""
    # Not ipaddress, which takes ten times as long: every change of a service sorts its backends.
    if ":" in ip:
        return 6, socket.inet_pton(socket.AF_INET6, ip)
    return 4, socket.inet_pton(socket.AF_INET, ip)
