"""Reading the other side of a section entry: endpoints, entities, prefixes, nodes, services, groups, names.

Absent and empty differ: without any of these fields an entry is about anyone if it names ports, and about
nobody if it does not; a field that is there selects what its elements select, so an empty one selects nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from axoneme.lib.selectors import LabelSelector
from services.policy.reading.cidrfields import read_cidr_element, read_prefix
from services.policy.reading.context import Reading
from services.policy.reading.document import Node
from services.policy.reading.fqdnfields import read_fqdn
from services.policy.reading.groupfields import read_group
from services.policy.reading.selectorfields import read_node_selector, read_selector
from services.policy.reading.servicefields import read_service
from services.policy.rules import CidrGroupPeer, CidrPeer, EntityName, FqdnPeer, Peers, ServicePeer

_BOTH_SIDES: Final = ("Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes", "Groups")
_EGRESS_ONLY: Final = ("toServices", "toFQDNs")

_Read = TypeVar("_Read")


def peer_keys(reading: Reading) -> tuple[str, ...]:
    """The keys that name peers on this side."""
    keys = tuple(f"{reading.side}{noun}" for noun in _BOTH_SIDES)
    return keys if reading.side == "from" else (*keys, *_EGRESS_ONLY)


def read_peers(present: dict[str, Node], reading: Reading, *, with_ports: bool) -> Peers:
    """The peers of an entry with the keys `present`; several fields that name someone are a fault."""
    found = [key for key in peer_keys(reading) if key in present]
    if not found:
        return Peers(anyone=with_ports)
    naming = [key for key in found if present[key].items]
    if len(naming) > 1:
        reason = f"the entry names its peers in two ways: {naming[0]} and {naming[1]}"
        reading.fields.fault(present[naming[1]], reason, "write two entries, one for each")
    by_noun = {key.removeprefix(reading.side): present[key] for key in found}
    cidrs, cidr_groups = _cidrs(by_noun, reading)
    return Peers(
        selectors=tuple(sorted(_each(by_noun, "Endpoints", lambda node: _endpoints(node, reading), reading))),
        entities=tuple(sorted(_each(by_noun, "Entities", lambda node: _entity(node, reading), reading))),
        cidrs=cidrs,
        cidr_groups=cidr_groups,
        services=_services(by_noun, reading),
        cloud_groups=tuple(
            sorted(_each(by_noun, "Groups", lambda node: read_group(node, reading.fields), reading))
        ),
        fqdns=_fqdns(by_noun, reading),
        nodes=tuple(
            sorted(_each(by_noun, "Nodes", lambda node: read_node_selector(node, reading.fields), reading))
        ),
    )


def read_requires(node: Node | None, reading: Reading) -> tuple[LabelSelector, ...]:
    """The selectors of fromRequires or toRequires, in the scope of peers."""
    items = [] if node is None else reading.fields.items(node)
    return tuple(sorted({_endpoints(item, reading) for item in items}))


def _each(
    by_noun: dict[str, Node], noun: str, read: Callable[[Node], _Read | None], reading: Reading
) -> set[_Read]:
    items = reading.fields.items(by_noun[noun]) if noun in by_noun else []
    return {one for item in items if (one := read(item)) is not None}


def _by_fields(found: set[_Read]) -> tuple[_Read, ...]:
    """Canonical order of what has none of its own: equal sets of peers are equal values."""
    return tuple(sorted(found, key=repr))


def _endpoints(node: Node, reading: Reading) -> LabelSelector:
    return reading.scoped(read_selector(node, reading.fields))


def _entity(node: Node, reading: Reading) -> EntityName | None:
    text = reading.fields.choice(node, "entity", list(EntityName))
    return None if text is None else EntityName(text)


def _cidrs(
    by_noun: dict[str, Node], reading: Reading
) -> tuple[tuple[CidrPeer, ...], tuple[CidrGroupPeer, ...]]:
    fields = reading.fields
    plain = _each(by_noun, "CIDR", lambda node: read_prefix(node, fields), reading)
    elements = _each(by_noun, "CIDRSet", lambda node: read_cidr_element(node, fields), reading)
    cidrs = {CidrPeer(cidr=text) for text in plain}
    cidrs |= {one for one in elements if isinstance(one, CidrPeer)}
    return tuple(sorted(cidrs)), _by_fields({one for one in elements if isinstance(one, CidrGroupPeer)})


def _services(by_noun: dict[str, Node], reading: Reading) -> tuple[ServicePeer, ...]:
    return _by_fields(_each(by_noun, "Services", lambda node: read_service(node, reading), reading))


def _fqdns(by_noun: dict[str, Node], reading: Reading) -> tuple[FqdnPeer, ...]:
    return tuple(sorted(_each(by_noun, "FQDNs", lambda node: read_fqdn(node, reading.fields), reading)))
