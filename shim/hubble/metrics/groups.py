"""Counts records of a store: equal ones together, each kind of record decoded once.

What decides the count of a record is put into words (wordcolumns.py), words are numbered, and for each number
the additions of one decoded record are remembered. What is remembered is forgotten when names change, when
series were dropped, and when it grows too large. A record whose names change within what is counted is
decoded alone.

    columns ─► words ─► number ─► additions × how often
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.rule import Side
from shim.flows.context import address_of
from shim.flows.keytable import Words
from shim.flows.lookupstore import LookupStore
from shim.flows.query import RecordDecoder
from shim.flows.store import FlowStore
from shim.hubble.metrics.context import Needs
from shim.hubble.metrics.counting import Addition, FlowCounter, Looks
from shim.hubble.metrics.plugin import Columns
from shim.hubble.metrics.wordcolumns import EndWords, MessageWords, Numbering, packet_words

MAX_KINDS: Final = 65_536
DECODED_PER_STEP: Final = 64
_SIDES: Final[tuple[Side, Side]] = ("source", "destination")
Numbers = npt.NDArray[np.int64]


class RecordCounter:
    """Counts the records of one store."""

    def __init__(self, store: FlowStore, decoder: RecordDecoder, counter: FlowCounter) -> None:
        self._store, self._decoder, self._counter = store, decoder, counter
        self._names = decoder.names
        self._looks = counter.looks_at(store.layer7)
        self._columns, self._needs = self._looks or Looks(Columns(), Needs())
        self._alike = type(store) in (FlowStore, LookupStore)
        self._valid_until_ns: float = math.inf
        self._revision: tuple[Any, ...] = ()
        self._forget()

    def _forget(self) -> None:
        self._ends = EndWords(self._names, self._needs)
        self._messages = MessageWords(self._columns)
        self._folds: list[Numbering] = []
        self._additions: dict[int, list[Addition] | None] = {}
        self._valid_until_ns = math.inf

    def count(self, first: int, last: int) -> Iterator[None]:
        """Count the records in [first, last), which must be held; a step decodes few of them."""
        numbers = np.arange(first, last, dtype=np.int64)
        if not len(numbers) or self._looks is None:
            return
        if not self._alike:
            yield from self._count_each(numbers)
            return
        times = self._store.column("time_ns", numbers)
        span = int(times.min()), int(times.max())
        self._refresh(span[1])
        kinds = self._kinds(numbers)
        varying = yield from self._learn(numbers, kinds, span)
        totals = np.bincount(kinds)
        for kind in np.flatnonzero(totals).tolist():
            additions = self._additions.get(kind)
            if additions is not None:
                self._counter.add(additions, int(totals[kind]))
        if len(varying):
            yield from self._count_each(varying)
            self._revision = ()

    def _refresh(self, last_ns: int) -> None:
        """Forget what may be wrong for records until that time."""
        self._names.addresses.refresh()
        context = self._names.context
        revision = (
            self._names.addresses.revision if self._needs.ends or self._needs.addresses else 0,
            context.names_revision if self._needs.dns else 0,
            self._counter.table.revision,
        )
        sizes = [len(self._ends), len(self._messages), *(len(fold) for fold in self._folds)]
        outdated = revision != self._revision or last_ns >= self._valid_until_ns
        if outdated or max(sizes) > MAX_KINDS:
            self._forget()
            self._revision = revision

    def _kinds(self, numbers: Numbers) -> npt.NDArray[np.int32]:
        """The number of each record's words."""
        words = packet_words(self._store, numbers, self._columns)
        words += self._ends.words(self._store, numbers)
        words += self._messages.words(self._store, numbers)
        kinds: npt.NDArray[np.int32] | None = None
        for index, word in enumerate(words[1:]):
            if index == len(self._folds):
                self._folds.append(Numbering())
            first: Words = words[0] if kinds is None else kinds.astype(np.uint64)
            kinds = self._folds[index].numbers(first, word)
        assert kinds is not None  # packet_words gives two words
        return kinds

    def _learn(self, numbers: Numbers, kinds: npt.NDArray[np.int32], span: tuple[int, int]) -> Any:
        """Decode one record of each new kind; returns the records whose names change meanwhile."""
        found, positions = np.unique(kinds, return_index=True)
        pairs = zip(found.tolist(), positions.tolist(), strict=True)
        new = [(kind, at) for kind, at in pairs if kind not in self._additions]
        changing: list[int] = []
        if new:
            chosen = numbers[np.array([at for _, at in new])]
            events = zip(new, chosen.tolist(), self._store.events(chosen), strict=True)
            for index, ((kind, _), number, event) in enumerate(events):
                if index % DECODED_PER_STEP == DECODED_PER_STEP - 1:
                    yield
                if self._changes(event, span):
                    self._additions[kind] = None
                    changing.append(kind)
                else:
                    self._additions[kind] = self._counter.additions(self._decoder.decode(event, number))
        return numbers[np.isin(kinds, changing)] if changing else numbers[:0]

    def _changes(self, event: Any, span: tuple[int, int]) -> bool:
        """Whether a name that somebody looks at may change between the two times."""
        row = event[0] if isinstance(event, tuple) else event
        endpoint_id, context = int(row["endpoint_id"]), self._names.context
        for side in _SIDES:
            address = address_of(bytes(row[f"{side}_ip"]))
            times: list[int] = []
            if side in self._needs.ends:
                identity = int(row[f"{side}_identity"])
                times += context.change_times(identity, address, endpoint_id, span[0])
            if side in self._needs.dns:
                times += context.name_times(endpoint_id, address, span[0])
            if any(time_ns <= span[1] for time_ns in times):
                return True
            self._valid_until_ns = min(self._valid_until_ns, *times, math.inf)
        return False

    def _count_each(self, numbers: Numbers) -> Iterator[None]:
        """Decode each record."""
        events = zip(numbers.tolist(), self._store.events(numbers), strict=True)
        for index, (number, event) in enumerate(events):
            if index % DECODED_PER_STEP == DECODED_PER_STEP - 1:
                yield
            flow: flow_pb2.Flow = self._decoder.decode(event, number)
            self._counter.count(flow)
