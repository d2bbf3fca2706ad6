"""Values in etcd: Cilium's JSON for nodes and addresses, and our node records. Pure text work.

Readers take what any Cilium version writes (CIDRs as objects or text, unknown fields); writers write what
1.20 reads.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from typing import Any

import msgspec

from services.identity.domain import Address, NamedPort, Node

INTERNAL_IP, ROUTER_IP = "InternalIP", "CiliumInternalIP"
OBSERVER_ANNOTATION = "axoneme.io/observer-address"

Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network


class MalformedValueError(ValueError):
    """A stored value that cannot be read; it is left out and counted."""


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a registered node whatever happens to its leases."""

    pod_cidrs: tuple[str, ...] = ()
    leases: tuple[int, ...] = ()
    declared: bool = False
    """Everything that the node has hangs on these leases."""
    expired: bool = False
    """It stayed away for longer than lease and grace; it keeps its PodCIDRs."""


class _NodeAddress(msgspec.Struct):
    Type: str = ""
    IP: str = ""


class _NodeJson(msgspec.Struct):
    Name: str
    Cluster: str = ""
    IPAddresses: list[_NodeAddress] | None = None
    IPv4AllocCIDR: Any = None
    IPv4SecondaryAllocCIDRs: list[Any] | None = None
    IPv6AllocCIDR: Any = None
    IPv6SecondaryAllocCIDRs: list[Any] | None = None
    IPv4HealthIP: str = ""
    IPv6HealthIP: str = ""
    IPv4IngressIP: str = ""
    IPv6IngressIP: str = ""
    ClusterID: int = 0
    Source: str = "local"
    EncryptionKey: int = 0
    Labels: dict[str, str] | None = None
    Annotations: dict[str, str] | None = None
    WireguardPubKey: str = ""
    BootID: str = ""
    AxonemeFeatures: dict[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    """Ours: Cilium's readers pass over keys that they do not know."""


class _PortJson(msgspec.Struct):
    Name: str
    Port: int
    Protocol: str


class _IpJson(msgspec.Struct, omit_defaults=True):
    IP: str
    Mask: str | None
    HostIP: str
    ID: int
    Key: int
    Metadata: str
    K8sNamespace: str = ""
    K8sPodName: str = ""
    K8sServiceAccount: str = ""
    NamedPorts: list[_PortJson] | None = None


class _IpRead(msgspec.Struct):
    IP: str
    Mask: str | None = None
    HostIP: str | None = None
    ID: int = 0
    Key: int = 0
    K8sNamespace: str = ""
    K8sPodName: str = ""
    NamedPorts: list[_PortJson] | None = None


_node_decoder = msgspec.json.Decoder(_NodeJson)
_ip_decoder = msgspec.json.Decoder(_IpRead)
_record_decoder = msgspec.json.Decoder(NodeRecord)


def encode_record(record: NodeRecord) -> bytes:
    """NodeRecord → JSON."""
    return msgspec.json.encode(record)


def decode_record(value: bytes) -> NodeRecord:
    """JSON → NodeRecord. Raises MalformedValueError."""
    try:
        return _record_decoder.decode(value)
    except msgspec.MsgspecError as error:
        raise MalformedValueError(str(error)) from error


def encode_node(node: Node) -> bytes:
    """Node → Cilium's JSON."""
    v4 = [cidr_json(cidr) for cidr in node.pod_cidrs if ":" not in cidr]
    v6 = [cidr_json(cidr) for cidr in node.pod_cidrs if ":" in cidr]
    addresses = [_NodeAddress(INTERNAL_IP, ip) for ip in node.internal_ips]
    addresses += [_NodeAddress(ROUTER_IP, ip) for ip in node.router_ips]
    annotations = {OBSERVER_ANNOTATION: node.observer_address} if node.observer_address else {}
    return msgspec.json.encode(
        _NodeJson(
            Name=node.name,
            Cluster=node.cluster,
            IPAddresses=addresses,
            IPv4AllocCIDR=v4[0] if v4 else None,
            IPv4SecondaryAllocCIDRs=v4[1:] or None,
            IPv6AllocCIDR=v6[0] if v6 else None,
            IPv6SecondaryAllocCIDRs=v6[1:] or None,
            IPv4HealthIP=next((ip for ip in node.health_ips if ":" not in ip), ""),
            IPv6HealthIP=next((ip for ip in node.health_ips if ":" in ip), ""),
            ClusterID=node.cluster_id,
            Labels=dict(node.labels),
            Annotations=annotations,
            AxonemeFeatures=dict(node.features) or msgspec.UNSET,
        )
    )


def decode_node(value: bytes) -> Node:
    """Cilium's JSON → Node. Raises MalformedValueError."""
    try:
        raw = _node_decoder.decode(value)
        return Node(
            name=raw.Name,
            cluster=raw.Cluster,
            cluster_id=raw.ClusterID,
            internal_ips=_ips(raw, INTERNAL_IP),
            router_ips=_ips(raw, ROUTER_IP),
            pod_cidrs=tuple(str(cidr) for cidr in _cidrs(raw)),
            labels=tuple(sorted((raw.Labels or {}).items())),
            observer_address=(raw.Annotations or {}).get(OBSERVER_ANNOTATION, ""),
            health_ips=_health_ips(raw),
            features=tuple(sorted((raw.AxonemeFeatures or {}).items())),
        )
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
        raise MalformedValueError(str(error)) from error


def encode_address(address: Address, encryption_key: int = 0) -> bytes:
    """Address → Cilium's JSON."""
    network = ipaddress.ip_network(address.ip)
    whole = network.prefixlen == network.max_prefixlen
    return msgspec.json.encode(
        _IpJson(
            IP=str(network.network_address),
            Mask=None if whole else _mask(network),
            HostIP=address.host_ip,
            ID=address.identity,
            Key=encryption_key,
            Metadata="",
            K8sNamespace=address.namespace,
            K8sPodName=address.pod_name,
            NamedPorts=[_PortJson(p.name, p.port, p.protocol) for p in address.named_ports] or None,
        )
    )


def decode_address(key_ip: str, value: bytes) -> Address:
    """Cilium's JSON → Address. Raises MalformedValueError, also when key and value do not agree."""
    try:
        raw = _ip_decoder.decode(value)
        network = _network(raw.IP, raw.Mask)
        text = str(network.network_address) if raw.Mask is None else str(network)
        if text != key_ip:
            raise MalformedValueError(f"the value is for {text}")
        ports = tuple(NamedPort(p.Name, p.Port, p.Protocol) for p in raw.NamedPorts or ())
        return Address(
            ip=text,
            identity=raw.ID,
            host_ip=raw.HostIP or "",
            namespace=raw.K8sNamespace,
            pod_name=raw.K8sPodName,
            named_ports=ports,
            encryption_key=raw.Key,
        )
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise MalformedValueError(str(error)) from error


def encode_cluster_config(cluster_id: int) -> bytes:
    """Cilium's description of a cluster."""
    capabilities = {"syncedCanaries": False, "maxConnectedClusters": 255}
    return msgspec.json.encode({"id": cluster_id, "capabilities": capabilities})


def decode_cluster_id(value: bytes) -> int:
    """Cluster id of a description. Raises MalformedValueError."""
    try:
        return int(msgspec.json.decode(value)["id"])
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError) as error:
        raise MalformedValueError(str(error)) from error


