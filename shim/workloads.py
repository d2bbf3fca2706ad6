"""Adds, removes and restores endpoints, in the one order that never lets a packet pass unjudged.

Adding: identity number → interest in its policy → local maps, locked → interface and programs → first
mapstate applied → policy holds the number everywhere (AwaitIdentity) → addresses published → answer.
Removing runs the other way: traffic off, addresses withdrawn, number released, policy entries last. A step
that fails on the way in is undone, except the wait for policy: the endpoint stays locked and the caller
asks again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Protocol
from weakref import WeakValueDictionary

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import AxonemeError, InvalidArgument, NotFound, Unavailable
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policycodec import subject_key
from shim.datapath import Datapath
from shim.endpoints import Endpoint, EndpointState, EndpointTable, HostPort
from shim.ipam import Ipam, NumberPool
from shim.ipcache import Rank
from shim.maps import base, layout
from shim.nodeipcache import NodeIpcache
from shim.policies import PolicySink
from shim.reconciler import Reconciler
from shim.services import ControlPlane
from shim.tables import MapTable
from shim.wanted import Wanted

logger = logging.getLogger(__name__)


class InterestChanger(Protocol):
    """The policy stream, as far as endpoints need it."""

    async def change_interest(self, added: Collection[str] = (), removed: Collection[str] = ()) -> None:
        """Declares which subjects live here."""


class EndpointMap:
    """`axoneme_ep`: which endpoint is behind an interface. `audit` switches auditing on for all of them."""

    def __init__(self, bpf_map: BpfMap, *, clock: Callable[[], float], audit: bool = False) -> None:
        self.audit = audit
        self.reconciler = Reconciler(layout.EP.name, MapTable(bpf_map), clock=clock)

    def write(self, endpoint: Endpoint) -> None:
        """Writes the entry of an interface that exists. Raises Unavailable when the kernel refuses."""
        if not endpoint.ifindex:
            return
        key = layout.endpoint_key(endpoint.ifindex)
        self.reconciler.put({key: encode_endpoint(endpoint, audit=self.audit or endpoint.audit)})
        self.reconciler.flush()
        fault = self.reconciler.faults().get(key)
        if fault is not None:
            raise Unavailable(fault.message, reason="MAP_WRITE_FAILED")

    def remove(self, endpoint: Endpoint) -> None:
        """Forgets the interface."""
        self.reconciler.discard([layout.endpoint_key(endpoint.ifindex)])
        self.reconciler.flush()

    def generation_of(self, endpoint: Endpoint) -> int:
        """The policy generation that the kernel has for an endpoint; 0 when it has none."""
        raw = self.reconciler.actual.get(layout.endpoint_key(endpoint.ifindex))
        entry = layout.EndpointEntry.unpack(raw) if raw else None
        return entry.policy_generation if entry and entry.endpoint_id == endpoint.endpoint_id else 0


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
        self.released: set[int] = set()  # identities whose release is not confirmed yet
        self.unpublished = 0  # times that an address went out before every node had its policy
        self._cluster_name = cluster_name
        self._datapath = datapath
        self._ipcache = ipcache
        self._policies = policies
        self._endpoint_map = endpoint_map
        self._services = services
        self._interest = interest
        self._checkpoint = checkpoint
        self._host_ip = host_ip
        self._first_policy_seconds = first_policy_seconds
        self._first_generation = first_generation
        self._check_host_ports = check_host_ports
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def audits_all(self) -> bool:
        """Whether the node only reports what policy denies."""
        return self._endpoint_map.audit

    # --- adding

    async def add(self, wanted: Wanted) -> Endpoint:
        """Creates an endpoint, or finishes the creation of an equal one.

        Raises AlreadyExists for another workload of that name, Unavailable while a service is away.
        """
        labels = workload_labels(wanted.labels, namespace=wanted.namespace, cluster=self._cluster_name)
        async with self._lock(f"{wanted.namespace}/{wanted.pod_name}"):
            endpoint = self.endpoints.find(wanted.namespace, wanted.pod_name)
            if endpoint is None:
                endpoint = await self._create(wanted, labels)
            else:
                wanted.check_equal(endpoint, labels)
            return await self._finish(endpoint)

    async def _create(self, wanted: Wanted, labels: LabelSet) -> Endpoint:
        async with self._lock(labels.key):
            identity = await self._services.allocate_identity(labels, wanted.request_id)
            try:
                endpoint = self._new_endpoint(wanted, labels, identity)
            except AxonemeError:
                self.released.add(identity)  # with the next round, unless another endpoint has it
                raise
            self.endpoints.put(endpoint)
        try:
            self._checkpoint()
            await self._interest.change_interest(added=[subject_key(identity)])
            endpoint = await self._connect(endpoint)
            await self._policies.apply_to(endpoint.endpoint_id)
        except (AxonemeError, BpfError, OSError) as error:
            logger.warning(
                "endpoint not created", extra={log.ENDPOINT: endpoint.name, log.ERROR: log.clip(error)}
            )
            await _try("endpoint not removed yet", self._remove(endpoint))
            if isinstance(error, AxonemeError):
                raise
            raise Unavailable(str(error), reason="KERNEL_REFUSED") from error
        return self.endpoints.require(endpoint.endpoint_id)

    async def add_own(
        self, number: int, name: str, labels: LabelSet, identity: int, ips: tuple[str, ...], netns: str
    ) -> Endpoint:
        """An endpoint of the node itself: number and identity are reserved, addresses held for it already,
        and nobody is told of it here. Raises AxonemeError, BpfError or OSError; then it is not there."""
        async with self._lock(f"/{name}"):
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
                await self._connect(endpoint)
                await self._policies.apply_to(endpoint.endpoint_id)
            except (AxonemeError, BpfError, OSError):
                await _try("endpoint not removed yet", self._remove(endpoint))
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

    async def _connect(self, endpoint: Endpoint) -> Endpoint:
        """Interface, local maps, programs; everything is dropped until there is a mapstate."""
        if endpoint.adopted:
            interface = await self._datapath.adopt_interface(endpoint)
        else:
            interface = await self._datapath.create_interface(endpoint)
        endpoint = self.endpoints.change(
            endpoint.endpoint_id,
            interface_name=interface.interface_name,
            ifindex=interface.ifindex,
            mac=interface.mac,
            host_mac=interface.host_mac,
        )
        self._endpoint_map.write(endpoint)
        self._ipcache.put_addresses(Rank.ENDPOINT, str(endpoint.endpoint_id), endpoint.identity, endpoint.ips)
        self._ipcache.commit()
        await self._datapath.attach(endpoint)
        return endpoint

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

    # --- changing

    async def set_audit(self, endpoint_id: int, audit: bool) -> Endpoint:
        """Switches auditing of one endpoint; connections that were cut before get another chance."""
        endpoint = self.endpoints.require(endpoint_id)
        async with self._lock(endpoint.name):
            if self.endpoints.require(endpoint_id).audit is not audit:
                self.endpoints.change(endpoint_id, audit=audit)
                self._checkpoint()
                await self._policies.enforce_again(endpoint_id)
        return self.endpoints.require(endpoint_id)

    async def configure(
        self, endpoint_id: int, *, audit: bool | None = None, aggregation: int | None = None
    ) -> Endpoint:
        """Changes switches; None leaves one as it is. Raises NotFound."""
        endpoint = self.endpoints.require(endpoint_id)
        if audit is not None:
            await self.set_audit(endpoint_id, audit)
        async with self._lock(endpoint.name):
            if aggregation is not None and self.endpoints.require(endpoint_id).aggregation != aggregation:
                self._endpoint_map.write(self.endpoints.change(endpoint_id, aggregation=aggregation))
                self._checkpoint()
        return self.endpoints.require(endpoint_id)

    async def regenerate(self, endpoint_id: int) -> list[str]:
        """Attaches the programs again and has connections judged again. Raises NotFound; returns repairs."""
        endpoint = self.endpoints.require(endpoint_id)
        async with self._lock(endpoint.name):
            before = (await self._datapath.interfaces()).get(endpoint_id)
            await self._datapath.attach(self.endpoints.require(endpoint_id))
            self._endpoint_map.write(self.endpoints.require(endpoint_id))
            await self._policies.enforce_again(endpoint_id)
        whole = before is not None and before.attached
        return [] if whole else [f"programs: {endpoint.interface_name}: missing, attached again"]

    # --- removing

    async def delete(self, endpoint_id: int) -> None:
        """Removes an endpoint; an absent one is fine. Raises Unavailable while the helper is away."""
        endpoint = self.endpoints.get(endpoint_id)
        if endpoint is None:
            return
        async with self._lock(endpoint.name):
            if self.endpoints.get(endpoint_id) is not None:
                await self._remove(self.endpoints.require(endpoint_id))

    async def _remove(self, endpoint: Endpoint) -> None:
        number = endpoint.endpoint_id
        endpoint = self.endpoints.step(number, EndpointState.TERMINATING, "is being removed")
        self._checkpoint()
        if not endpoint.adopted:  # somebody else's interface stays as it is, judged to the last
            await self._datapath.detach(endpoint)
        for shown in self.publishable([endpoint] if endpoint.published else ()):
            await _try("addresses not withdrawn", self._services.withdraw(shown.ips))
        self._ipcache.put_addresses(Rank.ENDPOINT, str(number), endpoint.identity, ())
        self._ipcache.commit()
        await self._datapath.delete_interface(endpoint)
        self._endpoint_map.remove(endpoint)
        self.endpoints.remove(number)
        await self._release(endpoint)
        await self._policies.remove_endpoint(number)
        self.ipam.release(number)
        self.numbers.release(number)
        self._checkpoint()

    async def _release(self, endpoint: Endpoint) -> None:
        """The node's reference and interest go with the last endpoint of an identity."""
        async with self._lock(endpoint.labels.key):
            if endpoint.is_own or any(other.identity == endpoint.identity for other in self.endpoints):
                return
            self.released.add(endpoint.identity)
            await self.retry_releases()
            await self._interest.change_interest(removed=[subject_key(endpoint.identity)])

    async def retry_releases(self) -> None:
        """Releases identities that nobody here uses; what fails stays for the next time."""
        self.released -= {endpoint.identity for endpoint in self.endpoints}
        for identity in sorted(self.released):
            if await _try("identity not released", self._services.release_identity(identity)):
                self.released.discard(identity)

    async def finish_removals(self) -> None:
        """Goes on with removals that a failure or a restart interrupted."""
        for endpoint in list(self.endpoints):
            if endpoint.state is EndpointState.TERMINATING:
                await _try("endpoint not removed yet", self.delete(endpoint.endpoint_id))

    # --- restart

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
        self._endpoint_map.reconciler.load()
        interfaces = await self._datapath.interfaces()
        for endpoint in list(self.endpoints):
            if endpoint.state is EndpointState.TERMINATING:
                continue
            present = interfaces.get(endpoint.endpoint_id)
            whole = present is not None and present.attached and present.ifindex == endpoint.ifindex
            await self._restore(endpoint, whole=whole)

    async def _restore(self, endpoint: Endpoint, *, whole: bool) -> None:
        number = endpoint.endpoint_id
        # The stored number may be older than what conntrack knows; without the kernel's a new start is made.
        generation = self._endpoint_map.generation_of(endpoint) or self._first_generation()
        adopted = await self._policies.adopt(endpoint)
        state = endpoint.state if adopted else EndpointState.LOCKED
        reason = endpoint.state_reason if adopted else "waits for its first mapstate since the restart"
        self.endpoints.put(replace(endpoint, state=state, state_reason=reason, policy_generation=generation))
        try:
            if whole:
                self._endpoint_map.write(self.endpoints.require(number))
                self._ipcache.put_addresses(Rank.ENDPOINT, str(number), endpoint.identity, endpoint.ips)
            else:
                await self._connect(self.endpoints.require(number))
        except (NotFound, InvalidArgument) as error:
            logger.warning("workload is gone", extra={log.ENDPOINT: number, log.ERROR: log.clip(error)})
            self.endpoints.step(number, EndpointState.TERMINATING, "its network namespace is gone")
        if endpoint.is_own:
            return
        await self._interest.change_interest(added=[subject_key(endpoint.identity)])

    async def repair_programs(self) -> list[Endpoint]:
        """Attaches programs that are missing; returns the endpoints that were without.

        Raises AxonemeError when none could be attached.
        """
        found: list[Endpoint] = []
        fault: AxonemeError | None = None
        for number, state in (await self._datapath.interfaces()).items():
            endpoint = self.endpoints.get(number)
            if state.attached or endpoint is None or self._lock(endpoint.name).locked():
                continue  # whoever holds the lock is about to attach, or to remove
            async with self._lock(endpoint.name):
                endpoint = self.endpoints.get(number)
                present = (await self._datapath.interfaces()).get(number)
                if endpoint is None or present is None or present.attached or not _lives(endpoint):
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
        for endpoint in [e for e in self.endpoints if e.endpoint_id not in interfaces and _lives(e)]:
            if self._lock(endpoint.name).locked():
                continue
            async with self._lock(endpoint.name):
                if await _try("interface not restored", self._reconnect(endpoint.endpoint_id)):
                    repairs.append(f"interfaces: {endpoint.interface_name}: missing, made again")
        return repairs

    async def _reconnect(self, endpoint_id: int) -> None:
        await self._connect(self.endpoints.require(endpoint_id))

    async def change_identity(self, endpoint: Endpoint, identity: int) -> None:
        """Moves an endpoint to another number of its labels: the old one was lost with the store."""
        number = endpoint.endpoint_id
        await self._interest.change_interest(added=[subject_key(identity)])
        endpoint = self.endpoints.change(number, identity=identity)
        self._endpoint_map.write(endpoint)
        self._ipcache.put_addresses(Rank.ENDPOINT, str(number), identity, endpoint.ips)
        self._ipcache.commit()
        await self._policies.apply_to(number)

    def _lock(self, key: str) -> asyncio.Lock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock


