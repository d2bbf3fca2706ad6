"""What a servicer sees of its call: the same interface as under grpc.aio, so that servicers serve both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Never

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc
import grpc.aio

from axoneme.lib.h2server.call import Call

assert grpcsettings.ENVIRONMENT

Pairs = Iterable[tuple[str, str | bytes]]


class CallContext(grpc.aio.ServicerContext[Any, Any]):
    """Context of one call. `write` also takes a list of messages, which leave in one piece."""

    writes_lists = True

    def __init__(self, call: Call, deserialise: Callable[[bytes], Any] | None) -> None:
        self._call = call
        self._deserialise = deserialise
        self.write = call.write  # type: ignore[method-assign]  # once for each message: no frame in between

    async def read(self) -> Any:
        """The next request; `grpc.aio.EOF` at their end."""
        message = await self._call.read()
        if message is None:
            return grpc.aio.EOF
        return message if self._deserialise is None else self._deserialise(message)

    async def requests(self) -> AsyncIterator[Any]:
        """All requests."""
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def write(self, message: Any) -> None:
        await self._call.write(message)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Sends the head of the response."""
        self._call.send_head(tuple(initial_metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> Never:
        """Ends the call with a status. Raises AbortError always."""
        if code is grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNKNOWN, "abort with OK"
        self._call.code, self._call.details = code.name, details
        if trailing_metadata:
            self._call.trailing = tuple(trailing_metadata)
        raise grpc.aio.AbortError("the handler aborted the call")

    async def abort_with_status(self, status: Any) -> Never:
        """The same with a status object."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Fields that go with the status."""
        self._call.trailing = tuple(trailing_metadata)

    def invocation_metadata(self) -> Any:
        """Fields that the client sent; names are lower case."""
        return grpc.aio.Metadata(*self._call.head.metadata)

    def set_code(self, code: grpc.StatusCode) -> None:
        """Status at the end of the call."""
        self._call.code = code.name

    def set_details(self, details: str) -> None:
        """Message of the status."""
        self._call.details = details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing is compressed here."""

    def disable_next_message_compression(self) -> None:
        """Nothing is compressed here."""

    def peer(self) -> str:
        """Address of the client as grpc writes it: ipv4:…, ipv6:… or unix:."""
        return self._call.wire.peer

    def peer_identities(self) -> Iterable[bytes] | None:
        """None: who calls is decided by `axoneme.lib.peercert`."""
        return None

    def peer_identity_key(self) -> str | None:
        """None, as above."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Certificate of the client under grpc's names; empty on unix sockets."""
        return self._call.wire.auth_context

    def time_remaining(self) -> Any:
        """Seconds until the deadline of the client; None without one."""
        return self._call.time_remaining()

    def trailing_metadata(self) -> Any:
        """Fields that will go with the status."""
        return self._call.trailing

    def code(self) -> grpc.StatusCode:
        """Status so far."""
        return grpc.StatusCode[self._call.code]

    def details(self) -> str:
        """Message of the status so far."""
        return self._call.details

    def cancelled(self) -> bool:
        """True when client, deadline or server ended the call."""
        return self._call.cancelled

    def done(self) -> bool:
        """True when the status is decided."""
        return self._call.over

    def add_done_callback(self, callback: Any) -> None:
        """Calls `callback(context)` when the handler has ended."""
        assert self._call.task is not None
        self._call.task.add_done_callback(lambda _: callback(self))
