"""The interface towards other nodes: by name, else by the node's addresses, else by the default route."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute

from axoneme.lib.errors import FailedPrecondition, InvalidArgument
from shim.privileged.protocol import SetUpNetwork

_MAIN_TABLE = 254
VXLAN_HEADERS = {4: 50, 6: 70}
"""Bytes that the tunnel adds, by the family of the nodes' addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """What programs and devices need of it."""

    name: str
    index: int
    mac: str
    mtu: int


def find(request: SetUpNetwork) -> Uplink:
    """The uplink. Raises InvalidArgument for a name that does not exist, FailedPrecondition without any."""
    with IPRoute() as netlink:
        if request.uplink:
            found = netlink.link_lookup(ifname=request.uplink)
            if not found:
                raise InvalidArgument.of_field("uplink", f"interface {request.uplink} does not exist")
            return _described(netlink, int(found[0]))
        index = _with_address(netlink, request.internal_ips) or _of_default_route(netlink)
        if index is None:
            raise FailedPrecondition(
                "no interface has one of the internal_ips, and there is no default route; name the uplink",
                reason="INTERFACE_NOT_FOUND",
            )
        return _described(netlink, index)


def endpoint_mtu(request: SetUpNetwork, uplink_mtu: int) -> int:
    """The MTU of endpoints: as wanted, else the uplink's, less the tunnel's headers.

    Raises InvalidArgument for one that does not fit into the uplink's.
    """
    most = uplink_mtu - tunnel_overhead(request)
    if request.mtu > most:
        raise InvalidArgument.of_field("mtu", f"is {request.mtu}; the uplink carries at most {most}")
    return request.mtu or most


def tunnel_overhead(request: SetUpNetwork) -> int:
    """Bytes that the tunnel takes from the uplink's MTU; 0 without one."""
    if request.routing_mode != "tunnel":
        return 0
    versions = {ipaddress.ip_address(text).version for text in request.internal_ips}
    return VXLAN_HEADERS[6 if 6 in versions else 4]


def _described(netlink: IPRoute, index: int) -> Uplink:
    link: Any = netlink.get_links(index)[0]
    return Uplink(
        name=str(link.get_attr("IFLA_IFNAME")),
        index=index,
        mac=str(link.get_attr("IFLA_ADDRESS") or "00:00:00:00:00:00"),
        mtu=int(link.get_attr("IFLA_MTU")),
    )


def _with_address(netlink: IPRoute, ips: Collection[str]) -> int | None:
    wanted = {ipaddress.ip_address(text) for text in ips}
    for message in netlink.get_addr() if wanted else ():
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if text and ipaddress.ip_address(text) in wanted:
            return int(message["index"])
    return None


def _of_default_route(netlink: IPRoute) -> int | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        for message in netlink.get_routes(family=family, table=_MAIN_TABLE):
            index = message.get_attr("RTA_OIF")
            if message["dst_len"] == 0 and message["table"] == _MAIN_TABLE and index:
                return int(index)
    return None
