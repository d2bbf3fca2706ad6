"""Reading toPorts: numbers and ranges as aligned blocks, names, and the L7 part of each element."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from axoneme.lib.policy.ports import NamedPort, PortBlock, blocks_of_range
from services.policy.reading.context import Reading
from services.policy.reading.document import Node
from services.policy.reading.faults import nearest
from services.policy.reading.fields import Fields
from services.policy.reading.l7fields import KEYS, read_l7, refused_in_deny
from services.policy.rules import L7, PortRule

MAX_PORTS: Final = 40
_MAX_PORT: Final = 65_535
_NUMBER: Final = re.compile(r"[0-9]{1,7}")
_PORT_NAME: Final = re.compile(r"(?=.*[A-Za-z])(?=.{1,15}\Z)[A-Za-z0-9](-?[A-Za-z0-9])*")
PROTOCOLS: Final = {"TCP": (6,), "UDP": (17,), "SCTP": (132,), "ANY": (6, 17, 132)}
# These have no ports: the port is left out, or 0.
PORTLESS: Final = {"ICMP": (1,), "ICMPV6": (58,), "VRRP": (112,), "IGMP": (2,)}
_DNS_PROTOCOLS: Final = ("TCP", "UDP", "ANY")


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenPort:
    """An element of `ports`; `port` is a number or a name."""

    node: Node
    protocol: str
    port: int | str
    last: int

    @property
    def blocks(self) -> tuple[PortBlock | NamedPort, ...]:
        """What it stands for."""
        numbers = (PROTOCOLS | PORTLESS)[self.protocol]
        if isinstance(self.port, str):
            return tuple(NamedPort(number, self.port) for number in numbers)
        if self.port == 0:
            return tuple(PortBlock(number, 0, 0) for number in numbers)
        last = max(self.port, self.last)
        return tuple(block for number in numbers for block in blocks_of_range(number, self.port, last))


def read_ports(node: Node, reading: Reading) -> tuple[PortRule, ...]:
    """A rule per element that names a port; elements without any match nothing."""
    rules = [_element(item, reading) for item in reading.fields.items(node)]
    return tuple(rule for rule in rules if rule.ports)


def _element(node: Node, reading: Reading) -> PortRule:
    fields = reading.fields
    if reading.deny:
        present = fields.mapping(node, ("ports",), refused=refused_in_deny())
    else:
        present = fields.mapping(node, ("ports", *KEYS))
    items = fields.items(present["ports"]) if "ports" in present else []
    if reading.deny and not items and node.mapping is not None:
        fix = "name ports, or leave out toPorts to deny all"
        fields.fault(node, "a deny without ports denies nothing", fix)
    if len(items) > MAX_PORTS:
        reason = f"{len(items)} ports; at most {MAX_PORTS} are accepted"
        fields.fault(present["ports"], reason, "split the element")
    ports = [port for item in items if (port := _port(item, fields))]
    l7 = read_l7(present, reading)
    if l7 is not None:
        _check(node, items, ports, l7, fields)
    return PortRule(ports=_sorted(ports), l7=l7)


def _sorted(ports: list[WrittenPort]) -> tuple[PortBlock | NamedPort, ...]:
    blocks = {block for port in ports for block in port.blocks}
    plain = sorted(block for block in blocks if isinstance(block, PortBlock))
    return (*plain, *sorted(block for block in blocks if isinstance(block, NamedPort)))


def _port(node: Node, fields: Fields) -> WrittenPort | None:
    present = fields.mapping(node, ("port", "endPort", "protocol"))
    protocol = _protocol(present["protocol"], fields) if "protocol" in present else "ANY"
    end = fields.whole_number(present["endPort"], 0, _MAX_PORT) if "endPort" in present else 0
    if "port" not in present:
        if protocol in PORTLESS:
            return WrittenPort(node=node, protocol=protocol, port=0, last=0)
        if node.mapping is not None:
            fix = 'write port: "0" for every port of the protocol'
            fields.fault(node, "the element has no port", fix)
        return None
    port = read_port(present["port"], fields)
    if protocol in PORTLESS and port not in (0, None):
        fix = "use icmps for ICMP types" if protocol.startswith("ICMP") else "leave out the port"
        fields.fault(present["port"], f"{protocol} has no ports", fix)
    if isinstance(port, str) and "endPort" in present:
        fields.fault(present["endPort"], f"endPort after the name {port!r}", "write numbers, or no endPort")
    if port is None or protocol is None or end is None:
        return None
    return WrittenPort(node=node, protocol=protocol, port=port, last=end)


def _protocol(node: Node, fields: Fields) -> str | None:
    text = fields.text(node)
    if text is None:
        return None
    known = {**PROTOCOLS, **PORTLESS}
    name = text.upper() or "ANY"
    if name in known:
        return name
    fields.fault(node, f"unknown protocol {text[:40]!r}", nearest(text, known))
    return None


def read_port(node: Node, fields: Fields) -> int | str | None:
    """A number from 0 to 65535, or a name in lower case; both are written as texts."""
    text = fields.text(node, fix=f'put it in quotes: "{node.scalar}"')
    if text is None:
        return None
    if _PORT_NAME.fullmatch(text):
        return text.lower()
    if _NUMBER.fullmatch(text):
        # A leading zero means octal, as for the original parser of these policies.
        octal = len(text) > 1 and text.startswith("0")
        if not (octal and re.search("[89]", text)):
            number = int(text, 8 if octal else 10)
            if number <= _MAX_PORT:
                return number
    fields.fault(node, f"{text[:40]!r} is not a port", "write a number from 0 to 65535, or a name")
    return None


def _check(node: Node, items: list[Node], ports: list[WrittenPort], l7: L7, fields: Fields) -> None:
    """What L7 rules ask of the ports of their element."""
    if not items:
        fields.fault(node, "a proxy without ports: nothing would reach it", "name ports")
    if l7.parser in ("tls", "crd"):
        return
    dns = l7.parser == "dns"
    for port in ports:
        if dns and port.protocol not in _DNS_PROTOCOLS:
            fields.fault(port.node, f"DNS rules for {port.protocol}", "DNS uses UDP and TCP")
        elif not dns and port.protocol != "TCP":
            reason = f"{l7.parser} rules need protocol TCP, this is {port.protocol}"
            fields.fault(port.node, reason, "write protocol: TCP")
        if port.port == 0:
            fields.fault(port.node, f"{l7.parser} rules for port 0, which is every port", "name the ports")
        elif dns and isinstance(port.port, int) and port.last > port.port:
            fields.fault(port.node, "DNS rules for a range of ports", "name each port")
