"""Checks of single fields of requests to the privileged helper: each returns the value or names the field."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Any

from axoneme.lib.errors import InvalidArgument
from shim import network, options

MAX_ROUTES = 1_000
MAX_ADDRESSES = 8
MAX_TABLE_SIZE = 131_071
UNREACHABLE, OVERLAY = "unreachable", "overlay"
"""Next hops of routes that are no address: nothing is there, and the device of the tunnel."""

_NETNS = re.compile(r"/(?:var/)?run/netns/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|/proc/[1-9][0-9]{0,9}/ns/net")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_FOLDER = re.compile(r"(?:/[A-Za-z0-9_@:][A-Za-z0-9_.@:-]{0,127}){1,16}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def number(name: str, value: Any, low: int, high: int) -> int:
    """A whole number of the range, ends included."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument.of_field(name, f"must be a number from {low} to {high}")
    return value


def endpoint_id(name: str, value: Any) -> int:
    """An endpoint's number."""
    return number(name, value, 1, 65_535)


def holder(name: str, value: Any) -> int:
    """The number of an endpoint, or 0 for the host."""
    return number(name, value, 0, 65_535)


def set_id(name: str, value: Any) -> int:
    """The number of a set of backends."""
    return number(name, value, 0, 0xFFFF_FFFF)


def table_size(name: str, value: Any) -> int:
    """Elements of a Maglev table."""
    return number(name, value, 1, MAX_TABLE_SIZE)


def port(name: str, value: Any) -> int:
    """A port that can be listened on."""
    return number(name, value, 1, 65_535)


def port_or_zero(name: str, value: Any) -> int:
    """A port, or 0 for none."""
    return number(name, value, 0, 65_535)


def mtu(name: str, value: Any) -> int:
    """An MTU that carries IPv6, or 0 for none given."""
    return 0 if value == 0 and value is not False else number(name, value, options.MIN_MTU, options.MAX_MTU)


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise InvalidArgument.of_field(name, "must be true or false")
    return value


def text(name: str, value: Any) -> str:
    """Any text: a building block of the others."""
    if not isinstance(value, str):
        raise InvalidArgument.of_field(name, "must be text")
    return value


def word(name: str, value: Any, allowed: Collection[str]) -> str:
    """One of a few words."""
    if text(name, value) not in allowed:
        raise InvalidArgument.of_field(name, f"must be one of {', '.join(allowed)}")
    return str(value)


def routing_mode(name: str, value: Any) -> str:
    """How pods of other nodes are reached."""
    return word(name, value, (network.DIRECT, network.TUNNEL))


def xdp(name: str, value: Any) -> str:
    """Whether and how programs run at the driver."""
    return word(name, value, (network.XDP_OFF, network.XDP_GENERIC, network.XDP_NATIVE))


def attach(name: str, value: Any) -> str:
    """The way in which programs are attached to interfaces."""
    return word(name, value, (network.ATTACH_AUTO, network.ATTACH_TCX, network.ATTACH_CLSACT))


def aggregation(name: str, value: Any) -> str:
    """How much of the trace events is left out."""
    return word(name, value, network.AGGREGATIONS)


def netns(name: str, value: Any) -> str:
    """A path that can only be a network namespace by its name; what it opens to is checked again."""
    if not _NETNS.fullmatch(text(name, value)):
        raise InvalidArgument.of_field(name, "must be /run/netns/NAME or /proc/PID/ns/net")
    return str(value)


def interface(name: str, value: Any) -> str:
    """An interface name as the kernel takes it, without anything that a path or a format could mean."""
    if not _INTERFACE.fullmatch(text(name, value)):
        raise InvalidArgument.of_field(name, "must be 1-15 letters, digits, '_', '.' or '-'")
    return str(value)


def interface_or_empty(name: str, value: Any) -> str:
    """An interface, or none given."""
    return "" if value == "" else interface(name, value)


def folder_or_empty(name: str, value: Any) -> str:
    """An absolute path without dots at the start of a part, or none given."""
    if value != "" and not _FOLDER.fullmatch(text(name, value)):
        raise InvalidArgument.of_field(name, "must be an absolute path of letters, digits and _ . @ : -")
    return str(value)


def mac(name: str, value: Any) -> str:
    """A hardware address."""
    if not _MAC.fullmatch(text(name, value)):
        raise InvalidArgument.of_field(name, "must be six lower-case hexadecimal bytes with colons")
    return str(value)


def ip(name: str, value: Any) -> str:
    """An address that a workload or a node may have."""
    try:
        parsed = ipaddress.ip_address(text(name, value))
    except ValueError as error:
        raise InvalidArgument.of_field(name, "must be an IPv4 or IPv6 address") from error
    if parsed.is_multicast or parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local:
        raise InvalidArgument.of_field(name, f"{parsed} is not an address of a workload or a node")
    return str(parsed)


def ips(name: str, value: Any) -> tuple[str, ...]:
    """A short list of addresses."""
    if not isinstance(value, list) or len(value) > MAX_ADDRESSES:
        raise InvalidArgument.of_field(name, f"must be a list of at most {MAX_ADDRESSES} addresses")
    return tuple(ip(name, one) for one in value)


def cidr(name: str, value: Any) -> str:
    """A prefix that can be a PodCIDR."""
    try:
        prefix = ipaddress.ip_network(text(name, value))
    except ValueError as error:
        raise InvalidArgument.of_field(
            name, "must be a prefix without host bits, such as 10.0.1.0/24"
        ) from error
    if prefix.prefixlen < 8:
        raise InvalidArgument.of_field(name, f"{prefix} is wider than any PodCIDR")
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local:
        raise InvalidArgument.of_field(name, f"{prefix} is not a PodCIDR")
    return str(prefix)


def routes(name: str, value: Any) -> dict[str, str]:
    """Prefix → next hop: an address of the same family, OVERLAY or UNREACHABLE."""
    if not isinstance(value, dict) or len(value) > MAX_ROUTES:
        raise InvalidArgument.of_field(name, f"must be an object with at most {MAX_ROUTES} prefixes")
    found: dict[str, str] = {}
    for one, via in value.items():
        prefix = cidr(name, one)
        if via in (UNREACHABLE, OVERLAY):
            found[prefix] = str(via)
            continue
        found[prefix] = ip(name, via)
        if (":" in prefix) != (":" in found[prefix]):
            raise InvalidArgument.of_field(name, f"{prefix} and {found[prefix]} are of different families")
    return found


def cidrs(name: str, value: Any) -> tuple[str, ...]:
    """A list of prefixes."""
    if not isinstance(value, list) or len(value) > MAX_ROUTES:
        raise InvalidArgument.of_field(name, f"must be a list of at most {MAX_ROUTES} prefixes")
    return tuple(cidr(name, one) for one in value)


def map_sizes(name: str, value: Any) -> dict[str, int]:
    """Map → entries, for maps whose size may be chosen."""
    if not isinstance(value, dict) or not value.keys() <= set(network.SIZED_MAPS):
        raise InvalidArgument.of_field(name, f"must be an object of {', '.join(network.SIZED_MAPS)}")
    return {one: number(name, size, 1, options.MAX_MAP_ENTRIES) for one, size in value.items()}
