"""Which records have an end that is known by a wanted DNS name.

Names belong to an endpoint and an address, as of a time: what one pod learned says nothing about another.
Each distinct pair is decided once by the filter's own rule, whatever the number of records.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import compile_filter
from axoneme.lib.flows.rule import Side
from shim.flows.context import FlowContext, address_of
from shim.flows.ends import oldest_ns
from shim.flows.keytable import KeyTable, Words
from shim.flows.store import FlowStore
from shim.flows.timedanswers import Mask, Timed, TimedAnswers

MAX_PAIRS: Final = 65_536
_ENDPOINT_SHIFT: Final = np.uint64(32)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_NEVER: Final = Timed([], [False])


class LearnedNameFilter:
    """The DNS names of one side in one filter. It lives as long as its query."""

    def __init__(self, side: Side, flow_filter: flow_pb2.FlowFilter, context: FlowContext) -> None:
        self._side = side
        self._matches = compile_filter(flow_filter)
        self._context = context
        self._seen_revision: int | None = None
        self._oldest_ns = 0
        self._addresses = KeyTable()
        self._packed: list[bytes] = []
        self._answers = TimedAnswers(self._decide, MAX_PAIRS)
        self._judged: dict[tuple[str, ...], bool] = {}

    @classmethod
    def of(cls, flow_filter: flow_pb2.FlowFilter, context: FlowContext) -> list[LearnedNameFilter]:
        """What a filter needs: none, one or one for each side."""
        found = []
        sides: tuple[Side, Side] = ("source", "destination")
        for side in sides:
            if patterns := getattr(flow_filter, f"{side}_fqdn"):
                partial = flow_pb2.FlowFilter()
                getattr(partial, f"{side}_fqdn").extend(patterns)
                found.append(cls(side, partial, context))
        return found

    def mask(self, store: FlowStore, numbers: npt.NDArray[np.int64]) -> Mask:
        """Which of the records have an end with such a name."""
        if self._seen_revision != self._context.names_revision or self._answers.is_full:
            self._seen_revision = self._context.names_revision
            self._answers.forget()
            self._addresses, self._packed = KeyTable(), []
            self._judged = {}
            self._oldest_ns = oldest_ns(store)
        words = np.ascontiguousarray(store.words(f"{self._side}_ip", numbers))
        key = store.column("endpoint_id", numbers).astype(np.uint64)
        key <<= _ENDPOINT_SHIFT
        key |= self._numbered(words).view(np.uint32)
        return self._answers.mask(
            key, np.zeros_like(key), lambda some: store.column("time_ns", numbers[some])
        )

    def _numbered(self, words: Words) -> npt.NDArray[np.int32]:
        """The number of each address; new ones get theirs."""
        found = self._addresses.find(words[:, 0], words[:, 1])
        missing = np.flatnonzero(found < 0)
        while len(missing):
            _, some = np.unique(words[missing, 0] * _MIX + words[missing, 1], return_index=True)
            fresh = words[missing[some]]
            self._addresses.add(fresh[:, 0], fresh[:, 1])
            packed = fresh.tobytes()
            self._packed += [packed[at : at + 16] for at in range(0, len(packed), 16)]
            found[missing] = self._addresses.find(words[missing, 0], words[missing, 1])
            missing = missing[found[missing] < 0]  # of those whose mix is the same
        return found

    def _decide(self, first: int, _: int) -> Timed:
        """Decide a pair at all times of the records held."""
        endpoint_id, packed = first >> 32, self._packed[first & 0xFFFF_FFFF]
        if not self._context.has_names(endpoint_id, packed):
            return _NEVER
        address = address_of(packed)
        times = sorted(set(self._context.name_times(endpoint_id, address, self._oldest_ns)))
        answers = []
        for time_ns in (self._oldest_ns, *times):
            names = tuple(self._context.names(endpoint_id, address, time_ns))
            answers.append(bool(names) and self._judge(names))
        return Timed(times, answers)

    def _judge(self, names: tuple[str, ...]) -> bool:
        known = self._judged.get(names)
        if known is None:
            flow = flow_pb2.Flow()
            getattr(flow, f"{self._side}_names").extend(names)
            known = self._judged[names] = self._matches(flow)
        return known
