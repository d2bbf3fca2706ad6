"""Ports of entries for the oracle: lists of {"protocol", "first", "last" | "name", "parser", "strength"}.

Protocol 0 is every protocol. `strength` is the priority of a redirect: a lower number wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.model.oracle_world import PROTOCOLS

STRENGTH = {"http": 101, "tls": 116, "dns": 121, "crd": 126}
ICMP_NAMES = {"EchoReply": (0, 129), "EchoRequest": (8, 128), "DestinationUnreachable": (3, 1)}
Port = dict[str, Any]
EVERYTHING: Port = {"protocol": 0, "first": 0, "last": 65535, "parser": None}


def cilium_ports(entry: Mapping[str, Any]) -> list[Port]:
    """The ports of an entry of a CiliumNetworkPolicy; everything without toPorts and icmps."""
    if entry.get("toPorts"):
        return [one for element in entry["toPorts"] for one in _element(element)]
    if entry.get("icmps"):
        return [one for element in entry["icmps"] for one in _icmp(element)]
    return [EVERYTHING]


def _element(element: Mapping[str, Any]) -> Iterator[Port]:
    proxy = _proxy(element)
    for port in element.get("ports") or []:
        first = port["port"]
        for protocol in _protocols(port.get("protocol") or "ANY"):
            if not first.isdigit():
                yield {"protocol": protocol, "name": first.lower(), **proxy}
            elif int(first) == 0:
                yield {"protocol": protocol, "first": 0, "last": 65535, **proxy}
            else:
                last = max(int(first), port.get("endPort") or 0)
                yield {"protocol": protocol, "first": int(first), "last": last, **proxy}


def _protocols(name: str) -> list[int]:
    return [6, 17, 132] if name.upper() == "ANY" else [PROTOCOLS[name.upper()]]


def _proxy(element: Mapping[str, Any]) -> dict[str, Any]:
    rules = element.get("rules") or {}
    listener = element.get("listener") or {}
    parser = next((name for name in ("http", "dns", "kafka") if rules.get(name)), None)
    if parser is None and rules.get("l7proto"):
        parser = rules["l7proto"]
    if parser is None and any(
        element.get(key) for key in ("serverNames", "terminatingTLS", "originatingTLS")
    ):
        parser = "tls"
    if listener:
        parser = "crd"
    strength = listener.get("priority") or STRENGTH.get(parser or "", 126)
    return {"parser": parser, "strength": strength, "listener": listener.get("name")}


def _icmp(element: Mapping[str, Any]) -> Iterator[Port]:
    for field in element.get("fields") or []:
        six = (field.get("family") or "IPv4") == "IPv6"
        number = field["type"]
        if isinstance(number, str):
            number = int(number) if number.isdigit() else ICMP_NAMES[number][six]
        yield {"protocol": 58 if six else 1, "first": number, "last": number, "parser": None}


def kubernetes_ports(ports: list[Mapping[str, Any]]) -> list[Port]:
    """The ports of a rule of a NetworkPolicy; everything without any."""
    return [_kubernetes(one) for one in ports] or [EVERYTHING]


def _kubernetes(one: Mapping[str, Any]) -> Port:
    protocol, port = PROTOCOLS[one.get("protocol") or "TCP"], one.get("port")
    if port is None:
        return {"protocol": protocol, "first": 0, "last": 65535, "parser": None}
    if isinstance(port, str):
        return {"protocol": protocol, "name": port.lower(), "parser": None}
    return {"protocol": protocol, "first": port, "last": one.get("endPort") or port, "parser": None}


def tiered_ports(rule: Mapping[str, Any]) -> list[Port]:
    """The ports of a rule of a tiered object: `protocols` of the newer form, `ports` of the older one."""
    found: list[Port] = []
    for element in rule.get("protocols") or []:
        for name in ("tcp", "udp", "sctp"):
            if name in element:
                where = (element[name] or {}).get("destinationPort") or {}
                found.append(_span(PROTOCOLS[name.upper()], where.get("number"), where.get("range")))
        if "destinationNamedPort" in element:
            found += [
                {"protocol": p, "name": element["destinationNamedPort"], "parser": None} for p in (6, 17, 132)
            ]
    for element in rule.get("ports") or []:
        if "namedPort" in element:
            found += [{"protocol": p, "name": element["namedPort"], "parser": None} for p in (6, 17, 132)]
        else:
            one = element.get("portNumber") or element["portRange"]
            found.append(_span(PROTOCOLS[one.get("protocol") or "TCP"], one.get("port"), one))
    return found or [EVERYTHING]


def _span(protocol: int, number: int | None, span: Mapping[str, Any] | None) -> Port:
    first, last = (number, number) if number is not None else (0, 65535)
    if number is None and span:
        first, last = span["start"], span["end"]
    return {"protocol": protocol, "first": first, "last": last, "parser": None}


def block_bits(port: Port, number: int, protocol: int) -> int:
    """How specific the map entry is that holds a port: the bits of the widest aligned block around it."""
    if port["protocol"] == 0:
        return 0
    if port["first"] == 0 and port["last"] == 65535:
        return 8
    size = 1
    while (
        number // (2 * size) * 2 * size >= port["first"]
        and (number // (2 * size) + 1) * 2 * size - 1 <= port["last"]
    ):
        size *= 2
    return 8 + 16 - (size.bit_length() - 1)
