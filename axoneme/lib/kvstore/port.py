"""What a service may ask of the key-value store, and the words it is asked in.

`ReadStore` has no write method: who is given one (the replication of other clusters) provably never writes.
Every method may raise StoreUnavailable. Revisions are etcd's: one counter for the whole store, one step
for each transaction. Two adapters exist, `etcd.EtcdStore` and `memory.MemoryStore`, under one contract test.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from axoneme.lib.errors import FailedPrecondition, NotFound

MAX_OPERATIONS = 128
"""Conditions, or operations of one branch, in a transaction (default limit of an etcd server)."""

PAGE_SIZE = 2_000
"""Keys of one page of a list; etcd's cost for a page grows with what lies behind it."""


class LeaseLost(NotFound):
    """The lease expired or was revoked: grant a new one and write its keys again."""

    default_reason = "LEASE_LOST"


class StoreRestored(FailedPrecondition):
    """The store went back in time (an old backup was restored): all known revisions are void."""

    default_reason = "STORE_RESTORED"


@dataclass(frozen=True, slots=True)
class Row:
    """One key with its value. `lease` is 0 when the key hangs on none."""

    key: str
    value: bytes
    mod_revision: int
    create_revision: int = 0
    version: int = 1
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Put:
    """A key was created or changed."""

    row: Row

    @property
    def key(self) -> str:
        return self.row.key

    @property
    def value(self) -> bytes:
        return self.row.value

    @property
    def mod_revision(self) -> int:
        return self.row.mod_revision


@dataclass(frozen=True, slots=True)
class Delete:
    """A key was deleted, or its lease expired."""

    key: str
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes in order. Everything up to `revision` has been delivered once this batch is applied."""

    events: tuple[Put | Delete, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class KeyRange:
    """Keys from `first` on, before `end`."""

    first: str
    end: str

    @classmethod
    def prefix(cls, prefix: str) -> KeyRange:
        """All keys that start with the prefix, which must end in "/" so that `a` never covers `ab`."""
        if not prefix.endswith("/"):
            raise ValueError(f"prefix {prefix!r} must end in '/'")
        return cls(prefix, prefix[:-1] + "0")  # "0" is the character behind "/"

    @classmethod
    def covering(cls, prefixes: Sequence[str]) -> KeyRange:
        """The smallest range that holds all prefixes; it may hold other keys too."""
        ranges = [cls.prefix(prefix) for prefix in prefixes]
        return cls(min(r.first for r in ranges), max(r.end for r in ranges))


class Target(enum.IntEnum):
    """What a condition looks at; a missing key has 0 for all numbers."""

    VERSION = 0
    CREATE_REVISION = 1
    MOD_REVISION = 2
    VALUE = 3
    LEASE = 4


class Relation(enum.IntEnum):
    """How the stored value must relate to the wanted one."""

    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on one key, or on every key of a range (an empty range counts as one missing key)."""

    keys: str | KeyRange
    target: Target
    relation: Relation
    wanted: int | bytes


def absent(key: str) -> Compare:
    """The key does not exist."""
    return Compare(key, Target.VERSION, Relation.EQUAL, 0)


def unchanged(key: str, mod_revision: int) -> Compare:
    """The key was last changed at this revision; 0 means that it does not exist."""
    return Compare(key, Target.MOD_REVISION, Relation.EQUAL, mod_revision)


def holds(key: str, value: bytes) -> Compare:
    """The key exists with this value."""
    return Compare(key, Target.VALUE, Relation.EQUAL, value)


def empty(prefix: str) -> Compare:
    """No key has the prefix."""
    return Compare(KeyRange.prefix(prefix), Target.CREATE_REVISION, Relation.EQUAL, 0)


def not_empty(prefix: str) -> Compare:
    """Some key has the prefix."""
    return Compare(KeyRange.prefix(prefix), Target.CREATE_REVISION, Relation.GREATER, 0)


def settled(prefix: str, revision: int) -> Compare:
    """No key of the prefix was created or changed after `revision` (deletions are not noticed)."""
    return Compare(KeyRange.prefix(prefix), Target.MOD_REVISION, Relation.LESS, revision + 1)


@dataclass(frozen=True, slots=True)
class PutOp:
    """Writes a key and hangs it on a lease (0: none)."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class DeleteOp:
    """Deletes a key or a range; nothing there is success."""

    keys: str | KeyRange


@dataclass(frozen=True, slots=True)
class GetOp:
    """Reads a key or a range, at most `limit` keys (0: all)."""

    keys: str | KeyRange
    limit: int = 0


Operation = PutOp | DeleteOp | GetOp


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a transaction: which branch ran, and for each of its operations the rows read (() for writes)."""

    succeeded: bool
    revision: int
    rows: tuple[tuple[Row, ...], ...]


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What is left of a lease; `keys` only when asked for."""

    lease: int
    ttl_seconds: int
    keys: tuple[str, ...] = ()


class ReadStore(Protocol):
    """Reading only."""

    async def revision(self) -> int:
        """The newest revision of the store (a linearizable read)."""

    async def get(self, key: str) -> Row | None:
        """The newest row of a key."""

    async def list(self, prefix: str, *, revision: int = 0, keys_only: bool = False) -> tuple[list[Row], int]:
        """All rows of a prefix as of one revision, by key, and that revision. 0 means now.

        Raises RevisionCompacted when the wanted revision is forgotten.
        """

    def watch(self, keys: str | KeyRange, start_revision: int) -> AsyncGenerator[Batch, None]:
        """Changes of a prefix or range from `start_revision` on; survives lost connections.

        A batch without events only says how far the watch got. Raises RevisionCompacted when the start is
        forgotten, StoreRestored when the store is older than the start.
        """


class Store(ReadStore, Protocol):
    """Reading and writing."""

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Writes a new key; returns the revision. Raises StoreConflict when it exists."""

    async def swap(self, key: str, value: bytes, mod_revision: int, *, lease: int = 0) -> int:
        """Replaces the value last changed at `mod_revision`. Raises StoreConflict when it changed since."""

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Writes whatever was there before. For keys with one writer, or without meaning."""

    async def delete(self, key: str, mod_revision: int | None = None) -> int:
        """Deletes; a missing key is success. Raises StoreConflict when it changed since `mod_revision`."""

    async def transaction(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> Outcome:
        """Runs `success` when all conditions hold, else `failure`, in one step.

        Raises LeaseLost for an unknown lease, ValueError for more than MAX_OPERATIONS or a key written twice.
        """

    async def grant(self, ttl_seconds: int) -> int:
        """A new lease; its keys go away when it isn't kept alive."""

    async def keep_alive(self, lease: int) -> int:
        """Gives the lease its time again; returns the seconds. Raises LeaseLost."""

    async def revoke(self, lease: int) -> None:
        """Ends a lease and deletes its keys; an unknown lease is success."""

    async def lease_state(self, lease: int, *, keys: bool = False) -> LeaseState | None:
        """What is left of a lease, None when it is gone."""


def check_size(
    compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation]
) -> None:
    """Raises ValueError for a transaction that a server would refuse."""
    for part in (compares, success, failure):
        if len(part) > MAX_OPERATIONS:
            raise ValueError(f"a transaction of {len(part)} operations; at most {MAX_OPERATIONS} are allowed")
    for branch in (success, failure):
        written = [operation.key for operation in branch if isinstance(operation, PutOp)]
        if len(set(written)) != len(written):
            raise ValueError("a transaction writes one key twice")
