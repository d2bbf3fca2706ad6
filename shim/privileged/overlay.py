"""The tunnel's device: one VXLAN interface that takes each packet's destination and identity from programs.

Every node's has the same hardware address, and needs no neighbours: a packet is addressed to the device that
it leaves by, which is that of the device where it arrives.
"""

from __future__ import annotations

import errno
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from axoneme.lib.errors import FailedPrecondition
from shim.privileged import sysctls

NAME: Final = "axo_vxlan"
MAC: Final = "0a:61:78:6f:00:01"
_IFF_UP, _IFF_NOARP = 0x01, 0x80


def make(port: int, mtu: int) -> int:
    """The device's index; an equal one is taken over, any other is replaced. It stays down until `open_up`.

    Raises FailedPrecondition when the kernel refuses, as for a port that another tunnel has.
    """
    with IPRoute() as netlink:
        link = _link(netlink)
        if link is not None and not _is_equal(link, port):
            netlink.link("del", index=link["index"])
            link = None
        if link is None:
            link = _add(netlink, port, mtu)
        index = int(link["index"])
        if link.get_attr("IFLA_MTU") != mtu:
            netlink.link("set", index=index, mtu=mtu)
    for key in ("accept_ra", "accept_dad", "router_solicitations"):
        sysctls.set_for(f"net/ipv6/conf/{NAME}/{key}", "0")
    sysctls.set_for(f"net/ipv6/conf/{NAME}/addr_gen_mode", "1")
    sysctls.loosen_reverse_path(NAME)
    return index


def open_up(index: int) -> None:
    """Lets packets through: call it once the programs are attached."""
    with IPRoute() as netlink:
        if not netlink.get_links(index)[0]["flags"] & _IFF_UP:
            netlink.link("set", index=index, state="up")


def remove() -> bool:
    """Removes the device, if it is ours; whether it was there."""
    with IPRoute() as netlink:
        link = _link(netlink)
        if link is None or _kind(link) != "vxlan" or link.get_attr("IFLA_ADDRESS") != MAC:
            return False
        netlink.link("del", index=link["index"])
        return True


def index_of() -> int:
    """The device's index; 0 when it is not there."""
    with IPRoute() as netlink:
        link = _link(netlink)
        return int(link["index"]) if link is not None else 0


def _link(netlink: IPRoute) -> Any:
    found = netlink.link_lookup(ifname=NAME)
    return netlink.get_links(found[0])[0] if found else None


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info is not None else ""


def _is_equal(link: Any, port: int) -> bool:
    if _kind(link) != "vxlan":
        return False
    data = link.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    return (
        bool(data.get_attr("IFLA_VXLAN_COLLECT_METADATA"))
        and data.get_attr("IFLA_VXLAN_PORT") == port
        and link.get_attr("IFLA_ADDRESS") == MAC
        and bool(link["flags"] & _IFF_NOARP)
    )


def _add(netlink: IPRoute, port: int, mtu: int) -> Any:
    try:
        netlink.link(
            "add",
            ifname=NAME,
            kind="vxlan",
            vxlan_collect_metadata=True,
            vxlan_learning=False,
            vxlan_port=port,
            address=MAC,
            mtu=mtu,
            flags=_IFF_NOARP,
            change=_IFF_NOARP,
        )
    except NetlinkError as error:
        words = {
            errno.EEXIST: f"another tunnel has UDP port {port}; remove it, or choose another tunnel_port",
            errno.EOPNOTSUPP: "this kernel has no VXLAN (CONFIG_VXLAN)",
        }
        raise FailedPrecondition(
            f"{NAME}: {words.get(error.code, str(error))}", reason="KERNEL_REFUSED"
        ) from error
    return _link(netlink)
