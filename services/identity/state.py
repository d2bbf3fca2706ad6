"""What etcd says about identities, addresses and nodes, as one process mirrors it. Pure.

Events come in in the order of the store, a revision at a time; out go the keys that changed. A row whose
lease expired is *held*: it stays in the state until its node declared everything again, or was found to be
gone for good (its record says so), so that nothing is pruned because nobody was there to keep it alive. A
deletion that somebody asked for carries the marker WITHDRAWN in the same revision and counts at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Delete, Put, Row
from axoneme.lib.labels import LabelSet
from services.identity.domain import Address, Node
from services.identity.records import (
    MalformedValueError,
    NodeRecord,
    decode_address,
    decode_node,
    decode_record,
)

K = TypeVar("K")
V = TypeVar("V")

WITHDRAWN = layout.PROGRESS + "withdrawn"


@dataclass(frozen=True, slots=True)
class Stored(Generic[V]):
    """A value with its place in etcd."""

    value: V
    mod_revision: int
    lease: int = 0


@dataclass(slots=True)
class Changes:
    """Keys whose value changed or went away; nodes also when only their registration changed."""

    identities: set[int] = field(default_factory=set)
    addresses: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)


class ClusterState:
    """Everything that the service knows of its cluster."""

    def __init__(self, cluster: str, cluster_id: int) -> None:
        self.cluster = cluster
        self.block = identities.cluster_range(cluster_id)
        self.identities: dict[int, Stored[LabelSet]] = {}
        self.addresses: dict[str, Stored[Address]] = {}
        self.nodes: dict[str, Stored[Node]] = {}
        self.records: dict[str, Stored[NodeRecord]] = {}
        self.tombstones: set[int] = set()
        self.held: dict[str, str] = {}
        """etcd key → node, of rows that are in the state and no longer in etcd."""
        self.revision = 0
        self.malformed = 0
        self._numbers_by_labels: dict[LabelSet, set[int]] = {}
        self._node_by_lease: dict[int, str] = {}
        self._ips_by_lease: dict[int, set[str]] = {}
        self._ips_by_host: dict[str, set[str]] = {}
        self._node_by_host: dict[str, str] | None = None

    @staticmethod
    def prefixes(cluster: str) -> tuple[str, ...]:
        """What has to be followed."""
        return (
            layout.record_prefix(cluster),
            layout.PROGRESS,
            layout.TOMBSTONES,
            layout.MASTERS,
            layout.IPS,
            f"{layout.NODES}{cluster}/",
        )

    def number_of(self, labels: LabelSet) -> int | None:
        """The number of a label set; the smallest when foreign allocators made several."""
        return min(self._numbers_by_labels.get(labels, ()), default=None)

    def node(self, name: str) -> Stored[Node] | None:
        """A node of this cluster."""
        return self.nodes.get(f"{self.cluster}/{name}")

    def is_held(self, key: str) -> bool:
        """Whether the row of a key is only kept for its node to come back."""
        return key in self.held

    def unsettled(self) -> set[str]:
        """Registered nodes that have something to declare: their expired rows are not to be told yet."""
        waiting = set(self.held.values())
        return {
            name
            for name, record in self.records.items()
            if not record.value.expired
            and (name in waiting or not record.value.declared or self.node(name) is None)
        }

    def owned_by(self, name: str) -> dict[str, Stored[Address]]:
        """Addresses that hang on a node: on its leases, or behind its own address."""
        record, node = self.records.get(name), self.node(name)
        ips = {
            key.removeprefix(layout.IPS)
            for key, owner in self.held.items()
            if owner == name and key.startswith(layout.IPS)
        }
        for lease in record.value.leases if record else ():
            ips |= self._ips_by_lease.get(lease, set())
        for host in node.value.internal_ips if node else ():
            ips |= self._ips_by_host.get(host, set())
        return {ip: self.addresses[ip] for ip in ips}

    def owner_of(self, ip: str) -> str:
        """The node that holds an address of the state, "" for none that is known."""
        if self._node_by_host is None:
            self._node_by_host = {
                host: row.value.name for row in self.nodes.values() for host in row.value.internal_ips
            }
        held_for = self.held.get(layout.ip_key(ip))
        return held_for or self._node_by_host.get(self.addresses[ip].value.host_ip, "")

    def replace(self, rows: Sequence[Row], revision: int) -> Changes:
        """Takes a whole listing; what is missing goes away, as an expiry would."""
        present = {row.key for row in rows}
        gone = [Delete(key, revision) for key in self._keys() if key not in present]
        changes = Changes()
        self._apply_revision([Put(row) for row in rows], changes)
        self._apply_revision(gone, changes)
        self.revision = revision
        return changes

    def apply(self, events: Iterable[Put | Delete], revision: int) -> Changes:
        """Takes the changes of one or more revisions in order."""
        changes = Changes()
        for _, group in itertools.groupby(events, key=lambda event: event.mod_revision):
            self._apply_revision(list(group), changes)
        self.revision = max(self.revision, revision)
        return changes

    def _apply_revision(self, events: Sequence[Put | Delete], changes: Changes) -> None:
        asked_for = any(isinstance(event, Put) and event.key == WITHDRAWN for event in events)
        # Records last: what they release depends on the rows that came in the same revision.
        for event in sorted(events, key=lambda event: event.key.startswith(layout.NODE_RECORDS)):
            if isinstance(event, Put):
                self._put(event.row, changes)
            else:
                self._delete(event.key, changes, asked_for=asked_for)

    def _put(self, row: Row, changes: Changes) -> None:
        try:
            self._decode(row, changes)
        except (MalformedValueError, InvalidArgument, ValueError):
            # The last good value stays; neighbours are not affected.
            self.malformed += 1
            return
        self.held.pop(row.key, None)

    def _decode(self, row: Row, changes: Changes) -> None:
        key = row.key
        if key.startswith(layout.MASTERS):
            number = layout.number_of(key)
            if number is None or number not in self.block:
                raise MalformedValueError(f"{key} is outside the block of the cluster")
            self._put_identity(
                number, Stored(LabelSet.from_key(row.value.decode()), row.mod_revision), changes
            )
        elif key.startswith(layout.IPS):
            ip = key.removeprefix(layout.IPS)
            address = decode_address(ip, row.value)
            if not identities.is_reserved(address.identity) and address.identity not in self.block:
                raise MalformedValueError(f"{key} has a number outside the block of the cluster")
            self._unindex(ip)
            self._changed(self.addresses, ip, Stored(address, row.mod_revision, row.lease), changes.addresses)
            self._ips_by_lease.setdefault(row.lease, set()).add(ip)
            self._ips_by_host.setdefault(address.host_ip, set()).add(ip)
        elif key.startswith(layout.NODES):
            name, node = key.removeprefix(layout.NODES), decode_node(row.value)
            if f"{node.cluster}/{node.name}" != name:
                raise MalformedValueError(f"{key} is for {node.cluster}/{node.name}")
            self._node_by_host = None
            self._changed(self.nodes, name, Stored(node, row.mod_revision, row.lease), changes.nodes)
        elif key.startswith(layout.NODE_RECORDS):
            record = Stored(decode_record(row.value), row.mod_revision)
            self._put_record(key.removeprefix(layout.record_prefix(self.cluster)), record, changes)
        elif key.startswith(layout.TOMBSTONES):
            self.tombstones.add(layout.number_of(key, layout.TOMBSTONES) or 0)

    @staticmethod
    def _changed(rows: dict[str, Stored[V]], key: str, row: Stored[V], changed: set[str]) -> None:
        old = rows.get(key)
        rows[key] = row
        if old is None or old.value != row.value:
            changed.add(key)

    def _put_identity(self, number: int, row: Stored[LabelSet], changes: Changes) -> None:
        old = self.identities.get(number)
        self.identities[number] = row
        if old is not None and old.value == row.value:
            return
        if old is not None:
            self._forget_labels(number, old.value)
        self._numbers_by_labels.setdefault(row.value, set()).add(number)
        changes.identities.add(number)

    def _forget_labels(self, number: int, labels: LabelSet) -> None:
        _discard(self._numbers_by_labels, labels, number)

    def _put_record(self, name: str, record: Stored[NodeRecord], changes: Changes) -> None:
        self.records[name] = record
        if self.node(name) is not None:
            changes.nodes.add(f"{self.cluster}/{name}")  # its revision is shown with the node
        for lease in record.value.leases:
            self._node_by_lease[lease] = name
        if record.value.declared or record.value.expired:
            self._release(name, changes)

    def _delete(self, key: str, changes: Changes, *, asked_for: bool) -> None:
        if key.startswith(layout.MASTERS):
            number = layout.number_of(key)
            old = self.identities.pop(number, None) if number is not None else None
            if number is not None and old is not None:
                self._forget_labels(number, old.value)
                changes.identities.add(number)
        elif key.startswith(layout.TOMBSTONES):
            self.tombstones.discard(layout.number_of(key, layout.TOMBSTONES) or 0)
        elif key.startswith(layout.NODE_RECORDS):
            name = key.removeprefix(layout.record_prefix(self.cluster))
            record = self.records.pop(name, None)
            for lease in record.value.leases if record else ():
                self._node_by_lease.pop(lease, None)
            self._release(name, changes)
        elif asked_for or not self._hold(key):
            self.held.pop(key, None)
            self._drop(key, changes)

    def _hold(self, key: str) -> bool:
        """Keeps the row of a registered node whose lease expired."""
        row: Stored[Address] | Stored[Node] | None = None
        if key.startswith(layout.IPS):
            row = self.addresses.get(key.removeprefix(layout.IPS))
        elif key.startswith(layout.NODES):
            row = self.nodes.get(key.removeprefix(layout.NODES))
        owner = self._node_by_lease.get(row.lease) if row else None
        record = self.records.get(owner) if owner else None
        if owner is None or record is None or record.value.expired:
            return False
        self.held[key] = owner
        return True

    def _release(self, name: str, changes: Changes) -> None:
        for key in [key for key, owner in self.held.items() if owner == name]:
            del self.held[key]
            self._drop(key, changes)

    def _drop(self, key: str, changes: Changes) -> None:
        if key.startswith(layout.IPS):
            ip = key.removeprefix(layout.IPS)
            self._unindex(ip)
            if self.addresses.pop(ip, None) is not None:
                changes.addresses.add(ip)
        elif key.startswith(layout.NODES):
            name = key.removeprefix(layout.NODES)
            self._node_by_host = None
            if self.nodes.pop(name, None) is not None:
                changes.nodes.add(name)

    def _unindex(self, ip: str) -> None:
        row = self.addresses.get(ip)
        if row is not None:
            _discard(self._ips_by_lease, row.lease, ip)
            _discard(self._ips_by_host, row.value.host_ip, ip)

    def _keys(self) -> list[str]:
        return [
            *(layout.master_key(number) for number in self.identities),
            *(layout.ip_key(ip) for ip in self.addresses if not self.is_held(layout.ip_key(ip))),
            *(layout.NODES + name for name in self.nodes if not self.is_held(layout.NODES + name)),
            *(layout.record_key(self.cluster, name) for name in self.records),
            *(layout.tombstone_key(number) for number in self.tombstones),
        ]


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    values = index[key]
    values.discard(value)
    if not values:
        del index[key]
