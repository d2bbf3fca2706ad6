"""Writing services: each one with its claims in one conditional transaction.

    read record and claims ─► complete (allocate) ─► write, if nothing of it changed meanwhile ─► else again

A claim is free when nobody has it, or when the service that it names does not exist or does not claim it any
more: what a broken writer left behind heals by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from axoneme.lib.errors import AlreadyExists, InvalidArgument, NotFound, StaleRevision, StoreConflict
from axoneme.lib.kvstore.port import Compare, DeleteOp, GetOp, Operation, PutOp, Row, Store, unchanged
from services.clustermesh.allocation import Allocation, Completed
from services.clustermesh.claims import claims_of, describe, owner_of, owner_value
from services.clustermesh.model import Service, ServiceKey
from services.clustermesh.records import (
    MalformedRecordError,
    decode_service,
    encode_service,
    store_key,
)

MAX_ATTEMPTS: Final = 16
_MOST_CLAIMS: Final = 120
"""New and dropped ones of one change: a transaction takes 128 operations and writes the service too."""

_MOST_BYTES: Final = 1_000_000
"""An etcd server takes requests of 1.5 MiB."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A row as it is in the store; `service` is None when it cannot be read."""

    revision: int
    service: Service | None


@dataclass(frozen=True, slots=True)
class Written:
    """Outcome of an apply."""

    service: Service
    created: bool
    revision: int
    """Last change of the service; of the whole store when nothing was stored."""


class ServiceStore:
    """Reads and writes services. Every method may raise StoreUnavailable."""

    def __init__(self, store: Store, allocation: Callable[[], Allocation]) -> None:
        self._store = store
        self._allocation = allocation

    async def apply(self, wanted: Service, *, expected_revision: int = 0, dry: bool = False) -> Written:
        """Store a checked service; `dry` only looks.

        Raises StaleRevision, AlreadyExists (FRONTEND_IN_USE), PoolExhausted, StoreConflict after too many
        lost races.
        """
        _check_bytes(wanted)
        allocation = self._allocation()
        for _ in range(MAX_ATTEMPTS):
            before = await self._read(wanted.key)
            _check_revision(wanted.key, before, expected_revision)
            completed = allocation.complete(wanted, before.service if before else None)
            written = await self._try(completed, before, allocation.refused, dry=dry)
            if written is not None:
                return written
        raise StoreConflict(f"others changed what service {wanted.key} needs again and again; try once more")

    async def delete(self, key: ServiceKey, *, expected_revision: int = 0, dry: bool = False) -> int:
        """Delete a service and free what it had; returns the revision.

        Raises NotFound, StaleRevision, StoreConflict.
        """
        for _ in range(MAX_ATTEMPTS):
            before = await self._read(key)
            if before is None:
                raise not_found(key)
            _check_revision(key, before, expected_revision)
            if dry:
                return before.revision
            conditions, operations = [unchanged(store_key(key), before.revision)], [DeleteOp(store_key(key))]
            claims = claims_of(before.service) if before.service else frozenset()
            rows = await self._rows(claims)
            for claim in _owned(claims, rows, key):
                conditions.append(unchanged(claim, rows[claim].mod_revision))
                operations.append(DeleteOp(claim))
            outcome = await self._store.transaction(conditions, operations)
            if outcome.succeeded:
                return outcome.revision
        raise StoreConflict(f"others changed service {key} again and again; try once more")

    async def _try(
        self, completed: Completed, before: Stored | None, refused: set[str], *, dry: bool
    ) -> Written | None:
        """One attempt; None when something changed meanwhile, or a choice turned out to be taken."""
        service = completed.service
        present = before.revision if before else 0
        old = claims_of(before.service) if before and before.service else frozenset()
        new = claims_of(service)
        _check_size(service.key, new, old)
        rows = await self._rows(new | old)
        if (
            before is not None
            and before.service == service
            and len(_owned(new, rows, service.key)) == len(new)
        ):
            return Written(service, False, present)
        conditions = [unchanged(store_key(service.key), present)]
        taken = await self._taken_by_others(sorted(new), rows, service.key, conditions)
        if taken:
            refused.update(set(taken) & completed.chosen)
            _refuse(service.key, {one: who for one, who in taken.items() if one not in completed.chosen})
            return None
        if dry:
            return Written(service, before is None, present)
        operations = _writes(service, new, _owned(old - new, rows, service.key), rows)
        conditions += [
            unchanged(operation.keys, rows[str(operation.keys)].mod_revision)
            for operation in operations
            if isinstance(operation, DeleteOp) and isinstance(operation.keys, str)
        ]
        outcome = await self._store.transaction(conditions, operations)
        return Written(service, before is None, outcome.revision) if outcome.succeeded else None

    async def _taken_by_others(
        self, claims: list[str], rows: dict[str, Row], key: ServiceKey, conditions: list[Compare]
    ) -> dict[str, ServiceKey]:
        """Claims that other services really have; what makes the rest ours goes into `conditions`."""
        taken: dict[str, ServiceKey] = {}
        owners: dict[ServiceKey, Stored | None] = {}
        for claim in claims:
            row = rows.get(claim)
            owner = None if row is None else owner_of(row.value)
            if owner is not None and owner != key:
                if owner not in owners:
                    owners[owner] = await self._read(owner)
                    conditions.append(unchanged(store_key(owner), _revision(owners[owner])))
                if _has(owners[owner], claim):
                    taken[claim] = owner
                    continue
            conditions.append(unchanged(claim, row.mod_revision if row else 0))
        return taken

    async def _read(self, key: ServiceKey) -> Stored | None:
        row = await self._store.get(store_key(key))
        if row is None:
            return None
        try:
            return Stored(row.mod_revision, decode_service(key, row.value))
        except MalformedRecordError:
            return Stored(row.mod_revision, None)

    async def _rows(self, keys: Iterable[str]) -> dict[str, Row]:
        wanted = sorted(keys)
        if not wanted:
            return {}
        outcome = await self._store.transaction((), [GetOp(key) for key in wanted])
        return {row.key: row for rows in outcome.rows for row in rows}


