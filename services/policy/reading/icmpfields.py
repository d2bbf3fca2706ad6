"""Reading icmps: types of ICMP messages by number or name, as ports of the protocols 1 and 58."""

from __future__ import annotations

from typing import Final

from axoneme.lib.policy.ports import PortBlock, one_port
from services.policy.reading.context import Reading
from services.policy.reading.document import Node
from services.policy.reading.faults import nearest
from services.policy.rules import PortRule

MAX_FIELDS: Final = 40
_MAX_TYPE: Final = 255
_PROTOCOLS: Final = {"IPv4": 1, "IPv6": 58}
# Names that the policies of this API use for the types of RFC 792 and its followers.
_TYPES_IPV4: Final = {
    "EchoReply": 0,
    "DestinationUnreachable": 3,
    "Redirect": 5,
    "Echo": 8,
    "EchoRequest": 8,
    "RouterAdvertisement": 9,
    "RouterSelection": 10,
    "TimeExceeded": 11,
    "ParameterProblem": 12,
    "Timestamp": 13,
    "TimestampReply": 14,
    "Photuris": 40,
    "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}
# The same for ICMPv6 (RFC 4443 and its followers).
_TYPES_IPV6: Final = {
    "DestinationUnreachable": 1,
    "PacketTooBig": 2,
    "TimeExceeded": 3,
    "ParameterProblem": 4,
    "EchoRequest": 128,
    "EchoReply": 129,
    "MulticastListenerQuery": 130,
    "MulticastListenerReport": 131,
    "MulticastListenerDone": 132,
    "RouterSolicitation": 133,
    "RouterAdvertisement": 134,
    "NeighborSolicitation": 135,
    "NeighborAdvertisement": 136,
    "RedirectMessage": 137,
    "RouterRenumbering": 138,
    "ICMPNodeInformationQuery": 139,
    "ICMPNodeInformationResponse": 140,
    "InverseNeighborDiscoverySolicitation": 141,
    "InverseNeighborDiscoveryAdvertisement": 142,
    "HomeAgentAddressDiscoveryRequest": 144,
    "HomeAgentAddressDiscoveryReply": 145,
    "MobilePrefixSolicitation": 146,
    "MobilePrefixAdvertisement": 147,
    "DuplicateAddressRequestCodeSuffix": 157,
    "DuplicateAddressConfirmationCodeSuffix": 158,
    "ExtendedEchoRequest": 160,
    "ExtendedEchoReply": 161,
}
_TYPES: Final = {"IPv4": _TYPES_IPV4, "IPv6": _TYPES_IPV6}


def read_icmps(node: Node, reading: Reading) -> tuple[PortRule, ...]:
    """A rule per element that names a type; elements without any match nothing."""
    blocks = [_element(item, reading) for item in reading.fields.items(node)]
    return tuple(PortRule(ports=found) for found in blocks if found)


def _element(node: Node, reading: Reading) -> tuple[PortBlock, ...]:
    fields = reading.fields
    present = fields.mapping(node, ("fields",))
    items = fields.items(present["fields"]) if "fields" in present else []
    if reading.deny and not items and node.mapping is not None:
        fields.fault(node, "a deny without ICMP types denies nothing", "name types, or leave out icmps")
    if len(items) > MAX_FIELDS:
        reason = f"{len(items)} ICMP types; at most {MAX_FIELDS} are accepted"
        fields.fault(present["fields"], reason, "split the element")
    return tuple(sorted({block for item in items if (block := _field(item, reading))}))


def _field(node: Node, reading: Reading) -> PortBlock | None:
    fields = reading.fields
    present = fields.mapping(node, ("family", "type"))
    family = fields.choice(present["family"], "family", tuple(_TYPES)) if "family" in present else "IPv4"
    if "type" not in present:
        if node.mapping is not None:
            fields.fault(node, "the ICMP field has no type", "write a number from 0 to 255 or a name")
        return None
    if family is None:
        return None
    number = _type(present["type"], family, reading)
    return None if number is None else one_port(_PROTOCOLS[family], number)


def _type(node: Node, family: str, reading: Reading) -> int | None:
    value, names = node.scalar, _TYPES[family]
    if isinstance(value, str) and value in names:
        return names[value]
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 3:
        value = int(value)
    if type(value) is int and 0 <= value <= _MAX_TYPE:
        return value
    shown = repr(value)[:40] if isinstance(value, str | int) else node.kind
    fix = nearest(value, names) if isinstance(value, str) else "write a number from 0 to 255 or a name"
    reading.fields.fault(node, f"{shown} is not an ICMP type of {family}", fix)
    return None
