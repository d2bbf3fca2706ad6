"""What the addresses of a service and of its backends have to be. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

import msgspec

from services.clustermesh.faults import Faults, shown
from services.clustermesh.model import Backend, Service, ServiceType, address_order, family
from services.clustermesh.pools import Pools

MAX_BACKENDS: Final = 5_000
MAX_ADDRESSES: Final = 32
"""External and load balancer addresses together."""
MAX_RANGES: Final = 64
MAX_NODE_NAME: Final = 253
MAX_RESERVED: Final = 120
"""Claims of one service: a transaction of etcd takes 128 operations, and writes the service too."""


def checked_addresses(service: Service, pools: Pools, faults: Faults) -> Service:
    """The service with canonical addresses; adds every fault."""
    _check_headless(service, faults)
    by_position = _canonical("service.cluster_ips", service.cluster_ips, faults)
    for position, ip in by_position.items():
        _check_cluster_ip(f"service.cluster_ips[{position}]", ip, pools, faults)
    cluster_ips = tuple(by_position.values())
    if len(set(map(family, cluster_ips))) < len(cluster_ips):
        faults.add("service.cluster_ips", "has two addresses of one family; keep one of each")
    external_ips = _reserved("service.external_ips", service.external_ips, pools, faults)
    balancer_ips = _reserved("service.load_balancer_ips", service.load_balancer_ips, pools, faults)
    if len(external_ips) + len(balancer_ips) > MAX_ADDRESSES:
        faults.add(
            "service.external_ips", f"and load_balancer_ips are more than {MAX_ADDRESSES}; split the service"
        )
    if balancer_ips and service.type is not ServiceType.LOAD_BALANCER:
        faults.add("service.load_balancer_ips", f"type {service.type} has none; take type LoadBalancer")
    return msgspec.structs.replace(
        service,
        cluster_ips=cluster_ips,
        external_ips=tuple(external_ips),
        load_balancer_ips=tuple(balancer_ips),
        source_ranges=_checked_ranges(service, faults),
        addresses=_checked_backends(service, faults),
    )


def _check_headless(service: Service, faults: Faults) -> None:
    if not service.headless:
        return
    if service.type is not ServiceType.CLUSTER_IP:
        faults.add("service.headless", f"does not go with type {service.type}; take type ClusterIP")
    for name in ("cluster_ips", "external_ips", "load_balancer_ips"):
        if getattr(service, name):
            faults.add(f"service.{name}", "a headless service has no addresses; empty it or unset headless")


def _check_cluster_ip(field: str, ip: str, pools: Pools, faults: Faults) -> None:
    if not pools.may_be_cluster_ip(ip):
        names = ", ".join(map(str, pools.networks)) or "empty"
        faults.add(field, f"{ip} is not in service_cidrs ({names}); leave it out to get a free one")


def _reserved(field: str, texts: Sequence[str], pools: Pools, faults: Faults) -> list[str]:
    found = _canonical(field, texts, faults)
    for position, ip in found.items():
        if pools.holds(ip):
            faults.add(f"{field}[{position}]", f"{ip} is in service_cidrs, whose addresses are cluster IPs")
    return list(found.values())


def _canonical(field: str, texts: Sequence[str], faults: Faults) -> dict[int, str]:
    """The good ones by their position, in canonical text."""
    if len(texts) > MAX_ADDRESSES:
        faults.add(field, f"{len(texts)} addresses are too many; at most {MAX_ADDRESSES} are kept")
    found: dict[int, str] = {}
    seen: dict[str, int] = {}
    for position, text in enumerate(texts[:MAX_ADDRESSES]):
        address = faults.address(f"{field}[{position}]", text)
        if address is None:
            continue
        first = seen.setdefault(str(address), position)
        if first != position:
            faults.add(f"{field}[{position}]", f"{address} is at {first} too; keep one")
        found[position] = str(address)
    return found


def _checked_ranges(service: Service, faults: Faults) -> tuple[str, ...] | None:
    ranges = service.source_ranges
    if ranges is None:
        return None
    field = "service.load_balancer_source_ranges.cidrs"
    if service.type is not ServiceType.LOAD_BALANCER:
        faults.add(field, f"type {service.type} has none; take type LoadBalancer")
    if len(ranges) > MAX_RANGES:
        faults.add(field, f"{len(ranges)} prefixes are too many; at most {MAX_RANGES} are kept")
    found = []
    for position, text in enumerate(ranges[:MAX_RANGES]):
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError as error:
            faults.add(f"{field}[{position}]", f"{shown(text)} is no prefix: {error}")
    return tuple(sorted(set(found), key=lambda text: (family(text), text)))


def _checked_backends(service: Service, faults: Faults) -> tuple[Backend, ...] | None:
    """The backends by address, in canonical text."""
    backends = service.addresses
    if backends is None:
        return None
    field = "service.source.addresses.backends"
    if len(backends) > MAX_BACKENDS:
        faults.add(field, f"{len(backends)} backends are too many; at most {MAX_BACKENDS} are kept")
        return backends
    found: dict[str, Backend] = {}
    for position, backend in enumerate(backends):
        made = _checked_backend(f"{field}[{position}]", backend, service, faults)
        if made is not None and found.setdefault(made.ip, made) is not made:
            faults.add(f"{field}[{position}].ip", f"{made.ip} is given twice; keep one")
    return tuple(sorted(found.values(), key=lambda one: address_order(one.ip)))


def _checked_backend(field: str, backend: Backend, service: Service, faults: Faults) -> Backend | None:
    if len(backend.node_name) > MAX_NODE_NAME or not backend.node_name.isprintable():
        faults.add(f"{field}.node_name", f"{shown(backend.node_name)} is no name of a node")
    ports = dict(backend.ports)
    names = {port.name for port in service.ports}
    for name, number in backend.ports:
        faults.port(f"{field}.ports[{shown(name)}]", number)
        if name not in names:
            faults.add(f"{field}.ports[{shown(name)}]", "the service has no port of this name; leave it out")
    for port in service.ports:
        if port.target_port_name and port.name not in ports:
            text = f"has no number for port {shown(port.name)}, whose target is a name"
            faults.add(f"{field}.ports", f"{text}; add it, or give the service a target_port")
    address = faults.address(f"{field}.ip", backend.ip)
    return None if address is None else msgspec.structs.replace(backend, ip=str(address))
