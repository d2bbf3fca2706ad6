"""SubscribeServices between its messages and services of the model.

A service that cannot be understood fails alone under `service:<namespace>/<name>` and keeps its last good
value; so does one that asks for something which this version does not know.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lib.errors import AxonemeError, Unsupported
from axoneme.lib.intent import Ack, Change, Failure, Hello, Interest, Resync, Update
from axoneme.lib.intentstream import envelope
from shim.lb import maglev
from shim.lb.model import (
    DSR,
    MAGLEV,
    PROTOCOL_NAMES,
    RANDOM,
    SCTP,
    SNAT,
    Backend,
    Port,
    Service,
    State,
)
from shim.maps.base import address_bytes

T = TypeVar("T")

MAX_AFFINITY_SECONDS: Final = 86_400
_LOCAL: Final[Mapping[int, bool]] = {
    pb.TRAFFIC_POLICY_UNSPECIFIED: False,
    pb.TRAFFIC_POLICY_CLUSTER: False,
    pb.TRAFFIC_POLICY_LOCAL: True,
}
_ALGORITHMS: Final[Mapping[int, str]] = {
    pb.ALGORITHM_UNSPECIFIED: "",
    pb.ALGORITHM_RANDOM: RANDOM,
    pb.ALGORITHM_MAGLEV: MAGLEV,
}
_WAYS: Final[Mapping[int, str]] = {
    pb.FORWARDING_MODE_UNSPECIFIED: "",
    pb.FORWARDING_MODE_SNAT: SNAT,
    pb.FORWARDING_MODE_DSR: DSR,
}
_NODE_PORTS: Final[Mapping[int, bool]] = {
    pb.SERVICE_TYPE_UNSPECIFIED: False,
    pb.SERVICE_TYPE_CLUSTER_IP: False,
    pb.SERVICE_TYPE_NODE_PORT: True,
    pb.SERVICE_TYPE_LOAD_BALANCER: True,
}
_STATES: Final[Mapping[int, State]] = {
    pb.BACKEND_STATE_UNSPECIFIED: State.ACTIVE,
    pb.BACKEND_STATE_ACTIVE: State.ACTIVE,
    pb.BACKEND_STATE_MAINTENANCE: State.MAINTENANCE,
}


def service(message: pb.Service, cluster_name: str = "") -> Service:
    """A service of the stream. Raises ValueError for what is wrong, Unsupported for what is not known.

    `cluster_name` is that of this node.
    """
    balanced = message.type == pb.SERVICE_TYPE_LOAD_BALANCER
    ranges = message.load_balancer_source_ranges
    return Service(
        namespace=message.namespace,
        name=message.name,
        ports=tuple(map(_port, message.ports)),
        cluster_ips=() if message.headless else _addresses(message.cluster_ips),
        external_ips=_addresses(message.external_ips),
        load_balancer_ips=_addresses(message.load_balancer_ips) if balanced else (),
        source_ranges=tuple(sorted({str(ipaddress.ip_network(cidr)) for cidr in ranges.cidrs}))
        if message.HasField("load_balancer_source_ranges")
        else None,
        node_ports=_known(_NODE_PORTS, message.type, "type"),
        backends=tuple(_backend(one, cluster_name) for one in message.backends),
        external_local=_known(_LOCAL, message.external_traffic_policy, "external_traffic_policy"),
        internal_local=_known(_LOCAL, message.internal_traffic_policy, "internal_traffic_policy"),
        affinity_seconds=_affinity_seconds(message),
        algorithm=_known(_ALGORITHMS, message.algorithm, "algorithm"),
        maglev_table_size=_table_size(message.maglev_table_size),
        forwarding=_known(_WAYS, message.forwarding_mode, "forwarding_mode"),
    )


def _known(meanings: Mapping[int, T], value: int, field: str) -> T:
    try:
        return meanings[value]
    except KeyError:
        raise Unsupported(f"{field} {value} is not known to this node; upgrade it") from None


def _port(message: pb.ServicePort) -> Port:
    if not message.protocol:
        raise ValueError(f"port {message.port} has no protocol")
    if message.protocol not in PROTOCOL_NAMES:
        raise Unsupported(f"protocol {message.protocol} of port {message.port} is not known to this node")
    for field, number in (("port", message.port), ("target_port", message.target_port or 1)):
        if not 0 < number <= 0xFFFF:
            raise ValueError(f"{field} {number} is none")
    if message.node_port > 0xFFFF:
        raise ValueError(f"node_port {message.node_port} is none")
    if message.protocol == SCTP and message.target_port not in (0, message.port):
        raise ValueError(
            f"SCTP port {message.port} cannot become {message.target_port}: ports stay as they are"
        )
    return Port(
        protocol=message.protocol,
        port=message.port,
        name=message.name,
        target_port=message.target_port,
        target_port_name=message.target_port_name,
        node_port=message.node_port,
    )


def _backend(message: pb.Backend, cluster_name: str) -> Backend:
    """A state that is not known means TERMINATING. A node of another cluster is none of this one's."""
    for name, number in message.ports.items():
        if not 0 < number <= 0xFFFF:
            raise ValueError(f"port {name!r} of backend {message.ip} is {number}, which is none")
    return Backend(
        address=address_bytes(message.ip),
        state=_STATES.get(message.state, State.TERMINATING),
        node_name=message.node_name if message.cluster in ("", cluster_name) else "",
        ports=tuple(sorted(message.ports.items())),
    )


