"""Policy maps in the kernel: one per content, shared by all endpoints that are judged by it.

    content ─► a map that holds it already ─────────────────────────┐
            ─► whole identities come or go, and nobody else's map? ─┼─► one update of axoneme_policy
            │     the map itself, in place                          │   for each endpoint that moves
            ─► else a new map, filled before anybody sees it ───────┘

In place a packet is judged by the old content or by the new one, never by a mixture: no entry that exists
changes, an identity comes with its narrowest entries first and goes with its widest first, so that the entry
that decides on a packet is the first that comes and the last that goes. Additions precede deletions. When a
write fails the map gets its old content back, and a new map is tried; a map that could not be put back is
left to the audit and never shared. Nothing here knows subjects, generations or failures of streams.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from axoneme.lib import log
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from shim.datapath import Datapath
from shim.maps import layout
from shim.maps.epoch import new_epoch

logger = logging.getLogger(__name__)

Content = dict[bytes, bytes]


class Steps(NamedTuple):
    """What turns one content into another in place, in this order."""

    additions: list[tuple[bytes, bytes]]
    deletions: list[bytes]


@dataclass(slots=True)
class _InnerMap:
    """A map in use, with what it should hold and who uses it."""

    bpf_map: BpfMap
    content: Content
    users: set[int] = field(default_factory=set)
    torn: bool = False  # a write in place did not end well


class InnerMaps:
    """The policy maps of a node's endpoints. One task at a time may change them."""

    def __init__(self, datapath: Datapath, *, max_entries: int) -> None:
        self._datapath = datapath
        self._max_entries = max_entries
        self._by_endpoint: dict[int, _InnerMap] = {}

    def map_of(self, endpoint_id: int) -> BpfMap | None:
        """The map that an endpoint uses."""
        inner = self._by_endpoint.get(endpoint_id)
        return inner.bpf_map if inner else None

    def content_of(self, endpoint_id: int) -> Content:
        """What the map of an endpoint holds; empty when it has none."""
        inner = self._by_endpoint.get(endpoint_id)
        return inner.content if inner else {}

    def contents(self) -> Iterator[Content]:
        """What each map holds, each once."""
        return iter([inner.content for inner in self._each()])

    async def adopt(self, endpoint_id: int) -> bool:
        """Takes over the map that the kernel has for an endpoint; False when it has none."""
        bpf_map = await self._datapath.open_policy_map(endpoint_id)
        if bpf_map is None:
            return False
        known = next((one for one in self._each() if one.bpf_map.map_id == bpf_map.map_id), None)
        if known is not None and known.bpf_map is not bpf_map:
            bpf_map.close()
        self._use(endpoint_id, known or _InnerMap(bpf_map, dict(bpf_map.items())))
        return True

    async def switch(
        self,
        members: Callable[[], Sequence[int]],
        content: Content,
        settled: Callable[[int, bool], None],
        admit: Callable[[], None] = lambda: None,
    ) -> None:
        """Gives endpoints this content; `settled(endpoint, changed)` hears of each that has it.

        `members` is asked again after each wait, since endpoints come and go, and so is `admit`, which raises
        when the content may not come into force now. Raises BpfError; endpoints that were not settled keep
        what they had.
        """
        inner, written = self._holding(content), False
        if inner is None:
            admit()
            inner = await self._in_place(members(), content)
            written = inner is not None
        if inner is None:
            inner = await self._new(content)
        before = set(inner.users)
        try:
            if not written:
                admit()
            for endpoint_id in members():
                fresh = endpoint_id not in before
                if fresh:
                    self._outer().set_inner(layout.policy_outer_key(endpoint_id), inner.bpf_map)
                    self._use(endpoint_id, inner)
                settled(endpoint_id, fresh or written)
        finally:
            if not inner.users:
                inner.bpf_map.close()

    def remove(self, endpoint_id: int) -> None:
        """Takes away the map of an endpoint."""
        self._outer().delete(layout.policy_outer_key(endpoint_id))
        self._release(endpoint_id)

    def audit(self) -> list[str]:
        """Compares maps with what they should hold and repairs; returns what differed."""
        repairs: list[str] = []
        for endpoint_id, inner in self._by_endpoint.items():
            key = layout.policy_outer_key(endpoint_id)
            if self._outer().inner_id(key) != inner.bpf_map.map_id:
                self._outer().set_inner(key, inner.bpf_map)
                repairs.append(f"axoneme_policy: endpoint {endpoint_id}: map switched back")
            repaired = _repair(inner)
            if repaired:
                self._forget_decisions()
            repairs += [f"policy map of endpoint {endpoint_id}: {what}" for what in repaired]
        return repairs

    def prune(self, known: Collection[int]) -> list[str]:
        """Removes maps of endpoints that nobody knows; returns what was there."""
        keys = {layout.policy_outer_key(endpoint_id) for endpoint_id in known}
        unknown = [key for key, _ in self._outer().items() if key not in keys]
        for key in unknown:
            self._outer().delete(key)
        return [f"axoneme_policy: {key.hex()}: unknown, removed" for key in unknown]

    def _holding(self, content: Content) -> _InnerMap | None:
        return next((one for one in self._each() if not one.torn and one.content == content), None)

    async def _in_place(self, members: Sequence[int], content: Content) -> _InnerMap | None:
        """Changes the map of these endpoints, if it is theirs alone and the change is of the kind."""
        inner = next((self._by_endpoint[one] for one in members if one in self._by_endpoint), None)
        if inner is None or inner.torn or not inner.users <= set(members):
            return None
        steps = steps_in_place(inner.content, content, max_entries=self._max_entries)
        if steps is None:
            return None
        inner.torn = True
        try:
            await asyncio.to_thread(_write, inner.bpf_map, steps)
        except BpfError as error:
            logger.warning("policy map not changed in place", extra={log.ERROR: log.clip(error)})
            inner.torn = not await asyncio.to_thread(_put_back, inner)
            self._forget_decisions()
            return None
        inner.content, inner.torn = content, False
        return inner

    async def _new(self, content: Content) -> _InnerMap:
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
        self._by_endpoint[endpoint_id] = inner

    def _release(self, endpoint_id: int) -> None:
        inner = self._by_endpoint.pop(endpoint_id, None)
        if inner is None:
            return
        inner.users.discard(endpoint_id)
        if not inner.users:
            inner.bpf_map.close()

    def _each(self) -> Iterable[_InnerMap]:
        return {id(inner): inner for inner in self._by_endpoint.values()}.values()

    def _forget_decisions(self) -> None:
        """A map was written for which no generation rises: what programs remember of it is void."""
        new_epoch(self._datapath.maps[layout.EPOCH.name])

    def _outer(self) -> BpfMap:
        return self._datapath.maps[layout.POLICY.name]