def cidr_json(cidr: str) -> dict[str, str]:
    """`10.0.1.0/24` → Go's form of a network."""
    network = ipaddress.ip_network(cidr)
    return {"IP": str(network.network_address), "Mask": _mask(network)}


def _mask(network: Cidr) -> str:
    return base64.b64encode(network.netmask.packed).decode()


def _network(ip: str, mask: str | None) -> Cidr:
    if mask is None:
        return ipaddress.ip_network(ip)
    bits = int.from_bytes(base64.b64decode(mask, validate=True), "big")
    return ipaddress.ip_network(f"{ip}/{bits.bit_count()}")


def _cidr(raw: Any) -> Cidr:
    return ipaddress.ip_network(raw) if isinstance(raw, str) else _network(raw["IP"], raw["Mask"])


def _cidrs(raw: _NodeJson) -> list[Cidr]:
    groups: Sequence[Sequence[Any]] = (
        [raw.IPv4AllocCIDR],
        raw.IPv4SecondaryAllocCIDRs or [],
        [raw.IPv6AllocCIDR],
        raw.IPv6SecondaryAllocCIDRs or [],
    )
    return [_cidr(item) for group in groups for item in group if item]


def _health_ips(raw: _NodeJson) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_address(ip)) for ip in (raw.IPv4HealthIP, raw.IPv6HealthIP) if ip)


def _ips(raw: _NodeJson, kind: str) -> tuple[str, ...]:
    found = [address.IP for address in raw.IPAddresses or () if address.Type == kind]
    return tuple(str(ipaddress.ip_address(ip)) for ip in found)
