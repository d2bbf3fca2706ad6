"""The newest DNS messages that the proxy reported: columns as those of packets, and what else was said.

A message is a record like any other (addresses, ports, identities, verdict), so that queries find it the same
way; its name, answer and latency lie beside it as the bytes of the report. Both are bounded: by number, and
by bytes, since a pod chooses the names that it asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import compile_filter
from shim.flows.record import Records
from shim.flows.store import FlowStore
from shim.flows.timedanswers import Mask

MAX_BYTES: Final = 32 << 20
OVERHEAD_BYTES: Final = 160
"""What a message needs beside its text: two objects, a pair and a slot."""
MAX_NAMES: Final = 16_384


class Report(NamedTuple):
    """What was said about a message: the name that was asked for, and a LookupEvent as bytes."""

    query: str
    event: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.query) + len(self.event) + OVERHEAD_BYTES


class LookupStore(FlowStore):
    """The newest messages."""

    layer7: ClassVar[str] = "dns"

    def __init__(self, capacity: int, max_bytes: int = MAX_BYTES) -> None:
        """Take a capacity that is a power of two, and the bytes that reports may take."""
        super().__init__(capacity)
        self._max_bytes = max_bytes
        self._reports: list[Report | None] = [None] * capacity
        self.report_bytes = 0
        """Bytes of the reports held."""

    def append_reports(self, records: Records, reports: Sequence[Report]) -> None:
        """Append messages in order; the oldest give way."""
        for start in range(0, len(reports), self.capacity):
            part = reports[start : start + self.capacity]
            for number, report in enumerate(part, start=self.seen):
                self._put(number, report)
            self.append(records[start : start + self.capacity])
        while self.report_bytes > self._max_bytes and len(self) > 1:
            self._put(self.oldest, None)
            self._floor = self.oldest + 1

    def _put(self, number: int, report: Report | None) -> None:
        slot = number & (self.capacity - 1)
        last = self._reports[slot]
        self.report_bytes += (report.size if report else 0) - (last.size if last else 0)
        self._reports[slot] = report

    def events(self, numbers: npt.NDArray[np.int64]) -> Iterable[Any]:
        """Record and report of each of these messages, which must still be held."""
        reports = [self._reports[slot] for slot in (numbers & (self.capacity - 1)).tolist()]
        return zip(self.rows(numbers), reports, strict=True)

    def queries(self, numbers: npt.NDArray[np.int64]) -> list[str]:
        """The names asked for by messages that are still held."""
        reports = [self._reports[slot] for slot in (numbers & (self.capacity - 1)).tolist()]
        return [report.query if report else "" for report in reports]


class QueryNameFilter:
    """The part of one filter that looks at the name asked for; each distinct name is decided once."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._matches = compile_filter(flow_pb2.FlowFilter(dns_query=patterns))
        self._judged: dict[str, bool] = {}

    @classmethod
    def of(cls, flow_filter: flow_pb2.FlowFilter) -> list[QueryNameFilter]:
        """What a filter needs: none or one."""
        return [cls(flow_filter.dns_query)] if flow_filter.dns_query else []

    def mask(self, store: FlowStore, numbers: npt.NDArray[np.int64]) -> Mask:
        """Which of the messages ask for such a name."""
        if not isinstance(store, LookupStore):
            return np.zeros(len(numbers), dtype=np.bool_)
        if len(self._judged) > MAX_NAMES:
            self._judged.clear()
        return np.array([self._judge(query) for query in store.queries(numbers)], dtype=np.bool_)

    def _judge(self, query: str) -> bool:
        known = self._judged.get(query)
        if known is None:
            flow = flow_pb2.Flow(l7=flow_pb2.Layer7(dns=flow_pb2.DNS(query=query)))
            known = self._judged[query] = self._matches(flow)
        return known
