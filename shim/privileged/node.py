"""The node itself: BPF file system, forwarding, router addresses, routes to other nodes' pods."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from axoneme.lib import log
from shim.privileged import overlay, sysctls
from shim.privileged.interfaces import NODAD, ROUTE_PROTOCOL
from shim.privileged.protocol import OVERLAY, UNREACHABLE

logger = logging.getLogger(__name__)

_BPF_FS_MAGIC = 0xCAFE4A11
_TYPE_UNICAST, _TYPE_UNREACHABLE = 1, 7
_SYSCTLS = (
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
)


def mount_bpffs(path: Path) -> None:
    """Mounts the BPF file system unless it is there. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)
    if libc.statfs(os.fsencode(path), buffer) == 0:
        kind = ctypes.c_long.from_buffer(buffer).value & 0xFFFF_FFFF
        if kind == _BPF_FS_MAGIC:
            return
    path.mkdir(parents=True, exist_ok=True)
    if libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700") != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount bpffs at {path}: {os.strerror(number)}")


def switch_forwarding_on() -> None:
    """Lets this network namespace forward; a value that is set already is not written again."""
    for key, value in _SYSCTLS:
        sysctls.set_for(key, value)


def add_router_addresses(ips: Iterable[str]) -> None:
    """Makes the node's own pod addresses local, on the loopback interface."""
    with IPRoute() as netlink:
        loopback = netlink.link_lookup(ifname="lo")[0]
        netlink.link("set", index=loopback, state="up")
        for text in ips:
            address = ipaddress.ip_address(text)
            flags = {"flags": NODAD} if address.version == 6 else {}
            netlink.addr("replace", index=loopback, address=text, prefixlen=address.max_prefixlen, **flags)


def set_routes(upserts: Mapping[str, str], removals: Iterable[str], mtu: int = 0) -> dict[str, str]:
    """Writes and removes routes; returns prefix → words for those that failed. MTU: of overlay routes."""
    faults: dict[str, str] = {}
    tunnel = overlay.index_of() if OVERLAY in upserts.values() else 0
    with IPRoute() as netlink:
        for cidr, via in upserts.items():
            if via == OVERLAY and not tunnel:
                faults[cidr] = f"route to {cidr}: the device of the tunnel, {overlay.NAME}, does not exist"
                continue
            try:
                netlink.route("replace", **_route(cidr, via, tunnel, mtu))
            except NetlinkError as error:
                faults[cidr] = f"route to {cidr} through {via}: {os.strerror(error.code)}"
        for cidr in removals:
            try:
                netlink.route("del", dst=cidr, family=_family(cidr), proto=ROUTE_PROTOCOL)
            except NetlinkError as error:
                if error.code not in (errno.ESRCH, errno.ENOENT):
                    faults[cidr] = f"route to {cidr}: {os.strerror(error.code)}"
    for cidr, fault in faults.items():
        logger.warning("route not set", extra={log.ADDRESS: cidr, log.ERROR: fault})
    return faults


def list_routes() -> dict[str, str]:
    """Prefix → next hop of the routes that this helper made to PodCIDRs, not to single endpoints."""
    routes: dict[str, str] = {}
    tunnel = overlay.index_of()
    with IPRoute() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            for message in netlink.get_routes(family=family, proto=ROUTE_PROTOCOL):
                destination, via = message.get_attr("RTA_DST"), message.get_attr("RTA_GATEWAY")
                if message["proto"] != ROUTE_PROTOCOL or destination is None or message["table"] != 254:
                    continue
                if message["type"] == _TYPE_UNREACHABLE:
                    routes[f"{destination}/{message['dst_len']}"] = UNREACHABLE
                elif tunnel and message.get_attr("RTA_OIF") == tunnel:
                    routes[f"{destination}/{message['dst_len']}"] = OVERLAY
                elif via is not None:
                    routes[f"{destination}/{message['dst_len']}"] = str(ipaddress.ip_address(via))
    return routes


def _route(cidr: str, via: str, tunnel: int, mtu: int) -> dict[str, object]:
    base = {"dst": cidr, "family": _family(cidr), "proto": ROUTE_PROTOCOL}
    if via == OVERLAY:
        metrics = {"metrics": {"mtu": mtu}} if mtu else {}
        scope = {"scope": "link"} if _family(cidr) == socket.AF_INET else {}
        return {**base, **scope, **metrics, "oif": tunnel}
    if via == UNREACHABLE:
        return {**base, "type": "unreachable"}
    return {**base, "gateway": via}


def _family(cidr: str) -> int:
    return socket.AF_INET if ipaddress.ip_network(cidr).version == 4 else socket.AF_INET6
