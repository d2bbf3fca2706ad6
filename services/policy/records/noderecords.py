"""Nodes of the store, `cilium/state/nodes/v1/<cluster>/<name>`: their labels, for policies of nodes.

Cilium's JSON; only `Name`, `Cluster` and `Labels` matter here. Decoding never trusts it.
"""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Final

import msgspec

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Row
from axoneme.lib.labels import RESERVED, InvalidLabels, Label, LabelSet
from services.policy.inputs import Node
from services.policy.records.malformed import MalformedRecordError

PREFIX: Final = layout.NODES
SOURCE: Final = "node"
_HOST: Final = Label(RESERVED, "host", "")


class _AddressJson(msgspec.Struct):
    IP: str = ""


class _NodeJson(msgspec.Struct):
    Name: str
    Cluster: str = ""
    Labels: dict[str, str] | None = None
    IPAddresses: list[_AddressJson] | None = None


_decoder = msgspec.json.Decoder(_NodeJson)


def node_name(key: str, cluster: str) -> str | None:
    """The name of a node's key; None for another key and for nodes of other clusters."""
    prefix = f"{PREFIX}{cluster}/"
    name = key.removeprefix(prefix)
    return name if key.startswith(prefix) and name and "/" not in name else None


def decode_node(row: Row, cluster: str) -> Node | None:
    """The node of a row; None for a key that is no node of this cluster. Raises MalformedRecordError."""
    name = node_name(row.key, cluster)
    if name is None:
        return None
    try:
        raw = _decoder.decode(row.value)
        labels = _labels(raw.Labels or {})
    except (msgspec.MsgspecError, InvalidLabels, ValueError) as error:
        raise MalformedRecordError(str(error)[:200]) from error
    if raw.Name != name or raw.Cluster not in ("", cluster):
        raise MalformedRecordError(f"the value is about {raw.Cluster[:80]}/{raw.Name[:80]}")
    return Node(name=name, labels=labels)


def node_addresses(row: Row) -> frozenset[str]:
    """The addresses of a node's row, canonical; what is none is left out. Raises MalformedRecordError."""
    try:
        raw = _decoder.decode(row.value)
    except msgspec.MsgspecError as error:
        raise MalformedRecordError(str(error)[:200]) from error
    found = set()
    for one in raw.IPAddresses or ():
        with contextlib.suppress(ValueError):
            found.add(str(ipaddress.ip_address(one.IP)))
    return frozenset(found)


def _labels(given: dict[str, str]) -> LabelSet:
    """The labels with their source, and `reserved:host` whatever a label of the node is called.

    Neither the bound on the labels of an identity nor one label a key holds for nodes, so the set is put
    together here.
    """
    labels = {key: Label.parse(f"{SOURCE}:{key}={value}") for key, value in given.items()}
    for key, label in labels.items():
        if label != Label(SOURCE, key, given[key]):
            raise ValueError(f"the label {key[:80]!r} is not valid")
    return LabelSet(tuple(sorted((*labels.values(), _HOST), key=lambda label: (label.key, label.source))))
