"""A node's datapath without a kernel: maps of this process, interfaces in name only."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace

from axoneme.lib.bpf.kinds import MapKind
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.bpf.memory import MemoryMap
from shim.datapath import Interface, InterfaceState
from shim.endpoints import Endpoint, interface_of
from shim.maps import base, layout, lb
from shim.network import NetworkFacts, NetworkSettings
from shim.reconciler import Table
from shim.tables import MemoryRoutes


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
        name, cookie = interface_of(number), await self.netns_cookie(endpoint)
        return Interface(name, 100_000 + number, f"0a:00:00:01:{low}", f"0a:00:00:02:{low}", cookie)

    async def adopt_interface(self, endpoint: Endpoint) -> Interface:
        """As one of its own, under a foreign name."""
        made = await self.create_interface(endpoint)
        return made._replace(interface_name=f"veth{endpoint.endpoint_id}")

    async def netns_cookie(self, endpoint: Endpoint) -> int:
        """As if each endpoint had a namespace of its own."""
        return 4_000_000 + endpoint.endpoint_id

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
