"""Filter fields that look at addresses, ports and protocols."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Final

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.rule import Predicate, Rule, Side

PROTOCOLS: Final = {
    "tcp": ("TCP",), "udp": ("UDP",), "sctp": ("SCTP",), "vrrp": ("VRRP",), "igmp": ("IGMP",),
    "icmp": ("ICMPv4", "ICMPv6"), "icmpv4": ("ICMPv4",), "icmpv6": ("ICMPv6",),
}  # fmt: skip
L7_PROTOCOLS: Final = ("dns", "http", "kafka")
TCP_FLAG_NAMES: Final = tuple(field.name for field in flow_pb2.TCPFlags.DESCRIPTOR.fields)


def ip(attribute: str) -> Rule:
    """An address, textually equal or inside a CIDR; `attribute` is the field of flow.IP."""

    def rule(where: str, values: Sequence[str]) -> Predicate:
        exact = frozenset(value for value in values if "/" not in value)
        networks = []
        for value in values:
            try:
                if "/" in value:
                    networks.append(ip_network(value, strict=False))
                else:
                    ip_address(value)
            except ValueError as error:
                raise InvalidArgument.of_field(where, f"{value!r} is not an address or a CIDR") from error

        def predicate(flow: flow_pb2.Flow) -> bool:
            text = getattr(flow.IP, attribute)
            if text in exact:
                return True
            if not networks or not text:
                return False
            try:
                address = ip_address(text)
            except ValueError:
                return False
            return any(address.version == network.version and address in network for network in networks)

        return predicate

    return rule


def port(side: Side) -> Rule:
    """A port of TCP, UDP or SCTP."""

    def rule(where: str, values: Sequence[str]) -> Predicate:
        for value in values:
            if not value.isascii() or not value.isdigit() or int(value) > 65_535:
                raise InvalidArgument.of_field(where, f"{value!r} is not a port number (0 to 65535)")
        wanted = frozenset(int(value) for value in values)

        def predicate(flow: flow_pb2.Flow) -> bool:
            kind = flow.l4.WhichOneof("protocol")
            if kind not in ("TCP", "UDP", "SCTP"):
                return False
            return getattr(getattr(flow.l4, kind), f"{side}_port") in wanted

        return predicate

    return rule


def protocol(where: str, values: Sequence[str]) -> Predicate:
    """A protocol by name, of layer 4 or 7; icmp means both versions."""
    layer4: set[str] = set()
    layer7: set[str] = set()
    for value in values:
        name = value.lower()
        if name in L7_PROTOCOLS:
            layer7.add(name)
        elif name in PROTOCOLS:
            layer4.update(PROTOCOLS[name])
        else:
            known = ", ".join([*PROTOCOLS, *L7_PROTOCOLS])
            raise InvalidArgument.of_field(where, f"unknown protocol {value!r}; known: {known}")
    return lambda flow: flow.l4.WhichOneof("protocol") in layer4 or flow.l7.WhichOneof("record") in layer7


def ip_version(_: str, values: Sequence[int]) -> Predicate:
    """The version of the addresses."""
    wanted = frozenset(values)
    return lambda flow: flow.IP.ipVersion in wanted


def encrypted(_: str, values: Sequence[bool]) -> Predicate:
    """Whether the packet was encrypted; one without addresses was not."""
    wanted = frozenset(values)
    return lambda flow: flow.IP.encrypted in wanted


def tcp_flags(where: str, values: Sequence[flow_pb2.TCPFlags]) -> Predicate:
    """Flags that must all be set."""
    wanted = [[name for name in TCP_FLAG_NAMES if getattr(value, name)] for value in values]
    if not all(wanted):
        raise InvalidArgument.of_field(where, "no flag is set; set at least one")

    def predicate(flow: flow_pb2.Flow) -> bool:
        if flow.l4.WhichOneof("protocol") != "TCP" or not flow.l4.TCP.HasField("flags"):
            return False
        flags = flow.l4.TCP.flags
        return any(all(getattr(flags, name) for name in names) for names in wanted)

    return predicate
