"""Policy objects in etcd: `axoneme/state/policies/v1/<kind>/<namespace>/<name>` holds the object as JSON.

A cluster-wide object has `-` for its namespace. One class over the key-value port, so the same code runs on
etcd and on the memory store. What is read back was perhaps written by another version or by hand: decoding
never trusts it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from axoneme.lib.errors import NotFound, StaleRevision, StoreConflict
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import DeleteOp, GetOp, PutOp, Row, Store, unchanged
from services.policy.reading.document import MAX_BYTES
from services.policy.reading.faults import Fault, InvalidPolicy
from services.policy.reading.objects import ParsedObject, parse_object
from services.policy.rules import ParsedPolicy, PolicyKey

PREFIX: Final = layout.POLICIES
MAX_ATTEMPTS: Final = 8
_KEY_PARTS: Final = 3
_NO_NAMESPACE: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A row of the store. `parsed` is None when it cannot be used; `problem` then says why."""

    key: PolicyKey
    document: str
    revision: int
    generation: int
    parsed: ParsedObject | None = None
    problem: str = ""

    @property
    def policy(self) -> ParsedPolicy | None:
        """The policy, when it is usable and one: groups are objects too."""
        return self.parsed if isinstance(self.parsed, ParsedPolicy) else None


@dataclass(frozen=True, slots=True)
class Written:
    """Outcome for one object."""

    parsed: ParsedObject
    before: StoredObject | None
    revision: int
    changed: bool

    @property
    def generation(self) -> int:
        """Changes of the object since its creation."""
        return (self.before.generation if self.before else 0) + self.changed


def store_key(key: PolicyKey) -> str:
    """The etcd key of an object."""
    return f"{PREFIX}{key.kind}/{key.namespace or _NO_NAMESPACE}/{key.name}"


def policy_key(store_key: str) -> PolicyKey | None:
    """The object of an etcd key; None for a key of another shape."""
    parts = store_key.removeprefix(PREFIX).split("/")
    if not store_key.startswith(PREFIX) or len(parts) != _KEY_PARTS or not all(parts):
        return None
    kind, namespace, name = parts
    return PolicyKey(kind, "" if namespace == _NO_NAMESPACE else namespace, name)


def encode(parsed: ParsedObject) -> bytes:
    """The value of an object."""
    return json.dumps(parsed.document, separators=(",", ":"), ensure_ascii=False).encode()


def decode(row: Row) -> StoredObject | None:
    """The object of a row, usable or with its problem; None for a key that can't be an object's."""
    key = policy_key(row.key)
    if key is None:
        return None
    parsed, problem = _read(key, row.value)
    return StoredObject(
        key=key,
        document=row.value.decode(errors="replace"),
        revision=row.mod_revision,
        generation=row.version,
        parsed=parsed,
        problem=problem,
    )


def _read(key: PolicyKey, value: bytes) -> tuple[ParsedObject | None, str]:
    try:
        if len(value) > 2 * MAX_BYTES:
            raise InvalidPolicy.of_faults([Fault(0, 1, "", "the object is too large")])
        parsed = parse_object(json.loads(value))
    except InvalidPolicy as error:
        return None, str(error)
    except (ValueError, TypeError, RecursionError) as error:
        return None, f"not JSON: {str(error)[:200]}"
    if parsed.key != key:
        return None, f"the object is {parsed.key}, which does not belong under this key"
    return parsed, ""


class PolicyStore:
    """Reads and writes policy objects. Every method may raise StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def read(self, keys: Sequence[PolicyKey]) -> tuple[dict[PolicyKey, StoredObject], int]:
        """The stored ones among these objects, and the revision at which that holds."""
        outcome = await self._store.transaction((), [GetOp(store_key(key)) for key in keys])
        decoded = [decode(row) for rows in outcome.rows for row in rows]
        return {one.key: one for one in decoded if one is not None}, outcome.revision

    async def write(
        self, objects: Sequence[ParsedObject], *, expected_revision: int = 0, dry: bool = False
    ) -> tuple[list[Written], int]:
        """Store all of them or none; `dry` only looks. Returns outcomes and the revision.

        Raises StaleRevision when `expected_revision` is given and is not the present one, StoreConflict
        after too many lost races.
        """
        for _ in range(MAX_ATTEMPTS):
            stored, revision = await self.read([one.key for one in objects])
            written = [_plan(one, stored.get(one.key), expected_revision) for one in objects]
            changed = [one for one in written if one.changed]
            if dry or not changed:
                return written, revision
            outcome = await self._store.transaction(
                [unchanged(store_key(one.parsed.key), one.revision) for one in changed],
                [PutOp(store_key(one.parsed.key), encode(one.parsed)) for one in changed],
            )
            if outcome.succeeded:
                return [_done(one, outcome.revision) for one in written], outcome.revision
        raise StoreConflict("other writers changed the same objects again and again; try once more")

    async def delete(self, key: PolicyKey, *, expected_revision: int = 0, dry: bool = False) -> int:
        """Delete one object; returns the revision. Raises NotFound, StaleRevision, StoreConflict."""
        for _ in range(MAX_ATTEMPTS):
            stored, revision = await self.read([key])
            if key not in stored:
                raise NotFound(f"policy {key} does not exist")
            present = stored[key].revision
            _check_revision(key, present, expected_revision)
            if dry:
                return revision
            outcome = await self._store.transaction(
                [unchanged(store_key(key), present)], [DeleteOp(store_key(key))]
            )
            if outcome.succeeded:
                return outcome.revision
        raise StoreConflict(f"other writers changed policy {key} again and again; try once more")


def _plan(parsed: ParsedObject, before: StoredObject | None, expected_revision: int) -> Written:
    _check_revision(parsed.key, before.revision if before else 0, expected_revision)
    same = before is not None and before.parsed is not None and before.parsed.document == parsed.document
    return Written(parsed, before, before.revision if before else 0, not same)


def _done(one: Written, revision: int) -> Written:
    return Written(one.parsed, one.before, revision, one.changed) if one.changed else one


def _check_revision(key: PolicyKey, present: int, expected: int) -> None:
    if expected and expected != present:
        raise StaleRevision(f"policy {key} is at revision {present}, not {expected}; read it again")
