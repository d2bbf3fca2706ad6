"""Takes the policy stream: each subject's mapstate into the maps of its holders, endpoints and the host.

    SubjectPolicy ─► prefixes that it names get numbers ─► maps in force learn them ─► ipcache
                  ─► mapstate ─► enforceable? room? ─► InnerMaps ─► generation bump (axoneme_ep, axoneme_node)
                  ─► prefixes that nobody names any more: out of the ipcache, then out of the maps

A policy is in force whole or not at all. What cannot be applied leaves the last good policy in force, or the
endpoint locked when it had none, and is reported per subject and tried again. The order above lets no packet
meet a number that its map does not know: the last good policy too is kept up with the node's identities.
Nothing here decides what a rule means.

The lock keeps changes in order, and `apply` returns, which is what acknowledges, only when the kernel has
everything. Endpoints come and go meanwhile, so they are looked up again after each wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intent import Failure
from axoneme.lib.policy.model import NamedPort, SubjectPolicy
from shim.cookies import CookieTable
from shim.datapath import Datapath
from shim.endpoints import Endpoint, EndpointState, generation_after
from shim.holders import Holders
from shim.innermaps import InnerMaps
from shim.localidentities import LocalIdentities
from shim.maps import layout
from shim.mapstates import Mapstate, Ports, named_ports_in, relevant_ports
from shim.prefixes import NodePrefixes, PrefixTable
from shim.reconciler import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS


@dataclass(frozen=True, slots=True)
class _InForce:
    """What an endpoint's map was made of; without a policy it is from an earlier life of the shim."""

    policy: SubjectPolicy | None
    revision: int  # of the local identities


@dataclass(slots=True)
class _Retry:
    delay_seconds: float
    due: float


