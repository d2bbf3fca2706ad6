"""Ports of tiered rules: `protocols` of a ClusterNetworkPolicy, `ports` of the older two kinds."""

from __future__ import annotations

from typing import Final, TypeAlias

from axoneme.lib.policy.model import NamedPort, PortBlock, blocks_of_range
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.kubernetesfields import (
    MAX_PORT,
    PROTOCOLS,
    any_protocol,
    read_port_name,
    read_protocol,
)

Ports: TypeAlias = tuple[PortBlock | NamedPort, ...]
_PROTOCOL_KEYS: Final = {name.lower(): number for name, number in PROTOCOLS.items()}


def read_protocols(node: Node, fields: Fields) -> Ports:
    """An element of `protocols`."""
    keys = (*_PROTOCOL_KEYS, "destinationNamedPort")
    present = fields.mapping(node, keys)
    kind = fields.only_one(node, present, keys)
    if kind is None:
        return ()
    if kind == "destinationNamedPort":
        return _named(present[kind], "write it as the destinationPort of tcp, udp or sctp", fields)
    match = fields.mapping(present[kind], ("destinationPort",))
    if "destinationPort" not in match:
        fix = f"for every port write destinationPort: {{range: {{start: 1, end: {MAX_PORT}}}}}"
        fields.fault(present[kind], f"{kind} names no destinationPort", fix)
        return ()
    return _destination(match["destinationPort"], _PROTOCOL_KEYS[kind], fields)


def read_admin_ports(node: Node, fields: Fields) -> Ports:
    """An element of `ports`."""
    keys = ("portNumber", "portRange", "namedPort")
    present = fields.mapping(node, keys)
    kind = fields.only_one(node, present, keys)
    if kind is None:
        return ()
    if kind == "namedPort":
        return _named(present[kind], "write it as the port of portNumber", fields)
    numbers = ("port",) if kind == "portNumber" else ("start", "end")
    inner = fields.mapping(present[kind], ("protocol", *numbers))
    protocol = read_protocol(inner.get("protocol"), fields)
    return _blocks(present[kind], inner, numbers, protocol, fields)


def _destination(node: Node, protocol: int, fields: Fields) -> Ports:
    present = fields.mapping(node, ("number", "range"))
    kind = fields.only_one(node, present, ("number", "range"))
    if kind is None:
        return ()
    if kind == "number":
        return _blocks(node, present, ("number",), protocol, fields)
    inner = fields.mapping(present["range"], ("start", "end"))
    return _blocks(present["range"], inner, ("start", "end"), protocol, fields)


def _blocks(
    node: Node, present: dict[str, Node], numbers: tuple[str, ...], protocol: int | None, fields: Fields
) -> Ports:
    """The blocks of one number, or of a first and a last one."""
    for key in numbers:
        if key not in present:
            fields.fault(node, f"{node.path} has no {key}", f"write a number from 1 to {MAX_PORT}")
    if any(key not in present for key in numbers):
        return ()
    first = fields.whole_number(present[numbers[0]], 1, MAX_PORT)
    if first is None:
        return ()
    last = first
    if len(numbers) > 1:
        # One port is no range for these kinds: the API server refuses it.
        end = fields.whole_number(present[numbers[1]], min(first + 1, MAX_PORT), MAX_PORT)
        if end is None:
            return ()
        last = end
    return () if protocol is None else blocks_of_range(protocol, first, last)


def _named(node: Node, number_fix: str, fields: Fields) -> Ports:
    name = read_port_name(node, fields, number_fix=number_fix)
    return () if name is None else any_protocol(name)
