"""Which records have an end that satisfies the fields of a filter that look at nothing but that end.

Pod, label, workload and cluster of an end are decided for each distinct name by the filter itself; records
look their answer up a column at a time, by the number that the directory of ends gives them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import compile_filter
from axoneme.lib.flows.rule import Side
from shim.flows.decode import FlowDecoder
from shim.flows.enddirectory import Numbers
from shim.flows.endnames import EndNames
from shim.flows.keytable import Words
from shim.flows.record import INVALID_SOURCE_IP
from shim.flows.store import FlowStore
from shim.flows.timedanswers import Mask

END_FIELDS: Final = ("pod", "label", "workload", "cluster_name")
_IDENTITY_SHIFT: Final = np.uint64(32)
_SPOOFED: Final = np.uint64(1 << 16)


class EndFilter:
    """The part of one filter that looks at one end. It lives as long as its query."""

    def __init__(self, side: Side, flow_filter: flow_pb2.FlowFilter, decoder: FlowDecoder) -> None:
        self._side = side
        self._matches = compile_filter(flow_filter)
        self._looks_at_labels = bool(getattr(flow_filter, f"{side}_label"))
        self._addresses, self._ends = decoder.addresses, decoder.ends
        self._generation = 0
        self._wanted: Mask = np.zeros(0, dtype=np.bool_)
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
        self._ends.refresh()
        address = self._addresses.numbers(store.words(f"{self._side}_ip", numbers))
        identity = store.column(f"{self._side}_identity", numbers)
        known = np.flatnonzero(self._is_known(store, numbers, address))
        few = 2 * len(known) < len(numbers)
        names = self._ends.of_strangers(identity) if few else None
        if names is None:
            names = self._names_of(store, numbers, identity, address)
        elif len(known):
            names[known] = self._names_of(store, numbers[known], identity[known], address[known])
        self._judge_new()
        return self._wanted.take(names, mode="clip")

    def _is_known(self, store: FlowStore, numbers: npt.NDArray[np.int64], address: Numbers) -> Mask:
        """Whether more than the identity says who an end is."""
        known: Mask = address > 0
        if self._side == "source":
            known |= store.column("drop_reason", numbers) == INVALID_SOURCE_IP
        return known

    def _names_of(
        self,
        store: FlowStore,
        numbers: npt.NDArray[np.int64],
        identity: npt.NDArray[np.uint32],
        address: Numbers,
    ) -> Numbers:
        first, second = self._keys(store, numbers, identity, address)
        return self._ends.numbers(first, second, lambda some: store.column("time_ns", numbers[some]))

    def _keys(
        self,
        store: FlowStore,
        numbers: npt.NDArray[np.int64],
        identity: npt.NDArray[np.uint32],
        address: Numbers,
    ) -> tuple[Words, Words]:
        """Identity and address number; endpoint, where it matters, and whether it sent a spoofed source."""
        first = identity.astype(np.uint64)
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

    def _judge_new(self) -> None:
        """Asks the filter about names that it has not seen yet."""
        if self._generation != self._ends.generation:
            self._generation = self._ends.generation
            self._wanted = np.zeros(0, dtype=np.bool_)
        if new := self._ends.names[len(self._wanted) :]:
            fresh = np.array([self._judge(names) for names in new], dtype=np.bool_)
            self._wanted = np.concatenate([self._wanted, fresh])

    def _judge(self, names: EndNames) -> bool:
        """The filter's own answer; without label fields, ends with the same other names are one."""
        shown = names if self._looks_at_labels else names._replace(labels=())
        known = self._judged.get(shown)
        if known is None:
            flow = flow_pb2.Flow()
            getattr(flow, self._side).CopyFrom(shown.message())
            known = self._judged[shown] = self._matches(flow)
        return known
