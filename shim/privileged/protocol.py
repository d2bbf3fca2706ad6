"""What may be asked of the privileged helper, and the checks that each request passes before anything
happens.

One request is one JSON object in one packet, one answer likewise, descriptors beside it. Nothing of this
module has an effect: it turns bytes into typed requests or raises InvalidArgument. Paths of maps and pins
are never part of a request; the helper knows its node. Standard library and the error classes only.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from axoneme.lib.errors import InvalidArgument

MAX_PACKET_BYTES = 196_608
MAX_ROUTES = 1_000
MAX_ADDRESSES = 8
UNREACHABLE = "unreachable"

_NETNS = re.compile(r"/(?:var/)?run/netns/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|/proc/[1-9][0-9]{0,9}/ns/net")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Base of all requests."""

    op: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Request):
    """Is the helper there?"""

    op: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetUpNode(Request):
    """Mount bpffs if absent, switch forwarding on, add the router addresses."""

    op: ClassVar[str] = "set_up_node"
    router_ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPrograms(Request):
    """Load the datapath object, reuse pinned maps, replace attached programs in place.

    Without `replace` nothing is done when the helper has loaded this very object over these maps.
    """

    op: ClassVar[str] = "load_programs"
    replace: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePolicyMap(Request):
    """Make an empty inner policy map; its descriptor comes with the answer."""

    op: ClassVar[str] = "create_policy_map"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPolicyMap(Request):
    """Descriptor of the inner policy map that an endpoint has now; none when it is locked."""

    op: ClassVar[str] = "open_policy_map"
    endpoint_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateInterface(Request):
    """Make the veth pair of an endpoint, the node's side down; an equal pair is taken as it is."""

    op: ClassVar[str] = "create_interface"
    endpoint_id: int
    netns: str
    interface_name: str
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachEndpoint(Request):
    """Attach both programs, then let traffic through: link up, host routes, neighbours."""

    op: ClassVar[str] = "attach_endpoint"
    endpoint_id: int
    ips: tuple[str, ...]
    mac: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachEndpoint(Request):
    """Stop an endpoint's traffic: link down. Programs and interface stay."""

    op: ClassVar[str] = "detach_endpoint"
    endpoint_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteInterface(Request):
    """Remove an endpoint's interface and the pins of its links; an absent one is fine."""

    op: ClassVar[str] = "delete_interface"
    endpoint_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListInterfaces(Request):
    """Endpoint interfaces with the programs that are attached to them."""

    op: ClassVar[str] = "list_interfaces"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRoutes(Request):
    """Write and remove routes to PodCIDRs; a next hop is an address or `unreachable`."""

    op: ClassVar[str] = "set_routes"
    upserts: Mapping[str, str]
    removals: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRoutes(Request):
    """Routes that this helper made."""

    op: ClassVar[str] = "list_routes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeFeatures(Request):
    """What this kernel can do."""

    op: ClassVar[str] = "probe_features"


REQUESTS: Mapping[str, type[Request]] = {
    kind.op: kind
    for kind in (
        Ping,
        SetUpNode,
        LoadPrograms,
        CreatePolicyMap,
        OpenPolicyMap,
        CreateInterface,
        AttachEndpoint,
        DetachEndpoint,
        DeleteInterface,
        ListInterfaces,
        SetRoutes,
        ListRoutes,
        ProbeFeatures,
    )
}


def encode(request: Request) -> bytes:
    """The packet of a request."""
    fields = {name: _plain(getattr(request, name)) for name in request.__dataclass_fields__ if name != "op"}
    return json.dumps({"op": request.op, "args": fields}).encode()


