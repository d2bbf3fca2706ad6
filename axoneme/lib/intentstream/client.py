"""The subscriber's end of one stream: connects, applies what comes through a sink, answers, reconnects.

Nothing that happens here changes what a node does: when the service is away, the desired resources stay as
they are and the stream is marked stale. Only write(), read() and done_writing() are used, never a request
generator, and a stream that ends with INTERNAL or CANCELLED is a broken transport (docs/intent-streams.md
§4.4).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc

from axoneme.lib.intent import Backoff, Delta, Failure, Interest, Resync, Subscriber
from axoneme.lib.intentstream.codec import Sink, SubscriberCodec
from axoneme.lib.intentstream.timing import Timing
from axoneme.lib.tasks import TaskScope

V = TypeVar("V")

logger = logging.getLogger(__name__)
assert grpcsettings.ENVIRONMENT

Call: TypeAlias = grpc.aio.StreamStreamCall[Any, Any]


class Targets(Protocol):
    """Where to connect; axoneme.lib.channel.ServiceChannel is one."""

    def current(self) -> grpc.aio.Channel:
        """Returns the channel to the present target."""

    def move_on(self) -> object:
        """Chooses another target for the next stream."""


class StreamEndedError(Exception):
    """The stream is over. `code` is the name of a gRPC status."""

    def __init__(self, code: str, reason: str, message: str) -> None:
        super().__init__(f"{code}: {message or reason or 'the stream ended'}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """What a node knows about one of its streams.

    `synced`: a complete snapshot was applied in this process. `stale_seconds`: 0 while the stream is in
    step, else the time since it last was (or since the start). `failures`: resources that are not in
    effect.
    """

    name: str
    synced: bool
    stale_seconds: float
    epoch: int
    revision: int
    error: str
    failures: Mapping[str, Failure] = field(default_factory=dict)


class IntentClient(Generic[V]):
    """One stream from a service to this node, kept open for ever by `run`."""

    def __init__(
        self,
        name: str,
        *,
        channel: Targets,
        open_stream: Callable[[grpc.aio.Channel], Call],
        codec: SubscriberCodec[V],
        sink: Sink[V],
        node_name: str,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        interest: bool = False,
        on_connect: Callable[[], Awaitable[None]] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.name = name
        self._channel = channel
        self._open_stream = open_stream
        self._codec = codec
        self._sink = sink
        self._clock = clock
        self._on_connect = on_connect
        self._timing = timing or Timing()
        self._subscriber: Subscriber[V] = Subscriber(node_name=node_name, interest=interest)
        self._backoff = Backoff(
            rng.random, first=self._timing.reconnect_first_seconds, limit=self._timing.reconnect_limit_seconds
        )
        self._call: Call | None = None
        self._write_lock = asyncio.Lock()  # requests leave in the order in which the subscriber made them
        self._sink_lock = asyncio.Lock()  # the sink sees one change at a time
        self._failures: Mapping[str, Failure] = {}
        self._synced = asyncio.Event()
        self._in_step = False
        self._heard = clock()
        self._error = "not connected yet"

    # --- for the node

    def status(self) -> StreamState:
        """Returns the state of the stream."""
        silent = self._clock() - self._heard
        return StreamState(
            name=self.name,
            synced=self._synced.is_set(),
            stale_seconds=0.0 if self._in_step and silent < self._timing.silence_seconds else silent,
            epoch=self._subscriber.epoch,
            revision=self._subscriber.revision,
            error=self._error,
            failures={**self._failures, **self._subscriber.refused},
        )

    async def wait_synced(self) -> None:
        """Returns once a complete snapshot went through the sink."""
        await self._synced.wait()

    def desired(self) -> Mapping[str, V]:
        """Returns everything the sink was told, by key, live."""
        return self._subscriber.desired

    async def change_interest(self, added: Collection[str] = (), removed: Collection[str] = ()) -> None:
        """Changes which keys this node wants; what goes is taken from the sink. Not to be called by the
        sink.
        """
        if added:
            message = self._subscriber.want(set(added))
            await self._send_interest(message)
        if removed:
            async with self._sink_lock:
                message, delta = self._subscriber.drop(set(removed))
                await self._send_interest(message)
                if delta is not None:
                    with contextlib.suppress(StreamEndedError):  # logged; the stream starts over
                        self._failures = await self._apply(delta)

    async def report_failures(self, failures: Mapping[str, Failure]) -> None:
        """Says which resources are not in effect now; an empty mapping says that all are."""
        if failures == self._failures:
            return
        self._failures = dict(failures)
        if self._call is not None:
            await self._try_send(lambda: self._codec.ack(self._subscriber.ack(0, self._failures)))

    # --- life of the stream

    async def run(self) -> None:
        """Keeps the stream open until cancelled."""
        while True:
            try:
                await self._stream()
            except StreamEndedError as end:
                self._on_end(end)
            except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError, OSError) as error:
                self._on_end(_end_of(error))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._on_end(
                    StreamEndedError("CANCELLED", "", "the call was cancelled")
                )  # the call, not this task
            await asyncio.sleep(self._backoff.next_delay())

    def _on_end(self, end: StreamEndedError) -> None:
        self._in_step = False
        self._error = str(end)[:256]
        if end.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"):
            self._channel.move_on()
        if end.reason == "SUPERSEDED":
            self._backoff.raise_to_limit()  # another process speaks for this node: do not fight it
        logger.info("stream ended", extra={log.STREAM: self.name, log.CODE: end.code, log.ERROR: self._error})

    async def _stream(self) -> None:
        call = self._open_stream(self._channel.current())
        try:
            async with TaskScope(f"{self.name} stream") as scope:
                await asyncio.wait_for(self._open(call), self._timing.connect_seconds)
                if self._on_connect is not None:
                    scope.start("declare", self._declare(self._on_connect), critical=False)
                while True:
                    await self._take(call, await self._read(call))
        finally:
            self._call = None
            call.cancel()

    async def _open(self, call: Call) -> None:
        """Says hello and waits until it is accepted: a refusal would be lost among further requests."""
        async with self._write_lock:
            await call.write(self._codec.hello(self._subscriber.hello()))
            await call.initial_metadata()
            if call.done():
                raise await _status_of(call)
            for interest in self._subscriber.opening_interest():
                await call.write(self._codec.interest(interest))
            self._call = call
        self._error = "connected, waiting for the service to be ready"

    async def _declare(self, on_connect: Callable[[], Awaitable[None]]) -> None:
        try:
            await on_connect()
        except Exception:
            logger.exception(
                "declaring this node failed; next try with the next stream", extra={log.STREAM: self.name}
            )

    async def _read(self, call: Call) -> Any:
        response = await asyncio.wait_for(call.read(), self._timing.silence_seconds)
        if response is grpc.aio.EOF:
            raise await _status_of(call)
        self._heard = self._clock()
        return response

    async def _take(self, call: Call, response: Any) -> None:
        async with self._sink_lock:
            try:
                update = self._codec.decode(response, self._subscriber.desired.get)
            except ValueError as error:
                raise StreamEndedError("INTERNAL", "STREAM_BROKEN", str(error)) from error
            step = self._subscriber.receive(update)
            if step.goodbye is None:
                if step.delta is not None:
                    self._failures = await self._apply(step.delta)
                await self._answer(call, step.nonce, step.resync)
        if step.goodbye is not None:
            await self._leave(call)
            raise StreamEndedError(*step.goodbye)
        if step.resync is None and self._subscriber.in_step:
            self._in_step, self._error = True, ""
            self._backoff.reset()

    async def _apply(self, delta: Delta[V]) -> Mapping[str, Failure]:
        """Passes a change to the sink; after an exception the sink is in doubt and is told everything
        again.
        """
        try:
            failures = await self._sink.apply(delta.upserts, delta.removals, complete=delta.complete)
        except BaseException as error:
            self._subscriber.forget(retell=True)
            if not isinstance(error, Exception):
                raise
            logger.exception("applying an update failed", extra={log.STREAM: self.name})
            if self._call is not None:
                self._call.cancel()
            raise StreamEndedError(
                "INTERNAL", "APPLY_FAILED", f"applying an update failed: {error!r}"
            ) from error
        if delta.complete:
            self._synced.set()
        return dict(failures)

    async def _answer(self, call: Call, nonce: int, resync: Resync | None) -> None:
        async with self._write_lock:
            await call.write(self._codec.ack(self._subscriber.ack(nonce, self._failures)))
            if resync is not None:
                logger.warning(
                    "asking for a snapshot", extra={log.STREAM: self.name, log.REASON: resync.reason}
                )
                await call.write(self._codec.resync(resync))

    async def _leave(self, call: Call) -> None:
        """Half-closes after goodbye and waits for the status, so that it is not lost."""
        async with self._write_lock:
            self._call = None
            await call.done_writing()
        try:
            await asyncio.wait_for(call.code(), self._timing.goodbye_seconds)
        except TimeoutError:
            logger.info("service did not end the stream after goodbye", extra={log.STREAM: self.name})

    async def _send_interest(self, message: Interest | None) -> None:
        if message is not None:
            await self._try_send(lambda: self._codec.interest(message))

    async def _try_send(self, make: Callable[[], Any]) -> None:
        """Writes on the open stream, if there is one; a broken one is noticed by the reader and told by the
        next.
        """
        async with self._write_lock:
            if self._call is None:
                return
            try:
                await self._call.write(make())
            except (grpc.RpcError, asyncio.InvalidStateError):
                self._call = None


async def _status_of(call: Call) -> StreamEndedError:
    return StreamEndedError((await call.code()).name, "", await call.details() or "")


def _end_of(error: Exception) -> StreamEndedError:
    if isinstance(error, grpc.aio.AioRpcError):
        return StreamEndedError(error.code().name, "", error.details() or "")
    if isinstance(error, TimeoutError):
        return StreamEndedError("DEADLINE_EXCEEDED", "STALLED", "the service did not answer in time")
    return StreamEndedError("UNAVAILABLE", "", repr(error))
