"""The node's datapath as the shim sees it: maps, interfaces, programs, routes.

`KernelDatapath` (shim/kerneldatapath.py) reaches the kernel; `MemoryDatapath` (shim/memorydatapath.py) is the
same without one, so that all other code is one for both.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from axoneme.lib.bpf.maps import BpfMap
from shim.endpoints import Endpoint
from shim.network import NetworkFacts, NetworkSettings
from shim.reconciler import Table


class Interface(NamedTuple):
    """The node's side of an endpoint's interface, both hardware addresses, and the kernel's number of the
    endpoint's network namespace (0: the kernel does not tell)."""

    interface_name: str
    ifindex: int
    mac: str
    host_mac: str
    netns_cookie: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceState:
    """What the kernel has for an endpoint; `attached`: both programs in place and the link up."""

    ifindex: int
    attached: bool


class Datapath(Protocol):
    """Everything below the control plane of a node. Methods raise AxonemeError or BpfError."""

    simulated: bool
    maps: Mapping[str, BpfMap]
    routes: Table[str, str]

    async def start(self) -> None:
        """Loads programs (replacing attached ones in place) and opens the maps."""

    async def set_up_node(self, router_ips: tuple[str, ...]) -> None:
        """Forwarding and the node's own pod addresses."""

    async def new_policy_map(self) -> BpfMap:
        """An empty inner policy map."""

    async def open_policy_map(self, endpoint_id: int) -> BpfMap | None:
        """The inner map that an endpoint has in the kernel; None when it is locked."""

    async def new_maglev_table(self, size: int) -> BpfMap:
        """An empty inner array of `size` backend numbers."""

    async def open_maglev_table(self, set_id: int) -> BpfMap | None:
        """The table that a set of backends has in the kernel."""

    async def set_up_network(self, settings: NetworkSettings) -> NetworkFacts:
        """Devices and programs of the node itself, as asked; removes what is no longer asked for."""

    async def health_listener(self, ips: tuple[str, ...], port: int) -> list[socket.socket]:
        """Listening sockets inside the namespace of the health endpoint, one for each address."""

    async def create_interface(self, endpoint: Endpoint) -> Interface:
        """The endpoint's interface, without traffic yet."""

    async def adopt_interface(self, endpoint: Endpoint) -> Interface:
        """The node's side of an interface that somebody else made; addresses and routes stay his."""

    async def netns_cookie(self, endpoint: Endpoint) -> int:
        """The kernel's number of the endpoint's network namespace; 0 where the kernel does not tell."""

    async def attach(self, endpoint: Endpoint) -> None:
        """Programs, then traffic."""

    async def detach(self, endpoint: Endpoint) -> None:
        """Stops the traffic."""

    async def delete_interface(self, endpoint: Endpoint) -> None:
        """Removes the interface and its programs."""

    async def interfaces(self) -> dict[int, InterfaceState]:
        """Endpoint interfaces that exist, by endpoint number."""

    async def features(self) -> dict[str, str]:
        """What the node can do: feature → `yes` or why not."""

    def close(self) -> None:
        """Closes descriptors; the kernel's state stays."""