def not_found(key: ServiceKey) -> NotFound:
    """The error for a service that does not exist."""
    return NotFound(f"service {key} does not exist", reason="SERVICE_NOT_FOUND")


def _revision(stored: Stored | None) -> int:
    return stored.revision if stored else 0


def _has(stored: Stored | None, claim: str) -> bool:
    """Whether a service has a claim; one that cannot be read keeps what it had."""
    return stored is not None and (stored.service is None or claim in claims_of(stored.service))


def _owned(claims: Iterable[str], rows: dict[str, Row], key: ServiceKey) -> list[str]:
    value = owner_value(key)
    return sorted(claim for claim in claims if claim in rows and rows[claim].value == value)


def _writes(
    service: Service, new: frozenset[str], dropped: list[str], rows: dict[str, Row]
) -> list[Operation]:
    value = owner_value(service.key)
    made = [claim for claim in sorted(new) if claim not in rows or rows[claim].value != value]
    return [
        PutOp(store_key(service.key), encode_service(service)),
        *(PutOp(claim, value) for claim in made),
        *(DeleteOp(claim) for claim in dropped),
    ]


def _refuse(key: ServiceKey, taken: dict[str, ServiceKey]) -> None:
    """Raises AlreadyExists when something that was asked for is another service's."""
    if taken:
        claim, owner = min(taken.items())
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise AlreadyExists(
            f"service {key}: {describe(claim)} belongs to service {owner}{more}; choose another, or none",
            reason="FRONTEND_IN_USE",
            metadata={"service": str(owner)},
        )


def _check_size(key: ServiceKey, new: frozenset[str], old: frozenset[str]) -> None:
    if len(new | old) > _MOST_CLAIMS:
        raise InvalidArgument.of_field(
            "service.ports",
            f"{len(new | old)} frontends of service {key}, old and new, are too many for one change; at most "
            f"{_MOST_CLAIMS} are possible, so change it in two steps",
        )


def _check_bytes(wanted: Service) -> None:
    size = len(encode_service(wanted))
    if size > _MOST_BYTES:
        raise InvalidArgument.of_field(
            "service", f"takes {size} bytes with its backends; at most {_MOST_BYTES} are stored, so split it"
        )


def _check_revision(key: ServiceKey, present: Stored | None, expected: int) -> None:
    if expected < 0 and present is not None:
        raise StaleRevision(f"service {key} exists already, at revision {present.revision}")
    if expected > 0 and expected != _revision(present):
        state = f"is at revision {present.revision}" if present else "does not exist"
        raise StaleRevision(f"service {key} {state}, not at {expected}; read it again")
