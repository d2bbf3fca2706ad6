"""Nodes in etcd: registration, leases, removal, and the end of the wait for one that stayed away.

A node's keys hang on its leases; what must outlive them (PodCIDRs, the list of leases) is in its record.
Every write is conditional on what the state showed; a lost race brings the state up to date and tries
again. Deletions that somebody asked for carry a marker in the same revision (see `state`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from axoneme.lib.errors import FailedPrecondition, NotFound, StoreConflict
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Compare, DeleteOp, LeaseLost, PutOp, Store, settled, unchanged
from services.identity import domain, podcidrs, records
from services.identity.domain import Node
from services.identity.holdings import Holdings
from services.identity.leases import LeaseBook
from services.identity.mirror import Mirror
from services.identity.podcidrs import Pool
from services.identity.records import NodeRecord
from services.identity.state import WITHDRAWN, Stored

ATTEMPTS = 8
MARKER = PutOp(WITHDRAWN, b"")


@dataclass(frozen=True, slots=True)
class Registration:
    """A node as registered, the revision of its record, and the one at which that holds."""

    node: Node
    record_revision: int
    revision: int


class NodeRegistry:
    """Writes nodes of one cluster."""

    def __init__(
        self, store: Store, mirror: Mirror, leases: LeaseBook, holdings: Holdings, pools: Sequence[Pool]
    ) -> None:
        self._store, self._mirror, self._leases, self._holdings = store, mirror, leases, holdings
        self._state = mirror.state
        self._pools = tuple(pools)
        self._registering = asyncio.Lock()

    @property
    def lease_seconds(self) -> int:
        """Time to live of a node's leases."""
        return self._leases.ttl_seconds

    # --- what nodes and operators ask for

    async def register(self, wanted: Node, *, expected_revision: int = 0, dry: bool = False) -> Registration:
        """Declares a node and gives it PodCIDRs; `dry` only says what it would get.

        Raises InvalidArgument, StaleRevision, PodCidrOverlap, PoolExhausted, StoreConflict.
        """
        wanted = domain.checked_node(wanted)
        async with self._registering:
            if dry:
                revision = await self._mirror.catch_up()
                old = await self._current(wanted.name, expected_revision)
                return Registration(self._planned(wanted), old.mod_revision if old else 0, revision)
            lease = 0
            for _ in range(ATTEMPTS):
                old = await self._current(wanted.name, expected_revision)
                node = self._planned(wanted)
                alive = await self._leases.alive(old.value.leases) if old else ()
                if not alive:
                    lease = lease or await self._leases.grant()
                    alive = (lease,)
                found = await self._write(node, old, alive)
                if found is not None:
                    self._holdings.forget(node.name)
                    return found
                await self._mirror.catch_up()
        raise StoreConflict(f"node {wanted.name} was changed by others meanwhile; try again")

    async def renew(self, name: str) -> int:
        """Gives the leases of a node their time again. Raises NotFound (LEASE_LOST) when one is gone."""
        record = self._state.records.get(name)
        if record is None:
            await self._mirror.catch_up()
            record = self._state.records.get(name)
        if record is None or record.value.expired:
            raise LeaseLost(f"node {name} is not registered; register it and declare everything")
        if await self._leases.alive(record.value.leases) != record.value.leases:
            self._holdings.forget(name)
            raise LeaseLost(f"a lease of node {name} is gone; register it again and declare everything")
        return self._leases.ttl_seconds

    async def delete(self, name: str, *, expected_revision: int = 0, dry: bool = False) -> int:
        """Removes a node with all its keys; `dry` only checks. Raises NotFound, StaleRevision."""
        if dry or name not in self._state.records:
            await self._mirror.catch_up()
        for _ in range(ATTEMPTS):
            if name not in self._state.records:
                raise NotFound(f"node {name} is not registered")
            record = await self._current(name, expected_revision)
            if dry or record is None:
                return self._state.revision
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
                self._holdings.forget(name)
                await self._mirror.reached(outcome.revision)
                return outcome.revision
            await self._mirror.catch_up()
        raise StoreConflict(f"node {name} was changed by others meanwhile; try again")

    async def _current(self, name: str, expected_revision: int) -> Stored[NodeRecord] | None:
        """The record that the caller expects, by a state that looks twice. Raises StaleRevision."""
        record = self._state.records.get(name)
        if expected_revision and (record is None or record.mod_revision != expected_revision):
            await self._mirror.catch_up()
            record = self._state.records.get(name)
            domain.check_revision(name, record.mod_revision if record else 0, expected_revision)
        return record

    def _planned(self, wanted: Node) -> Node:
        """The node with the PodCIDRs and router addresses that it gets."""
        cidrs_by_node = {name: record.value.pod_cidrs for name, record in self._state.records.items()}
        cidrs = podcidrs.choose_pod_cidrs(wanted.name, wanted.pod_cidrs, self._pools, cidrs_by_node)
        return replace(
            wanted,
            pod_cidrs=cidrs,
            router_ips=podcidrs.choose_router_ips(wanted.router_ips, cidrs),
            health_ips=podcidrs.addresses_inside(wanted.health_ips, cidrs),
        )

    async def _write(
        self, node: Node, old: Stored[NodeRecord] | None, leases: tuple[int, ...]
    ) -> Registration | None:
        """Writes what is not there yet; None when something else changed meanwhile."""
        kept = old is not None and old.value.leases == leases and not old.value.expired
        record = NodeRecord(
            pod_cidrs=node.pod_cidrs, leases=leases, declared=kept and old.value.declared if old else False
        )
        operations: list[PutOp] = []
        key = layout.node_key(node.cluster, node.name)
        current = self._state.node(node.name)
        there = current is not None and current.value == node and current.lease in leases
        if not there or self._state.is_held(key):
            operations.append(PutOp(key, records.encode_node(node), leases[0]))
        same = old is not None and old.value == record
        if not same:
            operations.append(PutOp(self._record_key(node.name), records.encode_record(record)))
        outcome = await self._store.transaction(self._conditions(node, old), operations)
        if not outcome.succeeded:
            return None
        await self._mirror.reached(outcome.revision if operations else 0)
        return Registration(node, old.mod_revision if same and old else outcome.revision, outcome.revision)

    def _conditions(self, node: Node, old: Stored[NodeRecord] | None) -> list[Compare]:
        conditions = [unchanged(self._record_key(node.name), old.mod_revision if old else 0)]
        if old is None or old.value.pod_cidrs != node.pod_cidrs:
            # Nobody else may have taken an overlapping range since we looked.
            conditions.append(settled(layout.record_prefix(self._state.cluster), self._state.revision))
        return conditions

    # --- what the service does by itself

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
                value = NodeRecord(pod_cidrs=record.value.pod_cidrs, leases=record.value.leases)
                await self._write_record(name, record, value)
                return

    # --- for what hangs on a node

    def registered(self, name: str) -> Stored[NodeRecord]:
        """The record of a node that may have keys. Raises FailedPrecondition (NODE_NOT_REGISTERED)."""
        record = self._state.records.get(name)
        if record is None or record.value.expired or self._state.node(name) is None:
            raise FailedPrecondition(
                f"node {name} is not registered; call RegisterNode first", reason="NODE_NOT_REGISTERED"
            )
        return record

    async def lease(self, name: str, keys: int) -> int:
        """A lease of the node with room for more keys; a new one is entered in its record first."""
        async with self._leases.lock(name):
            for _ in range(ATTEMPTS):
                record = self.registered(name)
                lease = await self._leases.take(record.value.leases, keys)
                if lease is not None:
                    return lease
                value = NodeRecord(
                    pod_cidrs=record.value.pod_cidrs,
                    leases=(*record.value.leases, await self._leases.grant()),
                    declared=record.value.declared,
                )
                if not await self._write_record(name, record, value):
                    await self._mirror.catch_up()
        raise StoreConflict(f"node {name} was changed by others meanwhile; try again")

    async def declare(self, name: str, revision: int) -> int:
        """Notes that the node has told everything: what is still held for it is gone."""
        await self._mirror.reached(revision)
        for _ in range(ATTEMPTS):
            record = self.registered(name)
            if record.value.declared:
                return self._state.revision
            value = NodeRecord(pod_cidrs=record.value.pod_cidrs, leases=record.value.leases, declared=True)
            if await self._write_record(name, record, value):
                return self._state.revision
            await self._mirror.catch_up()
        raise StoreConflict(f"node {name} was changed by others meanwhile; try again")

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
