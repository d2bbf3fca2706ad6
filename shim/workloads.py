"""Adds and removes endpoints, in the one order that never lets a packet pass unjudged.

Adding: identity number → interest in its policy → local maps, locked → interface and programs → first
mapstate applied → policy holds the number everywhere (AwaitIdentity) → addresses published → answer.
Removing runs the other way: traffic off, addresses withdrawn, number released, policy entries last. A step
that fails on the way in is undone, except the wait for policy: the endpoint stays locked and the caller
asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.errors import AxonemeError, Unavailable
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policycodec import subject_key
from shim.attachments import Attachments
from shim.attempts import attempt
from shim.datapath import Datapath
from shim.endpointmap import EndpointMap
from shim.endpoints import Endpoint, EndpointState, EndpointTable, HostPort
from shim.ipam import Ipam, NumberPool
from shim.namedlocks import NamedLocks
from shim.nodeipcache import NodeIpcache
from shim.policies import PolicySink
from shim.releases import InterestChanger, Releases
from shim.services import ControlPlane
from shim.switches import Switches
from shim.takeover import Takeover
from shim.wanted import Wanted

logger = logging.getLogger(__name__)


class Workloads:
    """The endpoints of a node, with everything that an endpoint needs."""

    def __init__(
        self,
        *,
        cluster_name: str,
        endpoints: EndpointTable,
        datapath: Datapath,
        ipcache: NodeIpcache,
        policies: PolicySink,
        endpoint_map: EndpointMap,
        services: ControlPlane,
        interest: InterestChanger,
        checkpoint: Callable[[], None],
        host_ip: Callable[[], str],
        first_policy_seconds: float,
        first_generation: Callable[[], int],
        check_host_ports: Callable[[Sequence[HostPort]], None] = lambda _: None,
    ) -> None:
        """`check_host_ports` raises AlreadyExists for one that a service has."""
        self.endpoints = endpoints
        self.ipam = Ipam()
        self.numbers = NumberPool()
        self.unpublished = 0  # times that an address went out before every node had its policy
        self._cluster_name = cluster_name
        self._policies = policies
        self._services = services
        self._interest = interest
        self._checkpoint = checkpoint
        self._host_ip = host_ip
        self._first_policy_seconds = first_policy_seconds
        self._first_generation = first_generation
        self._check_host_ports = check_host_ports
        self.locks = NamedLocks()
        """By name of the endpoint, and by labels of an identity."""
        self.attachments = Attachments(
            endpoints=endpoints,
            datapath=datapath,
            ipcache=ipcache,
            endpoint_map=endpoint_map,
            locks=self.locks,
        )
        self.switches = Switches(
            endpoints=endpoints,
            datapath=datapath,
            policies=policies,
            endpoint_map=endpoint_map,
            checkpoint=checkpoint,
            locks=self.locks,
        )
        self.releases = Releases(endpoints=endpoints, services=services, interest=interest, locks=self.locks)
        self._takeover = Takeover(
            endpoints=endpoints,
            datapath=datapath,
            endpoint_map=endpoint_map,
            attachments=self.attachments,
            policies=policies,
            interest=interest,
            first_generation=first_generation,
        )

    # --- adding

    async def add(self, wanted: Wanted) -> Endpoint:
        """Creates an endpoint, or finishes the creation of an equal one.

        Raises AlreadyExists for another workload of that name, Unavailable while a service is away.
        """
        labels = workload_labels(wanted.labels, namespace=wanted.namespace, cluster=self._cluster_name)
        async with self.locks.of(f"{wanted.namespace}/{wanted.pod_name}"):
            endpoint = self.endpoints.find(wanted.namespace, wanted.pod_name)
            if endpoint is None:
                endpoint = await self._create(wanted, labels)
            else:
                wanted.check_equal(endpoint, labels)
            return await self._finish(endpoint)

    async def _create(self, wanted: Wanted, labels: LabelSet) -> Endpoint:
        async with self.locks.of(labels.key):
            identity = await self._services.allocate_identity(labels, wanted.request_id)
            try:
                endpoint = self._new_endpoint(wanted, labels, identity)
            except AxonemeError:
                self.releases.pending.add(identity)  # with the next round, unless another endpoint has it
                raise
            self.endpoints.put(endpoint)
        try:
            self._checkpoint()
            await self._policies.forget_learned(endpoint.endpoint_id)
            await self._interest.change_interest(added=[subject_key(identity)])
            endpoint = await self.attachments.connect(endpoint)
            await self._policies.apply_to(endpoint.endpoint_id)
        except (AxonemeError, BpfError, OSError) as error:
            logger.warning(
                "endpoint not created", extra={log.ENDPOINT: endpoint.name, log.ERROR: log.clip(error)}
            )
            await attempt("endpoint not removed yet", self._remove(endpoint))
            if isinstance(error, AxonemeError):
                raise
            raise Unavailable(str(error), reason="KERNEL_REFUSED") from error
        return self.endpoints.require(endpoint.endpoint_id)

    async def add_own(
        self, number: int, name: str, labels: LabelSet, identity: int, ips: tuple[str, ...], netns: str
    ) -> Endpoint:
        """An endpoint of the node itself: number and identity are reserved, addresses held for it already,
        and nobody is told of it here. Raises AxonemeError, BpfError or OSError; then it is not there."""
        async with self.locks.of(f"/{name}"):
            endpoint = Endpoint(
                endpoint_id=number,
                namespace="",
                pod_name=name,
                labels=labels,
                identity=identity,
                ips=ips,
                netns=netns,
                state_reason="waits for its first mapstate",
                policy_generation=self._first_generation(),
            )
            self.endpoints.put(endpoint)
            try:
                self._checkpoint()
                await self._policies.forget_learned(endpoint.endpoint_id)
                await self.attachments.connect(endpoint)
                await self._policies.apply_to(endpoint.endpoint_id)
            except (AxonemeError, BpfError, OSError):
                await attempt("endpoint not removed yet", self._remove(endpoint))
                raise
        return self.endpoints.require(endpoint.endpoint_id)

    def _new_endpoint(self, wanted: Wanted, labels: LabelSet, identity: int) -> Endpoint:
        wanted.check_free(self.endpoints)
        self._check_host_ports(wanted.host_ports)
        number = self.numbers.allocate()
        try:
            ips = self._addresses(number, wanted)
        except AxonemeError:
            self.numbers.release(number)
            raise
        return Endpoint(
            endpoint_id=number,
            namespace=wanted.namespace,
            pod_name=wanted.pod_name,
            labels=labels,
            identity=identity,
            ips=ips,
            netns=wanted.netns,
            pod_interface=wanted.interface_name,
            named_ports=wanted.named_ports,
            audit=wanted.audit,
            host_ports=wanted.host_ports,
            adopted=wanted.adopt,
            cni_container=wanted.cni_container,
            cni_network=wanted.cni_network,
            state_reason="waits for its first mapstate",
            # Conntrack entries of an earlier endpoint with this number and address must not look current.
            policy_generation=self._first_generation(),
        )

    def _addresses(self, number: int, wanted: Wanted) -> tuple[str, ...]:
        if not wanted.adopt:
            return self.ipam.allocate(number, wanted.ips)
        self.ipam.adopt(number, wanted.ips)  # those of the node's PodCIDRs are not given out a second time
        return wanted.ips

    async def _finish(self, endpoint: Endpoint) -> Endpoint:
        endpoint = await self._wait_for_policy(endpoint.endpoint_id)
        if not endpoint.published:
            await self._await_everywhere(endpoint)
            await self._services.publish(self.publishable([endpoint]), self._host_ip(), complete=False)
            endpoint = self.endpoints.change(endpoint.endpoint_id, published=True)
            self._checkpoint()
        return endpoint

    def publishable(self, endpoints: Iterable[Endpoint]) -> list[Endpoint]:
        """Endpoints with those addresses that this node may publish: adopted ones can have others as well."""
        allowed = (
            replace(one, ips=tuple(ip for ip in one.ips if ip in self.ipam)) if one.adopted else one
            for one in endpoints
        )
        return [one for one in allowed if one.ips]

    async def _wait_for_policy(self, endpoint_id: int) -> Endpoint:
        """Returns once a mapstate is in force. Raises Unavailable after the configured time."""
        changed = asyncio.Event()
        stop = self.endpoints.listen(lambda number, _: changed.set() if number == endpoint_id else None)
        try:
            async with asyncio.timeout(self._first_policy_seconds):
                while (endpoint := self.endpoints.require(endpoint_id)).state is EndpointState.LOCKED:
                    changed.clear()
                    await changed.wait()
        except TimeoutError as error:
            reason = self.endpoints.require(endpoint_id).state_reason
            raise Unavailable(
                f"endpoint {endpoint_id} stays locked: {reason}; is the policy service reachable?",
                reason="POLICY_NOT_READY",
            ) from error
        finally:
            stop()
        return endpoint

    async def _await_everywhere(self, endpoint: Endpoint) -> None:
        """Other nodes get the number's policy before they can meet its address; slow ones are counted."""
        try:
            acknowledged = await self._services.await_identity(endpoint.identity, endpoint.labels)
        except AxonemeError as error:
            logger.warning(
                "policy service not asked", extra={log.IDENTITY: endpoint.identity, log.ERROR: str(error)}
            )
            acknowledged = False
        if not acknowledged:
            self.unpublished += 1

    # --- removing

    async def delete(self, endpoint_id: int) -> None:
        """Removes an endpoint; an absent one is fine. Raises Unavailable while the helper is away."""
        endpoint = self.endpoints.get(endpoint_id)
        if endpoint is None:
            return
        async with self.locks.of(endpoint.name):
            if self.endpoints.get(endpoint_id) is not None:
                await self._remove(self.endpoints.require(endpoint_id))

    async def _remove(self, endpoint: Endpoint) -> None:
        number = endpoint.endpoint_id
        endpoint = self.endpoints.step(number, EndpointState.TERMINATING, "is being removed")
        self._checkpoint()
        await self.attachments.stop(endpoint)
        for shown in self.publishable([endpoint] if endpoint.published else ()):
            await attempt("addresses not withdrawn", self._services.withdraw(shown.ips))
        await self.attachments.remove(endpoint)
        self.endpoints.remove(number)
        await self.releases.release(endpoint)
        await self._policies.remove_endpoint(number)
        self.ipam.release(number)
        self.numbers.release(number)
        self._checkpoint()

    async def finish_removals(self) -> None:
        """Goes on with removals that a failure or a restart interrupted."""
        for endpoint in list(self.endpoints):
            if endpoint.state is EndpointState.TERMINATING:
                await attempt("endpoint not removed yet", self.delete(endpoint.endpoint_id))

    # --- restart

    # --- a node that goes on

    async def restore(self, stored: Collection[Endpoint], last_endpoint_id: int = 0) -> None:
        """Takes over endpoints of an earlier life with their interfaces, programs and maps."""
        for endpoint in stored:
            number = endpoint.endpoint_id
            self.numbers.adopt(number)
            outside = self.ipam.adopt(number, endpoint.ips)
            if outside:
                logger.warning(
                    "addresses outside the PodCIDRs", extra={log.ENDPOINT: number, log.ADDRESS: outside}
                )
            self.endpoints.put(endpoint)
        self.numbers.resume(last_endpoint_id)
        await self._takeover.run()

    async def change_identity(self, endpoint: Endpoint, identity: int) -> None:
        """Moves an endpoint to another number of its labels: the old one was lost with the store."""
        await self._interest.change_interest(added=[subject_key(identity)])
        self.attachments.write(self.endpoints.change(endpoint.endpoint_id, identity=identity))
        await self._policies.apply_to(endpoint.endpoint_id)
