"""References of nodes to identities: allocation, release, and the ones that published addresses imply."""

from __future__ import annotations

from collections.abc import Iterable

from axoneme.lib import identities
from axoneme.lib.errors import NotFound
from axoneme.lib.labels import LabelSet
from services.identity import domain
from services.identity.allocation import Allocation, Allocator
from services.identity.holdings import Holdings
from services.identity.mirror import Mirror
from services.identity.nodes import NodeRegistry


class References:
    """Writes references on behalf of nodes."""

    def __init__(self, mirror: Mirror, allocator: Allocator, nodes: NodeRegistry, holdings: Holdings) -> None:
        self._mirror, self._allocator, self._nodes, self._holdings = mirror, allocator, nodes, holdings
        self._state = mirror.state

    async def allocate(
        self, labels: Iterable[str], node_name: str, *, dry: bool = False
    ) -> tuple[Allocation, LabelSet]:
        """The number of a label set for an endpoint of a registered node; `dry` gives 0 for a new one.

        Raises InvalidLabels, FailedPrecondition, NodeQuotaExceeded, PoolExhausted, StoreConflict.
        """
        canonical = domain.canonical_labels(labels, self._state.cluster)
        if canonical in identities.RESERVED_NUMBER_BY_LABELS:
            return await self._allocator.allocate(canonical, node_name, 0), canonical
        if dry:
            return await self._would_allocate(canonical, node_name), canonical
        await self._holdings.reserve(node_name, canonical.key, self._leases(node_name))
        try:
            lease = await self._nodes.lease(node_name, 1)
            allocation = await self._allocator.allocate(canonical, node_name, lease)
        except BaseException:
            self._holdings.cancel(node_name, canonical.key)
            raise
        self._holdings.confirm(node_name, canonical.key, lease)
        if allocation.allocated:
            await self._mirror.reached(allocation.revision)
        return allocation, canonical

    async def _would_allocate(self, labels: LabelSet, node_name: str) -> Allocation:
        revision = await self._mirror.catch_up()
        await self._holdings.check(node_name, labels.key, self._leases(node_name))
        known = self._state.number_of(labels)
        if known is None:
            # Only to see that there is one: which it will be is decided when it is allocated.
            state = self._state
            domain.choose_number(state.block, state.identities, state.tombstones, lambda _: 0)
        return Allocation(known or 0, known is None, revision)

    async def release(self, number: int, node_name: str, *, dry: bool = False) -> int:
        """Drops the reference of a node; returns the revision. `dry` changes nothing."""
        if dry:
            return self._state.revision
        row = self._state.identities.get(number)
        if row is not None:
            self._holdings.release(node_name, row.value.key)
        return await self._allocator.release(number, node_name)

    async def refer(self, numbers: Iterable[int], node_name: str) -> None:
        """A published address counts as a reference, also after the node's leases were lost.

        Raises NodeQuotaExceeded, NotFound (IDENTITY_UNKNOWN).
        """
        for number in sorted(numbers):
            key = self._labels_key(number)
            if not await self._holdings.reserve(node_name, key, self._leases(node_name)):
                continue
            try:
                lease = await self._nodes.lease(node_name, 1)
                await self._allocator.refer(number, node_name, lease)
            except BaseException:
                self._holdings.cancel(node_name, key)
                raise
            self._holdings.confirm(node_name, key, lease)

    async def check(self, numbers: Iterable[int], node_name: str) -> None:
        """Raises what `refer` would, without writing."""
        for number in sorted(numbers):
            await self._holdings.check(node_name, self._labels_key(number), self._leases(node_name))

    def _leases(self, node_name: str) -> tuple[int, ...]:
        return self._nodes.registered(node_name).value.leases

    def _labels_key(self, number: int) -> str:
        row = self._state.identities.get(number)
        if row is None:
            raise NotFound(f"identity {number} is gone; allocate it again", reason="IDENTITY_UNKNOWN")
        return row.value.key
