"""Kubernetes' `discovery.k8s.io/v1` EndpointSlice: backends by address for a service without a selector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from services.clustermesh.manifests.document import Fields, Place, Report
from services.clustermesh.manifests.kubernetes import PROTOCOLS

SERVICE_NAME: Final = "kubernetes.io/service-name"
_FAMILIES: Final = ("IPv4", "IPv6")


@dataclass(frozen=True, slots=True)
class Slice:
    """Addresses of one service; `ports` are the numbers by (name, protocol)."""

    service: tuple[str, str]
    place: Place
    backends: tuple[pb.Backend, ...]
    ports: Mapping[tuple[str, int], int]


def slice_of(place: Place, namespace: str, report: Report) -> Slice:
    """The slice of a document."""
    top = Fields(place, report)
    top.text("apiVersion", ("discovery.k8s.io/v1",))
    top.text("kind")
    meta = top.fields("metadata")
    name = meta.words("labels").get(SERVICE_NAME, "")
    if not name:
        report.fault(meta.place, f"names no service; add the label {SERVICE_NAME}")
    if top.text("addressType", (*_FAMILIES, "FQDN")) not in _FAMILIES:
        report.fault(place, f"addressType must be one of {', '.join(_FAMILIES)}")
    ports = _ports([Fields(one, report) for one in top.items("ports")])
    backends = [one for item in top.items("endpoints") for one in _backends(Fields(item, report))]
    for unknown in top.rest():
        report.warn(unknown, "is not known and left out")
    return Slice((meta.text("namespace") or namespace, name), place, tuple(backends), ports)


def set_backends(made: pb.Service, slices: Iterable[Slice], report: Report) -> None:
    """Makes the addresses of slices the backends of a service."""
    selecting = made.source.WhichOneof("kind") == "selector"
    known = {one.ip: one for one in made.source.addresses.backends}
    for one in slices:
        if selecting:
            report.fault(
                one.place, f"service {made.namespace}/{made.name} has a selector; take one of the two"
            )
            return
        made.source.addresses.SetInParent()
        for backend in one.backends:
            if backend.ip not in known:
                known[backend.ip] = made.source.addresses.backends.add(
                    ip=backend.ip, state=backend.state, node_name=backend.node_name
                )
            _set_ports(known[backend.ip], made, one)


def _set_ports(backend: pb.Backend, made: pb.Service, one: Slice) -> None:
    for port in made.ports:
        number = one.ports.get((port.name, port.protocol or pb.PROTOCOL_TCP))
        target = port.target_port or (0 if port.target_port_name else port.port)
        if number is not None and number != target:
            backend.ports[port.name] = number


def _ports(ports: Iterable[Fields]) -> dict[tuple[str, int], int]:
    return {
        (one.text("name"), PROTOCOLS[one.text("protocol", PROTOCOLS, "TCP")]): one.number("port")
        for one in ports
    }


def _backends(endpoint: Fields) -> list[pb.Backend]:
    conditions = endpoint.fields("conditions")
    terminating = conditions.flag("terminating") or False
    serving = conditions.flag("serving") is not False
    ready = conditions.flag("ready") is not False
    if not (ready or (terminating and serving)):
        endpoint.report.warn(endpoint.place, "is not ready and left out")
        return []
    state = pb.BACKEND_STATE_TERMINATING if terminating else pb.BACKEND_STATE_ACTIVE
    node = endpoint.text("nodeName")
    return [pb.Backend(ip=ip, state=state, node_name=node) for ip in endpoint.texts("addresses")]
