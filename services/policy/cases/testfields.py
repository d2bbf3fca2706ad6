"""Small values of test files: mappings of texts, optional texts and switches, ports, prefixes."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from services.policy.cases.testcase import PROTOCOL_NUMBERS
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields


def string_mapping(node: Node | None, fields: Fields) -> dict[str, str]:
    """A mapping of texts, such as labels; empty when absent."""
    if node is None:
        return {}
    found = fields.mapping(node, tuple(node.mapping or ()))
    return {key: text for key, child in found.items() if (text := fields.text(child)) is not None}


def children(node: Node | None, fields: Fields) -> Mapping[str, Node]:
    """The values of a mapping with keys of any name; empty when absent."""
    return {} if node is None else fields.mapping(node, tuple(node.mapping or ()))


def elements(node: Node | None, fields: Fields) -> list[Node]:
    """The elements of a list; empty when absent."""
    return [] if node is None else fields.items(node)


def text_or(node: Node | None, default: str, fields: Fields) -> str:
    """A text, or the default when absent."""
    return default if node is None else fields.text(node) or default


def switch(node: Node | None, default: bool, fields: Fields) -> bool:
    """True or false."""
    if node is None:
        return default
    if not isinstance(node.scalar, bool):
        fields.fault(node, f"expected true or false, found {node.kind}")
        return default
    return node.scalar


def one_of(node: Node | None, known: tuple[str, ...], default: str, fields: Fields) -> str:
    """One of the known words."""
    if node is None:
        return default
    if node.scalar not in known:
        fields.fault(node, f"{str(node.scalar)[:40]!r} is not known here", f"write {' or '.join(known)}")
        return default
    return str(node.scalar)


def protocol(node: Node | None, fields: Fields) -> int:
    """The number of a protocol by name; TCP when absent."""
    if node is None:
        return PROTOCOL_NUMBERS["TCP"]
    if type(node.scalar) is int:
        return fields.whole_number(node, 0, 255) or 0
    known = PROTOCOL_NUMBERS.get(str(node.scalar).upper())
    if known is None:
        names = ", ".join(PROTOCOL_NUMBERS)
        fields.fault(node, f"{str(node.scalar)[:40]!r} is no protocol", f"write one of {names}, or a number")
    return known or 0


def addresses(node: Node | None, fields: Fields) -> tuple[str, ...]:
    """A list of addresses, in canonical form."""
    return tuple(one for child in elements(node, fields) if (one := address(child, fields)))


def address(node: Node, fields: Fields) -> str:
    """An address in canonical form; empty after a fault."""
    text = fields.text(node)
    try:
        return str(ipaddress.ip_address(text)) if text is not None else ""
    except ValueError:
        fields.fault(node, f"{str(text)[:64]!r} is not an address", "write an IPv4 or IPv6 address")
        return ""


def prefixes(node: Node | None, fields: Fields) -> tuple[str, ...]:
    """A list of prefixes, host bits cleared; an address alone is a prefix of one."""
    return tuple(one for child in elements(node, fields) if (one := _prefix(child, fields)))


def _prefix(node: Node, fields: Fields) -> str:
    text = fields.text(node)
    try:
        return str(ipaddress.ip_network(text, strict=False)) if text is not None else ""
    except ValueError:
        fields.fault(node, f"{str(text)[:64]!r} is not a prefix", "write it as 192.0.2.0/24")
        return ""
