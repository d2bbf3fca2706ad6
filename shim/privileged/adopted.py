"""Interfaces of workloads that somebody else made, such as another CNI plugin: found by their peer.

Programs are all that is put on them; their addresses, routes and state stay with their maker. Which endpoint
has which interface outlives the helper as an empty folder in the BPF file system, named
`adopted/<endpoint>-<index>`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from axoneme.lib.errors import FailedPrecondition, NotFound
from shim.endpoints import interface_of
from shim.privileged import interfaces, namespaces


class AdoptedInterfaces:
    """The adopted interfaces of one node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def adopt(self, endpoint_id: int, netns: str, interface_name: str) -> dict[str, Any]:
        """Name, index and hardware addresses of the node's side.

        Raises NotFound when the workload has no such interface, and FailedPrecondition when its other end
        is not in this namespace, or belongs to another endpoint.
        """
        with namespaces.opened(netns) as descriptor, IPRoute() as node:
            with namespaces.netlink_of(descriptor) as pod:
                pod_link = pod.get_links(interfaces.require(pod, interface_name))[0]
            mac = str(pod_link.get_attr("IFLA_ADDRESS"))
            link = _peer(node, descriptor, pod_link, interface_name)
            index, name = int(link["index"]), str(link.get_attr("IFLA_IFNAME"))
            self._refuse_others(endpoint_id, index, name)
            self.forget(endpoint_id)
            (self._folder / f"{endpoint_id}-{index}").mkdir(mode=0o700, parents=True, exist_ok=True)
            host_mac = str(link.get_attr("IFLA_ADDRESS"))
            cookie = namespaces.cookie_of(descriptor)
            found = {"interface_name": name, "ifindex": index, "mac": mac, "host_mac": host_mac}
            return {**found, "netns_cookie": cookie}

    def index_of(self, endpoint_id: int) -> int | None:
        """The interface that an endpoint adopted, if it did."""
        return self._known().get(endpoint_id)

    def listed(self) -> dict[int, tuple[int, bool]]:
        """Endpoint number → (ifindex, up) of the adopted interfaces that exist."""
        known = self._known()
        if not known:
            return {}
        with IPRoute() as node:
            up = {int(link["index"]): bool(link["flags"] & interfaces.IFF_UP) for link in node.get_links()}
        return {number: (index, up[index]) for number, index in known.items() if index in up}

    def forget(self, endpoint_id: int) -> None:
        """Gives an interface back; one that was never adopted is fine."""
        for path in self._folder.glob(f"{endpoint_id}-*"):
            path.rmdir()

    def _known(self) -> dict[int, int]:
        found = {}
        for path in sorted(self._folder.glob("*-*")):
            number, _, index = path.name.partition("-")
            found[int(number)] = int(index)
        return found

    def _refuse_others(self, endpoint_id: int, index: int, name: str) -> None:
        holder = next((number for number, held in self._known().items() if held == index), endpoint_id)
        own = name.removeprefix("axo")
        if holder != endpoint_id or (own.isdecimal() and name == interface_of(int(own))):
            raise FailedPrecondition(
                f"interface {name} belongs to endpoint {own if holder == endpoint_id else holder} already",
                reason="INTERFACE_EXISTS",
            )


def _peer(node: IPRoute, descriptor: int, pod_link: Any, interface_name: str) -> Any:
    """The veth interface of this node that is the other end of the workload's."""
    for link in node.get_links():
        info = link.get_attr("IFLA_LINKINFO")
        kind = info.get_attr("IFLA_INFO_KIND") if info is not None else ""
        if kind == "veth" and interfaces.are_peers(node, link, descriptor, pod_link):
            return link
    raise NotFound(
        f"the other end of {interface_name} is no veth interface of this node", reason="INTERFACE_NOT_FOUND"
    )
