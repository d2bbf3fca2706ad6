"""The messages of ClusterMeshService to and from the service's own types, and the codec of its stream.

A service that goes to the nodes is serialised once; every update that carries it is put together from the
same bytes, whichever node gets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple, TypeVar

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lib.intent import Change, Request, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.policycodec.wirefields import field_of
from services.clustermesh.faults import Faults
from services.clustermesh.model import (
    Algorithm,
    Backend,
    BackendState,
    ForwardingMode,
    Port,
    Protocol,
    Service,
    ServiceKey,
    ServiceType,
    TrafficPolicy,
)

STREAM_KEY: Final = "service:"
MAX_BYTES: Final = 2 << 20
"""Of one service, and of one page of a list: gRPC takes messages of 4 MiB."""

_TYPES: Final[dict[int, ServiceType]] = {
    pb.SERVICE_TYPE_CLUSTER_IP: ServiceType.CLUSTER_IP,
    pb.SERVICE_TYPE_NODE_PORT: ServiceType.NODE_PORT,
    pb.SERVICE_TYPE_LOAD_BALANCER: ServiceType.LOAD_BALANCER,
}
_POLICIES: Final[dict[int, TrafficPolicy]] = {
    pb.TRAFFIC_POLICY_CLUSTER: TrafficPolicy.CLUSTER,
    pb.TRAFFIC_POLICY_LOCAL: TrafficPolicy.LOCAL,
}
_ALGORITHMS: Final[dict[int, Algorithm]] = {
    pb.ALGORITHM_RANDOM: Algorithm.RANDOM,
    pb.ALGORITHM_MAGLEV: Algorithm.MAGLEV,
}
_MODES: Final[dict[int, ForwardingMode]] = {
    pb.FORWARDING_MODE_SNAT: ForwardingMode.SNAT,
    pb.FORWARDING_MODE_DSR: ForwardingMode.DSR,
}
_STATES: Final[dict[int, BackendState]] = {
    pb.BACKEND_STATE_ACTIVE: BackendState.ACTIVE,
    pb.BACKEND_STATE_TERMINATING: BackendState.TERMINATING,
    pb.BACKEND_STATE_MAINTENANCE: BackendState.MAINTENANCE,
}
_PROTOCOLS: Final[dict[int, Protocol]] = {int(one): one for one in Protocol}

Word = TypeVar("Word", bound=StrEnum)
_NUMBERS: Final[dict[StrEnum, int]] = {
    word: number
    for table in (_TYPES, _POLICIES, _ALGORITHMS, _MODES, _STATES)
    for number, word in table.items()
}


class View(NamedTuple):
    """A service as it is shown: what was applied, at which revision, and its backends now."""

    service: Service
    revision: int
    backends: tuple[Backend, ...] = ()
    unnamed: int = 0
    """Workloads that lack a named port which the service asks for."""


# --- requests


def service_from_message(message: pb.Service, faults: Faults) -> Service:
    """The service of a request, not checked yet; numbers that nobody knows become faults."""
    return Service(
        key=ServiceKey(message.namespace, message.name),
        labels=tuple(sorted(message.labels.items())),
        type=_word(_TYPES, message.type, ServiceType.CLUSTER_IP, "service.type", faults),
        cluster_ips=tuple(message.cluster_ips),
        headless=message.headless,
        external_ips=tuple(message.external_ips),
        load_balancer_ips=tuple(message.load_balancer_ips),
        source_ranges=_ranges(message),
        ports=tuple(_port(position, one, faults) for position, one in enumerate(message.ports)),
        selector=_selector(message.source),
        addresses=_addresses(message.source, faults),
        external_traffic_policy=_policy(message, "external_traffic_policy", faults),
        internal_traffic_policy=_policy(message, "internal_traffic_policy", faults),
        affinity_seconds=_affinity(message, faults),
        algorithm=_word(_ALGORITHMS, message.algorithm, Algorithm.DEFAULT, "service.algorithm", faults),
        maglev_table_size=message.maglev_table_size,
        forwarding_mode=_word(
            _MODES, message.forwarding_mode, ForwardingMode.DEFAULT, "service.forwarding_mode", faults
        ),
    )


def _word(table: Mapping[int, Word], number: int, unset: Word, field: str, faults: Faults) -> Word:
    if number and number not in table:
        faults.add(field, f"{number} is not known; use one of {', '.join(map(str, sorted(table)))}")
    return table.get(number, unset)


def _policy(message: pb.Service, name: str, faults: Faults) -> TrafficPolicy:
    return _word(_POLICIES, getattr(message, name), TrafficPolicy.CLUSTER, f"service.{name}", faults)


def _port(position: int, message: pb.ServicePort, faults: Faults) -> Port:
    if message.protocol and message.protocol not in _PROTOCOLS:
        field = f"service.ports[{position}].protocol"
        faults.add(field, f"{message.protocol} is not known; use 6 (TCP), 17 (UDP) or 132 (SCTP)")
    return Port(
        name=message.name,
        protocol=_PROTOCOLS.get(message.protocol, Protocol.TCP),
        port=message.port,
        target_port=message.target_port,
        target_port_name=message.target_port_name,
        node_port=message.node_port,
    )


def _ranges(message: pb.Service) -> tuple[str, ...] | None:
    present = message.HasField("load_balancer_source_ranges")
    return tuple(message.load_balancer_source_ranges.cidrs) if present else None


def _selector(source: pb.BackendSource) -> tuple[tuple[str, str], ...] | None:
    present = source.WhichOneof("kind") == "selector"
    return tuple(sorted(source.selector.match_labels.items())) if present else None


def _addresses(source: pb.BackendSource, faults: Faults) -> tuple[Backend, ...] | None:
    if source.WhichOneof("kind") != "addresses":
        return None
    field = "service.source.addresses.backends[{}].state"
    return tuple(
        Backend(
            ip=one.ip,
            state=_word(_STATES, one.state, BackendState.ACTIVE, field.format(position), faults),
            node_name=one.node_name,
            ports=tuple(sorted(one.ports.items())),
        )
        for position, one in enumerate(source.addresses.backends)
    )


def _affinity(message: pb.Service, faults: Faults) -> int:
    if not message.HasField("session_affinity"):
        return 0
    seconds = message.session_affinity.timeout_seconds
    if not seconds:
        faults.add(
            "service.session_affinity.timeout_seconds", "is 0; use 1-86400, or leave session_affinity out"
        )
    return seconds


# --- answers


def service_message(view: View, cluster: str) -> pb.Service:
    """A service as it is shown."""
    service = view.service
    message = pb.Service(
        namespace=service.key.namespace,
        name=service.key.name,
        labels=dict(service.labels),
        type=_number(service.type),
        cluster_ips=service.cluster_ips,
        headless=service.headless,
        external_ips=service.external_ips,
        load_balancer_ips=service.load_balancer_ips,
        ports=map(_port_message, service.ports),
        external_traffic_policy=_number(service.external_traffic_policy),
        internal_traffic_policy=_number(service.internal_traffic_policy),
        algorithm=_number(service.algorithm),
        maglev_table_size=service.maglev_table_size,
        forwarding_mode=_number(service.forwarding_mode),
        backends=[_backend_message(one, cluster) for one in view.backends],
        revision=view.revision,
    )
    if service.source_ranges is not None:
        message.load_balancer_source_ranges.SetInParent()
        message.load_balancer_source_ranges.cidrs.extend(service.source_ranges)
    if service.affinity_seconds:
        message.session_affinity.timeout_seconds = service.affinity_seconds
    _set_source(message, service)
    return message


def _set_source(message: pb.Service, service: Service) -> None:
    if service.selector is not None:
        message.source.selector.SetInParent()
        message.source.selector.match_labels.update(service.selector)
    elif service.addresses is not None:
        message.source.addresses.SetInParent()
        message.source.addresses.backends.extend(_backend_message(one, "") for one in service.addresses)


def _number(word: StrEnum) -> Any:
    """The number of a word; the defaults, which are empty words, are 0."""
    return _NUMBERS[word] if word else 0


def _port_message(port: Port) -> pb.ServicePort:
    return pb.ServicePort(
        name=port.name,
        protocol=pb.Protocol.ValueType(port.protocol),
        port=port.port,
        target_port=port.target_port,
        target_port_name=port.target_port_name,
        node_port=port.node_port,
    )


def _backend_message(backend: Backend, cluster: str) -> pb.Backend:
    return pb.Backend(
        ip=backend.ip,
        state=_number(backend.state),
        node_name=backend.node_name,
        ports=dict(backend.ports),
        cluster=cluster,
    )


# --- the stream

_header: Final = field_of(pb.SubscribeServicesResponse, "header")
_upsert: Final = field_of(pb.SubscribeServicesResponse, "upserts")
_removed: Final = field_of(pb.SubscribeServicesResponse, "removed_services")


def stream_key(key: ServiceKey) -> str:
    """Key of a service in the stream."""
    return f"{STREAM_KEY}{key}"


def stream_value(view: View, cluster: str) -> bytes:
    """What nodes get of a service: equal services give equal bytes."""
    return service_message(view, cluster).SerializeToString(deterministic=True)


class ServicesCodec:
    """Publisher's codec of SubscribeServices; its responses are serialised already."""

    def decode(self, request: pb.SubscribeServicesRequest) -> Request:
        """A message of a shim. Raises ValueError when no kind is set."""
        match request.WhichOneof("kind"):
            case "hello":
                return envelope.hello_from_message(request.hello)
            case "ack":
                return envelope.ack_from_message(request.ack)
            case "resync":
                return envelope.resync_from_message(request.resync)
        raise ValueError("kind: one of hello, ack, resync must be set")

    def encode(self, update: Update[bytes]) -> bytes:
        """A serialised SubscribeServicesResponse."""
        parts = [_header(envelope.header_to_message(update.header).SerializeToString())]
        for key, value, _ in update.changes:
            gone = value is None
            parts.append(_removed(key.removeprefix(STREAM_KEY).encode()) if gone else _upsert(value or b""))
        return b"".join(parts)

    def weight(self, change: Change[bytes]) -> int:
        """About the bytes of a change."""
        return len(change.key) + len(change.value or b"")