class PolicySink:
    """Mapstates of the subjects on this node, and the maps they are in."""

    def __init__(
        self,
        *,
        holders: Holders,
        datapath: Datapath,
        cookies: CookieTable,
        local: LocalIdentities,
        prefixes: PrefixTable,
        checkpoint: Callable[[], None],
        clock: Callable[[], float],
        max_entries: int = layout.POLICY_INNER.max_entries,
    ) -> None:
        self.policies: dict[str, SubjectPolicy] = {}
        self.failures: dict[str, Failure] = {}
        self.complete = False
        self.on_switch: Callable[[Endpoint], None] = _nobody_listens
        """Hears that an endpoint is judged by the policy in force, under the generation that it has now."""
        self._holders = holders
        self._cookies = cookies
        self._local = local
        self._prefixes = NodePrefixes(local, prefixes, checkpoint)
        self._clock = clock
        self._max_entries = max_entries
        self._maps = InnerMaps(datapath, max_entries=max_entries)
        self._in_force: dict[int, _InForce] = {}
        self._mapstates: dict[tuple[str, Ports], Mapstate] = {}
        self._named: dict[int, tuple[SubjectPolicy, frozenset[NamedPort]]] = {}  # by id() of the policy
        self._faults: dict[tuple[str, Ports], Failure] = {}
        self._retries: dict[str, _Retry] = {}
        self._told: Mapping[str, Failure] = {}
        self._lock = asyncio.Lock()

    # --- what happens on the node

    async def adopt(self, endpoint: Endpoint) -> bool:
        """Takes over the map that the kernel has for an endpoint; False when it has none."""
        if not await self._maps.adopt(endpoint.endpoint_id):
            return False
        self._in_force[endpoint.endpoint_id] = _InForce(None, 0)
        return True

    async def resume(self) -> None:
        """After all maps were adopted: what they rely on stays in the ipcache."""
        async with self._lock:
            await self._settle(())

    async def apply(
        self, upserts: Mapping[str, SubjectPolicy], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """Applies changed subjects; returns all that are not in force."""
        async with self._lock:
            self.policies.update(upserts)
            for key in removals:
                self._forget(key)
            await self._settle(upserts)
            self.complete = self.complete or complete
            self._told = dict(self.failures)
            return self._told

    async def apply_to(self, endpoint_id: int) -> None:
        """Gives an endpoint that just appeared the mapstate of its subject, if it is known."""
        async with self._lock:
            endpoint = self._holders.get(endpoint_id)
            if endpoint is not None and (key := self._holders.key_of(endpoint)) in self.policies:
                await self._settle([key])

    async def remove_endpoint(self, endpoint_id: int) -> None:
        """Takes away the map of an endpoint that is gone."""
        async with self._lock:
            self._maps.remove(endpoint_id)
            self._in_force.pop(endpoint_id, None)
            await self._settle(())

    async def retry_due(self) -> bool:
        """Tries failed subjects again; True when failures are others than were last told."""
        now = self._clock()
        if any(retry.due <= now for retry in self._retries.values()):
            async with self._lock:
                await self._settle(())
        changed = self.failures != self._told
        self._told = dict(self.failures)
        return changed

    async def finish_again(self) -> Mapping[str, Failure]:
        """After a change of local identities: maps learn what is new."""
        async with self._lock:
            await self._settle(())
            return dict(self.failures)

    async def enforce_again(self, endpoint_id: int) -> None:
        """After a change of the endpoint's switches: its connections are judged again."""
        async with self._lock:
            if self._holders.get(endpoint_id) is not None:
                self._bump(endpoint_id)

    # --- what others ask

    def in_force(self, endpoint_id: int) -> SubjectPolicy | None:
        """The policy that an endpoint is judged by, if it is known."""
        known = self._in_force.get(endpoint_id)
        return known.policy if known else None

    def holder(self, number: int) -> Endpoint:
        """An endpoint, or the host (0) where it has a policy. Raises NotFound."""
        return self._holders.require(number)

    def map_of(self, endpoint_id: int) -> BpfMap | None:
        """The map that an endpoint uses."""
        return self._maps.map_of(endpoint_id)

    def cookies_in_use(self) -> set[int]:
        """Cookies that some map holds or is about to hold."""
        contents = [*self._maps.contents(), *(state.content for state in self._mapstates.values())]
        return {layout.PolicyEntry.unpack(raw).cookie for one in contents for raw in one.values()}

    async def audit(self) -> list[str]:
        """Compares maps with what they should hold and repairs; returns what differed."""
        async with self._lock:
            repairs = self._maps.audit()
            if self.complete:
                repairs += self._maps.prune([endpoint.endpoint_id for endpoint in self._holders])
        return repairs

    # --- the order of things

    async def _settle(self, changed: Iterable[str]) -> None:
        """Brings changed subjects, and whatever waits for them, into force as far as that is possible."""
        before = self._subjects()
        waiting = {key for key in (*changed, *self._retries) if key in before}
        self._name_prefixes()
        await self._publish()
        while waiting:
            blocked = {key for key in sorted(waiting) if not await self._apply(key)}
            self._name_prefixes()
            await self._publish()
            if blocked == waiting:
                break
            waiting = blocked
        await self._let_go()
        self._report(before, changed)

    def _name_prefixes(self) -> None:
        alive = self._subjects()
        policies = [self.policies[key] for key in alive if key in self.policies]
        policies += [one.policy for one in self._in_force.values() if one.policy is not None]
        self._named = {id(one): self._named.get(id(one)) or (one, named_ports_in(one)) for one in policies}
        unknown = any(one.policy is None for one in self._in_force.values())
        self._prefixes.want(policies, keep=unknown)

    async def _publish(self) -> None:
        """Maps first, then the ipcache; connections under policies that name a prefix meet it at once."""
        await self._catch_up()
        fresh = self._prefixes.publish(self._covered())
        if not fresh:
            return
        for endpoint_id, one in list(self._in_force.items()):
            if one.policy is not None and not fresh.isdisjoint(self._prefixes.named_in(one.policy)):
                self._bump(endpoint_id)

    async def _let_go(self) -> None:
        """The reverse order: out of the ipcache (which `_publish` did), out of the maps, free."""
        self._prefixes.retire()
        await self._catch_up()
        self._local.free(self._covered())
        self._prefixes.save()
        living = {(key, self._ports(one, self.policies[key])) for key, one in self._with_policy()}
        for key in [key for key in self._mapstates if key not in living]:
            del self._mapstates[key]

    async def _catch_up(self) -> None:
        """Maps in force learn the local identities of this moment; who cannot keeps what it has."""
        revision = self._local.revision
        groups = {}
        for endpoint_id, one in self._in_force.items():
            endpoint = self._holders.get(endpoint_id)
            if endpoint is None or one.policy is None or one.revision == revision:
                continue
            key = self._holders.key_of(endpoint)
            groups[(key, id(one.policy), self._ports(endpoint, one.policy))] = one.policy
        for (key, _, ports), policy in groups.items():
            try:
                await self._put_in_force(key, ports, policy, self._judged_by(key, ports, policy))
            except (AxonemeError, BpfError, KeyError) as error:
                self._faults.setdefault((key, ports), _failure(error))

    # --- one subject

    async def _apply(self, key: str) -> bool:
        """Puts a subject's policy into force for all its holders; False when some are left behind."""
        policy = self.policies.get(key)
        if policy is None:
            return True
        whole = True
        for ports in sorted({self._ports(one, policy) for one in self._holders.of_subject(key)}):
            members = partial(self._members, key, ports, policy)
            self._faults.pop((key, ports), None)
            failure = self._obstacle(policy, members())
            if failure is None:
                try:
                    await self._put_in_force(key, ports, policy, members)
                except (AxonemeError, BpfError, KeyError) as error:
                    failure = _failure(error)
            if failure is not None:
                self._faults[(key, ports)] = failure
                whole = False
        return whole

    def _obstacle(self, policy: SubjectPolicy, members: Iterable[int]) -> Failure | None:
        """A prefix that cannot be told apart. An unknown map learns it only with the policy itself."""
        if any((one := self._in_force.get(number)) is not None and one.policy is None for number in members):
            return None
        return self._prefixes.obstacle(policy, self._blocking())

    async def _put_in_force(
        self, key: str, ports: Ports, policy: SubjectPolicy, members: Callable[[], list[int]]
    ) -> None:
        """Raises AxonemeError, BpfError or KeyError; then the last map stays."""
        state = self._mapstates.setdefault((key, ports), Mapstate(ports))
        revision = self._local.revision
        content = await state.move(policy, self._local, self._cookies)
        refusal = state.refusal()
        if refusal is not None:
            raise refusal
        room = self._max_entries
        if len(content) > room:
            raise _TooLargeError(
                f"the policy needs {len(content)} entries, a map holds {room}; the last one stays in force"
            )
        await self._maps.switch(members, content, partial(self._settled, _InForce(policy, revision)))

    def _settled(self, in_force: _InForce, endpoint_id: int, changed: bool) -> None:
        """A map holds this now. Before a restart the generation may not have followed the last switch."""
        before = self._in_force.get(endpoint_id)
        self._in_force[endpoint_id] = in_force
        if self._holders.get(endpoint_id) is None:
            return
        if changed or before is None or before.policy is None:
            self._bump(endpoint_id)
        else:
            self.on_switch(self._holders.require(endpoint_id))

    def _bump(self, endpoint_id: int) -> None:
        """Connections of an endpoint are judged again."""
        endpoint = self._holders.get(endpoint_id)
        if endpoint is None:
            return
        generation = generation_after(endpoint.policy_generation)
        endpoint = self._holders.change(endpoint_id, policy_generation=generation)
        self.on_switch(endpoint)  # heard before the kernel can stamp the generation
        self._holders.write(endpoint)

    # --- who is who

    def _subjects(self) -> set[str]:
        return {self._holders.key_of(holder) for holder in self._holders if _lives(holder)}

    def _with_policy(self) -> list[tuple[str, Endpoint]]:
        found = [(self._holders.key_of(holder), holder) for holder in self._holders]
        return [(key, holder) for key, holder in found if key in self.policies]

    def _ports(self, endpoint: Endpoint, policy: SubjectPolicy) -> Ports:
        known = self._named.get(id(policy))
        return relevant_ports(endpoint.named_ports, known[1] if known else named_ports_in(policy))

    def _members(self, key: str, ports: Ports, policy: SubjectPolicy) -> list[int]:
        found = self._holders.of_subject(key)
        return [one.endpoint_id for one in found if self._ports(one, policy) == ports]

    def _judged_by(self, key: str, ports: Ports, policy: SubjectPolicy) -> Callable[[], list[int]]:
        """Holders whose map was made of exactly this."""

        def members() -> list[int]:
            return [
                one.endpoint_id
                for one in self._holders
                if self._holders.key_of(one) == key
                and self.in_force(one.endpoint_id) is policy
                and self._ports(one, policy) == ports
            ]

        return members

    def _covered(self) -> int:
        """The revision of local identities that every map knows."""
        known = [one.revision for number, one in self._in_force.items() if self._holders.get(number)]
        return min(known, default=self._local.revision)

    def _blocking(self) -> str:
        """An endpoint whose map does not know the newest identities."""
        revision = self._local.revision
        for endpoint in self._holders:
            if self._in_force.get(endpoint.endpoint_id, _NEWEST).revision < revision:
                number = endpoint.endpoint_id
                return f"the map of endpoint {number} ({endpoint.name})" if number else "the map of the host"
        return ""

    # --- what is told

    def _report(self, before: Iterable[str], changed: Iterable[str]) -> None:
        """Failures by subject, times of the next tries, states of holders."""
        keys = {*before, *self._subjects(), *changed}
        failures: dict[str, Failure] = {}
        living = set()
        for key, holder in self._with_policy():
            if not _lives(holder):
                continue
            fault_key = (key, self._ports(holder, self.policies[key]))
            living.add(fault_key)
            failure = self._faults.get(fault_key)
            if failure is not None:
                failures.setdefault(key, failure)
            self._show(holder, failure)
        self._faults = {key: failure for key, failure in self._faults.items() if key in living}
        self.failures = failures
        for key in keys | self._retries.keys():
            self._schedule(key, failed=key in failures)

    def _show(self, endpoint: Endpoint, failure: Failure | None) -> None:
        number, locked = endpoint.endpoint_id, endpoint.state is EndpointState.LOCKED
        if failure is not None:
            state, reason = EndpointState.LOCKED if locked else EndpointState.STALE, failure.message
        elif number in self._in_force:
            state, reason = EndpointState.READY, ""
        else:
            return
        if (endpoint.state, endpoint.state_reason) != (state, reason):
            self._holders.step(number, state, reason)

    def _schedule(self, key: str, *, failed: bool) -> None:
        if not failed:
            self._retries.pop(key, None)
            return
        known, now = self._retries.get(key), self._clock()
        if known is None:
            self._retries[key] = _Retry(FIRST_RETRY_SECONDS, now + FIRST_RETRY_SECONDS)
        elif known.due <= now:
            delay = min(known.delay_seconds * 2, LAST_RETRY_SECONDS)
            self._retries[key] = _Retry(delay, now + delay)

    def _forget(self, key: str) -> None:
        """A removed subject keeps its last policy until its holders are gone."""
        self.failures.pop(key, None)
        self._retries.pop(key, None)
        self._faults = {known: failure for known, failure in self._faults.items() if known[0] != key}
        if not self._holders.of_subject(key):
            self.policies.pop(key, None)


class _TooLargeError(AxonemeError):
    code = "RESOURCE_EXHAUSTED"
    default_reason = "POLICY_MAP_FULL"


_NEWEST = _InForce(None, 1 << 62)


def _nobody_listens(_: Endpoint) -> None:
    pass


def _lives(endpoint: Endpoint) -> bool:
    return endpoint.state is not EndpointState.TERMINATING


def _failure(error: AxonemeError | BpfError | KeyError) -> Failure:
    if isinstance(error, AxonemeError):
        return Failure(error.code, error.reason, error.message)
    if isinstance(error, KeyError):
        return Failure(
            "INVALID_ARGUMENT", "SELECTOR_UNDEFINED", f"a rule refers to selector {error}, not defined"
        )
    return Failure("UNAVAILABLE", "MAP_WRITE_FAILED", str(error))