def encode_endpoint(endpoint: Endpoint, *, audit: bool = False) -> bytes:
    """Value of `axoneme_ep`."""
    raw = [base.address_bytes(ip) for ip in endpoint.ips]
    ipv4 = next((one[12:] for one, ip in zip(raw, endpoint.ips, strict=True) if ":" not in ip), bytes(4))
    ipv6 = next((one for one, ip in zip(raw, endpoint.ips, strict=True) if ":" in ip), bytes(16))
    return layout.EndpointEntry(
        endpoint_id=endpoint.endpoint_id,
        flags=(layout.ENDPOINT_AUDIT if audit else 0)
        | endpoint.aggregation << layout.ENDPOINT_AGGREGATION_SHIFT,
        identity=endpoint.identity,
        policy_generation=endpoint.policy_generation,
        ipv4=ipv4,
        ipv6=ipv6,
        mac=_mac(endpoint.mac),
        host_mac=_mac(endpoint.host_mac),
    ).pack()


def _lives(endpoint: Endpoint) -> bool:
    """Has an interface and is not being removed."""
    return endpoint.state is not EndpointState.TERMINATING and endpoint.ifindex != 0


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", "")) if text else bytes(6)


async def _try(text: str, doing: Awaitable[object]) -> bool:
    """Awaits and logs an expected error instead of raising it; True when all went well."""
    try:
        await doing
    except (AxonemeError, OSError) as error:
        logger.warning(text, extra={log.ERROR: log.clip(error)})
        return False
    return True
