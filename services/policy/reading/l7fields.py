"""Reading what a proxy does with the connections of a port element: L7 rules, TLS, a listener.

    rules | listener | terminatingTLS, originatingTLS, serverNames -> L7, or None for a plain element

`rules: {}` and empty lists say nothing. What the proxy could not do is refused: a rule that is not enforced
would let through what it was written to stop.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from axoneme.lib.policy.model import Direction
from services.policy.reading.context import Reading
from services.policy.reading.document import Node
from services.policy.reading.fqdnfields import read_dns_rule
from services.policy.reading.genericfields import read_kafka, read_pairs, read_parser
from services.policy.reading.httpfields import read_http
from services.policy.reading.listenerfields import read_listener
from services.policy.reading.tlsfields import read_server_names, read_tls
from services.policy.rules import L7, HttpRule

KEYS: Final = ("rules", "listener", "terminatingTLS", "originatingTLS", "serverNames")
_TLS_KEYS: Final = ("terminatingTLS", "originatingTLS", "serverNames")
_NO_DENY: Final = ("a deny has no {key}", "deny the whole port, or write an allow with {key}")


def refused_in_deny() -> dict[str, tuple[str, str]]:
    """Keys of an element that a deny cannot have."""
    return {key: (_NO_DENY[0].format(key=key), _NO_DENY[1].format(key=key)) for key in KEYS}


def read_l7(present: dict[str, Node], reading: Reading) -> L7 | None:
    """The L7 part of an element with the keys `present`."""
    rules = _rules(present["rules"], reading) if "rules" in present else None
    listener = read_listener(present["listener"], reading) if "listener" in present else None
    tls = _tls(present, reading)
    _check_together(present, rules, tls, reading)
    if listener is not None:
        return _with_tls(L7(parser="crd", allow_all=True, listener=listener[0], priority=listener[1]), tls)
    return tls if rules is None else _with_tls(rules, tls)


def _rules(node: Node, reading: Reading) -> L7 | None:
    fields = reading.fields
    present = fields.mapping(node, ("http", "dns", "kafka", "l7proto", "l7"))
    kinds = [key for key in ("http", "dns", "kafka", "l7proto") if key in present]
    if len(kinds) > 1:
        reason = f"{kinds[0]} and {kinds[1]} rules in one element"
        fields.fault(present[kinds[1]], reason, "write two elements, one for each")
    if "l7" in present and "l7proto" not in present:
        fields.fault(present["l7"], "l7 rules without l7proto", "name the parser with l7proto")
    read = [_kind(key, present, reading) for key in kinds]
    return next((one for one in read if one is not None), None)


def _kind(key: str, present: dict[str, Node], reading: Reading) -> L7 | None:
    if key == "l7proto":
        return _generic(present, reading)
    items = reading.fields.items(present[key])
    if key == "http":
        http = tuple(sorted({read_http(item, reading) for item in items}))
        return L7(parser="http", http=http, allow_all=HttpRule() in http) if items else None
    if key == "kafka":
        pairs = tuple(sorted({read_kafka(item, reading.fields) for item in items}))
        return L7(parser="kafka", generic=pairs, allow_all=() in pairs) if items else None
    names = {name for item in items for name in read_dns_rule(item, reading.fields)}
    return L7(parser="dns", dns=tuple(sorted(names))) if items else None


def _generic(present: dict[str, Node], reading: Reading) -> L7 | None:
    """Rules of `l7proto`; without `l7` the parser lets everything through."""
    parser = read_parser(present["l7proto"], reading.fields)
    items = reading.fields.items(present["l7"]) if "l7" in present else []
    pairs = tuple(sorted({read_pairs(item, reading.fields) for item in items}))
    if parser is None:
        return None
    return L7(parser=parser, generic=pairs, allow_all=not pairs or () in pairs)


def _tls(present: dict[str, Node], reading: Reading) -> L7 | None:
    names: tuple[str, ...] = ()
    if "serverNames" in present:
        names = read_server_names(present["serverNames"], reading.fields)
    sides = {key: read_tls(present[key], reading) for key in _TLS_KEYS[:2] if key in present}
    if not names and not any(sides.values()):
        return None
    return L7(
        parser="tls",
        allow_all=True,
        server_names=names,
        terminating=sides.get("terminatingTLS"),
        originating=sides.get("originatingTLS"),
    )


def _with_tls(l7: L7, tls: L7 | None) -> L7:
    if tls is None:
        return l7
    return replace(
        l7, server_names=tls.server_names, terminating=tls.terminating, originating=tls.originating
    )


def _check_together(present: dict[str, Node], rules: L7 | None, tls: L7 | None, reading: Reading) -> None:
    """What excludes each other, and what cannot be done in this direction or for these subjects."""
    fields = reading.fields
    if rules is not None and "listener" in present:
        fields.fault(present["listener"], "a listener and rules in one element", "keep one of them")
    if rules is not None and rules.parser == "dns":
        _check_dns(present, tls, reading)
    elif rules is not None and tls is not None and tls.server_names and tls.terminating is None:
        reason = "serverNames and L7 rules without terminatingTLS: the requests are encrypted"
        fields.fault(present["serverNames"], reason, "give terminatingTLS, or leave one of them out")
    proxied = "listener" in present or tls is not None or (rules is not None and rules.parser != "dns")
    if reading.of_nodes and proxied:
        key = next(key for key in KEYS if key in present)
        fields.fault(present[key], f"{key} for nodes: only DNS rules are possible there", "select endpoints")


def _check_dns(present: dict[str, Node], tls: L7 | None, reading: Reading) -> None:
    fields = reading.fields
    if reading.direction is Direction.INGRESS:
        fields.fault(present["rules"], "DNS rules on ingress", "write them under egress of the clients")
    if tls is not None:
        key = next(key for key in _TLS_KEYS if key in present)
        fields.fault(present[key], f"{key} and DNS rules in one element", "write two elements")
