"""The veth pair of an endpoint: created, opened for traffic, closed and removed.

    pod namespace                                    node namespace
    eth0  /32 and /128, routes by 169.254.1.1 ──── axo<endpoint id>  /32 and /128 routes towards the pod
          and fe80::1, permanent neighbours               permanent neighbours

The node's side stays down until both programs are attached: no packet of a workload passes unjudged.
Neighbours are permanent on both sides, so no ARP or neighbour discovery is needed, nor can anybody answer
it falsely.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from axoneme.lib.errors import FailedPrecondition, NotFound
from shim.endpoints import interface_of
from shim.privileged import namespaces, sysctls

GATEWAY_IPV4, GATEWAY_IPV6 = "169.254.1.1", "fe80::1"
NODAD = 0x02
IFF_UP = 0x01
ROUTE_PROTOCOL = 173  # marks the routes of this helper, beside those of people and routing daemons


def create(
    endpoint_id: int, netns: str, interface_name: str, ips: Iterable[str], mtu: int = 0
) -> dict[str, Any]:
    """Makes the pair and sets up the pod's side; an existing pair is taken over. MTU 0: the kernel's."""
    with namespaces.opened(netns) as descriptor, IPRoute() as node, namespaces.netlink_of(descriptor) as pod:
        name = interface_of(endpoint_id)
        index = index_of(node, name)
        if index is not None and not _pair_of(node, index, pod, descriptor, interface_name):
            node.link("del", index=index)  # a leftover whose pod side is gone or belongs to another workload
            index = None
        if index is None:
            index = _add_pair(node, name, descriptor, interface_name)
        pod_index = require(pod, interface_name)
        mac, host_mac = mac_of(pod, pod_index), mac_of(node, index)
        _prepare_node_side(name)
        _set_mtu(node, index, mtu)
        _set_mtu(pod, pod_index, mtu)
        _set_up_pod(pod, pod_index, host_mac, ips)
        cookie = namespaces.cookie_of(descriptor)
        found = {"interface_name": name, "ifindex": index, "mac": mac, "host_mac": host_mac}
        return {**found, "netns_cookie": cookie}


def open_traffic(endpoint_id: int, ips: Iterable[str], mac: str) -> None:
    """Sets the node's side up, with neighbours and host routes. Call it once the programs are attached."""
    with IPRoute() as node:
        index = require(node, interface_of(endpoint_id))
        node.link("set", index=index, state="up")
        for text in ips:
            address = ipaddress.ip_address(text)
            family = socket.AF_INET if address.version == 4 else socket.AF_INET6
            node.neigh("replace", dst=text, lladdr=mac, ifindex=index, state="permanent")
            node.route(
                "replace",
                dst=f"{text}/{address.max_prefixlen}",
                oif=index,
                family=family,
                proto=ROUTE_PROTOCOL,
                scope="link" if address.version == 4 else "universe",
            )


def close_traffic(endpoint_id: int) -> None:
    """Sets the node's side down, which also removes its routes; an absent interface is fine."""
    with IPRoute() as node:
        index = index_of(node, interface_of(endpoint_id))
        if index is not None:
            node.link("set", index=index, state="down")


def delete(endpoint_id: int) -> None:
    """Removes the pair; an absent one is fine."""
    with IPRoute() as node:
        index = index_of(node, interface_of(endpoint_id))
        if index is not None:
            node.link("del", index=index)


def listed() -> dict[int, tuple[int, bool]]:
    """Endpoint number → (ifindex, up) of every endpoint interface of this namespace."""
    with IPRoute() as node:
        found = {}
        for link in node.get_links():
            number = str(link.get_attr("IFLA_IFNAME")).removeprefix("axo")
            if number.isdecimal() and link.get_attr("IFLA_IFNAME") == interface_of(int(number)):
                found[int(number)] = (int(link["index"]), bool(link["flags"] & IFF_UP))
        return found


def ifindex_of(endpoint_id: int) -> int:
    """Index of the node's side. Raises NotFound."""
    with IPRoute() as node:
        return require(node, interface_of(endpoint_id))


