"""This node's place in the cluster: registration, lease, health addresses, declaration of its endpoints.

At every (re)connection of the ipcache stream the whole is declared again: the node, a reference to each
identity, and all addresses (complete, so that whatever else the service holds for this node is withdrawn).
The lease is renewed at a third of its time; when it was lost, everything is declared again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from axoneme.lib import identities, log
from axoneme.lib.errors import AxonemeError, NotFound, PoolExhausted
from shim.datapath import Datapath
from shim.endpoints import EndpointState
from shim.ipam import Ipam
from shim.ipcache import Rank
from shim.nodeipcache import NodeIpcache
from shim.routes import NodeEntry, families_without_address
from shim.services import ControlPlane
from shim.workloads import Workloads

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.5, 2.0)
UNREGISTERED_POLL_SECONDS = 1.0
MAX_FEATURE_TEXT = 256
HEALTH_OWNER = 0
"""The health endpoint among the owners of addresses, which are endpoint numbers from 1."""
HEALTH_SOURCE = "health"
"""Who speaks for its addresses in the ipcache."""


class Membership:
    """Keeps the node registered. One declaration runs at a time."""

    def __init__(
        self,
        node: NodeEntry,
        *,
        services: ControlPlane,
        workloads: Workloads,
        ipcache: NodeIpcache,
        datapath: Datapath,
        set_routes: Callable[[tuple[str, ...]], Awaitable[None]],
        checkpoint: Callable[[], None],
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        health: bool = False,
        tunnel: bool = False,
    ) -> None:
        """`health`: the node has a health endpoint, which takes an address of each family."""
        self.node = node
        self._health, self._tunnel = health, tunnel
        self.registered = False
        self.problem = "not registered with the identity service yet"
        self._services = services
        self._workloads = workloads
        self._ipcache = ipcache
        self._datapath = datapath
        self._set_routes = set_routes
        self._checkpoint = checkpoint
        self._rng = rng
        self._sleep = sleep
        self._lease_ttl_seconds = 0.0
        self._lock = asyncio.Lock()
        self._registered = asyncio.Event()

    async def wait_registered(self) -> None:
        """Returns once the node has its PodCIDRs from the service."""
        await self._registered.wait()

    async def declare(self) -> None:
        """Declares node, identities and addresses. Raises AxonemeError; it is tried again."""
        async with self._lock:
            try:
                registration = await self._services.register(self.node)
                self._lease_ttl_seconds = registration.lease_ttl_seconds
                await self.take_over(registration.node)
                self.choose_health_ips()
                if self.node.health_ips != registration.node.health_ips:
                    await self._services.register(self.node)
                await self._declare_endpoints()
            except AxonemeError as error:
                self.problem = f"this node cannot be declared: {error.message}"
                raise
            self.problem = ""
            self.registered = True
            self._registered.set()
            self._checkpoint()

    async def take_over(self, node: NodeEntry) -> None:
        """Uses the PodCIDRs and router addresses that the node was given, now or before a restart."""
        if node.pod_cidrs != self._workloads.ipam.cidrs or node.router_ips != self.node.router_ips:
            ipam = Ipam(node.pod_cidrs, node.router_ips)
            for endpoint in self._workloads.endpoints:
                outside = ipam.adopt(endpoint.endpoint_id, endpoint.ips)
                if outside:
                    logger.error(
                        "endpoint lies outside the node's PodCIDRs",
                        extra={log.ENDPOINT: endpoint.endpoint_id, log.ADDRESS: outside},
                    )
            ipam.adopt(HEALTH_OWNER, [ip for ip in self.node.health_ips if ip in ipam])
            self._workloads.ipam = ipam
        self.node = replace(self.node, pod_cidrs=node.pod_cidrs, router_ips=node.router_ips)
        await self._datapath.set_up_node(node.router_ips)
        await self._set_routes(node.pod_cidrs)
        host_ips = (*self.node.internal_ips, *node.router_ips)
        self._ipcache.put_addresses(Rank.HOST, "", identities.HOST, host_ips)
        self._ipcache.commit()

    def choose_health_ips(self) -> None:
        """Keeps the health endpoint's addresses, or takes free ones: call it after those of endpoints."""
        ipam, held = self._workloads.ipam, self.node.health_ips
        if not self._health:
            held = ()
        elif len(held) < ipam.families or not all(ip in ipam for ip in held):
            ipam.release(HEALTH_OWNER)
            held = self._free_addresses(ipam)
        else:
            ipam.adopt(HEALTH_OWNER, held)  # an endpoint of an earlier life had taken them for its number
        self.node = replace(self.node, health_ips=held)
        self._ipcache.put_addresses(Rank.NODE, HEALTH_SOURCE, identities.HEALTH, held)
        self._ipcache.commit()

    def _free_addresses(self, ipam: Ipam) -> tuple[str, ...]:
        try:
            return ipam.allocate(HEALTH_OWNER)
        except PoolExhausted as error:
            logger.warning("no address for the health endpoint", extra={log.ERROR: log.clip(error)})
            return ()

    async def set_features(self, features: Mapping[str, str]) -> None:
        """What the kernel can do goes into the registry."""
        found = tuple(sorted((name, value[:MAX_FEATURE_TEXT]) for name, value in features.items()))
        if found == self.node.features:
            return
        self.node = replace(self.node, features=found)
        if self.registered:
            await self._declared()

    def problems(self) -> list[str]:
        """PodCIDRs that other nodes cannot reach, in words."""
        if self._tunnel or not self.node.internal_ips:
            return []
        lost = families_without_address(self.node.pod_cidrs, self.node.internal_ips)
        return [
            f"PodCIDR {cidr} has no route from other nodes: internal_ips has no address of its family; "
            "add one, or set routing_mode tunnel"
            for cidr in lost
        ]

    async def _declare_endpoints(self) -> None:
        """References to identities hang on the lease as addresses do."""
        endpoints = [e for e in self._workloads.endpoints if not e.is_own]
        living = [e for e in endpoints if e.state is not EndpointState.TERMINATING]
        number_by_labels = {}
        for labels in {endpoint.labels for endpoint in living}:
            number_by_labels[labels] = await self._services.allocate_identity(labels, "")
        for endpoint in living:
            if number_by_labels[endpoint.labels] != endpoint.identity:
                await self._workloads.change_identity(endpoint, number_by_labels[endpoint.labels])
        published = [
            e for e in self._workloads.endpoints if e.published and e.state is not EndpointState.TERMINATING
        ]
        publishable = self._workloads.publishable(published)
        await self._services.publish(publishable, self.host_ip(), complete=True)
        await self._workloads.releases.retry()

    def host_ip(self) -> str:
        """The address under which this node's endpoints are reached."""
        return self.node.address_for(4) or self.node.address_for(6) or ""

    async def keep(self) -> None:
        """Renews the lease at a third of its time until cancelled."""
        await self._registered.wait()
        while True:
            await self._sleep(max(self._lease_ttl_seconds / 3, 0.1))
            await self._renew()

    async def _renew(self) -> None:
        while True:
            try:
                self._lease_ttl_seconds = await self._services.renew()
            except NotFound:
                logger.warning("node lease was lost, declaring again", extra={log.NODE: self.node.name})
                if await self._declared():
                    return
            except AxonemeError as error:
                self.problem = f"the node's lease is not renewed: {error.message}"
            else:
                if self.problem.startswith("the node's lease"):
                    self.problem = ""
                return
            await self._sleep(self._rng.uniform(*RETRY_SECONDS))

    async def _declared(self) -> bool:
        try:
            await self.declare()
        except AxonemeError as error:
            logger.warning("node not declared", extra={log.ERROR: log.clip(error)})
            return False
        return True

    async def retry_declaration(self) -> None:
        """Declares again while the last declaration failed; a stream may stay up meanwhile."""
        if self.problem.startswith("this node cannot be declared"):
            await self._declared()
