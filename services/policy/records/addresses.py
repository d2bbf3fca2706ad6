"""Addresses of the store, `cilium/state/ip/v1/default/<address>`: which identity has which named ports.

Cilium's JSON, written by nodes of any version: `{"IP": …, "Mask": …, "ID": …, "K8sNamespace": …,
"K8sPodName": …, "NamedPorts": [{"Name": …, "Port": …, "Protocol": "TCP"}]}`. Decoding never trusts it.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Row
from services.policy.reading.kubernetesfields import MAX_PORT, PROTOCOLS
from services.policy.records.malformed import MalformedRecordError

PREFIX: Final = layout.IPS
_MAX_IDENTITY: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRecord:
    """An address (or prefix) with its identity; namespace and pod are empty where no pod is behind it.

    `named_ports` has the port of each (protocol number, name) that the pod declares once.
    """

    address: str
    identity: int
    namespace: str
    pod: str
    named_ports: Mapping[tuple[int, str], int]


class _PortJson(msgspec.Struct):
    Name: str
    Port: int
    Protocol: str = "TCP"


class _AddressJson(msgspec.Struct):
    IP: str
    Mask: str | None = None
    ID: int = 0
    K8sNamespace: str = ""
    K8sPodName: str = ""
    NamedPorts: list[_PortJson] | None = None


_decoder = msgspec.json.Decoder(_AddressJson)


def address_of(key: str) -> str | None:
    """The address or prefix of a key; None for a key of another shape."""
    text = key.removeprefix(PREFIX)
    return text if key.startswith(PREFIX) and text == _canonical(text) else None


def decode_address(row: Row) -> AddressRecord | None:
    """The record of a row; None for a key that is no address's. Raises MalformedRecordError."""
    address = address_of(row.key)
    if address is None:
        return None
    try:
        raw = _decoder.decode(row.value)
        said = str(ipaddress.ip_address(raw.IP)) if raw.Mask is None else _prefix(raw.IP, raw.Mask)
    except (msgspec.MsgspecError, ValueError) as error:
        raise MalformedRecordError(str(error)[:200]) from error
    if said != address:
        raise MalformedRecordError(f"the value is about {said}")
    if not 0 < raw.ID <= _MAX_IDENTITY:
        raise MalformedRecordError(f"identity {raw.ID} is out of range")
    return AddressRecord(
        address=address,
        identity=raw.ID,
        namespace=raw.K8sNamespace,
        pod=raw.K8sPodName,
        named_ports=_named_ports(raw.NamedPorts or ()),
    )


def _canonical(text: str) -> str | None:
    try:
        return str(ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text))
    except ValueError:
        return None


def _prefix(address: str, mask: str) -> str:
    """Cilium's form of a prefix: the mask as base64 of its bytes."""
    raw = base64.b64decode(mask, validate=True)
    ones = int.from_bytes(raw, "big").bit_count()
    network = ipaddress.ip_network(f"{address}/{ones}")
    if raw != network.netmask.packed:
        raise ValueError("the mask is no prefix mask of this family")
    return str(network)


def _named_ports(ports: Iterable[_PortJson]) -> dict[tuple[int, str], int]:
    """The usable ones. A name that stands for two ports of a pod stands for none: either guess is wrong."""
    port_by_name: dict[tuple[int, str], int] = {}
    ambiguous: set[tuple[int, str]] = set()
    for port in ports:
        protocol = PROTOCOLS.get(port.Protocol.upper())
        if protocol is None or not port.Name or not 0 < port.Port <= MAX_PORT:
            continue
        # Policies name ports in lower case.
        slot = (protocol, port.Name.lower())
        if port_by_name.setdefault(slot, port.Port) != port.Port:
            ambiguous.add(slot)
    return {slot: port for slot, port in port_by_name.items() if slot not in ambiguous}
