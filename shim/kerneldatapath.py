"""The kernel as a node's datapath: maps through pins, everything else through the privileged helper.

Calls to the helper block and run in a thread.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axoneme.lib.bpf.maps import BpfMap, KernelMap
from axoneme.lib.errors import FailedPrecondition
from shim.datapath import Interface, InterfaceState
from shim.endpoints import Endpoint
from shim.maps import layout, sockets
from shim.maps.epoch import new_epoch, watch
from shim.network import NetworkFacts, NetworkSettings
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from shim.reconciler import Table
from shim.tables import RouteTable


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
            path = self._pin_directory / name
            if name not in self.kernel_maps and (name not in sockets.OPTIONAL or path.exists()):
                self.kernel_maps[name] = KernelMap.open(path)
        watch(self.kernel_maps)
        new_epoch(self.kernel_maps[layout.EPOCH.name])  # the last writer may have ended before it could

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

    async def netns_cookie(self, endpoint: Endpoint) -> int:
        """Read from a socket inside."""
        result = await self._call(protocol.NetnsCookie(netns=endpoint.netns))
        return int(result["netns_cookie"])

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
