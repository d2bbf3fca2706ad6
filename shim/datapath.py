"""The node's datapath as the shim sees it: maps, interfaces, programs, routes.

`KernelDatapath` reaches the kernel through pins (maps) and the privileged helper (everything else);
`MemoryDatapath` is the same without a kernel, so that all other code is one for both. Calls to the helper
block and run in a thread.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from axoneme.lib.bpf.kinds import MapKind
from axoneme.lib.bpf.maps import BpfMap, KernelMap
from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.errors import FailedPrecondition
from shim.endpoints import Endpoint, interface_of
from shim.maps import base, layout, lb
from shim.network import NetworkFacts, NetworkSettings
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from shim.reconciler import Table
from shim.tables import MemoryRoutes, RouteTable


class Interface(NamedTuple):
    """The node's side of an endpoint's interface, and both hardware addresses."""

    interface_name: str
    ifindex: int
    mac: str
    host_mac: str


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


class MemoryDatapath:
    """A simulated node: maps in memory, interfaces in name only."""

    simulated = True

    def __init__(self) -> None:
        specs = {n: s for n, s in layout.MAPS.items() if s.kind is not MapKind.RINGBUF}
        self.memory_maps = {name: MemoryMap(spec) for name, spec in specs.items()}
        self.maps: Mapping[str, BpfMap] = self.memory_maps
        self.routes: Table[str, str] = MemoryRoutes()
        self._interfaces: dict[int, InterfaceState] = {}

    async def start(self) -> None:
        """Nothing to load."""

    async def set_up_node(self, router_ips: tuple[str, ...]) -> None:
        """Nothing to set up."""

    async def new_policy_map(self) -> BpfMap:
        """A map of this process."""
        return MemoryMap(layout.POLICY_INNER)

    async def open_policy_map(self, endpoint_id: int) -> BpfMap | None:
        """The map that this process put there."""
        return self.memory_maps[layout.POLICY.name].inner(layout.policy_outer_key(endpoint_id))

    async def new_maglev_table(self, size: int) -> BpfMap:
        """A map of this process."""
        return MemoryMap(replace(lb.MAGLEV_INNER, max_entries=size))

    async def open_maglev_table(self, set_id: int) -> BpfMap | None:
        """The map that this process put there."""
        return self.memory_maps[lb.MAGLEV.name].inner(base.number_key(set_id))

    async def set_up_network(self, settings: NetworkSettings) -> NetworkFacts:
        """Nothing is there, so nothing is missing either."""
        return NetworkFacts(endpoint_mtu=settings.mtu)

    async def health_listener(self, ips: tuple[str, ...], port: int) -> list[socket.socket]:  # noqa: ARG002
        """A simulated node has no health endpoint."""
        return []

    async def create_interface(self, endpoint: Endpoint) -> Interface:
        """Numbers and addresses derived from the endpoint's number."""
        number = endpoint.endpoint_id
        self._interfaces[number] = InterfaceState(ifindex=100_000 + number, attached=False)
        low = f"{number >> 8:02x}:{number & 255:02x}"
        return Interface(interface_of(number), 100_000 + number, f"0a:00:00:01:{low}", f"0a:00:00:02:{low}")

    async def adopt_interface(self, endpoint: Endpoint) -> Interface:
        """As one of its own, under a foreign name."""
        made = await self.create_interface(endpoint)
        return made._replace(interface_name=f"veth{endpoint.endpoint_id}")

    async def attach(self, endpoint: Endpoint) -> None:
        """Marks the programs as there."""
        self._interfaces[endpoint.endpoint_id] = InterfaceState(
            ifindex=100_000 + endpoint.endpoint_id, attached=True
        )

    async def detach(self, endpoint: Endpoint) -> None:
        """No traffic to stop."""

    async def delete_interface(self, endpoint: Endpoint) -> None:
        """Forgets the interface."""
        self._interfaces.pop(endpoint.endpoint_id, None)

    async def interfaces(self) -> dict[int, InterfaceState]:
        """What was created."""
        return dict(self._interfaces)

    async def features(self) -> dict[str, str]:
        """Nothing of the kernel is used."""
        return {"bpf": "simulated: no packets"}

    def close(self) -> None:
        """Nothing is held."""


