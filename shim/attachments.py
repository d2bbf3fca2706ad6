"""What an endpoint has in the kernel besides its policy: interface, programs, `axoneme_ep`, own addresses.

Whoever connects or removes an endpoint has its lock; repairs pass over an endpoint whose lock is taken.
"""

from __future__ import annotations

import logging

from axoneme.lib import log
from axoneme.lib.errors import AxonemeError
from shim.attempts import attempt
from shim.datapath import Datapath
from shim.endpointmap import EndpointMap
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.ipcache import Rank
from shim.namedlocks import NamedLocks
from shim.nodeipcache import NodeIpcache

logger = logging.getLogger(__name__)


class Attachments:
    """The kernel's side of all endpoints of a node."""

    def __init__(
        self,
        *,
        endpoints: EndpointTable,
        datapath: Datapath,
        ipcache: NodeIpcache,
        endpoint_map: EndpointMap,
        locks: NamedLocks,
    ) -> None:
        self._endpoints = endpoints
        self._datapath = datapath
        self._ipcache = ipcache
        self._endpoint_map = endpoint_map
        self._locks = locks

    async def connect(self, endpoint: Endpoint) -> Endpoint:
        """Interface, local maps, programs; everything is dropped until there is a mapstate."""
        if endpoint.adopted:
            interface = await self._datapath.adopt_interface(endpoint)
        else:
            interface = await self._datapath.create_interface(endpoint)
        endpoint = self._endpoints.change(
            endpoint.endpoint_id,
            interface_name=interface.interface_name,
            ifindex=interface.ifindex,
            mac=interface.mac,
            host_mac=interface.host_mac,
            netns_cookie=interface.netns_cookie,
        )
        self.write(endpoint)
        await self._datapath.attach(endpoint)
        return endpoint

    async def take_over(self, endpoint: Endpoint) -> None:
        """Endpoint of an earlier life whose interface and programs are there; the ipcache is committed once
        for all of them."""
        await self._ask_cookie(endpoint)
        endpoint = self._endpoints.require(endpoint.endpoint_id)
        self._endpoint_map.write(endpoint)
        self._put_addresses(endpoint, endpoint.ips)

    async def _ask_cookie(self, endpoint: Endpoint) -> None:
        """State files of earlier versions do not have it; without it only the fast way between sockets is
        closed to the endpoint."""
        if endpoint.netns_cookie:
            return
        try:
            cookie = await self._datapath.netns_cookie(endpoint)
        except (AxonemeError, OSError) as error:
            logger.warning(
                "namespace not known", extra={log.ENDPOINT: endpoint.endpoint_id, log.ERROR: log.clip(error)}
            )
            return
        self._endpoints.change(endpoint.endpoint_id, netns_cookie=cookie)

    def write(self, endpoint: Endpoint) -> None:
        """Both local maps. Raises Unavailable when the kernel refuses."""
        self._endpoint_map.write(endpoint)
        self._put_addresses(endpoint, endpoint.ips)
        self._ipcache.commit()

    async def stop(self, endpoint: Endpoint) -> None:
        """No more traffic; somebody else's interface stays as it is, judged to the last."""
        if not endpoint.adopted:
            await self._datapath.detach(endpoint)

    async def remove(self, endpoint: Endpoint) -> None:
        """Addresses, interface and programs, entry: in this order."""
        self._put_addresses(endpoint, ())
        self._ipcache.commit()
        await self._datapath.delete_interface(endpoint)
        self._endpoint_map.remove(endpoint)

    def _put_addresses(self, endpoint: Endpoint, ips: tuple[str, ...]) -> None:
        self._ipcache.put_addresses(Rank.ENDPOINT, str(endpoint.endpoint_id), endpoint.identity, ips)

    # --- repairs

    async def repair_programs(self) -> list[Endpoint]:
        """Attaches programs that are missing; returns the endpoints that were without.

        Raises AxonemeError when none could be attached.
        """
        found: list[Endpoint] = []
        fault: AxonemeError | None = None
        for number, state in (await self._datapath.interfaces()).items():
            endpoint = self._endpoints.get(number)
            if state.attached or endpoint is None or self._locks.of(endpoint.name).locked():
                continue  # whoever holds the lock is about to attach, or to remove
            async with self._locks.of(endpoint.name):
                endpoint = self._endpoints.get(number)
                present = (await self._datapath.interfaces()).get(number)
                if endpoint is None or present is None or present.attached or not has_interface(endpoint):
                    continue
                try:
                    await self._datapath.attach(endpoint)
                    found.append(endpoint)
                except AxonemeError as error:
                    fault = fault or error
        if fault is not None and not found:
            raise fault
        return found

    async def repair_interfaces(self) -> list[str]:
        """Makes interfaces that are gone anew; returns what was repaired."""
        interfaces = await self._datapath.interfaces()
        repairs = []
        for endpoint in [e for e in self._endpoints if e.endpoint_id not in interfaces and has_interface(e)]:
            if self._locks.of(endpoint.name).locked():
                continue
            async with self._locks.of(endpoint.name):
                if await attempt("interface not restored", self._reconnect(endpoint.endpoint_id)):
                    repairs.append(f"interfaces: {endpoint.interface_name}: missing, made again")
        return repairs

    async def _reconnect(self, endpoint_id: int) -> None:
        await self.connect(self._endpoints.require(endpoint_id))


def has_interface(endpoint: Endpoint) -> bool:
    """Has an interface and is not being removed."""
    return endpoint.state is not EndpointState.TERMINATING and endpoint.ifindex != 0
