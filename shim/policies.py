"""Takes the policy stream: each subject's mapstate into the maps of its holders, endpoints and the host.

    SubjectPolicy ─► prefixes and DNS selectors get numbers ─► maps in force learn them ─► ipcache, DNS proxy
                  ─► mapstate ─► enforceable? room? the proxy's rules ready? ─► InnerMaps ─► generation bump
                  ─► prefixes and selectors that nobody names: out of ipcache and proxy, then out of the maps

A policy is in force whole or not at all. What cannot be applied leaves the last good policy in force, or the
endpoint locked when it had none, and is reported per subject and tried again. The order above lets no packet
meet a number that its map does not know: the last good policy too is kept up with the node's identities.
Nothing here decides what a rule means.

The lock keeps changes in order, and `apply` returns, which is what acknowledges, only when the kernel has
everything. Endpoints come and go meanwhile, so they are looked up again after each wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import AxonemeError, Unavailable
from axoneme.lib.intent import Failure
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import host_node
from shim.cookies import CookieTable
from shim.datapath import Datapath
from shim.dns.nodedns import NodeDns, mark_learning, redirects_of
from shim.endpoints import Endpoint, EndpointState
from shim.holders import Holders
from shim.inforce import InForce, PoliciesInForce
from shim.innermaps import Content, InnerMaps
from shim.localidentities import LocalIdentities, LocalKey
from shim.maps import layout
from shim.mapstates import Mapstate, Ports, redirected_in
from shim.policyfaults import PolicyFaults, failure_of
from shim.prefixes import NodePrefixes, PrefixTable
from shim.subjects import Subjects, lives

logger = logging.getLogger(__name__)


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
        dns: NodeDns | None = None,
        max_entries: int = layout.POLICY_INNER.max_entries,
    ) -> None:
        """Without `dns` the node has no DNS proxy."""
        self.complete = False
        self.judged_by = PoliciesInForce(holders)
        self._holders = holders
        self._subjects = Subjects(holders)
        self._cookies = cookies
        self._local = local
        self._prefixes = NodePrefixes(local, prefixes, checkpoint)
        self._dns = dns or NodeDns.without_proxy(local)
        self._max_entries = max_entries
        self._maps = InnerMaps(datapath, max_entries=max_entries)
        self._mapstates: dict[tuple[str, Ports], Mapstate] = {}
        self._faults = PolicyFaults(clock)
        self._lock = asyncio.Lock()

    # --- what happens on the node

    async def adopt(self, endpoint: Endpoint) -> bool:
        """Takes over the map that the kernel has for an endpoint; False when it has none."""
        if not await self._maps.adopt(endpoint.endpoint_id):
            return False
        number = endpoint.endpoint_id
        redirected = frozenset(redirected_in(self._maps.content_of(number)).values())
        self.judged_by.adopt(number, redirected)
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
            return self._faults.tell()

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
            self.judged_by.remove(endpoint_id)
            await self._settle(())
        await self.forget_learned(endpoint_id)

    def forget_host(self) -> None:
        """The node itself is judged no more: what an earlier life left of its policy goes."""
        self._maps.remove(layout.HOST_ENDPOINT_ID)

    async def forget_learned(self, endpoint_id: int) -> None:
        """Nothing that was learned under this number stays (shim.dns.learned says why twice). Raises
        BpfError."""
        await self._dns.forget(endpoint_id)

    async def retry_due(self) -> bool:
        """Tries failed subjects again; True when failures are others than were last told."""
        if self._faults.is_due():
            async with self._lock:
                await self._settle(())
        changed = self._faults.changed()
        self._faults.tell()
        return changed

    async def settle_again(self) -> None:
        """After news of the DNS proxy: what waits is tried again, whatever its time."""
        async with self._lock:
            await self._settle(())

    async def name_sets(self, keys: Iterable[LocalKey]) -> dict[LocalKey, int]:
        """Numbers of sets of names that the DNS proxy met; what cannot be had is not in the answer."""
        async with self._lock:
            wanted = [key for key in keys if self._wants(key)]
            await self._settle(())
            numbers = self._dns.names.table.numbers
            return {key: numbers[key] for key in wanted if key in numbers}

    def _wants(self, key: LocalKey) -> bool:
        try:
            self._dns.names.ask(key.prefix, key.names)
        except AxonemeError as error:
            logger.warning("no identity for names", extra={log.ERROR: log.clip(error)})
            return False
        return True

    async def finish_again(self) -> Mapping[str, Failure]:
        """After a change of local identities: maps learn what is new."""
        async with self._lock:
            await self._settle(())
            return dict(self.failures)

    async def enforce_again(self, endpoint_id: int) -> None:
        """After a change of the endpoint's switches: its connections are judged again."""
        async with self._lock:
            if self._holders.get(endpoint_id) is not None:
                self.judged_by.bump(endpoint_id)

    # --- what others ask

    @property
    def policies(self) -> dict[str, SubjectPolicy]:
        """What was told, by subject, whether in force or not."""
        return self._subjects.policies

    @property
    def failures(self) -> dict[str, Failure]:
        """Subjects that are not in force for all their holders."""
        return self._faults.failures

    def in_force(self, endpoint_id: int) -> SubjectPolicy | None:
        """The policy that an endpoint is judged by, if it is known."""
        return self.judged_by.policy_of(endpoint_id)

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
                await self._dns.drop_idle()
        return repairs

    # --- the order of things

    async def _settle(self, changed: Iterable[str]) -> None:
        """Brings changed subjects, and whatever waits for them, into force as far as that is possible."""
        before = self._subjects.alive()
        waiting = {key for key in (*changed, *self._faults.waiting()) if key in before}
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
        self._dns.settle_ports(self.judged_by.redirected())
        self._dns.tell(redirects_of(self._holders, self.judged_by, self.policies))
        self._report(before, changed)

    def _name_prefixes(self) -> None:
        alive = self._subjects.alive()
        policies = [self.policies[key] for key in alive if key in self.policies]
        policies += [policy for _, policy in self.judged_by.policies()]
        self._subjects.look_up_named(policies)
        keep = self.judged_by.any_unknown()
        self._prefixes.want(policies, keep=keep)
        self._dns.names.want(policies, self._local.wanted_prefixes(), keep=keep or not self.complete)
        self._prefixes.save()

    async def _publish(self) -> None:
        """Maps first, then the ipcache; connections under policies that name a prefix meet it at once."""
        await self._catch_up()
        covered = self.judged_by.covered(self._local.revision)
        fresh = self._prefixes.publish(covered)
        await self._dns.publish(min(covered, self._prefixes.durable))
        if not fresh:
            return
        for endpoint_id, policy in self.judged_by.policies():
            if not fresh.isdisjoint(self._prefixes.named_in(policy)):
                self.judged_by.bump(endpoint_id)

    async def _let_go(self) -> None:
        """The reverse order: out of the ipcache (which `_publish` did), out of the maps, free."""
        self._prefixes.retire()
        await self._catch_up()
        self._local.free(self.judged_by.covered(self._local.revision))
        self._prefixes.save()
        living = {
            (key, self._subjects.ports(one, self.policies[key])) for key, one in self._subjects.with_policy()
        }
        for key in [key for key in self._mapstates if key not in living]:
            del self._mapstates[key]

    async def _catch_up(self) -> None:
        """Maps in force learn the local identities of this moment; who cannot keeps what it has."""
        groups = {}
        for endpoint, policy in self.judged_by.behind(self._local.revision):
            key = self._holders.key_of(endpoint)
            groups[(key, id(policy), self._subjects.ports(endpoint, policy))] = policy
        for (key, _, ports), policy in groups.items():
            try:
                await self._put_in_force(key, ports, policy, self._judged_by_this(key, ports, policy))
            except (AxonemeError, BpfError, KeyError) as error:
                self._faults.note_also(key, ports, failure_of(error))

    # --- one subject

    async def _apply(self, key: str) -> bool:
        """Puts a subject's policy into force for all its holders; False when some are left behind."""
        policy = self.policies.get(key)
        if policy is None:
            return True
        whole = True
        for ports in self._subjects.kinds(key, policy):
            members = partial(self._subjects.members, key, ports, policy)
            self._faults.clear(key, ports)
            failure = self._obstacle(policy, members())
            if failure is None:
                try:
                    await self._put_in_force(key, ports, policy, members, gated=True)
                except (AxonemeError, BpfError, KeyError) as error:
                    failure = failure_of(error)
            if failure is not None:
                self._faults.note(key, ports, failure)
                whole = False
        return whole

    def _obstacle(self, policy: SubjectPolicy, members: Iterable[int]) -> Failure | None:
        """A prefix that cannot be told apart. An unknown map learns it only with the policy itself."""
        if any(map(self.judged_by.is_unknown, members)):
            return None
        blocking = self.judged_by.blocking(self._local.revision)
        failure = self._prefixes.obstacle(policy, blocking)
        return failure or self._dns.names.obstacle(policy, self._prefixes.named_in(policy), blocking)

    async def _put_in_force(
        self,
        key: str,
        ports: Ports,
        policy: SubjectPolicy,
        members: Callable[[], list[int]],
        *,
        gated: bool = False,
    ) -> None:
        """`gated`: new redirects wait for their rules. Raises AxonemeError, BpfError or KeyError; then the
        last map stays."""
        state = self._mapstates.setdefault((key, ports), Mapstate(ports))
        revision = self._local.revision
        content = await state.move(policy, self._local, self._cookies, self._dns.port_for(key))
        refusal = state.refusal(host=host_node(key) is not None)
        if refusal is not None:
            raise refusal
        room = self._max_entries
        if len(content) > room:
            raise _TooLargeError(
                f"the policy needs {len(content)} entries, a map holds {room}; the last one stays in force"
            )
        admit = partial(self._admit, key, policy, members, content) if gated else _always
        admit()
        learns = bool(self._dns.names.names_in(policy))
        if learns:  # first: the map in force knows every number that may be found
            mark_learning(self._holders, members(), learns=True)
        self._dns.open_ports(state.redirected | self.judged_by.redirected())
        in_force = InForce(policy, revision, state.redirected)
        await self._maps.switch(members, content, partial(self.judged_by.switched, in_force), admit)
        if not learns:
            mark_learning(self._holders, members(), learns=False)

    def _admit(
        self, key: str, policy: SubjectPolicy, members: Callable[[], list[int]], content: Content
    ) -> None:
        """Redirects come after the rules that they need; a map of an earlier life that holds the same already
        is only given its name. Raises Unavailable."""
        numbers = members()
        known = [one for one in numbers if not self.judged_by.is_unknown(one)]
        if not known and all(self._maps.content_of(one) == content for one in numbers):
            return
        failure = self._dns.obstacle(key, policy)
        if failure is not None and redirected_in(content):
            raise Unavailable(failure.message, reason=failure.reason)

    def _judged_by_this(self, key: str, ports: Ports, policy: SubjectPolicy) -> Callable[[], list[int]]:
        """Holders whose map was made of exactly this."""

        def members() -> list[int]:
            return [
                one.endpoint_id
                for one in self._holders
                if self._holders.key_of(one) == key
                and self.in_force(one.endpoint_id) is policy
                and self._subjects.ports(one, policy) == ports
            ]

        return members

    # --- what is told

    def _report(self, before: Iterable[str], changed: Iterable[str]) -> None:
        """Failures by subject, times of the next tries, states of holders."""
        living = []
        for key, holder in self._subjects.with_policy():
            if lives(holder):
                ports = self._subjects.ports(holder, self.policies[key])
                living.append((key, ports))
                self._show(holder, self._faults.of(key, ports))
        self._faults.settle(living, {*before, *self._subjects.alive(), *changed})

    def _show(self, endpoint: Endpoint, failure: Failure | None) -> None:
        number, locked = endpoint.endpoint_id, endpoint.state is EndpointState.LOCKED
        if failure is not None:
            state, reason = EndpointState.LOCKED if locked else EndpointState.STALE, failure.message
        elif number in self.judged_by:
            state, reason = EndpointState.READY, ""
        else:
            return
        if (endpoint.state, endpoint.state_reason) != (state, reason):
            self._holders.step(number, state, reason)

    def _forget(self, key: str) -> None:
        """A removed subject keeps its last policy until its holders are gone."""
        self._faults.forget(key)
        self._subjects.forget(key)


def _always() -> None:
    pass


class _TooLargeError(AxonemeError):
    code = "RESOURCE_EXHAUSTED"
    default_reason = "POLICY_MAP_FULL"
