"""Which records have an end that satisfies the fields of a filter that look at nothing but that end.

Pod, label, workload and cluster of an end follow from few numbers: identity, address, endpoint and, where a
name changed hands, the time. Addresses that nobody here ever named are all alike, so there are few distinct
ends however many addresses the flows have. Each distinct end is decided once by the filter itself; the
records then look their answer up, a column at a time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import compile_filter
from axoneme.lib.flows.rule import Side
from shim.flows.addresses import KnownAddresses
from shim.flows.context import WorkloadInfo
from shim.flows.decode import EndNames, FlowDecoder, end_names
from shim.flows.keytable import Words
from shim.flows.record import INVALID_SOURCE_IP
from shim.flows.store import FlowStore
from shim.flows.timedanswers import Mask, Timed, TimedAnswers

END_FIELDS: Final = ("pod", "label", "workload", "cluster_name")
MAX_ENDS: Final = 65_536
DISORDER_NS: Final = 1_000_000_000
"""How much earlier than the records held one may be that comes later."""
_IDENTITY_SHIFT: Final = np.uint64(32)
_SPOOFED: Final = np.uint64(1 << 16)


class EndFilter:
    """The part of one filter that looks at one end. It lives as long as its query."""

    def __init__(self, side: Side, flow_filter: flow_pb2.FlowFilter, decoder: FlowDecoder) -> None:
        self._side = side
        self._matches = compile_filter(flow_filter)
        self._looks_at_labels = bool(getattr(flow_filter, f"{side}_label"))
        self._decoder = decoder
        self._addresses: KnownAddresses = decoder.addresses
        self._seen_revision: int | None = None
        self._oldest_ns = 0
        self._answers = TimedAnswers(self._decide, MAX_ENDS)
        self._judged: dict[EndNames, bool] = {}

    @classmethod
    def of(cls, flow_filter: flow_pb2.FlowFilter, decoder: FlowDecoder) -> list[EndFilter]:
        """What a filter needs: none, one or one for each side."""
        ends = []
        sides: tuple[Side, Side] = ("source", "destination")
        for side in sides:
            partial = flow_pb2.FlowFilter()
            for name in END_FIELDS:
                getattr(partial, f"{side}_{name}").extend(getattr(flow_filter, f"{side}_{name}"))
            if partial.ListFields():
                ends.append(cls(side, partial, decoder))
        return ends

    def mask(self, store: FlowStore, numbers: npt.NDArray[np.int64]) -> Mask:
        """Which of the records have an end that matches."""
        self._addresses.refresh()
        if self._seen_revision != self._addresses.revision or self._answers.is_full:
            self._seen_revision = self._addresses.revision
            self._answers.forget()
            self._judged = {}
            self._oldest_ns = oldest_ns(store)
        first, second = self._keys(store, numbers)
        return self._answers.mask(first, second, lambda some: store.column("time_ns", numbers[some]))

    def _keys(self, store: FlowStore, numbers: npt.NDArray[np.int64]) -> tuple[Words, Words]:
        """Identity and address number; endpoint, where it matters, and whether it sent a spoofed source."""
        address = self._addresses.numbers(store.words(f"{self._side}_ip", numbers))
        first = store.column(f"{self._side}_identity", numbers).astype(np.uint64)
        first <<= _IDENTITY_SHIFT
        first |= address.view(np.uint32)
        second = store.column("endpoint_id", numbers).astype(np.uint64)
        matters = self._addresses.is_local(address)
        if self._side == "source":
            spoofed = store.column("drop_reason", numbers) == INVALID_SOURCE_IP
            if spoofed.any():
                matters |= spoofed
                second |= spoofed * _SPOOFED
        if not matters.all():
            second *= matters
        return first, second

    def _decide(self, first: int, second: int) -> Timed:
        """Decide an end at all times of the records held."""
        identity, address = first >> 32, self._addresses.address(first & 0xFFFF_FFFF)
        endpoint_id, spoofed = second & 0xFFFF, bool(second >> 16)
        changes = self._decoder.context.change_times(identity, address, endpoint_id, self._oldest_ns)
        times = sorted(set(changes))
        answers = []
        for time_ns in (self._oldest_ns, *times):
            workload = self._decoder.workload(address, endpoint_id, time_ns, spoofed=spoofed)
            labels = self._decoder.labels(identity, workload, time_ns)
            answers.append(self._judge(labels, workload))
        return Timed(times, answers)

    def _judge(self, labels: tuple[str, ...], workload: WorkloadInfo | None) -> bool:
        """Ask the filter; its fields do not look at numbers."""
        names = end_names(labels, workload, shown=self._looks_at_labels)
        known = self._judged.get(names)
        if known is None:
            flow = flow_pb2.Flow()
            getattr(flow, self._side).CopyFrom(names.message())
            known = self._judged[names] = self._matches(flow)
        return known


def oldest_ns(store: FlowStore) -> int:
    """A time that no record held, or still to come, is older than."""
    held = store.times(store.oldest, store.seen)
    return max(0, held[0] - DISORDER_NS) if held else 0
