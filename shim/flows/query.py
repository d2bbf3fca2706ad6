"""Which records answer a query, and their flows.

A query is compiled once: filters to predicates, what numbers can decide to selections, what depends on one
end alone (pod, label, workload, …) to answers by end (shim/flows/ends.py). It then visits the store in
chunks, forwards or from the newest backwards, so that no step holds the event loop for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FlowMatcher
from shim.flows.decode import FlowDecoder
from shim.flows.ends import EndFilter
from shim.flows.selection import selection_of
from shim.flows.store import FlowStore, Selection

CHUNK: Final = 16_384
Numbers = npt.NDArray[np.int64]


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
            (selection_of(one, since_ns=since_ns, until_ns=until_ns), EndFilter.of(one, decoder))
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
            candidates = self.candidates(start, last)
            found = self._newest_in_chunk(candidates, limit) if len(candidates) else candidates
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

    def _alternative(self, selection: Selection, ends: list[EndFilter], first: int, last: int) -> Numbers:
        numbers = self._store.select(selection, first, last)
        for end in ends:
            if len(numbers):
                numbers = numbers[end.mask(self._store, numbers)]
        return numbers
