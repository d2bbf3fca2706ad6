"""Which records have an end that is known by a wanted DNS name.

Names belong to an endpoint and an address, as of a time: what one pod learned says nothing about another.
Each distinct pair is decided once by the filter's own rule, whatever the number of records; addresses without
a name take no part.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import compile_filter
from axoneme.lib.flows.rule import Side
from shim.flows.context import address_of
from shim.flows.decode import FlowDecoder
from shim.flows.store import FlowStore
from shim.flows.timedanswers import Mask, Timed, TimedAnswers

MAX_PAIRS: Final = 65_536
_ENDPOINT_SHIFT: Final = np.uint64(32)
_NEVER: Final = Timed([], [False])


class LearnedNameFilter:
    """The DNS names of one side in one filter. It lives as long as its query."""

    def __init__(self, side: Side, flow_filter: flow_pb2.FlowFilter, decoder: FlowDecoder) -> None:
        self._side = side
        self._matches = compile_filter(flow_filter)
        self._context, self._addresses = decoder.context, decoder.named_addresses
        self._seen_revision: int | None = None
        self._answers = TimedAnswers(self._decide, MAX_PAIRS)
        self._judged: dict[tuple[str, ...], bool] = {}

    @classmethod
    def of(cls, flow_filter: flow_pb2.FlowFilter, decoder: FlowDecoder) -> list[LearnedNameFilter]:
        """What a filter needs: none, one or one for each side."""
        found = []
        sides: tuple[Side, Side] = ("source", "destination")
        for side in sides:
            if patterns := getattr(flow_filter, f"{side}_fqdn"):
                partial = flow_pb2.FlowFilter()
                getattr(partial, f"{side}_fqdn").extend(patterns)
                found.append(cls(side, partial, decoder))
        return found

    def mask(self, store: FlowStore, numbers: npt.NDArray[np.int64]) -> Mask:
        """Which of the records have an end with such a name."""
        self._addresses.refresh()
        if self._seen_revision != self._addresses.revision or self._answers.is_full:
            self._seen_revision = self._addresses.revision
            self._answers.forget()
            self._judged = {}
        address = self._addresses.numbers(store.words(f"{self._side}_ip", numbers))
        mask = address > 0
        named = np.flatnonzero(mask)
        if len(named):
            key = store.column("endpoint_id", numbers)[named].astype(np.uint64)
            key <<= _ENDPOINT_SHIFT
            key |= address[named].view(np.uint32)
            mask[named] = self._answers.mask(
                key, np.zeros_like(key), lambda some: store.column("time_ns", numbers[named[some]])
            )
        return mask

    def _decide(self, first: int, _: int) -> Timed:
        """Decide a pair at all times of the records held."""
        endpoint_id, packed = first >> 32, self._addresses.packed[first & 0xFFFF_FFFF]
        if not self._context.has_names(endpoint_id, packed):
            return _NEVER
        address = address_of(packed)
        times = sorted(set(self._context.name_times(endpoint_id, address, 0)))
        answers = []
        for time_ns in (0, *times):
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
