"""What selectors choose from: addresses, identities and nodes of the store. Decoding never trusts it.

    cilium/state/ip/v1/default/<address>      {"IP", "Mask", "HostIP", "ID", "NamedPorts": […]}
    cilium/state/identities/v1/id/<number>    k8s:app=web;k8s:io.kubernetes.pod.namespace=shop;…
    cilium/state/nodes/v1/<cluster>/<name>    {"Name", "IPAddresses": [{"IP"}]}

Cilium's forms, written by nodes of any version.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Row
from axoneme.lib.labels import K8S, LabelSet
from services.clustermesh.model import Protocol
from services.clustermesh.records import MalformedRecordError

_MAX_IDENTITY: Final = 0xFFFF_FFFF
_MAX_PORT: Final = 65_535
_NUMBER_DIGITS: Final = 10


class Workload(msgspec.Struct, frozen=True):
    """One address: who has it, on which node it is, and the numbers of its named ports."""

    ip: str
    identity: int
    host_ip: str = ""
    named_ports: tuple[tuple[Protocol, str, int], ...] = ()

    def number_of(self, protocol: Protocol, name: str) -> int | None:
        """The number of a named port; None when it has none, or two."""
        numbers = {number for one, named, number in self.named_ports if (one, named) == (protocol, name)}
        return numbers.pop() if len(numbers) == 1 else None


class Node(NamedTuple):
    """Canonical addresses of a node, and what its kernel can do: feature → `yes` or why not."""

    addresses: frozenset[str]
    features: Mapping[str, str]


class _PortJson(msgspec.Struct):
    Name: str
    Port: int
    Protocol: str = "TCP"


class _AddressJson(msgspec.Struct):
    IP: str
    Mask: str | None = None
    HostIP: str | None = None
    ID: int = 0
    NamedPorts: list[_PortJson] | None = None


class _NodeAddressJson(msgspec.Struct):
    IP: str = ""


class _NodeJson(msgspec.Struct):
    Name: str
    IPAddresses: list[_NodeAddressJson] | None = None
    AxonemeFeatures: dict[str, str] | None = None


_address_decoder = msgspec.json.Decoder(_AddressJson)
_node_decoder = msgspec.json.Decoder(_NodeJson)


def address_of(key: str) -> str | None:
    """The single address of a key; None for prefixes and foreign keys."""
    text = key.removeprefix(layout.IPS)
    return text if key.startswith(layout.IPS) and "/" not in text and _is_canonical(text) else None


def decode_workload(row: Row) -> Workload | None:
    """The address of a row; None for a prefix or another key. Raises MalformedRecordError."""
    ip = address_of(row.key)
    if ip is None:
        return None
    try:
        raw = _address_decoder.decode(row.value)
        host_ip = _host(raw.HostIP) if raw.HostIP else ""
        if ip != raw.IP and str(ipaddress.ip_address(raw.IP)) != ip:
            raise ValueError(f"the value is about {raw.IP[:64]}")
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedRecordError(str(error)[:200]) from error
    if not 0 < raw.ID <= _MAX_IDENTITY:
        raise MalformedRecordError(f"identity {raw.ID} is out of range")
    return Workload(ip, raw.ID, host_ip, _named_ports(raw.NamedPorts or ()))


def identity_of(key: str) -> int | None:
    """The number of an identity's key; None for any other key."""
    text = key.removeprefix(layout.MASTERS)
    return layout.number_of(key) if len(text) <= _NUMBER_DIGITS else None


def decode_identity(row: Row) -> dict[str, str]:
    """The labels of source k8s of an identity's row, key → value. Raises InvalidLabels, ValueError."""
    labels = LabelSet.from_key(row.value.decode())
    return {label.key: label.value for label in labels if label.source == K8S}


def node_name(key: str, cluster: str) -> str | None:
    """The name of a node's key; None for another key and for nodes of other clusters."""
    prefix = f"{layout.NODES}{cluster}/"
    name = key.removeprefix(prefix)
    return name if key.startswith(prefix) and name and "/" not in name else None


def decode_node(row: Row) -> Node:
    """The node of a row; what is no address is left out. Raises MalformedRecordError."""
    try:
        raw = _node_decoder.decode(row.value)
    except msgspec.MsgspecError as error:
        raise MalformedRecordError(str(error)[:200]) from error
    found = set()
    for one in raw.IPAddresses or ():
        with contextlib.suppress(ValueError):
            found.add(str(ipaddress.ip_address(one.IP)))
    return Node(frozenset(found), raw.AxonemeFeatures or {})


def _is_canonical(text: str) -> bool:
    """Whether a text is an address in its usual form. Most of a snapshot's time would go into this."""
    try:
        if ":" in text:
            return str(ipaddress.ip_address(text)) == text
        socket.inet_pton(socket.AF_INET, text)  # takes the usual form only
    except (OSError, ValueError):
        return False
    return True


@functools.lru_cache(maxsize=8192)
def _host(text: str) -> str:
    """The address of a node, canonical; there are few of them. Raises ValueError."""
    return str(ipaddress.ip_address(text))


def _named_ports(ports: Iterable[_PortJson]) -> tuple[tuple[Protocol, str, int], ...]:
    """The usable ones, sorted."""
    found = {
        (Protocol[port.Protocol.upper()], port.Name, port.Port)
        for port in ports
        if port.Protocol.upper() in Protocol.__members__ and port.Name and 0 < port.Port <= _MAX_PORT
    }
    return tuple(sorted(found))