class KernelDatapath:
    """The kernel, through pins and the helper."""

    simulated = False

    def __init__(
        self, pin_directory: Path, helper: HelperClient, settings: NetworkSettings | None = None
    ) -> None:
        self._pin_directory = pin_directory
        self._helper = helper
        self._settings = settings or NetworkSettings()
        self._network: protocol.SetUpNetwork | None = None
        self._endpoint_mtu = 0
        self.kernel_maps: dict[str, KernelMap] = {}
        self.maps: Mapping[str, BpfMap] = self.kernel_maps
        self.routes: Table[str, str] = RouteTable(helper)

    async def start(self) -> None:
        """Raises Unavailable while the helper is not there."""
        await self._call(protocol.SetUpNode())
        await self._call(protocol.load_request(self._settings))
        for name in layout.MAPS:
            if name not in self.kernel_maps:
                self.kernel_maps[name] = KernelMap.open(self._pin_directory / name)

    async def set_up_node(self, router_ips: tuple[str, ...]) -> None:
        """Idempotent."""
        await self._call(protocol.SetUpNode(router_ips=router_ips))

    async def new_policy_map(self) -> BpfMap:
        """Created by the helper, owned by this process."""
        _, fds = await self._call_with_fds(protocol.CreatePolicyMap())
        return _only_map(fds)

    async def open_policy_map(self, endpoint_id: int) -> BpfMap | None:
        """The helper turns the id into a descriptor, which needs a capability."""
        _, fds = await self._call_with_fds(protocol.OpenPolicyMap(holder=endpoint_id))
        return _only_map(fds) if fds else None

    async def new_maglev_table(self, size: int) -> BpfMap:
        """Created by the helper, owned by this process."""
        _, fds = await self._call_with_fds(protocol.CreateMaglevTable(size=size))
        return _only_map(fds)

    async def open_maglev_table(self, set_id: int) -> BpfMap | None:
        """As `open_policy_map`."""
        _, fds = await self._call_with_fds(protocol.OpenMaglevTable(set_id=set_id))
        return _only_map(fds) if fds else None

    async def set_up_network(self, settings: NetworkSettings) -> NetworkFacts:
        """What of it is missing is in the answer, with the kernel's reason."""
        self._network = protocol.network_request(settings)
        result = await self._call(self._network)
        attached, repaired = tuple(result.pop("attached")), tuple(result.pop("repaired"))
        facts = NetworkFacts(**result, attached=attached, repaired=repaired)
        self._endpoint_mtu = facts.endpoint_mtu
        return facts

    async def health_listener(self, ips: tuple[str, ...], port: int) -> list[socket.socket]:
        """Made by the helper, which keeps none of them."""
        _, fds = await self._call_with_fds(protocol.HealthListener(ips=ips, port=port))
        return [socket.socket(fileno=fd) for fd in fds]

    async def create_interface(self, endpoint: Endpoint) -> Interface:
        """The veth pair, the node's side down."""
        result = await self._call(
            protocol.CreateInterface(
                endpoint_id=endpoint.endpoint_id,
                netns=endpoint.netns,
                interface_name=endpoint.pod_interface,
                ips=endpoint.ips,
                mtu=self._endpoint_mtu,
            )
        )
        return Interface(**result)

    async def adopt_interface(self, endpoint: Endpoint) -> Interface:
        """Found by its peer in the workload's namespace."""
        result = await self._call(
            protocol.AdoptInterface(
                endpoint_id=endpoint.endpoint_id,
                netns=endpoint.netns,
                interface_name=endpoint.pod_interface,
            )
        )
        return Interface(**result)

    async def attach(self, endpoint: Endpoint) -> None:
        """Replaces programs in place where they are attached already."""
        await self._call(
            protocol.AttachEndpoint(endpoint_id=endpoint.endpoint_id, ips=endpoint.ips, mac=endpoint.mac)
        )

    async def detach(self, endpoint: Endpoint) -> None:
        """Link down."""
        await self._call(protocol.DetachEndpoint(endpoint_id=endpoint.endpoint_id))

    async def delete_interface(self, endpoint: Endpoint) -> None:
        """Idempotent."""
        await self._call(protocol.DeleteInterface(endpoint_id=endpoint.endpoint_id))

    async def interfaces(self) -> dict[int, InterfaceState]:
        """As the kernel reports links and attached programs."""
        result = await self._call(protocol.ListInterfaces())
        return {int(number): InterfaceState(**state) for number, state in result["interfaces"].items()}

    async def features(self) -> dict[str, str]:
        """Probed by the helper."""
        result = await self._call(protocol.ProbeFeatures())
        return {str(name): str(value) for name, value in result["features"].items()}

    def close(self) -> None:
        """Closes the maps and the connection."""
        for bpf_map in self.kernel_maps.values():
            bpf_map.close()
        self._helper.close()

    async def _call(self, request: protocol.Request) -> dict[str, Any]:
        result, fds = await self._call_with_fds(request)
        for fd in fds:
            os.close(fd)
        return result

    async def _call_with_fds(self, request: protocol.Request) -> tuple[dict[str, Any], list[int]]:
        return await asyncio.to_thread(self._ask, request)

    def _ask(self, request: protocol.Request) -> tuple[dict[str, Any], list[int]]:
        """A helper that started anew knows no settings: it is told them again, then asked again."""
        try:
            return self._helper.call_with_fds(request)
        except FailedPrecondition as error:
            if error.reason != "BPF_OBJECTS_MISSING" or isinstance(request, protocol.LoadPrograms):
                raise
        self._helper.call(protocol.load_request(self._settings))
        if self._network is not None and not isinstance(request, protocol.SetUpNetwork):
            self._helper.call(self._network)
        return self._helper.call_with_fds(request)


def _only_map(fds: list[int]) -> KernelMap:
    for surplus in fds[1:]:
        os.close(surplus)
    return KernelMap(fds[0])


def map_levels(maps: Mapping[str, BpfMap]) -> Iterator[tuple[str, int, int]]:
    """Name, entries and room of each map whose fill level means something."""
    for name, bpf_map in maps.items():
        if bpf_map.kind not in (MapKind.RINGBUF, MapKind.LRU_HASH) and not bpf_map.kind.indexed:
            yield name, len(bpf_map.items()), bpf_map.max_entries
