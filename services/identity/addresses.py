"""Addresses of nodes in etcd: publication and withdrawal, in batches of one transaction each.

Calls of one node take turns, so that none counts or withdraws while another writes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from axoneme.lib import identities
from axoneme.lib.errors import StoreConflict
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Compare, DeleteOp, PutOp, Store, unchanged
from services.identity import domain, records
from services.identity.domain import Address
from services.identity.mirror import Mirror
from services.identity.nodes import ATTEMPTS, MARKER, NodeRegistry
from services.identity.references import References

BATCH = 60
"""Keys of one transaction; two conditions each may be needed."""


class AddressRegistry:
    """Writes addresses on behalf of nodes, at most `limit` for each."""

    def __init__(
        self, store: Store, mirror: Mirror, nodes: NodeRegistry, references: References, limit: int
    ) -> None:
        self._store, self._mirror, self._nodes, self._references = store, mirror, nodes, references
        self._limit = limit
        self._state = mirror.state
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def publish(
        self, node_name: str, wanted: Sequence[Address], *, complete: bool, dry: bool = False
    ) -> int:
        """Writes the addresses of a node's endpoints; returns the revision that holds all of them.

        `dry` only checks. Raises InvalidArgument, FailedPrecondition, AddressOutsideNode, NodeQuotaExceeded.
        """
        if node_name not in self._state.records or any(not self._known(a.identity) for a in wanted):
            await self._mirror.catch_up()
        self._nodes.registered(node_name)
        async with self._turns[node_name]:
            addresses = self._checked(node_name, wanted, complete=complete)
            numbers = {a.identity for a in addresses if not identities.is_reserved(a.identity)}
            if dry:
                await self._references.check(numbers, node_name)
                return self._state.revision
            await self._references.refer(numbers, node_name)
            return await self._publish(node_name, addresses, complete=complete)

    def _checked(self, node_name: str, wanted: Sequence[Address], *, complete: bool) -> list[Address]:
        self._nodes.registered(node_name)
        node = self._state.node(node_name)
        assert node is not None
        owned: set[str] = set() if complete else set(self._state.owned_by(node_name))
        # Before anything is parsed, too.
        domain.check_address_quota(node_name, len(wanted), self._limit)
        addresses = domain.checked_addresses(wanted, node.value, self._known)
        domain.check_address_quota(node_name, len(owned | {address.ip for address in addresses}), self._limit)
        return addresses

    async def _publish(self, node_name: str, addresses: Sequence[Address], *, complete: bool) -> int:
        revision = self._state.revision
        for start in range(0, len(addresses), BATCH):
            revision = await self._publish_batch(node_name, addresses[start : start + BATCH], revision)
        if complete:
            named = {address.ip for address in addresses}
            stale = [ip for ip in self._state.owned_by(node_name) if ip not in named]
            revision = await self._withdraw(node_name, stale, revision)
            revision = await self._nodes.declare(node_name, revision)
        await self._mirror.reached(revision)
        return revision

    async def withdraw(self, node_name: str, ips: Sequence[str], *, dry: bool = False) -> int:
        """Deletes addresses that the node published; others are left alone. `dry` only checks."""
        canonical = {domain.canonical_ip(ip) for ip in ips}
        if dry:
            return self._state.revision
        if any(ip not in self._state.addresses for ip in canonical):
            await self._mirror.catch_up()
        owned = self._state.owned_by(node_name)
        mine = [ip for ip in sorted(canonical) if ip in owned]
        if mine:
            async with self._turns[node_name]:
                revision = await self._withdraw(node_name, mine, self._state.revision)
            await self._mirror.reached(revision)
            return revision
        return self._state.revision

    def _known(self, number: int) -> bool:
        return number in self._state.identities

    async def _publish_batch(self, node_name: str, batch: Sequence[Address], revision: int) -> int:
        for _ in range(ATTEMPTS):
            leases = self._nodes.registered(node_name).value.leases
            changed = [address for address in batch if not self._is_published(address, leases)]
            if not changed:
                return revision
            lease = await self._nodes.lease(node_name, len(changed))
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
