"""Rows of the store into the index: addresses, identities, nodes. No I/O.

What cannot be read is named in the log and left out; what was known under its key before stays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from axoneme.lib import log
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Delete, Put, Row
from services.clustermesh import workloads
from services.clustermesh.expiry import WITHDRAWN, Expiry
from services.clustermesh.index import WorkloadIndex

logger = logging.getLogger(__name__)


def prefixes(cluster: str) -> tuple[str, ...]:
    """What has to be followed besides services."""
    return (
        layout.record_prefix(cluster),
        layout.PROGRESS,
        layout.MASTERS,
        layout.IPS,
        f"{layout.NODES}{cluster}/",
    )


class Intake:
    """Takes rows in, whatever their kind, one revision of the store at a time."""

    def __init__(self, index: WorkloadIndex, cluster: str) -> None:
        self._index = index
        self._cluster = cluster
        self._expiry = Expiry()
        self._registered: set[str] = set()
        self.malformed: set[str] = set()
        self.features: dict[str, Mapping[str, str]] = {}
        """What the kernels of the nodes can do, as far as they said."""

    @property
    def held(self) -> int:
        """Addresses whose lease ran out, kept for their node."""
        return self._expiry.held

    def apply(self, events: Iterable[Put | Delete]) -> None:
        """The events of one revision, those of services excepted."""
        events = list(events)
        asked_for = any(isinstance(event, Put) and event.key == WITHDRAWN for event in events)
        # Records last: what they release depends on the rows that came in the same revision.
        for event in sorted(events, key=lambda event: event.key.startswith(layout.NODE_RECORDS)):
            self.malformed.discard(event.key)
            if isinstance(event, Delete):
                self._delete(event.key, asked_for=asked_for)
                continue
            try:
                self._put(event.row)
            except (InvalidArgument, ValueError, RecursionError) as error:
                self.malformed.add(event.key)
                extra = {log.KEY: event.key, log.ERROR: log.clip(error)}
                logger.error("a stored row cannot be used", extra=extra)

    def _put(self, row: Row) -> None:
        if row.key.startswith(layout.IPS):
            workload = workloads.decode_workload(row)
            if workload is not None:
                self._expiry.put(workload.ip, row.lease)
                self._index.put_workload(workload)
        elif row.key.startswith(layout.MASTERS):
            number = workloads.identity_of(row.key)
            if number is not None:
                self._index.put_identity(number, workloads.decode_identity(row))
        elif row.key.startswith(layout.NODES):
            name = workloads.node_name(row.key, self._cluster)
            if name is not None:
                node = workloads.decode_node(row)
                self._index.put_node(name, node.addresses)
                self.features[name] = node.features
                self._registered.add(name)
        elif row.key.startswith(layout.NODE_RECORDS):
            name = row.key.removeprefix(layout.record_prefix(self._cluster))
            self._forget(self._expiry.put_record(name, row.value))
            self._drop_node(name, asked_for=False)

    def _delete(self, key: str, *, asked_for: bool) -> None:
        if key.startswith(layout.IPS):
            ip = key.removeprefix(layout.IPS)
            if asked_for or not self._expiry.hold(ip):
                self._forget([ip])
        elif key.startswith(layout.MASTERS):
            number = workloads.identity_of(key)
            if number is not None:
                self._index.remove_identity(number)
        elif key.startswith(layout.NODE_RECORDS):
            name = key.removeprefix(layout.record_prefix(self._cluster))
            self._forget(self._expiry.remove_record(name))
            self._drop_node(name, asked_for=False)
        elif key.startswith(layout.NODES):
            node = workloads.node_name(key, self._cluster)
            if node is not None:
                self._registered.discard(node)
                self._drop_node(node, asked_for=asked_for)

    def _drop_node(self, name: str, *, asked_for: bool) -> None:
        """A registration expires with its lease; the name stays good for addresses that are kept."""
        if name not in self._registered and (asked_for or self._expiry.given_up(name)):
            self._index.remove_node(name)
            self.features.pop(name, None)

    def _forget(self, ips: list[str]) -> None:
        for ip in ips:
            self._expiry.forget(ip)
            self._index.remove_workload(ip)