def decode(packet: bytes) -> Request:
    """The request in a packet. Raises InvalidArgument for what is not listed or not well formed."""
    if len(packet) > MAX_PACKET_BYTES:
        raise InvalidArgument.of_field("request", f"is longer than {MAX_PACKET_BYTES} bytes")
    try:
        raw = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument.of_field("request", "is not JSON") from error
    if not isinstance(raw, dict) or set(raw) != {"op", "args"} or not isinstance(raw["args"], dict):
        raise InvalidArgument.of_field("request", "must hold exactly op and args")
    op = raw["op"]
    kind = REQUESTS.get(op) if isinstance(op, str) else None
    if kind is None:
        raise InvalidArgument.of_field("op", f"{str(op)[:64]!r} is not one of {', '.join(REQUESTS)}")
    names = {name for name in kind.__dataclass_fields__ if name != "op"}
    if set(raw["args"]) != names:
        raise InvalidArgument.of_field("args", f"of {op} must be exactly {sorted(names)}")
    return kind(**{name: _CHECKS[name](name, value) for name, value in raw["args"].items()})


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _endpoint_id(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65_535:
        raise InvalidArgument.of_field(name, "must be a number from 1 to 65535")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument.of_field(name, "must be true or false")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument.of_field(name, "must be text")
    return value


def check_netns(name: str, value: Any) -> str:
    """A path that can only be a network namespace by its name; what it opens to is checked again."""
    if not _NETNS.fullmatch(_text(name, value)):
        raise InvalidArgument.of_field(name, "must be /run/netns/NAME or /proc/PID/ns/net")
    return str(value)


def check_interface(name: str, value: Any) -> str:
    """An interface name as the kernel takes it, without anything that a path or a format could mean."""
    if not _INTERFACE.fullmatch(_text(name, value)):
        raise InvalidArgument.of_field(name, "must be 1-15 letters, digits, '_', '.' or '-'")
    return str(value)


def _mac(name: str, value: Any) -> str:
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", _text(name, value)):
        raise InvalidArgument.of_field(name, "must be six lower-case hexadecimal bytes with colons")
    return str(value)


def _ip(name: str, value: Any) -> str:
    try:
        parsed = ipaddress.ip_address(_text(name, value))
    except ValueError as error:
        raise InvalidArgument.of_field(name, "must be an IPv4 or IPv6 address") from error
    if parsed.is_multicast or parsed.is_loopback or parsed.is_unspecified or parsed.is_link_local:
        raise InvalidArgument.of_field(name, f"{parsed} is not an address of a workload or a node")
    return str(parsed)


def _ips(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ADDRESSES:
        raise InvalidArgument.of_field(name, f"must be a list of at most {MAX_ADDRESSES} addresses")
    return tuple(_ip(name, one) for one in value)


def _cidr(name: str, value: Any) -> str:
    try:
        network = ipaddress.ip_network(_text(name, value))
    except ValueError as error:
        raise InvalidArgument.of_field(
            name, "must be a prefix without host bits, such as 10.0.1.0/24"
        ) from error
    if network.prefixlen < 8:
        raise InvalidArgument.of_field(name, f"{network} is wider than any PodCIDR")
    if network.is_multicast or network.is_loopback or network.is_link_local:
        raise InvalidArgument.of_field(name, f"{network} is not a PodCIDR")
    return str(network)


def _routes(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_ROUTES:
        raise InvalidArgument.of_field(name, f"must be an object with at most {MAX_ROUTES} prefixes")
    routes = {}
    for cidr, via in value.items():
        network = _cidr(name, cidr)
        routes[network] = UNREACHABLE if via == UNREACHABLE else _ip(name, via)
        if via != UNREACHABLE and (":" in network) != (":" in routes[network]):
            raise InvalidArgument.of_field(name, f"{network} and {routes[network]} are of different families")
    return routes


def _cidrs(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_ROUTES:
        raise InvalidArgument.of_field(name, f"must be a list of at most {MAX_ROUTES} prefixes")
    return tuple(_cidr(name, one) for one in value)


_CHECKS: Mapping[str, Any] = {
    "replace": _flag,
    "router_ips": _ips,
    "endpoint_id": _endpoint_id,
    "netns": check_netns,
    "interface_name": check_interface,
    "ips": _ips,
    "mac": _mac,
    "upserts": _routes,
    "removals": _cidrs,
}
