"""Services from the messages of ClusterMeshService."""

from __future__ import annotations

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from services.clustermesh import words
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


def service_from_message(message: pb.Service, faults: Faults) -> Service:
    """The service of a request, not checked yet; numbers that nobody knows become faults."""
    return Service(
        key=ServiceKey(message.namespace, message.name),
        labels=tuple(sorted(message.labels.items())),
        type=words.word_of(words.TYPES, message.type, ServiceType.CLUSTER_IP, "service.type", faults),
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
        algorithm=words.word_of(
            words.ALGORITHMS, message.algorithm, Algorithm.DEFAULT, "service.algorithm", faults
        ),
        maglev_table_size=message.maglev_table_size,
        forwarding_mode=words.word_of(
            words.MODES, message.forwarding_mode, ForwardingMode.DEFAULT, "service.forwarding_mode", faults
        ),
    )


def _policy(message: pb.Service, name: str, faults: Faults) -> TrafficPolicy:
    return words.word_of(
        words.POLICIES, getattr(message, name), TrafficPolicy.CLUSTER, f"service.{name}", faults
    )


def _port(position: int, message: pb.ServicePort, faults: Faults) -> Port:
    if message.protocol and message.protocol not in words.PROTOCOLS:
        field = f"service.ports[{position}].protocol"
        faults.add(field, f"{message.protocol} is not known; use 6 (TCP), 17 (UDP) or 132 (SCTP)")
    return Port(
        name=message.name,
        protocol=words.PROTOCOLS.get(message.protocol, Protocol.TCP),
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
            state=words.word_of(words.STATES, one.state, BackendState.ACTIVE, field.format(position), faults),
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
