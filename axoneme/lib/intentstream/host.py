"""The publisher's end of all streams of one method: `serve` is the whole body of a bidi handler.

A service keeps one host per streamed method, applies changes to it, and asks it who has acknowledged what.
The host owns the table and the open streams; it never decides what the content is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry

from axoneme.lib.errors import DeadlineExceeded, InvalidArgument, Unavailable
from axoneme.lib.grpcserver import require_node
from axoneme.lib.intent import Failure, Hello, IntentTable, Limits, Subscription
from axoneme.lib.intentstream.codec import PublisherCodec
from axoneme.lib.intentstream.metrics import HostMetrics, stream_metrics
from axoneme.lib.intentstream.session import Session
from axoneme.lib.intentstream.slots import SnapshotSlots
from axoneme.lib.intentstream.timing import Timing

V = TypeVar("V")

SUPERSEDED = Failure("ABORTED", "SUPERSEDED", "a newer stream of the same node took over")
CONCURRENT_SNAPSHOTS = 32
"""Each takes at most a window of updates, about 4 MiB, until it is acknowledged."""
assert grpcsettings.ENVIRONMENT


@dataclass(slots=True, eq=False)
class _Waiter:
    """A wait for Acks: the nodes that are still to answer."""

    revision: int
    keys: Collection[str] | None
    open_nodes: set[str]
    done: asyncio.Future[None]


class StreamHost(Generic[V]):
    """Table and streams of one method."""

    def __init__(
        self,
        name: str,
        *,
        epoch: int,
        codec: PublisherCodec[V],
        interest: bool = False,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
        keep_sent: bool = False,
        limits: Limits | None = None,
        timing: Timing | None = None,
        authorise: Callable[[grpc.aio.ServicerContext[Any, Any], str], object] = require_node,
        store_revision_now: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self.name = name
        self.table: IntentTable[V] = IntentTable(epoch=epoch, keep_sent=keep_sent, limits=limits)
        self._codec = codec
        self._keyed = interest
        self._clock = clock
        self._timing = timing or Timing()
        self._metrics = HostMetrics(stream_metrics(registry), name)
        self._authorise = authorise
        self._store_revision_now = store_revision_now
        self._slots = SnapshotSlots(
            CONCURRENT_SNAPSHOTS, hold_seconds=self._timing.snapshot_slot_seconds, clock=clock
        )
        self._session_by_node: dict[str, Session[V]] = {}
        self._serving: set[Session[V]] = set()
        self._waiters: set[_Waiter] = set()
        self._failed_by_node: dict[str, int] = {}
        self._ready = False
        self._draining: Failure | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    # --- content

    def apply(self, upserts: Mapping[str, V], removals: Iterable[str], *, store_revision: int) -> int:
        """Makes changes one revision, wakes the streams, and returns the revision.

        Call it with no changes when the store reports progress: `store_revision` alone lets replicas catch
        up.
        """
        revision = self.table.apply(upserts, removals, store_revision=store_revision)
        self._wake_due()
        return revision

    def reset(self, *, epoch: int, store_revision: int) -> None:
        """Starts a new epoch after a restore of the store; every stream gets a snapshot."""
        self.table.reset(epoch=epoch, store_revision=store_revision)
        self._wake_due()

    def set_ready(self, ready: bool) -> None:
        """Lets streams start (True) once the table is complete; streams that already run go on either way."""
        self._ready = ready
        if ready:
            for session in self._serving:
                session.enable()

    # --- streams

    async def serve(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Serves one stream to its end. Raises WrongNode before any data when the caller is another node."""
        hello = await self._read_hello(context)
        self._authorise(context, hello.node_name)
        if self._draining is not None:
            raise Unavailable(self._draining.message, reason=self._draining.reason)
        await context.send_initial_metadata(
            ()
        )  # the subscriber waits for this before it writes anything else
        session = self._open_session(context, hello)
        try:
            await session.run()
        finally:
            self._close_session(session)

    async def _read_hello(self, context: grpc.aio.ServicerContext[Any, Any]) -> Hello:
        try:
            message = await asyncio.wait_for(context.read(), self._timing.connect_seconds)
            request = None if message is grpc.aio.EOF else self._codec.decode(message)
        except TimeoutError as error:
            raise DeadlineExceeded("no hello came in time; send it first") from error
        except ValueError as error:
            raise InvalidArgument.of_field("hello", str(error)[:256]) from error
        if not isinstance(request, Hello) or not request.node_name:
            raise InvalidArgument.of_field("hello", "the first message must be hello with a node_name")
        return request

    def _open_session(self, context: grpc.aio.ServicerContext[Any, Any], hello: Hello) -> Session[V]:
        subscription = Subscription(self.table, interest=self._keyed, weigh=self._codec.weight)
        session = Session(
            name=self.name,
            node_name=hello.node_name,
            context=context,
            subscription=subscription,
            codec=self._codec,
            timing=self._timing,
            metrics=self._metrics,
            slots=self._slots,
            clock=self._clock,
            on_ack=lambda: self._on_ack(session),
            store_revision_now=self._store_revision_now,
        )
        subscription.receive(hello)
        older = self._session_by_node.get(hello.node_name)
        if older is not None:
            older.end(SUPERSEDED)
        self._session_by_node[hello.node_name] = session
        self._serving.add(session)
        self._idle.clear()
        self._metrics.streams.set(len(self._serving))
        if self._ready:
            session.enable()
        return session

    def _close_session(self, session: Session[V]) -> None:
        self._serving.discard(session)
        if self._session_by_node.get(session.node_name) is session:
            del self._session_by_node[session.node_name]
            self._count_failures(session)
        if not self._serving:
            self._idle.set()
        self._metrics.streams.set(len(self._serving))

    async def goodbye_all(self, failure: Failure) -> None:
        """Ends every stream in order and refuses new ones; call it before the server stops."""
        self._draining = failure
        for session in self._serving:
            session.end(failure)
        try:
            await asyncio.wait_for(self._idle.wait(), self._timing.goodbye_seconds + 0.5)
        except TimeoutError:
            return

    # --- what the nodes hold

    async def wait_acknowledged(
        self, revision: int, *, keys: Collection[str] | None = None, timeout: float
    ) -> list[str]:
        """Waits until every connected node has a revision in effect; returns those that had not after
        `timeout`.

        With `keys`, only nodes that see one of them count, and a failure reported for one of them keeps a
        node in the list. A node that disconnects meanwhile stays in it until it is back and has
        acknowledged.
        """
        open_nodes = {
            name
            for name, session in self._session_by_node.items()
            if (keys is None or session.subscription.interested(keys))
            and not session.subscription.acknowledged(revision, keys)
        }
        if not open_nodes:
            return []
        waiter = _Waiter(revision, keys, open_nodes, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter)
        try:
            await asyncio.wait_for(waiter.done, timeout)
        except TimeoutError:
            self._metrics.unacknowledged.inc()
        finally:
            self._waiters.discard(waiter)
        return sorted(waiter.open_nodes)

    def _on_ack(self, session: Session[V]) -> None:
        for waiter in list(self._waiters):
            if session.node_name not in waiter.open_nodes:
                continue
            if session.subscription.acknowledged(waiter.revision, waiter.keys):
                waiter.open_nodes.discard(session.node_name)
                if not waiter.open_nodes and not waiter.done.done():
                    waiter.done.set_result(None)
        self._count_failures(session)

    def failures(self) -> dict[str, dict[str, Failure]]:
        """Returns, by node, the resources that are not in effect there."""
        return {
            name: dict(session.subscription.failures)
            for name, session in sorted(self._session_by_node.items())
            if session.subscription.failures
        }

    def standing(self) -> dict[str, tuple[int, Mapping[str, Failure]]]:
        """Returns, by connected node, the revision that it has applied, and what failed of it."""
        return {
            name: (session.subscription.settled, session.subscription.failures)
            for name, session in self._session_by_node.items()
        }

    def subscribers(self) -> list[str]:
        """Returns the names of the connected nodes."""
        return sorted(self._session_by_node)

    def _count_failures(self, session: Session[V]) -> None:
        if not session.subscription.failures and session.node_name not in self._failed_by_node:
            return
        before = self._failed_by_node.pop(session.node_name, 0)
        current = self._session_by_node.get(session.node_name) is session
        if current and session.subscription.failures:
            self._failed_by_node[session.node_name] = len(session.subscription.failures)
        if before != self._failed_by_node.get(session.node_name, 0):
            self._metrics.failed.set(sum(self._failed_by_node.values()))

    def _wake_due(self) -> None:
        for session in self._serving:
            if session.subscription.due:
                session.wake()
