"""Nodes and their addresses in etcd: registration, leases, publication, withdrawal.

A node's keys hang on its leases; what must outlive them (PodCIDRs, the list of leases) is in its record.
Every write is conditional on what the state showed; a lost race brings the state up to date and tries
again. Deletions that somebody asked for carry a marker in the same revision (see `state`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from axoneme.lib import identities
from axoneme.lib.errors import FailedPrecondition, NotFound, StoreConflict
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import (
    Compare,
    DeleteOp,
    LeaseLost,
    Operation,
    PutOp,
    Store,
    settled,
    unchanged,
)
from axoneme.lib.labels import LabelSet
from services.identity import domain, records
from services.identity.allocation import Allocation, Allocator
from services.identity.domain import Address, Node, Pool
from services.identity.leases import LeaseBook
from services.identity.mirror import Mirror
from services.identity.records import NodeRecord
from services.identity.state import WITHDRAWN, Stored

ATTEMPTS = 8
BATCH = 60
"""Keys of one transaction; two conditions each may be needed."""
MARKER = PutOp(WITHDRAWN, b"")


class Registry:
    """Writes of one cluster on behalf of its nodes."""

    def __init__(
        self, store: Store, mirror: Mirror, allocator: Allocator, leases: LeaseBook, pools: Sequence[Pool]
    ) -> None:
        self._store, self._mirror, self._allocator, self._leases = store, mirror, allocator, leases
        self._state = mirror.state
        self._pools = tuple(pools)
        self._registering = asyncio.Lock()
        self._references: dict[tuple[str, int], int] = {}

    @property
    def lease_seconds(self) -> int:
        """Time to live of a node's leases."""
        return self._leases.ttl_seconds

    # --- nodes

    async def register(self, wanted: Node) -> tuple[Node, int]:
        """Declares a node and gives it PodCIDRs; returns it as registered, and the revision."""
        wanted = domain.checked_node(wanted)
        async with self._registering:
            lease = 0
            for _ in range(ATTEMPTS):
                old = self._state.records.get(wanted.name)
                alive = await self._leases.alive(old.value.leases) if old else ()
                if not alive:
                    lease = lease or await self._leases.grant()
                    alive = (lease,)
                node, operations = self._registration(wanted, old, alive)
                outcome = await self._store.transaction(self._registration_conditions(node, old), operations)
                if outcome.succeeded:
                    await self._mirror.reached(outcome.revision if operations else 0)
                    return node, outcome.revision
                await self._mirror.catch_up()
        raise StoreConflict(f"node {wanted.name} was changed by others meanwhile; try again")

    def _registration(
        self, wanted: Node, old: Stored[NodeRecord] | None, leases: tuple[int, ...]
    ) -> tuple[Node, list[Operation]]:
        """The node as it will be, and what has to be written for that."""
        cidrs_by_node = {name: record.value.pod_cidrs for name, record in self._state.records.items()}
        cidrs = domain.choose_pod_cidrs(wanted.name, wanted.pod_cidrs, self._pools, cidrs_by_node)
        routers = domain.choose_router_ips(wanted.router_ips, cidrs)
        node = replace(wanted, pod_cidrs=cidrs, router_ips=routers)
        kept = old is not None and old.value.leases == leases and not old.value.expired
        record = NodeRecord(
            pod_cidrs=cidrs, leases=leases, declared=kept and old.value.declared if old else False
        )
        operations: list[Operation] = []
        current = self._state.node(node.name)
        key = layout.node_key(node.cluster, node.name)
        if (
            current is None
            or current.value != node
            or current.lease not in leases
            or self._state.is_held(key)
        ):
            operations.append(PutOp(key, records.encode_node(node), leases[0]))
        if old is None or old.value != record:
            operations.append(PutOp(self._record_key(node.name), records.encode_record(record)))
        return node, operations

    def _registration_conditions(self, node: Node, old: Stored[NodeRecord] | None) -> list[Compare]:
        conditions = [unchanged(self._record_key(node.name), old.mod_revision if old else 0)]
        if old is None or old.value.pod_cidrs != node.pod_cidrs:
            # Nobody else may have taken an overlapping range since we looked.
            conditions.append(settled(layout.record_prefix(self._state.cluster), self._state.revision))
        return conditions

    async def renew(self, name: str) -> int:
        """Gives the leases of a node their time again. Raises NotFound (LEASE_LOST) when one is gone."""
        record = self._state.records.get(name)
        if record is None:
            await self._mirror.catch_up()
            record = self._state.records.get(name)
        if record is None or record.value.expired:
            raise LeaseLost(f"node {name} is not registered; register it and declare everything")
        if await self._leases.alive(record.value.leases) != record.value.leases:
            self._forget_references(name)
            raise LeaseLost(f"a lease of node {name} is gone; register it again and declare everything")
        return self._leases.ttl_seconds

    async def delete_node(self, name: str) -> int:
        """Removes a node with all its keys. Raises NotFound."""
        for _ in range(ATTEMPTS):
            record = self._state.records.get(name)
            if record is None:
                raise NotFound(f"node {name} is not registered")
            # Without a record the keys of its leases have no owner, so their end counts at once.
            outcome = await self._store.transaction(
                [unchanged(self._record_key(name), record.mod_revision)],
                [
                    DeleteOp(self._record_key(name)),
                    DeleteOp(layout.node_key(self._state.cluster, name)),
                    MARKER,
                ],
            )
            if outcome.succeeded:
                for lease in record.value.leases:
                    await self._store.revoke(lease)
                self._forget_references(name)
                await self._mirror.reached(outcome.revision)
                return outcome.revision
            await self._mirror.catch_up()
        raise StoreConflict(f"node {name} was changed by others meanwhile; try again")

    async def settle(self, name: str) -> None:
        """Ends the wait for a node: complete if it is there, else gone. A change meanwhile starts over."""
        record = self._state.records.get(name)
        if record is None:
            return
        here = self._state.node(name) is not None
        here = here and not self._state.is_held(layout.node_key(self._state.cluster, name))
        value = NodeRecord(
            pod_cidrs=record.value.pod_cidrs, leases=record.value.leases, declared=here, expired=not here
        )
        await self._write_record(name, record, value)

    async def doubt(self, name: str) -> None:
        """At the start of a service: a node whose leases ended has to declare everything again."""
        record = self._state.records.get(name)
        if record is None or record.value.expired or not record.value.declared:
            return
        for lease in record.value.leases:
            if await self._store.lease_state(lease) is None:
                await self._write_record(
                    name,
                    record,
                    NodeRecord(pod_cidrs=record.value.pod_cidrs, leases=record.value.leases),
                )
                return

    async def _write_record(self, name: str, old: Stored[NodeRecord], value: NodeRecord) -> bool:
        key = self._record_key(name)
        outcome = await self._store.transaction(
            [unchanged(key, old.mod_revision)], [PutOp(key, records.encode_record(value))]
        )
        if outcome.succeeded:
            await self._mirror.reached(outcome.revision)
        return outcome.succeeded

    def _record_key(self, name: str) -> str:
        return layout.record_key(self._state.cluster, name)

    # --- references

    async def allocate(self, labels: Iterable[str], node_name: str) -> tuple[Allocation, LabelSet]:
        """The number of a label set for an endpoint of a registered node."""
        canonical = domain.canonical_labels(labels, self._state.cluster)
        if canonical in identities.RESERVED_NUMBER_BY_LABELS:
            return await self._allocator.allocate(canonical, node_name, 0), canonical
        lease = await self._lease(node_name, 1)
        allocation = await self._allocator.allocate(canonical, node_name, lease)
        self._references[node_name, allocation.number] = lease
        if allocation.allocated:
            await self._mirror.reached(allocation.revision)
        return allocation, canonical

    async def release(self, number: int, node_name: str) -> int:
        """Drops the reference of a node."""
        self._references.pop((node_name, number), None)
        return await self._allocator.release(number, node_name)

    async def _refer(self, numbers: set[int], node_name: str) -> None:
        """A published address counts as a reference, also after the node's leases were lost."""
        leases = self._record(node_name).value.leases
        for number in sorted(numbers):
            if self._references.get((node_name, number)) in leases:
                continue
            lease = await self._lease(node_name, 1)
            await self._allocator.refer(number, node_name, lease)
            self._references[node_name, number] = lease

    def _forget_references(self, name: str) -> None:
        for key in [key for key in self._references if key[0] == name]:
            del self._references[key]

    async def _lease(self, node_name: str, keys: int) -> int:
        """A lease of the node with room for more keys; a new one is entered in its record first."""
        async with self._leases.lock(node_name):
            for _ in range(ATTEMPTS):
                record = self._record(node_name)
                lease = await self._leases.take(record.value.leases, keys)
                if lease is not None:
                    return lease
                value = NodeRecord(
                    pod_cidrs=record.value.pod_cidrs,
                    leases=(*record.value.leases, await self._leases.grant()),
                    declared=record.value.declared,
                )
                if not await self._write_record(node_name, record, value):
                    await self._mirror.catch_up()
        raise StoreConflict(f"node {node_name} was changed by others meanwhile; try again")

    def _record(self, name: str) -> Stored[NodeRecord]:
        record = self._state.records.get(name)
        if record is None or record.value.expired or self._state.node(name) is None:
            raise FailedPrecondition(
                f"node {name} is not registered; call RegisterNode first", reason="NODE_NOT_REGISTERED"
            )
        return record

    # --- addresses

    async def publish(self, node_name: str, wanted: Sequence[Address], *, complete: bool) -> int:
        """Writes the addresses of a node's endpoints; returns the revision that holds all of them."""
        if node_name not in self._state.records or any(not self._known(a.identity) for a in wanted):
            await self._mirror.catch_up()
        self._record(node_name)
        node = self._state.node(node_name)
        assert node is not None
        addresses = domain.checked_addresses(wanted, node.value, self._known)
        await self._refer(
            {a.identity for a in addresses if not identities.is_reserved(a.identity)}, node_name
        )
        revision = self._state.revision
        for start in range(0, len(addresses), BATCH):
            revision = await self._publish_batch(node_name, addresses[start : start + BATCH], revision)
        if complete:
            named = {address.ip for address in addresses}
            stale = [ip for ip in self._state.owned_by(node_name) if ip not in named]
            revision = await self._withdraw(node_name, stale, revision)
            revision = await self._declare(node_name, revision)
        await self._mirror.reached(revision)
        return revision

    async def withdraw(self, node_name: str, ips: Sequence[str]) -> int:
        """Deletes addresses that the node published; others are left alone."""
        canonical = {domain.canonical_ip(ip) for ip in ips}
        if any(ip not in self._state.addresses for ip in canonical):
            await self._mirror.catch_up()
        owned = self._state.owned_by(node_name)
        mine = [ip for ip in sorted(canonical) if ip in owned]
        revision = await self._withdraw(node_name, mine, self._state.revision)
        await self._mirror.reached(revision)
        return revision

    def _known(self, number: int) -> bool:
        return number in self._state.identities

    async def _publish_batch(self, node_name: str, batch: Sequence[Address], revision: int) -> int:
        for _ in range(ATTEMPTS):
            leases = self._record(node_name).value.leases
            changed = [address for address in batch if not self._is_published(address, leases)]
            if not changed:
                return revision
            lease = await self._lease(node_name, len(changed))
            outcome = await self._store.transaction(
                [self._as_seen(address.ip) for address in changed],
                [PutOp(layout.ip_key(a.ip), records.encode_address(a), lease) for a in changed],
            )
            if outcome.succeeded:
                return outcome.revision
            await self._mirror.catch_up()
        raise StoreConflict("the addresses were changed by others meanwhile; try again")

    def _is_published(self, address: Address, leases: tuple[int, ...]) -> bool:
        row = self._state.addresses.get(address.ip)
        held = self._state.is_held(layout.ip_key(address.ip))
        return row is not None and row.value == address and row.lease in leases and not held

    def _as_seen(self, ip: str) -> Compare:
        """The key is still as the state has it; a held row is not in etcd any more."""
        row, key = self._state.addresses.get(ip), layout.ip_key(ip)
        return unchanged(key, row.mod_revision if row and not self._state.is_held(key) else 0)

    async def _withdraw(self, node_name: str, ips: Sequence[str], revision: int) -> int:
        for start in range(0, len(ips), BATCH):
            batch = ips[start : start + BATCH]
            for _ in range(ATTEMPTS):
                owned = self._state.owned_by(node_name)
                batch = [ip for ip in batch if ip in owned and not self._state.is_held(layout.ip_key(ip))]
                if not batch:
                    break
                outcome = await self._store.transaction(
                    [self._as_seen(ip) for ip in batch],
                    [*(DeleteOp(layout.ip_key(ip)) for ip in batch), MARKER],
                )
                if outcome.succeeded:
                    revision = outcome.revision
                    break
                await self._mirror.catch_up()
            else:
                raise StoreConflict("the addresses were changed by others meanwhile; try again")
        return revision

    async def _declare(self, node_name: str, revision: int) -> int:
        """Notes that the node has told everything: what is still held for it is gone."""
        await self._mirror.reached(revision)
        for _ in range(ATTEMPTS):
            record = self._record(node_name)
            if record.value.declared:
                return self._state.revision
            value = NodeRecord(pod_cidrs=record.value.pod_cidrs, leases=record.value.leases, declared=True)
            if await self._write_record(node_name, record, value):
                return self._state.revision
            await self._mirror.catch_up()
        raise StoreConflict(f"node {node_name} was changed by others meanwhile; try again")
