"""A watch over etcd that survives lost connections and knows when it must not.

Each watch is its own stream. It resumes behind the last delivered event, or behind the revision of a
progress notification (etcd sends those only when nothing is pending; the header of an answer with events
may be ahead of events that are still to come). A `created` answer below the resume point means that a
backup was restored: such a watch would be accepted and stay silent for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from axoneme.lib.kvstore import transport as calls  # isort: skip  (sets up gRPC's environment)
import grpc

from axoneme.api.etcd import etcd_pb2 as pb
from axoneme.lib import log
from axoneme.lib.errors import PermissionDenied, RevisionCompacted, StoreUnavailable
from axoneme.lib.kvstore import wire
from axoneme.lib.kvstore.port import Batch, Delete, KeyRange, Put, StoreRestored
from axoneme.lib.kvstore.transport import EtcdTransport

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.05
LAST_PAUSE_SECONDS = 2.0

Revision = Callable[[], Awaitable[int]]


async def watch(
    transport: EtcdTransport, keys: KeyRange, start_revision: int, newest: Revision, rng: random.Random
) -> AsyncGenerator[Batch, None]:
    """Batches from `start_revision` on, over as many connections as it takes."""
    position = start_revision
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            async with contextlib.aclosing(_one_stream(transport, keys, position, newest)) as batches:
                async for batch in batches:
                    pause = FIRST_PAUSE_SECONDS
                    position = max(position, batch.revision + 1)
                    yield batch
        except StoreUnavailable as error:
            logger.info("watch interrupted, resuming", extra={log.ERROR: str(error), log.REVISION: position})
        await asyncio.sleep(rng.uniform(pause / 2, pause))
        pause = min(pause * 2, LAST_PAUSE_SECONDS)


async def _one_stream(
    transport: EtcdTransport, keys: KeyRange, start: int, newest: Revision
) -> AsyncGenerator[Batch, None]:
    call = transport.stream(calls.WATCH)
    try:
        first, end = wire.bounds(keys)
        await call.write(
            pb.WatchRequest(
                create_request=pb.WatchCreateRequest(
                    key=first, range_end=end, start_revision=start, progress_notify=True, fragment=True
                )
            )
        )
        pending: list[Put | Delete] = []
        while (answer := await call.read()) is not grpc.aio.EOF:
            await _check(answer, start, newest)
            pending += [wire.event(event) for event in answer.events]
            if answer.fragment:
                continue
            if pending:
                batch = Batch(tuple(pending), pending[-1].mod_revision)
                pending = []
                yield batch
            elif not answer.created:
                yield Batch((), answer.header.revision)
        raise StoreUnavailable("etcd ended the watch")
    except grpc.aio.AioRpcError as error:
        raise transport.failed(error) from error
    finally:
        call.cancel()


async def _check(answer: Any, start: int, newest: Revision) -> None:
    """Raises for an answer that ends the watch; `canceled` goes first, a refused watch is `created` too."""
    if answer.canceled:
        if answer.compact_revision:
            raise RevisionCompacted(
                f"etcd has forgotten revision {start}; it keeps {answer.compact_revision} on"
            )
        if "permission" in answer.cancel_reason.lower():
            raise PermissionDenied(f"etcd refuses the watch: {log.clip(answer.cancel_reason)}")
        raise StoreUnavailable(f"etcd ended the watch: {log.clip(answer.cancel_reason)}")
    # A member that lags is behind too, so the majority is asked before anything is thrown away.
    if answer.created and answer.header.revision < start - 1 and await newest() < start - 1:
        raise StoreRestored(
            f"etcd is at revision {answer.header.revision}, before revision {start - 1} seen earlier"
        )
