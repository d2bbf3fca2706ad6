"""Takes the policy stream: finishes each subject's mapstate and switches its endpoints to it.

    SubjectPolicy ─► finish (local identities) ─► bytes with cookies ─► capacity check
                  ─► new inner map, filled ─► one update of axoneme_policy per endpoint
                  ─► generation bump in axoneme_ep

A map is filled before any endpoint sees it and never changed afterwards, so that a policy is in force whole
or not at all; endpoints with equal content share one map. What cannot be applied leaves the last good
policy in force, or the endpoint locked when it had none, and is reported per subject and tried again.
Nothing here decides what a rule means.

A large subject takes about a second to finish, so that runs in a worker thread, and the endpoints are looked
up again afterwards: they may have come or gone meanwhile. The lock keeps subjects in order, and `apply`
returns, which is what acknowledges, only when the kernel has everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import AxonemeError, Unsupported
from axoneme.lib.intent import Failure
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.model import Action, MapEntry, MapKey, SubjectPolicy
from axoneme.lib.policycodec import subject_key, subject_number
from shim.cookies import CookieTable
from shim.datapath import Datapath
from shim.endpoints import Endpoint, EndpointState, EndpointTable, generation_after
from shim.localidentities import LocalIdentities
from shim.maps import layout
from shim.reconciler import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS

Content = dict[bytes, bytes]


@dataclass(slots=True)
class _InnerMap:
    """An inner map in use, with what it holds and who uses it."""

    bpf_map: BpfMap
    content: Content
    users: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Retry:
    delay_seconds: float
    due: float


class PolicySink:
    """Mapstates of the subjects on this node, and the maps they are in."""

    def __init__(
        self,
        *,
        endpoints: EndpointTable,
        datapath: Datapath,
        cookies: CookieTable,
        local: LocalIdentities,
        write_endpoint: Callable[[Endpoint], None],
        clock: Callable[[], float],
        max_entries: int = layout.POLICY_INNER.max_entries,
    ) -> None:
        self.policies: dict[int, SubjectPolicy] = {}
        self.failures: dict[str, Failure] = {}
        self.complete = False
        self.on_switch: Callable[[Endpoint], None] = _nobody_listens
        """Hears that an endpoint is judged by its subject's policy, under the generation that it has now."""
        self._endpoints = endpoints
        self._datapath = datapath
        self._cookies = cookies
        self._local = local
        self._write_endpoint = write_endpoint
        self._clock = clock
        self._max_entries = max_entries
        self._inner_by_endpoint: dict[int, _InnerMap] = {}
        self._adopted: set[int] = set()  # endpoints whose map is from an earlier life of the shim
        self._retries: dict[int, _Retry] = {}
        self._lock = asyncio.Lock()

    async def adopt(self, endpoint: Endpoint) -> bool:
        """Takes over the map that the kernel has for an endpoint; False when it has none."""
        bpf_map = await self._datapath.open_policy_map(endpoint.endpoint_id)
        if bpf_map is None:
            return False
        known = next(
            (i for i in self._inner_by_endpoint.values() if i.bpf_map.map_id == bpf_map.map_id), None
        )
        inner = known or _InnerMap(bpf_map, dict(bpf_map.items()))
        self._use(endpoint.endpoint_id, inner)
        self._adopted.add(endpoint.endpoint_id)
        return True

    async def apply(
        self, upserts: Mapping[str, SubjectPolicy], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """Applies changed subjects one by one; returns all that are not in force."""
        async with self._lock:
            for key, policy in upserts.items():
                self.policies[subject_number(key)] = policy
                await self._apply(subject_number(key))
            for key in removals:
                self._forget(subject_number(key))
            self.complete = self.complete or complete
            return dict(self.failures)

    async def apply_to(self, endpoint_id: int) -> None:
        """Gives an endpoint that just appeared the mapstate of its subject, if it is known."""
        async with self._lock:
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is not None and endpoint.identity in self.policies:
                await self._apply(endpoint.identity)

    async def remove_endpoint(self, endpoint_id: int) -> None:
        """Takes away the map of an endpoint that is gone, and the policy of its subject with the last one."""
        async with self._lock:
            self._outer().delete(layout.policy_outer_key(endpoint_id))
            self._release(endpoint_id)

    async def retry_due(self) -> bool:
        """Tries failed subjects again; True when the failures changed."""
        now, before = self._clock(), dict(self.failures)
        async with self._lock:
            for number in [number for number, retry in self._retries.items() if retry.due <= now]:
                await self._apply(number)
        return self.failures != before

    async def finish_again(self) -> Mapping[str, Failure]:
        """After a change of local identities: every mapstate is finished anew."""
        async with self._lock:
            for number in list(self.policies):
                await self._apply(number)
            return dict(self.failures)

    async def content_of(self, policy: SubjectPolicy) -> Content:
        """The entries of a subject's map on this node. Raises Unsupported or KeyError."""
        local = dict(self._local.labels())
        entries, origin_sets = await asyncio.to_thread(_finished, policy, local)
        cookies = {origins: self._cookies.cookie_of(origins) for origins in origin_sets}
        return await asyncio.to_thread(_encoded, entries, cookies)

    def map_of(self, endpoint_id: int) -> BpfMap | None:
        """The map that an endpoint uses."""
        inner = self._inner_by_endpoint.get(endpoint_id)
        return inner.bpf_map if inner else None

    def cookies_in_use(self) -> set[int]:
        """Cookies that some map holds."""
        inners = {id(inner): inner for inner in self._inner_by_endpoint.values()}
        entries = (raw for inner in inners.values() for raw in inner.content.values())
        return {layout.PolicyEntry.unpack(raw).cookie for raw in entries}

    async def audit(self) -> list[str]:
        """Compares maps with what they should hold and repairs; returns what differed."""
        repairs: list[str] = []
        async with self._lock:
            for endpoint_id, inner in self._inner_by_endpoint.items():
                key = layout.policy_outer_key(endpoint_id)
                if self._outer().inner_id(key) != inner.bpf_map.map_id:
                    self._outer().set_inner(key, inner.bpf_map)
                    repairs.append(f"axoneme_policy: endpoint {endpoint_id}: map switched back")
                repairs += [f"policy map of endpoint {endpoint_id}: {what}" for what in _repair(inner)]
            known = {layout.policy_outer_key(endpoint.endpoint_id) for endpoint in self._endpoints}
            if self.complete:
                for key in [key for key, _ in self._outer().items()]:
                    if key not in known:
                        self._outer().delete(key)
                        repairs.append(f"axoneme_policy: {key.hex()}: unknown, removed")
        return repairs

    async def _apply(self, number: int) -> None:
        """Puts the mapstate of a subject into force for its endpoints, or records why not."""
        try:
            if self._endpoints.with_identity(number):
                await self._switch(number)
        except (AxonemeError, BpfError, KeyError) as error:
            self._fail(number, _failure(error))
            return
        self._retries.pop(number, None)
        self.failures.pop(subject_key(number), None)

    async def _switch(self, number: int) -> None:
        policy = self.policies[number]
        self._cookies.learn(policy.origins)
        content = await self.content_of(policy)
        room = self._max_entries
        if len(content) > room:
            raise _TooLargeError(
                f"the policy needs {len(content)} entries, a map holds {room}; the last one stays in force"
            )
        inner = await self._inner_for(content)
        try:
            for endpoint in self._endpoints.with_identity(number):
                self._switch_endpoint(endpoint, inner)
        finally:
            if not inner.users:
                inner.bpf_map.close()

    def _switch_endpoint(self, endpoint: Endpoint, inner: _InnerMap) -> None:
        endpoint_id = endpoint.endpoint_id
        # After a restart the generation may not have followed the last switch: it is bumped once more.
        changed = self._inner_by_endpoint.get(endpoint_id) is not inner
        if changed:
            self._outer().set_inner(layout.policy_outer_key(endpoint_id), inner.bpf_map)
            self._use(endpoint_id, inner)
        else:
            self.on_switch(endpoint)
        if changed or endpoint_id in self._adopted:
            generation = generation_after(endpoint.policy_generation)
            endpoint = self._endpoints.change(endpoint_id, policy_generation=generation)
            self.on_switch(endpoint)  # heard before the kernel can stamp the generation
            self._write_endpoint(endpoint)
            self._adopted.discard(endpoint_id)
        self._endpoints.step(endpoint_id, EndpointState.READY)

    async def _inner_for(self, content: Content) -> _InnerMap:
        """A map with this content: one that exists, else a new one, filled."""
        for inner in self._inner_by_endpoint.values():
            if inner.content == content:
                return inner
        bpf_map = await self._datapath.new_policy_map()
        try:
            await asyncio.to_thread(bpf_map.update_batch, list(content.items()))
        except BaseException:
            bpf_map.close()
            raise
        return _InnerMap(bpf_map, content)

    def _use(self, endpoint_id: int, inner: _InnerMap) -> None:
        self._release(endpoint_id)
        inner.users.add(endpoint_id)
        self._inner_by_endpoint[endpoint_id] = inner

    def _release(self, endpoint_id: int) -> None:
        inner = self._inner_by_endpoint.pop(endpoint_id, None)
        self._adopted.discard(endpoint_id)
        if inner is None:
            return
        inner.users.discard(endpoint_id)
        if not inner.users:
            inner.bpf_map.close()

    def _fail(self, number: int, failure: Failure) -> None:
        self.failures[subject_key(number)] = failure
        known = self._retries.get(number)
        delay = min(known.delay_seconds * 2, LAST_RETRY_SECONDS) if known else FIRST_RETRY_SECONDS
        self._retries[number] = _Retry(delay, self._clock() + delay)
        for endpoint in self._endpoints.with_identity(number):
            locked = endpoint.state is EndpointState.LOCKED
            self._endpoints.step(
                endpoint.endpoint_id, EndpointState.LOCKED if locked else EndpointState.STALE, failure.message
            )

    def _forget(self, number: int) -> None:
        """A removed subject keeps its last policy until its endpoints are gone."""
        self.failures.pop(subject_key(number), None)
        self._retries.pop(number, None)
        if not self._endpoints.with_identity(number):
            self.policies.pop(number, None)

    def _outer(self) -> BpfMap:
        return self._datapath.maps[layout.POLICY.name]


class _TooLargeError(AxonemeError):
    code = "RESOURCE_EXHAUSTED"
    default_reason = "POLICY_MAP_FULL"


def _nobody_listens(_: Endpoint) -> None:
    pass


def _finished(
    policy: SubjectPolicy, local: Mapping[int, LabelSet]
) -> tuple[dict[MapKey, MapEntry], set[frozenset[int]]]:
    """The mapstate and the sets of origins in it."""
    entries = finish(policy, local_identities=local, named_ports={})
    if any(entry.action is Action.REDIRECT for entry in entries.values()):
        raise Unsupported("a rule redirects to a proxy and this node runs none; remove its L7 part")
    return entries, {entry.origins for entry in entries.values()}


def _encoded(entries: Mapping[MapKey, MapEntry], cookies: Mapping[frozenset[int], int]) -> Content:
    return {
        layout.policy_key(key): layout.policy_entry(key, entry, cookie=cookies[entry.origins])
        for key, entry in entries.items()
    }


def _failure(error: AxonemeError | BpfError | KeyError) -> Failure:
    if isinstance(error, AxonemeError):
        return Failure(error.code, error.reason, error.message)
    if isinstance(error, KeyError):
        return Failure(
            "INVALID_ARGUMENT", "SELECTOR_UNDEFINED", f"a rule refers to selector {error}, not defined"
        )
    return Failure("UNAVAILABLE", "MAP_WRITE_FAILED", str(error))


def _repair(inner: _InnerMap) -> list[str]:
    """Makes an inner map hold its content again."""
    found = dict(inner.bpf_map.items())
    wrong = [(key, value) for key, value in inner.content.items() if found.get(key) != value]
    unknown = [key for key in found if key not in inner.content]
    inner.bpf_map.update_batch(wrong)
    inner.bpf_map.delete_batch(unknown)
    return [f"{key.hex()}: missing or changed, written again" for key, _ in wrong] + [
        f"{key.hex()}: unknown, removed" for key in unknown
    ]
