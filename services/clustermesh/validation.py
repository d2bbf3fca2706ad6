"""A service that somebody applies: every fault of it at once, or the service in its normal form. Pure."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from services.clustermesh.addressrules import MAX_RESERVED, checked_addresses
from services.clustermesh.claims import claims_of
from services.clustermesh.faults import Faults, shown
from services.clustermesh.model import Algorithm, Service, TrafficPolicy
from services.clustermesh.pools import Pools
from services.clustermesh.portrules import check_ports, normal_port

MAX_LABELS: Final = 64
MAX_AFFINITY_SECONDS: Final = 86_400
MAGLEV_SIZES: Final = (251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131071)
_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_KEY: Final = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}")
_LABEL_VALUE: Final = re.compile(rf"({_NAME})?")


def checked(service: Service, pools: Pools, faults: Faults | None = None) -> Service:
    """The service in normal form: canonical addresses, sorted labels, targets written out.

    `faults` are what reading it found already. Raises InvalidArgument that names every fault.
    """
    faults = faults or Faults()
    faults.dns_label("service.namespace", service.key.namespace)
    faults.dns_label("service.name", service.key.name)
    _check_labels("service.labels", service.labels, faults)
    _check_source(service, faults)
    check_ports(service, pools, faults)
    made = checked_addresses(service, pools, faults)
    _check_policies(service, faults)
    _check_choice(service, faults)
    _check_size(made, faults)
    faults.raise_if_any()
    return msgspec.structs.replace(
        made,
        labels=tuple(sorted(service.labels)),
        selector=None if service.selector is None else tuple(sorted(service.selector)),
        ports=tuple(map(normal_port, service.ports)),
    )


def _check_labels(field: str, labels: tuple[tuple[str, str], ...], faults: Faults) -> None:
    if len(labels) > MAX_LABELS:
        faults.add(field, f"{len(labels)} labels are too many; at most {MAX_LABELS} are kept")
    for key, value in labels[:MAX_LABELS]:
        if not _LABEL_KEY.fullmatch(key):
            faults.add(
                f"{field}[{shown(key)}]",
                "is no label key; write [PREFIX/]NAME, the name of at most 63 characters",
            )
        if not _LABEL_VALUE.fullmatch(value):
            text = f"{shown(value)} is no label value; use at most 63 letters, digits, '-', '_' and '.'"
            faults.add(f"{field}[{shown(key)}]", text)


def _check_source(service: Service, faults: Faults) -> None:
    if service.selector is None:
        return
    field = "service.source.selector.match_labels"
    if not service.selector:
        faults.add(field, "is empty, which would select every workload; name at least one label")
    _check_labels(field, service.selector, faults)


def _check_policies(service: Service, faults: Faults) -> None:
    outside = service.on_nodes or bool(service.external_ips)
    if service.external_traffic_policy is TrafficPolicy.LOCAL and not outside:
        faults.add(
            "service.external_traffic_policy",
            "is LOCAL, but nobody outside can reach this service; take type NodePort or LoadBalancer",
        )
    if not 0 <= service.affinity_seconds <= MAX_AFFINITY_SECONDS:
        text = f"{service.affinity_seconds} is outside 1-{MAX_AFFINITY_SECONDS} seconds"
        faults.add("service.session_affinity.timeout_seconds", text)


def _check_choice(service: Service, faults: Faults) -> None:
    size = service.maglev_table_size
    if size and size not in MAGLEV_SIZES:
        sizes = ", ".join(map(str, MAGLEV_SIZES))
        faults.add("service.maglev_table_size", f"{size} is no size of a table; use one of {sizes}, or 0")
    elif size and service.algorithm is Algorithm.RANDOM:
        faults.add("service.maglev_table_size", "goes with algorithm MAGLEV; leave it out")


def _check_size(service: Service, faults: Faults) -> None:
    """Everything of a service has to fit one transaction, node ports that are to be allocated too."""
    wanted = len(claims_of(service)) + 2 - len(service.cluster_ips)
    if service.on_nodes:
        wanted += sum(not port.node_port for port in service.ports)
    if wanted > MAX_RESERVED:
        faults.add(
            "service.ports",
            f"with its addresses the service would take {wanted} frontends; split it, {MAX_RESERVED} fit",
        )
