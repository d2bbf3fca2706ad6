"""Identities, addresses and nodes, without I/O: state in, decision out. PodCIDRs are in `podcidrs`.

Randomness comes in as a function. Errors name the field and the fix. Nothing here knows etcd or gRPC.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from axoneme.lib import identities
from axoneme.lib.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    PoolExhausted,
    ResourceExhausted,
    StaleRevision,
)
from axoneme.lib.labels import CLUSTER_KEY, K8S, RESERVED, Label, LabelSet, invalid
from services.identity.podcidrs import inside

MAX_NODE_NAME = 253
MAX_POD_CIDRS = 16
MAX_NODE_LABELS = 128
MAX_NODE_FEATURES, MAX_FEATURE_NAME, MAX_FEATURE_VALUE = 64, 64, 256
RANDOM_PICKS = 64
NODE_LOCAL_SOURCES = frozenset({RESERVED, "cidr", "fqdn", "cidrgroup", "node", "any"})
PROTOCOLS = frozenset({"TCP", "UDP", "SCTP"})
# What a workload's address may stand for beside numbers of the cluster.
RESERVED_FOR_ADDRESSES = frozenset({identities.HEALTH, identities.INIT, identities.INGRESS})

_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A port that a workload declares under a name."""

    name: str
    port: int
    protocol: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """An address (or prefix) and the identity behind it, in canonical text."""

    ip: str
    identity: int
    host_ip: str = ""
    namespace: str = ""
    pod_name: str = ""
    named_ports: tuple[NamedPort, ...] = ()
    encryption_key: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node with its addresses, in canonical text."""

    name: str
    cluster: str
    cluster_id: int = 0
    internal_ips: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    router_ips: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    observer_address: str = ""
    health_ips: tuple[str, ...] = ()  # at most one of each family
    features: tuple[tuple[str, str], ...] = ()  # what the kernel can do: name, `yes` or why not


class AddressOutsideNode(FailedPrecondition):
    """A node publishes addresses of its own PodCIDRs only."""

    default_reason = "ADDRESS_OUTSIDE_NODE"


class NodeQuotaExceeded(ResourceExhausted):
    """One node, broken or taken over, must not use up what all share."""

    default_reason = "NODE_QUOTA_EXCEEDED"


# --- identities


def canonical_labels(texts: Iterable[str], cluster: str) -> LabelSet:
    """The set that gets the number: as given, with the label of the cluster, which remote readers require.

    A set of reserved labels stays as it is. Raises InvalidLabels.
    """
    labels = LabelSet.parse(texts)
    if not labels:
        raise invalid("no label is given; name at least one as source:key=value")
    if labels in identities.RESERVED_NUMBER_BY_LABELS:
        return labels
    foreign = [str(label) for label in labels if label.source in NODE_LOCAL_SOURCES]
    if foreign:
        raise invalid(f"{', '.join(foreign)[:256]}: labels of this source have no number in the cluster")
    own = Label(K8S, CLUSTER_KEY, cluster)
    given = labels.get(CLUSTER_KEY)
    if given is not None and given != own:
        raise invalid(f"{given} names another cluster; this one is {cluster}")
    return LabelSet.of([*labels, own])


def choose_number(
    block: range, taken: Container[int], buried: Container[int], draw: Callable[[int], int]
) -> int:
    """A random free number of the block; `draw(n)` gives 0 … n-1. Raises PoolExhausted when none is free.

    Random, so that allocators that do not see each other rarely collide.
    """
    for _ in range(RANDOM_PICKS):
        number = block[draw(len(block))]
        if number not in taken and number not in buried:
            return number
    free = [number for number in block if number not in taken and number not in buried]
    if not free:
        raise PoolExhausted(
            f"all {len(block)} identities of the cluster are taken or rest for a day after their deletion; "
            "look for labels that change with every workload (axoneme identity list)"
        )
    return free[draw(len(free))]


def check_identity_quota(node_name: str, held: Collection[str], wanted: str, limit: int) -> None:
    """Raises NodeQuotaExceeded when a node that refers to these label sets may not refer to one more."""
    if wanted not in held and len(held) >= limit:
        raise NodeQuotaExceeded(
            f"node {node_name} refers to {len(held)} identities; option max_identities_per_node allows "
            f"{limit}: release some, look for labels that change with every workload, or raise the option"
        )


# --- nodes


def checked_node(node: Node) -> Node:
    """The node in canonical text. Raises InvalidArgument that names every fault."""
    faults: list[FieldViolation] = []
    if not _NODE_NAME.fullmatch(node.name) or len(node.name) > MAX_NODE_NAME:
        faults.append(FieldViolation("node.name", f"{node.name[:64]!r} is not a lower-case DNS name"))
    if not node.internal_ips:
        faults.append(FieldViolation("node.internal_ips", "is empty; name at least one address of the node"))
    if len(node.pod_cidrs) > MAX_POD_CIDRS or len(node.labels) > MAX_NODE_LABELS:
        faults.append(
            FieldViolation("node", f"more than {MAX_POD_CIDRS} PodCIDRs or {MAX_NODE_LABELS} labels")
        )
    internal_ips = _canonical("node.internal_ips", node.internal_ips, ipaddress.ip_address, faults)
    router_ips = _canonical("node.router_ips", node.router_ips, ipaddress.ip_address, faults)
    pod_cidrs = _canonical("node.pod_cidrs", node.pod_cidrs, ipaddress.ip_network, faults)
    health_ips = _canonical("node.health_ips", node.health_ips, ipaddress.ip_address, faults)
    faults += _extra_faults(health_ips, node.features)
    if faults:
        raise InvalidArgument("; ".join(f"{f.field}: {f.description}" for f in faults), violations=faults)
    return replace(
        node, internal_ips=internal_ips, router_ips=router_ips, pod_cidrs=pod_cidrs, health_ips=health_ips
    )


def _extra_faults(health_ips: Sequence[str], features: Sequence[tuple[str, str]]) -> Iterator[FieldViolation]:
    """Faults of health addresses (canonical) and features."""
    if len({":" in ip for ip in health_ips}) < len(health_ips):
        yield FieldViolation("node.health_ips", "names two addresses of one family; a node has one of each")
    if len(features) > MAX_NODE_FEATURES:
        yield FieldViolation("node.features", f"names more than {MAX_NODE_FEATURES}")
    for name, value in features[:MAX_NODE_FEATURES]:
        if not 1 <= len(name) <= MAX_FEATURE_NAME or len(value) > MAX_FEATURE_VALUE:
            yield FieldViolation(
                "node.features",
                f"{name[:MAX_FEATURE_NAME]!r}: a name takes 1-{MAX_FEATURE_NAME} characters, a value at most "
                f"{MAX_FEATURE_VALUE}",
            )


def _canonical(
    field: str, texts: Sequence[str], parse: Callable[[str], object], faults: list[FieldViolation]
) -> tuple[str, ...]:
    found: list[str] = []
    for text in texts:
        try:
            found.append(str(parse(text)))
        except ValueError as error:
            faults.append(FieldViolation(field, str(error)))
    return tuple(dict.fromkeys(found))


def check_revision(node_name: str, present: int, expected: int) -> None:
    """Raises StaleRevision unless the registration is at the expected revision; 0 expects nothing."""
    if expected and expected != present:
        state = f"is at revision {present}" if present else "is not registered"
        raise StaleRevision(f"node {node_name} {state}, not at {expected}; read it again")


# --- addresses


def checked_addresses(
    addresses: Sequence[Address], node: Node, known: Callable[[int], bool]
) -> list[Address]:
    """The addresses of one node in canonical text, with the address of the node filled in.

    Raises InvalidArgument that names every fault, AddressOutsideNode for one outside the PodCIDRs.
    """
    faults: list[FieldViolation] = []
    checked: dict[str, Address] = {}
    for position, address in enumerate(addresses):
        problem, made = _checked_address(address, node, known)
        if made is not None and made.ip in checked:
            problem = f"{made.ip} is given twice"
        if problem or made is None:
            faults.append(FieldViolation(f"addresses[{position}]", problem))
            continue
        checked[made.ip] = made
    if faults:
        raise InvalidArgument(
            "; ".join(f"{f.field}: {f.description}" for f in faults[:10]), violations=faults
        )
    networks = [ipaddress.ip_network(cidr) for cidr in node.pod_cidrs]
    for ip in checked:
        if not any(inside(ipaddress.ip_address(ip), network) for network in networks):
            raise AddressOutsideNode(
                f"address {ip} is outside the PodCIDRs of node {node.name} ({', '.join(node.pod_cidrs)})"
            )
    return list(checked.values())


def check_address_quota(node_name: str, count: int, limit: int) -> None:
    """Raises NodeQuotaExceeded when a node would have so many addresses."""
    if count > limit:
        raise NodeQuotaExceeded(
            f"node {node_name} would have {count} addresses; option max_addresses_per_node allows {limit}: "
            "withdraw some or raise the option"
        )


def _checked_address(
    address: Address, node: Node, known: Callable[[int], bool]
) -> tuple[str, Address | None]:
    try:
        ip = ipaddress.ip_address(address.ip)
        host = str(ipaddress.ip_address(address.host_ip)) if address.host_ip else ""
    except ValueError as error:
        return str(error), None
    if host and host not in node.internal_ips:
        return f"host_ip {host} is no internal address of node {node.name}", None
    if address.identity not in RESERVED_FOR_ADDRESSES and not known(address.identity):
        return f"identity {address.identity} is not known; call AllocateIdentity first", None
    for port in address.named_ports:
        if not 1 <= port.port <= 65535 or port.protocol not in PROTOCOLS or not 1 <= len(port.name) <= 15:
            return (
                f"named port {port.name[:32]!r} needs 1–15 characters, port 1–65535 and TCP, UDP or SCTP",
                None,
            )
    if len(address.namespace) > 253 or len(address.pod_name) > 253:
        return "namespace and pod_name take at most 253 characters", None
    return "", replace(address, ip=str(ip), host_ip=host or host_ip_of(node, ip.version))


def host_ip_of(node: Node, version: int) -> str:
    """The node's address for a family; one of the other family when it has no own (tunnels carry both)."""
    same = [ip for ip in node.internal_ips if ipaddress.ip_address(ip).version == version]
    return (same or list(node.internal_ips) or [""])[0]


def canonical_ip(text: str) -> str:
    """Canonical text of an address. Raises InvalidArgument."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise InvalidArgument.of_field("ips", str(error)) from None


def prefix_of(ip: str) -> str:
    """`10.0.1.7` → `10.0.1.7/32`; prefixes stay."""
    return str(ipaddress.ip_network(ip))