def _add_pair(node: IPRoute, name: str, pod_descriptor: int, interface_name: str) -> int:
    peer = {"ifname": interface_name, "net_ns_fd": pod_descriptor}
    try:
        node.link("add", ifname=name, kind="veth", state="down", peer=peer)
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            raise FailedPrecondition(
                f"interface {interface_name} exists already in the workload's namespace;"
                " remove it or name another interface",
                reason="INTERFACE_EXISTS",
            ) from error
        raise
    return require(node, name)


def _pair_of(node: IPRoute, index: int, pod: IPRoute, descriptor: int, interface_name: str) -> bool:
    """Whether the interface is the node's side of the workload's."""
    pod_index = index_of(pod, interface_name)
    if pod_index is None:
        return False
    return are_peers(node, node.get_links(index)[0], descriptor, pod.get_links(pod_index)[0])


def are_peers(node: IPRoute, node_link: Any, descriptor: int, pod_link: Any) -> bool:
    """Whether two ends are each other's: each carries the other's index as its link, and the node's names
    the workload's namespace; indexes alone are equal by chance. `descriptor`: of that namespace."""
    if node_link.get_attr("IFLA_LINK") != pod_link["index"]:
        return False
    if pod_link.get_attr("IFLA_LINK") != node_link["index"]:
        return False
    if pod_link.get_attr("IFLA_LINK_NETNSID") is None:
        return False  # its other end is beside it
    number = node.get_netnsid(fd=descriptor)["nsid"]
    return number is not None and node_link.get_attr("IFLA_LINK_NETNSID") == number


def _prepare_node_side(name: str) -> None:
    """No router advertisements and no waiting for duplicates: the pod knows fe80::1 by neighbour. Programs
    check sources, and know which detours a reply may take; the stack's own check does not."""
    for key, value in (("accept_ra", "0"), ("accept_dad", "0")):
        sysctls.set_for(f"net/ipv6/conf/{name}/{key}", value)
    sysctls.loosen_reverse_path(name)


def _set_mtu(netlink: IPRoute, index: int, mtu: int) -> None:
    if mtu and netlink.get_links(index)[0].get_attr("IFLA_MTU") != mtu:
        netlink.link("set", index=index, mtu=mtu)


def _set_up_pod(pod: IPRoute, index: int, host_mac: str, ips: Iterable[str]) -> None:
    loopback = index_of(pod, "lo")
    if loopback is not None:
        pod.link("set", index=loopback, state="up")
    pod.link("set", index=index, state="up")
    versions = set()
    for text in ips:
        address = ipaddress.ip_address(text)
        versions.add(address.version)
        flags = {"flags": NODAD} if address.version == 6 else {}
        pod.addr("replace", index=index, address=text, prefixlen=address.max_prefixlen, **flags)
    if 4 in versions:
        pod.neigh("replace", dst=GATEWAY_IPV4, lladdr=host_mac, ifindex=index, state="permanent")
        pod.route("replace", dst=f"{GATEWAY_IPV4}/32", oif=index, scope="link")
        pod.route("replace", dst="default", gateway=GATEWAY_IPV4, oif=index)
    if 6 in versions:
        pod.neigh("replace", dst=GATEWAY_IPV6, lladdr=host_mac, ifindex=index, state="permanent")
        pod.route("replace", dst="default", gateway=GATEWAY_IPV6, oif=index, family=socket.AF_INET6)


def index_of(netlink: IPRoute, name: str) -> int | None:
    found = netlink.link_lookup(ifname=name)
    return int(found[0]) if found else None


def require(netlink: IPRoute, name: str) -> int:
    index = index_of(netlink, name)
    if index is None:
        raise NotFound(f"interface {name} does not exist", reason="INTERFACE_NOT_FOUND")
    return index


def mac_of(netlink: IPRoute, index: int) -> str:
    return str(netlink.get_links(index)[0].get_attr("IFLA_ADDRESS"))