def steps_in_place(before: Content, after: Content, *, max_entries: int) -> Steps | None:
    """The steps from one content to another, or None when a new map is needed.

    Only whole identities may come and go, and both contents together must fit, since deletions come last.
    """
    if any(after.get(key, value) != value for key, value in before.items()):
        return None
    added = [key for key in after if key not in before]
    deleted = [key for key in before if key not in after]
    if len(before) + len(added) > max_entries or not (added or deleted):
        return None
    coming, going = set(map(layout.policy_tree, added)), set(map(layout.policy_tree, deleted))
    if any(map(layout.policy_tree_of_any, coming | going)):
        return None
    if any(layout.policy_tree(key) in coming for key in before):
        return None
    if any(layout.policy_tree(key) in going for key in after):
        return None
    added.sort(key=layout.policy_key_bits, reverse=True)
    deleted.sort(key=layout.policy_key_bits)
    return Steps([(key, after[key]) for key in added], deleted)


def _write(bpf_map: BpfMap, steps: Steps) -> None:
    bpf_map.update_batch(steps.additions)
    bpf_map.delete_batch(steps.deletions)


def _put_back(inner: _InnerMap) -> bool:
    """Whether the map holds its old content again; what should not be there makes room first."""
    try:
        found = dict(inner.bpf_map.items())
        surplus = [key for key in found if key not in inner.content]
        inner.bpf_map.delete_batch(sorted(surplus, key=layout.policy_key_bits))
        missing = [(key, value) for key, value in inner.content.items() if found.get(key) != value]
        missing.sort(key=lambda pair: layout.policy_key_bits(pair[0]), reverse=True)
        inner.bpf_map.update_batch(missing)
    except BpfError as error:
        logger.error("policy map is incomplete", extra={log.ERROR: log.clip(error)})
        return False
    return True


def _repair(inner: _InnerMap) -> list[str]:
    """Makes a map hold its content again."""
    found = dict(inner.bpf_map.items())
    wrong = [(key, value) for key, value in inner.content.items() if found.get(key) != value]
    unknown = [key for key in found if key not in inner.content]
    inner.bpf_map.update_batch(wrong)
    inner.bpf_map.delete_batch(unknown)
    inner.torn = False
    return [f"{key.hex()}: missing or changed, written again" for key, _ in wrong] + [
        f"{key.hex()}: unknown, removed" for key in unknown
    ]
