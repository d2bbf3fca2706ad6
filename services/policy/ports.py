"""Reading toPorts: port numbers and ranges as aligned blocks."""

from __future__ import annotations

import re
from typing import Final

from axoneme.lib.policy.model import ANY_PORT, PortBlock, blocks_of_range
from services.policy.document import Node
from services.policy.faults import nearest
from services.policy.fields import Fields

PROTOCOLS: Final = {"TCP": (6,), "UDP": (17,), "SCTP": (132,), "ANY": (6, 17, 132)}
_LATER_PROTOCOLS: Final = ("ICMP", "ICMPV6", "VRRP", "IGMP")
MAX_PORTS: Final = 40
_MAX_PORT: Final = 65_535
_NUMBER: Final = re.compile(r"[0-9]+")
_PORT_NAME: Final = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9](-?[A-Za-z0-9]){0,14}")


def read_ports(node: Node | None, *, deny: bool, fields: Fields) -> tuple[PortBlock, ...]:
    """The blocks of an entry: all of them without `toPorts`, none when its elements name no port."""
    if node is None:
        return (ANY_PORT,)
    elements = fields.items(node)
    if node.items == []:
        return (ANY_PORT,)
    blocks: set[PortBlock] = set()
    for element in elements:
        blocks.update(_element(element, deny, fields))
    return tuple(sorted(blocks))


def _element(node: Node, deny: bool, fields: Fields) -> list[PortBlock]:
    later = ("listener", "terminatingTLS", "originatingTLS", "serverNames")
    present = fields.mapping(node, ("ports", "rules"), later=later)
    rules = present.get("rules")
    if rules is not None and rules.mapping != {}:
        fields.unsupported(rules)
    items = fields.items(present["ports"]) if "ports" in present else []
    if deny and not items:
        fields.fault(
            node, "a deny without ports denies nothing", "name ports, or leave out toPorts to deny all"
        )
    if len(items) > MAX_PORTS:
        fields.fault(
            present["ports"], f"{len(items)} ports; at most {MAX_PORTS} are accepted", "split the element"
        )
    return [block for item in items for block in _port(item, fields)]


def _port(node: Node, fields: Fields) -> list[PortBlock]:
    present = fields.mapping(node, ("port", "endPort", "protocol"))
    protocols = _protocols(present["protocol"], fields) if "protocol" in present else PROTOCOLS["ANY"]
    if "port" not in present:
        fields.fault(node, "the element has no port", 'write port: "0" for every port of the protocol')
        return []
    first = _number(present["port"], fields)
    last = fields.whole_number(present["endPort"], 0, _MAX_PORT) if "endPort" in present else first
    if first is None or last is None:
        return []
    if first == 0:
        return [PortBlock(protocol, 0, 0) for protocol in protocols]
    return [block for protocol in protocols for block in blocks_of_range(protocol, first, max(first, last))]


def _protocols(node: Node, fields: Fields) -> tuple[int, ...]:
    text = fields.text(node)
    if text is None:
        return ()
    if text.upper() in PROTOCOLS:
        return PROTOCOLS[text.upper()]
    if text.upper() in _LATER_PROTOCOLS:
        fields.fault(node, f"not supported yet: {node.path}: protocol {text}", f"use {', '.join(PROTOCOLS)}")
    else:
        fields.fault(node, f"unknown protocol {text[:40]!r}", nearest(text, PROTOCOLS))
    return ()


def _number(node: Node, fields: Fields) -> int | None:
    text = fields.text(node, fix=f'put it in quotes: "{node.scalar}"')
    if text is None:
        return None
    if _NUMBER.fullmatch(text):
        # A leading zero means octal, as for the original parser of these policies.
        octal = len(text) > 1 and text.startswith("0")
        if not (octal and re.search("[89]", text)) and len(text) <= 7:
            number = int(text, 8 if octal else 10)
            if number <= _MAX_PORT:
                return number
    elif _PORT_NAME.fullmatch(text):
        fields.fault(node, f"not supported yet: {node.path}: port name {text!r}", "write the number")
        return None
    fields.fault(node, f"{text[:40]!r} is not a port", "write a number from 0 to 65535")
    return None
