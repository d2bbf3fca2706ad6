"""Reading prefixes, with their exceptions and groups. A prefix in canonical form has no host bits."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from services.policy.reading.document import Node
from services.policy.reading.fields import Fields
from services.policy.reading.selectorfields import read_selector
from services.policy.rules import CidrGroupPeer, CidrPeer

# A mask of digits only: 10.0.0.0/255.0.0.0, zones and IPv4 inside IPv6 are no prefixes of packets.
_PREFIX: Final = re.compile(r"([0-9.]+|[0-9A-Fa-f:]+)/(0|[1-9][0-9]{0,2})")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_prefix(node: Node, fields: Fields) -> str | None:
    """The canonical text of a prefix such as 10.0.0.0/8 or fd00::/8."""
    network = _network(node, fields)
    return None if network is None else str(network)


def read_excepts(node: Node, whole: str | None, fields: Fields) -> tuple[str, ...]:
    """Prefixes that are left out of another, inside which each has to lie if it is given."""
    networks = [network for item in fields.items(node) if (network := _inside(item, whole, fields))]
    return tuple(sorted({str(network) for network in networks}))


def read_cidr_element(node: Node, fields: Fields) -> CidrPeer | CidrGroupPeer | None:
    """An element of fromCIDRSet or toCIDRSet."""
    present = fields.mapping(node, ("cidr", "cidrGroupRef", "cidrGroupSelector", "except"))
    kind = fields.only_one(node, present, ("cidr", "cidrGroupRef", "cidrGroupSelector"))
    cidr = read_prefix(present["cidr"], fields) if "cidr" in present else None
    excepts = read_excepts(present["except"], cidr, fields) if "except" in present else ()
    if kind == "cidr":
        return None if cidr is None else CidrPeer(cidr=cidr, excepts=excepts)
    if kind == "cidrGroupRef":
        name = fields.name(present[kind])
        return None if name is None else CidrGroupPeer(name=name, excepts=excepts)
    if kind is None:
        return None
    return CidrGroupPeer(selector=read_selector(present[kind], fields), excepts=excepts)


def _network(node: Node, fields: Fields) -> Network | None:
    text = fields.text(node)
    if text is None:
        return None
    if _PREFIX.fullmatch(text):
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            pass
        else:
            if network.version == 4 or network.network_address.ipv4_mapped is None:
                return network
    bare = "/" not in text and _address(text)
    fix = f"write {text}/{bare}" if bare else "write address/bits, such as 10.0.0.0/8 or fd00::/8"
    fields.fault(node, f"{text[:80]!r} is not a prefix", fix)
    return None


def _address(text: str) -> int:
    """The bits of an address without a mask; 0 if it is none."""
    try:
        return ipaddress.ip_address(text).max_prefixlen
    except ValueError:
        return 0


def _inside(node: Node, whole: str | None, fields: Fields) -> Network | None:
    network = _network(node, fields)
    if network is None or whole is None:
        return network
    outer = ipaddress.ip_network(whole)
    # subnet_of() raises for the other family, which is never inside.
    if network.version == outer.version and network.subnet_of(outer):  # type: ignore[arg-type]
        return network
    fields.fault(node, f"{network} does not lie inside {whole}", "an exception narrows its own prefix only")
    return None
