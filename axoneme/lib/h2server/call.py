"""One call: runs its handler, hands it messages, sends what it answers, and says how it ended.

The handler runs in a task. Whoever ends the call early (client, deadline, a fault, the server's end) cancels
that task; `_verdict` then says which status is sent, and None that nobody is there to read one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc
import grpc.aio

from axoneme.lib.errors import ResourceExhausted
from axoneme.lib.h2server.connection import Connection
from axoneme.lib.h2server.faults import CallFault
from axoneme.lib.h2server.limits import Limits
from axoneme.lib.h2server.messages import KNOWN_LENGTHS, framed, prefix
from axoneme.lib.h2server.requesthead import RequestHead
from axoneme.lib.h2server.responsehead import Metadata
from axoneme.lib.h2server.statuscodes import STATUS_NUMBER
from axoneme.lib.h2server.stream import Stream

logger = logging.getLogger(__name__)
assert grpcsettings.ENVIRONMENT

STOPPING = CallFault("UNAVAILABLE", "the server stops")


class Wire(Protocol):
    """The connection that a call came on."""

    connection: Connection
    peer: str
    auth_context: dict[str, list[bytes]]

    def schedule(self) -> None:
        """Sends at the end of this turn of the event loop."""

    def flush(self) -> None:
        """Sends now."""


Serve = Callable[["Call"], Awaitable[None]]


class Call:
    """State of one call; `serialise` is set when its handler is known."""

    def __init__(self, wire: Wire, stream: Stream, head: RequestHead, limits: Limits) -> None:
        self.wire = wire
        self.head = head
        self.serialise: Callable[[Any], bytes] | None = None
        self.code = "OK"
        self.details = ""
        self.trailing: Metadata = ()
        self.over = False
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None
        self._stream = stream
        self._out = stream.out
        self._limits = limits
        self._buffer_bytes = limits.stream_buffer_bytes
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._verdict: CallFault | None = None
        self._deadline = None if head.timeout_seconds is None else time.monotonic() + head.timeout_seconds
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, serve: Serve) -> None:
        """Serves to the end and sends the status; never raises."""
        loop = asyncio.get_running_loop()
        if self.head.timeout_seconds is not None:
            self._timer = loop.call_later(self.head.timeout_seconds, self.on_fault, _expired())
        try:
            await serve(self)
        except asyncio.CancelledError:
            fault = self._verdict or STOPPING
            self.code, self.details = fault.code, fault.text
        except CallFault as fault:
            self.code, self.details = fault.code, fault.text
        except grpc.aio.AbortError:
            pass  # code and details are those of the abort
        except Exception:
            self.code, self.details = "UNKNOWN", "the handler failed; see the service's log"
            if not self.cancelled:
                logger.exception("unhandled error", extra={log.METHOD: log.clip(self.head.path)})
        finally:
            self._end()

    def abandon(self) -> None:
        """Ends a call that was cancelled before its task ran for the first time."""
        fault = self._verdict or STOPPING
        self.code, self.details = fault.code, fault.text
        self._end()

    def _end(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        connection = self.wire.connection
        if self._stream.id in connection.streams:
            connection.finish(self._stream, STATUS_NUMBER[self.code], self.details, self.trailing)
            self.wire.schedule()
            if self._out.size:
                asyncio.get_running_loop().call_later(self._limits.stall_seconds, self._drop_rest)

    def _drop_rest(self) -> None:
        """The end of an answer that nobody takes is not kept for ever."""
        if self._stream.id in self.wire.connection.streams:
            self.wire.connection.cut(self._stream)
            self.wire.connection.outbox.wake(self._stream)
            self.wire.schedule()

    def on_arrival(self) -> None:
        """Wakes who reads."""
        self._arrived.set()

    def on_room(self) -> None:
        """Wakes who writes."""
        self._room.set()

    def on_reset(self) -> None:
        """The client left."""
        self._cancel()

    def on_fault(self, fault: CallFault) -> None:
        """Ends the call with a status; what was not yet sent is not waited for."""
        if self._verdict is None and not self.over:
            self._verdict = fault
            self.wire.connection.cut(self._stream)
            self._cancel()

    def _cancel(self) -> None:
        self.cancelled = True
        if self.task is not None and not self.over:
            self.task.cancel()

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def read(self) -> bytes | None:
        """The next message; None at the end of the request."""
        while not self._stream.messages:
            if self._stream.remote_ended:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        message = self.wire.connection.take(self._stream)
        self.wire.schedule()
        return message

    async def only_message(self) -> bytes:
        """The request of a call that has one. Raises CallFault for none, several, or one that never ends."""
        limit = self._limits.request_seconds if self._deadline is None else None
        try:
            async with asyncio.timeout(limit):
                message = await self.read()
                if message is None or await self.read() is not None:
                    raise CallFault("INTERNAL", "this method takes exactly one request")
        except TimeoutError as error:
            raise CallFault("DEADLINE_EXCEEDED", f"the request was not complete in {limit:g} s") from error
        return message

    def send_head(self, metadata: Metadata) -> None:
        """Sends the head now. Raises UsageError when it was sent or the call is over."""
        if self._stream.head_sent:
            raise grpc.aio.UsageError("the head of the response was sent before")
        self._check_open()
        self.wire.connection.send_head(self._stream, metadata)
        self.wire.schedule()

    async def write(self, message: Any) -> None:
        """Sends a message, or a list of them in one piece; bytes are taken as serialised.

        Returns at once while the buffer has room. Raises ResourceExhausted when the reader is too slow.
        """
        out = self._out
        if type(message) is bytes and out.size and len(message) < KNOWN_LENGTHS:
            out.add_message(message)  # something waits: its sending is arranged, and the head is out
        else:
            self._write(message)
        if out.size >= self._buffer_bytes:
            await self._wait_for_room()

    def _write(self, message: Any) -> None:
        self._check_open()
        connection, stream = self.wire.connection, self._stream
        if not stream.head_sent:
            connection.send_head(stream)
        connection.write(stream, self._framed(message))
        self.wire.schedule()

    def _framed(self, message: Any) -> bytes:
        if type(message) is list:
            ready = set(map(type, message)) <= {bytes}
            return framed(message if ready else list(map(self._bytes, message)), self._limits.send_bytes)
        data = self._bytes(message)
        if len(data) > self._limits.send_bytes:
            return framed((data,), self._limits.send_bytes)
        return prefix(len(data)) + data

    def _bytes(self, message: Any) -> bytes:
        if type(message) is bytes:
            return message
        if self.serialise is None:
            raise grpc.aio.UsageError("only bytes can be written here")
        return self.serialise(message)

    async def _wait_for_room(self) -> None:
        """Other calls have their turn here, too: a handler that only writes would never let them."""
        self.wire.flush()
        stream, most = self._stream, self._limits.stream_buffer_bytes
        if len(stream.out) < most:
            await asyncio.sleep(0)
            return
        self._room.clear()
        try:
            async with asyncio.timeout(self._limits.stall_seconds):
                await self._room.wait()
        except TimeoutError as error:
            self.wire.connection.cut(stream)
            seconds = self._limits.stall_seconds
            raise ResourceExhausted(
                f"the reader took less than {most // 2} bytes in {seconds:g} s", reason="SLOW_READER"
            ) from error

    def _check_open(self) -> None:
        if self.over or self.cancelled or self._stream.id not in self.wire.connection.streams:
            raise grpc.aio.UsageError("the call is over")


def _expired() -> CallFault:
    return CallFault("DEADLINE_EXCEEDED", "Deadline Exceeded")
