"""What the numbers of some records meant, taken from the node's names and given back after a restart.

    FlowContext ──statements_of(records)──► statements ──Names.learn──► FlowContext

Keys are those of the context's questions. A value is stated at the first time of the records and at each time
after it at which it may have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any

import numpy as np

from shim.flows.context import FlowContext, PolicyOrigin, WorkloadInfo, address_of
from shim.flows.record import Records
from shim.flows.spill.blocks import Statement

ENDPOINT, ADDRESS, LABELS, NAMES, INTERFACE, ORIGINS, DENIALS = "e", "a", "l", "n", "i", "o", "d"


def statements_of(records: Records, context: FlowContext, offset_ns: int) -> list[Statement]:
    """Everything that decoding these records asks; `offset_ns` turns their times into wall time."""
    if not len(records):
        return []
    return [
        Statement(one.kind, one.key, one.since_ns + offset_ns, one.value)
        for one in _Asked(records, context).statements()
    ]


class _Asked:
    """The questions of some records."""

    def __init__(self, records: Records, context: FlowContext) -> None:
        self._records, self._context = records, context
        self._first, self._last = int(records["time_ns"].min()), int(records["time_ns"].max())

    def statements(self) -> Iterator[Statement]:
        context = self._context
        for number in self._distinct("endpoint_id"):
            times = context.change_times(0, None, number, self._first)
            yield from self._told(ENDPOINT, number, times, partial(_info_at, context.endpoint, number))
        for packed in {*self._records["source_ip"].tolist(), *self._records["destination_ip"].tolist()}:
            address = address_of(packed)
            times = context.change_times(0, address, 0, self._first)
            asked = partial(_info_at, context.workload_at, address)
            yield from self._told(ADDRESS, packed.hex(), times, asked)
        for number in {*self._distinct("source_identity"), *self._distinct("destination_identity")}:
            times = context.change_times(number, None, 0, self._first)
            yield from self._told(LABELS, number, times, partial(_list_at, context.identity_labels, number))
        yield from self._learned()
        yield from self._policies()

    def _learned(self) -> Iterator[Statement]:
        """DNS names and interfaces."""
        context = self._context
        for side in ("source_ip", "destination_ip"):
            ends = zip(self._records["endpoint_id"].tolist(), self._records[side].tolist(), strict=True)
            for endpoint_id, packed in set(ends):
                if context.has_names(endpoint_id, packed):
                    address = address_of(packed)
                    times = context.name_times(endpoint_id, address, self._first)
                    asked = partial(_list_at, partial(context.names, endpoint_id), address)
                    yield from self._told(NAMES, [endpoint_id, packed.hex()], times, asked)
        for number in self._distinct("ifindex"):
            name = context.interface_name(number, self._last)
            yield Statement(INTERFACE, number, self._first, name)

    def _policies(self) -> Iterator[Statement]:
        """Policies behind decisions; a cookie and a generation mean one thing as long as they are in use."""
        records, context = self._records, self._context
        for cookie in self._distinct("cookie"):
            yield Statement(ORIGINS, cookie, self._first, [_dumped(one) for one in context.origins(cookie)])
        columns = ("endpoint_id", "direction", "policy_generation")
        keys = set(zip(*(records[name].tolist() for name in columns), strict=True))
        for endpoint_id, direction, generation in keys:
            found = context.default_deny_origins(endpoint_id, direction, generation, self._last)
            if found:
                key = [endpoint_id, direction, generation]
                yield Statement(DENIALS, key, self._first, [_dumped(one) for one in found])

    def _distinct(self, column: str) -> list[int]:
        found: list[int] = np.unique(self._records[column]).tolist()
        return [number for number in found if number]

    def _told(
        self, kind: str, key: Any, times: Iterable[int], value_at: Callable[[int], Any]
    ) -> Iterator[Statement]:
        """The value at the first time and wherever it differs afterwards."""
        last: Any = None
        for time_ns in (self._first, *sorted({one for one in times if one <= self._last})):
            value = value_at(time_ns)
            if time_ns == self._first or value != last:
                yield Statement(kind, key, time_ns, value)
            last = value


def _list_at(asked: Callable[[Any, int], Sequence[str]], key: Any, time_ns: int) -> list[str]:
    return list(asked(key, time_ns))


def _info_at(asked: Callable[[Any, int], WorkloadInfo | None], key: Any, time_ns: int) -> Any:
    info = asked(key, time_ns)
    if info is None:
        return None
    return [
        info.namespace,
        info.pod_name,
        info.endpoint_id,
        info.identity,
        info.labels,
        info.cluster_name,
        info.workloads,
        [str(address) for address in info.addresses],
    ]


def info_of(dumped: Sequence[Any]) -> WorkloadInfo:
    """The reverse of what a statement says of a workload."""
    namespace, pod_name, endpoint_id, identity, labels, cluster_name, workloads, addresses = dumped
    return WorkloadInfo(
        namespace=namespace,
        pod_name=pod_name,
        endpoint_id=endpoint_id,
        identity=identity,
        labels=tuple(labels),
        cluster_name=cluster_name,
        workloads=tuple((kind, name) for kind, name in workloads),
        addresses=tuple(map(ip_address, addresses)),
    )


def _dumped(origin: PolicyOrigin) -> list[Any]:
    return [origin.name, origin.namespace, origin.kind, origin.labels, origin.revision]


def origin_of(dumped: Sequence[Any]) -> PolicyOrigin:
    """The reverse for the policy behind a decision."""
    name, namespace, kind, labels, revision = dumped
    return PolicyOrigin(name=name, namespace=namespace, kind=kind, labels=tuple(labels), revision=revision)