def _addresses(texts: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(address_bytes(text) for text in texts))


def _affinity_seconds(message: pb.Service) -> int:
    if not message.HasField("session_affinity"):
        return 0
    seconds = message.session_affinity.timeout_seconds
    if not 0 < seconds <= MAX_AFFINITY_SECONDS:
        raise ValueError(f"session_affinity.timeout_seconds {seconds} is not within 1–{MAX_AFFINITY_SECONDS}")
    return seconds


def _table_size(size: int) -> int:
    if size and size not in maglev.SIZES:
        raise ValueError(f"maglev_table_size {size} is none of {maglev.SIZES}")
    return size


class ServicesCodec:
    """SubscribeServices."""

    def __init__(self, cluster_name: str = "") -> None:
        self._cluster_name = cluster_name

    def decode(
        self,
        response: pb.SubscribeServicesResponse,
        current: Callable[[str], Service | None],  # noqa: ARG002 - services come whole
    ) -> Update[Service]:
        """Services and removed services."""
        changes: list[Change[Service]] = []
        failures: dict[str, Failure] = {}
        for message in response.upserts:
            key = f"service:{message.namespace}/{message.name}"
            try:
                changes.append(Change(key, service(message, self._cluster_name)))
            except AxonemeError as error:
                failures[key] = Failure(error.code, error.reason, error.message)
            except ValueError as error:
                failures[key] = Failure("INVALID_ARGUMENT", "RESOURCE_INVALID", str(error))
        changes += [Change(f"service:{name}", None) for name in response.removed_services]
        header = envelope.header_from_message(response.header)
        return Update(header=header, changes=tuple(changes), failures=failures)

    def hello(self, hello: Hello) -> pb.SubscribeServicesRequest:
        """First request."""
        return pb.SubscribeServicesRequest(hello=envelope.hello_to_message(hello))

    def ack(self, ack: Ack) -> pb.SubscribeServicesRequest:
        """Answer to an update."""
        return pb.SubscribeServicesRequest(ack=envelope.ack_to_message(ack))

    def resync(self, resync: Resync) -> pb.SubscribeServicesRequest:
        """Request for a snapshot."""
        return pb.SubscribeServicesRequest(resync=envelope.resync_to_message(resync))

    def interest(self, interest: Interest) -> pb.SubscribeServicesRequest:  # noqa: ARG002
        """Every shim gets every service."""
        raise TypeError("SubscribeServices knows no interest")
