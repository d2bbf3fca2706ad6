"""Services in etcd: `axoneme/state/services/v1/<namespace>/<name>`. Pure text work.

    {"labels": {…}, "selector": {…} | null, "backends": ["10.0.0.1", …], "spec": {"type": "NodePort", …}}

The first three are what the policy service reads; `spec` is ours. A record without it, of a writer that knows
only the three, is a headless service without ports. Decoding never trusts what it reads.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

import msgspec

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Row
from services.clustermesh.model import (
    Algorithm,
    Backend,
    ForwardingMode,
    Port,
    Service,
    ServiceKey,
    ServiceType,
    TrafficPolicy,
    address_order,
)

PREFIX: Final = layout.SERVICES
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PARTS: Final = 2


class MalformedRecordError(ValueError):
    """A stored value that cannot be read."""


class _SpecJson(msgspec.Struct, kw_only=True, omit_defaults=True):
    type: ServiceType = ServiceType.CLUSTER_IP
    cluster_ips: tuple[str, ...] = ()
    headless: bool = False
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] | None = None
    ports: tuple[Port, ...] = ()
    addresses: tuple[Backend, ...] | None = None
    external_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    internal_traffic_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    affinity_seconds: int = 0
    algorithm: Algorithm = Algorithm.DEFAULT
    maglev_table_size: int = 0
    forwarding_mode: ForwardingMode = ForwardingMode.DEFAULT


class _RecordJson(msgspec.Struct, kw_only=True):
    labels: dict[str, str] | None = None
    selector: dict[str, str] | None = None
    backends: list[str] | None = None
    spec: _SpecJson | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(_RecordJson)
_encoder = msgspec.json.Encoder()
_SHARED: Final = tuple(_SpecJson.__struct_fields__)


def store_key(key: ServiceKey) -> str:
    """The etcd key of a service."""
    return f"{PREFIX}{key.namespace}/{key.name}"


def service_key(store_key: str) -> ServiceKey | None:
    """The service of an etcd key; None for a key of another shape."""
    parts = store_key.removeprefix(PREFIX).split("/")
    if not store_key.startswith(PREFIX) or len(parts) != _PARTS or not all(map(_LABEL.fullmatch, parts)):
        return None
    return ServiceKey(*parts)


def encode_service(service: Service) -> bytes:
    """Service → JSON; equal services give equal bytes."""
    record = _RecordJson(
        labels=dict(service.labels),
        selector=None if service.selector is None else dict(service.selector),
        backends=[backend.ip for backend in service.addresses or ()],
        spec=_SpecJson(**{name: getattr(service, name) for name in _SHARED}),
    )
    return _encoder.encode(record)


def decode_service(key: ServiceKey, value: bytes) -> Service:
    """JSON → Service. Raises MalformedRecordError."""
    try:
        raw = _decoder.decode(value)
        listed = tuple(
            sorted({str(ipaddress.ip_address(one)) for one in raw.backends or ()}, key=address_order)
        )
        spec = _foreign(listed, raw.selector) if isinstance(raw.spec, msgspec.UnsetType) else raw.spec
        _check(spec)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedRecordError(str(error)[:200]) from error
    return Service(
        key=key,
        labels=tuple(sorted((raw.labels or {}).items())),
        # An empty selector is none: it must never mean every workload.
        selector=tuple(sorted(raw.selector.items())) if raw.selector else None,
        **{name: getattr(spec, name) for name in _SHARED},
    )


def decode_row(row: Row) -> Service | None:
    """The service of a row; None for a key that is no service's. Raises MalformedRecordError."""
    key = service_key(row.key)
    return None if key is None else decode_service(key, row.value)


def _foreign(listed: tuple[str, ...], selector: dict[str, str] | None) -> _SpecJson:
    """What a record without a spec means."""
    addresses = None if selector else tuple(Backend(ip=ip) for ip in listed)
    return _SpecJson(headless=True, addresses=addresses)


def _check(spec: _SpecJson) -> None:
    """Raises ValueError for addresses and ports that nobody who checks them would have written."""
    for ip in (*spec.cluster_ips, *spec.external_ips, *spec.load_balancer_ips):
        _check_address(ip)
    for backend in spec.addresses or ():
        _check_address(backend.ip)
    for cidr in spec.source_ranges or ():
        ipaddress.ip_network(cidr)
    for port in spec.ports:
        if (
            not 1 <= port.port <= 65_535
            or not 0 <= port.target_port <= 65_535
            or not 0 <= port.node_port <= 65_535
        ):
            raise ValueError(f"port {port.port} or one of its targets is out of range")
        if not port.target_port and not port.target_port_name:
            raise ValueError(f"port {port.port} has no target")


def _check_address(text: str) -> None:
    if str(ipaddress.ip_address(text)) != text:
        raise ValueError(f"{text} is not written in the usual form")
