"""The port over etcd's v3 API.

Reads are linearizable and tried on each endpoint; writes are sent once, because a write whose answer
was lost may have happened: callers make writes conditional and look again. Watches are in `etcdwatch`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Self

from axoneme.lib.kvstore import transport as calls  # isort: skip  (sets up gRPC's environment)
import grpc

from axoneme.api.etcd import etcd_pb2 as pb
from axoneme.lib.errors import RevisionCompacted, StoreConflict, StoreUnavailable
from axoneme.lib.kvstore import etcdwatch, wire
from axoneme.lib.kvstore.port import (
    PAGE_SIZE,
    Batch,
    Compare,
    DeleteOp,
    KeyRange,
    LeaseLost,
    LeaseState,
    Operation,
    Outcome,
    PutOp,
    Row,
    absent,
    check_size,
    unchanged,
)
from axoneme.lib.kvstore.transport import EtcdTransport
from axoneme.lib.tls import TlsFiles

Rows = list[Row]

LIST_SECONDS = 30.0
LIST_ATTEMPTS = 3


class EtcdStore:
    """A connection to one etcd cluster. Use `connect`."""

    def __init__(self, transport: EtcdTransport, *, rng: random.Random | None = None) -> None:
        self._transport = transport
        self._rng = rng or random.Random()  # noqa: S311 - jitter only

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls,
        endpoints: Sequence[str],
        tls: TlsFiles | None,
        *,
        server_name: str = "",
        rng: random.Random | None = None,
        timeout_seconds: float = 5.0,
    ) -> AsyncIterator[Self]:
        """A store until the block ends. Connects with the first call, so etcd may still be away."""
        transport = EtcdTransport(
            endpoints, tls, server_name=server_name, rng=rng, timeout_seconds=timeout_seconds
        )
        try:
            yield cls(transport, rng=rng)
        finally:
            await transport.close()

    async def revision(self) -> int:
        """The newest revision, agreed by the majority."""
        answer = await self._read(pb.RangeRequest(key=b"\0", count_only=True))
        return answer.header.revision

    async def get(self, key: str) -> Row | None:
        """The newest row of a key."""
        answer = await self._read(pb.RangeRequest(key=wire.encode_key(key)))
        return wire.row(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str, *, revision: int = 0, keys_only: bool = False) -> tuple[list[Row], int]:
        """Pages of one revision; starts again when that is compacted away under a long list of now."""
        for attempt in range(LIST_ATTEMPTS):
            try:
                return await self._list_once(prefix, revision, keys_only)
            except RevisionCompacted:
                if revision or attempt == LIST_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def watch(self, keys: str | KeyRange, start_revision: int) -> AsyncGenerator[Batch, None]:
        """Changes from `start_revision` on."""
        wanted = KeyRange.prefix(keys) if isinstance(keys, str) else keys
        return etcdwatch.watch(self._transport, wanted, start_revision, self.revision, self._rng)

    async def create(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """A transaction on "the key does not exist"."""
        return await self._conditional(absent(key), PutOp(key, value, lease), f"{key} exists already")

    async def swap(self, key: str, value: bytes, mod_revision: int, *, lease: int = 0) -> int:
        """A transaction on the revision of the last change."""
        condition = unchanged(key, mod_revision)
        return await self._conditional(condition, PutOp(key, value, lease), f"{key} changed meanwhile")

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """An unconditional write."""
        request = pb.PutRequest(key=wire.encode_key(key), value=value, lease=lease)
        answer = await self._transport.unary(calls.PUT, request, pb.PutResponse)
        return answer.header.revision

    async def delete(self, key: str, mod_revision: int | None = None) -> int:
        """A deletion, conditional when a revision is given."""
        if mod_revision is not None:
            condition = unchanged(key, mod_revision)
            return await self._conditional(condition, DeleteOp(key), f"{key} changed meanwhile")
        request = pb.DeleteRangeRequest(key=wire.encode_key(key))
        answer = await self._transport.unary(calls.DELETE_RANGE, request, pb.DeleteRangeResponse)
        return answer.header.revision

    async def transaction(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> Outcome:
        """One etcd transaction."""
        check_size(compares, success, failure)
        request = pb.TxnRequest(
            compare=[wire.compare(condition) for condition in compares],
            success=[wire.operation(operation) for operation in success],
            failure=[wire.operation(operation) for operation in failure],
        )
        return wire.outcome(await self._transport.unary(calls.TXN, request, pb.TxnResponse))

    async def grant(self, ttl_seconds: int) -> int:
        """A new lease with a number of etcd's choice."""
        request = pb.LeaseGrantRequest(TTL=ttl_seconds)
        answer = await self._transport.unary(calls.LEASE_GRANT, request, pb.LeaseGrantResponse)
        return answer.ID

    async def keep_alive(self, lease: int) -> int:
        """One renewal over a short stream."""
        call = self._transport.stream(calls.LEASE_KEEP_ALIVE)
        try:
            await call.write(pb.LeaseKeepAliveRequest(ID=lease))
            await call.done_writing()
            answer: Any = await call.read()
        except grpc.aio.AioRpcError as error:
            raise self._transport.failed(error) from error
        finally:
            call.cancel()
        if answer is grpc.aio.EOF:
            raise StoreUnavailable("etcd ended the renewal of a lease without an answer")
        if answer.TTL <= 0:
            raise LeaseLost(f"lease {lease:x} is gone")
        return int(answer.TTL)

    async def revoke(self, lease: int) -> None:
        """Ends a lease with its keys."""
        with contextlib.suppress(LeaseLost):
            await self._transport.unary(
                calls.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=lease), pb.LeaseRevokeResponse
            )

    async def lease_state(self, lease: int, *, keys: bool = False) -> LeaseState | None:
        """Asks the leader."""
        request = pb.LeaseTimeToLiveRequest(ID=lease, keys=keys)
        try:
            answer = await self._transport.unary(
                calls.LEASE_TIME_TO_LIVE, request, pb.LeaseTimeToLiveResponse
            )
        except LeaseLost:
            return None
        if answer.TTL < 0:
            return None
        return LeaseState(lease, answer.TTL, tuple(sorted(map(wire.decode_key, answer.keys))))

    async def compact(self, revision: int) -> None:
        """Forgets revisions below this one. For tests and maintenance."""
        request = pb.CompactionRequest(revision=revision, physical=True)
        await self._transport.unary(calls.COMPACT, request, pb.CompactionResponse)

    async def _conditional(self, condition: Compare, operation: Operation, conflict: str) -> int:
        outcome = await self.transaction([condition], [operation])
        if not outcome.succeeded:
            raise StoreConflict(conflict)
        return outcome.revision

    async def _read(self, request: pb.RangeRequest, *, seconds: float = 0) -> pb.RangeResponse:
        for last in (*([False] * self._transport.endpoints), True):
            try:
                return await self._transport.unary(calls.RANGE, request, pb.RangeResponse, seconds=seconds)
            except StoreUnavailable:
                if last:
                    raise
        raise AssertionError("unreachable")

    async def _list_once(self, prefix: str, revision: int, keys_only: bool) -> tuple[Rows, int]:
        first, end = wire.bounds(KeyRange.prefix(prefix))
        rows: Rows = []
        while True:
            request = pb.RangeRequest(
                key=first, range_end=end, limit=PAGE_SIZE, revision=revision, keys_only=keys_only
            )
            answer = await self._read(request, seconds=LIST_SECONDS)
            revision = revision or answer.header.revision
            rows += [wire.row(kv) for kv in answer.kvs]
            if not answer.more:
                return rows, revision
            first = answer.kvs[-1].key + b"\0"
