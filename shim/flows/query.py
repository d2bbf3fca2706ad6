"""Which records answer a query, and their flows.

A query is compiled once: filters to predicates, what numbers can decide to selections, what depends on one
end alone (pod, label, workload, …) to answers by end (ends.py), DNS names to answers by endpoint and address
(learnednames.py), names that were asked for to answers by name (lookupstore.py). It then visits the store in
chunks, forwards or from the newest backwards, so that no step holds the event loop for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FlowMatcher
from shim.flows.decode import FlowDecoder
from shim.flows.ends import EndFilter
from shim.flows.learnednames import LearnedNameFilter
from shim.flows.lookupstore import QueryNameFilter
from shim.flows.selection import selection_of
from shim.flows.store import FlowStore, Selection
from shim.flows.timedanswers import Mask

CHUNK: Final = 16_384
STEP: Final = 512
"""Records decoded before others get a turn of the event loop."""
Numbers = npt.NDArray[np.int64]


class RecordDecoder(Protocol):
    """What turns the records of a store into flows."""

    @property
    def names(self) -> FlowDecoder:
        """What tells the names of ends."""

    def decode(self, event: Any, number: int) -> flow_pb2.Flow:
        """The flow of a record (an element of `store.events`) with its number."""


class RecordFilter(Protocol):
    """The part of a filter that is decided for many records at once."""

    def mask(self, store: FlowStore, numbers: Numbers) -> Mask:
        """Which of the records the filter may take."""


class FlowQuery:
    """One whitelist and blacklist over one store."""

    def __init__(
        self,
        store: FlowStore,
        decoder: RecordDecoder,
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
        self._alternatives: list[tuple[Selection, list[RecordFilter]]] = [
            (
                selection_of(
                    one,
                    since_ns=since_ns,
                    until_ns=until_ns,
                    layer7=store.layer7,
                    node_name=decoder.names.full_node_name,
                ),
                _record_filters(one, decoder.names),
            )
            for one in filters
        ]

    def candidates(self, first: int, last: int) -> Numbers:
        """Numbers of records in [first, last) that the filters may take."""
        parts = [self._alternative(*alternative, first, last) for alternative in self._alternatives]
        return parts[0] if len(parts) == 1 else np.unique(np.concatenate(parts))

    def flows(self, first: int, last: int) -> Iterator[tuple[int, flow_pb2.Flow]]:
        """Number and flow of every match in [first, last), oldest first; read a chunk at a time."""
        for found in self.looks(first, last):
            if found is not None:
                yield found

    def looks(self, first: int, last: int) -> Iterator[tuple[int, flow_pb2.Flow] | None]:
        """The same, and None after each record that did not match once it was decoded."""
        for number, event in self._events(self.candidates(first, last)):
            flow = self._decoder.decode(event, number)
            yield (number, flow) if self._matcher.matches(flow) else None

    def newest(self, first: int, last: int, limit: int) -> Iterator[Numbers]:
        """Numbers of matches from the newest back, at most `limit`, in chunks that are each ascending."""
        while last > first and limit > 0:
            start = max(first, last - CHUNK)
            candidates = self.candidates(start, last)
            for end in range(len(candidates), 0, -STEP):
                part = candidates[max(0, end - STEP) : end]
                found = self._newest_of(part[part >= self._store.oldest], limit)
                limit -= len(found)
                yield found
                if not limit:
                    return
            if not len(candidates):
                yield candidates
            last = start

    def _newest_of(self, numbers: Numbers, limit: int) -> Numbers:
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
        return zip(numbers.tolist(), self._store.events(numbers), strict=True)

    def _alternative(
        self, selection: Selection, parts: Sequence[RecordFilter], first: int, last: int
    ) -> Numbers:
        numbers = self._store.select(selection, first, last)
        for part in parts:
            if len(numbers):
                numbers = numbers[part.mask(self._store, numbers)]
        return numbers


def _record_filters(flow_filter: flow_pb2.FlowFilter, names: FlowDecoder) -> list[RecordFilter]:
    """The parts of a filter that follow from little, the cheapest first."""
    return [
        *EndFilter.of(flow_filter, names),
        *LearnedNameFilter.of(flow_filter, names),
        *QueryNameFilter.of(flow_filter),
    ]
