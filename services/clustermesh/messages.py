"""Messages of ClusterMeshService from services."""

from __future__ import annotations

from typing import Final

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from services.clustermesh import words
from services.clustermesh.model import (
    Backend,
    Port,
    Service,
)
from services.clustermesh.view import View

MAX_BYTES: Final = 2 << 20
"""Of one service, and of one page of a list: gRPC takes messages of 4 MiB."""


def service_message(view: View, cluster: str) -> pb.Service:
    """A service as it is shown."""
    service = view.service
    message = pb.Service(
        namespace=service.key.namespace,
        name=service.key.name,
        labels=dict(service.labels),
        type=words.number_of(service.type),
        cluster_ips=service.cluster_ips,
        headless=service.headless,
        external_ips=service.external_ips,
        load_balancer_ips=service.load_balancer_ips,
        ports=map(_port_message, service.ports),
        external_traffic_policy=words.number_of(service.external_traffic_policy),
        internal_traffic_policy=words.number_of(service.internal_traffic_policy),
        algorithm=words.number_of(service.algorithm),
        maglev_table_size=service.maglev_table_size,
        forwarding_mode=words.number_of(service.forwarding_mode),
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
        state=words.number_of(backend.state),
        node_name=backend.node_name,
        ports=dict(backend.ports),
        cluster=cluster,
    )
