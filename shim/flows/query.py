"""Which records answer a query, and their flows.

A query is compiled once: filters to predicates, what numbers can decide to selections, what depends on one
end alone (pod, label, workload, …) to a memory by end. It then visits the store in chunks, forwards or from
the newest backwards, so that no step holds the event loop for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FlowMatcher, compile_filter
from shim.flows.decode import FlowDecoder, address_of
from shim.flows.record import INVALID_SOURCE_IP
from shim.flows.selection import selection_of
from shim.flows.store import FlowStore, Selection

CHUNK: Final = 16_384
Numbers = npt.NDArray[np.int64]
Side = Literal["source", "destination"]
_END_FIELDS: Final = ("pod", "label", "workload", "cluster_name")


class FlowQuery:
    """One whitelist and blacklist over one store."""

    def __init__(
        self,
        store: FlowStore,
        decoder: FlowDecoder,
        whitelist: Sequence[flow_pb2.FlowFilter],
        blacklist: Sequence[flow_pb2.FlowFilter],
        *,
        since_ns: int | None = None,
        until_ns: int | None = None,
    ) -> None:
        """Compile the query; times count since boot. Raises InvalidArgument or Unsupported with the field."""
        self._store = store
        self._decoder = decoder
        self._matcher = FlowMatcher(whitelist, blacklist)
        filters = list(whitelist) or [flow_pb2.FlowFilter()]
        self._alternatives = [
            (selection_of(one, since_ns=since_ns, until_ns=until_ns), _EndMemory.of(one, decoder))
            for one in filters
        ]

    def candidates(self, first: int, last: int) -> Numbers:
        """Numbers of records in [first, last) that the filters may take."""
        parts = [self._alternative(selection, ends, first, last) for selection, ends in self._alternatives]
        return parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))

    def flows(self, first: int, last: int) -> Iterator[tuple[int, flow_pb2.Flow]]:
        """Number and flow of every match in [first, last), oldest first; read a chunk at a time."""
        for number, event in self._events(self.candidates(first, last)):
            flow = self._decoder.decode(event, number)
            if self._matcher.matches(flow):
                yield number, flow

    def newest(self, first: int, last: int, limit: int) -> Iterator[Numbers]:
        """Numbers of matches from the newest back, at most `limit`, in chunks that are each ascending."""
        while last > first and limit > 0:
            start = max(first, last - CHUNK)
            found = self._newest_in_chunk(self.candidates(start, last), limit)
            limit -= len(found)
            last = start
            yield found

    def _newest_in_chunk(self, numbers: Numbers, limit: int) -> Numbers:
        found: list[int] = []
        for number, event in reversed(list(self._events(numbers))):
            if self._matcher.matches(self._decoder.decode(event, number)):
                found.append(number)
                if len(found) == limit:
                    break
        return np.array(found[::-1], dtype=np.int64)

    def decode(self, numbers: Numbers) -> Iterator[tuple[int, flow_pb2.Flow]]:
        """Flows of known matches; those overwritten meanwhile are left out."""
        for number, event in self._events(numbers[numbers >= self._store.oldest]):
            yield number, self._decoder.decode(event, number)

    def _events(self, numbers: Numbers) -> Iterable[tuple[int, Any]]:
        return zip(numbers.tolist(), self._store.rows(numbers), strict=True)

    def _alternative(self, selection: Selection, ends: list[_EndMemory], first: int, last: int) -> Numbers:
        numbers = self._store.select(selection, first, last)
        for memory in ends:
            if len(numbers):
                numbers = numbers[memory.mask(self._store, numbers)]
        return numbers


class _EndMemory:
    """Whether an end satisfies the fields of a filter that look at nothing else, remembered per distinct end.

    It lives as long as one query in one pass; names that change meanwhile are decided by the filter itself.
    """

    LIMIT: Final = 65_536

    def __init__(self, side: Side, flow_filter: flow_pb2.FlowFilter, decoder: FlowDecoder) -> None:
        self._side = side
        self._matches = compile_filter(flow_filter)
        self._decoder = decoder
        self._known: dict[bytes, bool] = {}

    @classmethod
    def of(cls, flow_filter: flow_pb2.FlowFilter, decoder: FlowDecoder) -> list[_EndMemory]:
        """The memories that a filter needs: none, one or one for each side."""
        memories = []
        sides: tuple[Side, Side] = ("source", "destination")
        for side in sides:
            partial = flow_pb2.FlowFilter()
            for name in _END_FIELDS:
                getattr(partial, f"{side}_{name}").extend(getattr(flow_filter, f"{side}_{name}"))
            if partial.ListFields():
                memories.append(cls(side, partial, decoder))
        return memories

    def mask(self, store: FlowStore, numbers: Numbers) -> npt.NDArray[np.bool_]:
        """Which of the records have an end that matches."""
        if len(self._known) > self.LIMIT:
            self._known.clear()
        keys = np.zeros(len(numbers), dtype=_END_KEY)
        keys["identity"] = store.column(f"{self._side}_identity", numbers)
        keys["address"] = store.column(f"{self._side}_ip", numbers)
        keys["endpoint_id"] = store.column("endpoint_id", numbers)
        if self._side == "source":
            keys["spoofed"] = store.column("drop_reason", numbers) == INVALID_SOURCE_IP
        first, group = _groups(keys)
        answers = np.array([self._answer(key) for key in keys[first]], dtype=np.bool_)
        return answers[group]

    def _answer(self, key: Any) -> bool:
        text = key.tobytes()
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._decide(key)
        return known

    def _decide(self, key: Any) -> bool:
        identity, address, endpoint_id, spoofed, _ = key.item()
        end = self._decoder.end(identity, address_of(address), endpoint_id, spoofed=bool(spoofed))
        flow = flow_pb2.Flow()
        getattr(flow, self._side).CopyFrom(end)
        return self._matches(flow)


_END_KEY: Final = np.dtype(
    [("identity", "<u4"), ("address", "V16"), ("endpoint_id", "<u2"), ("spoofed", "u1"), ("pad", "u1")]
)
_MIX: Final = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


def _groups(keys: npt.NDArray[np.void]) -> tuple[Numbers, Numbers]:
    """Group equal keys: index of the first of each group, and the group of each key.

    Keys are told apart by a hash, which is fast to sort; should two different keys share one, the keys
    themselves are sorted.
    """
    words = keys.view(np.uint64).reshape(len(keys), -1)
    hashes = words @ _MIX
    hashes ^= hashes >> np.uint64(29)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    if not np.array_equal(words[first][group], words):
        _, first, group = np.unique(keys.view(f"V{keys.itemsize}"), return_index=True, return_inverse=True)
    return first, group
