"""One Observer to ask: where it is, how it is spoken to, and calls to it as bytes.

A server may have several equal targets; the next one is taken when one cannot be reached before it answered.
Messages stay bytes here, since streams are decoded in batches. Errors are AxonemeErrors.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc

from axoneme.lib.clientchannel import Security, open_client_channel
from axoneme.lib.errors import AxonemeError

assert grpcsettings.ENVIRONMENT
DEFAULT_SECONDS: Final = 12.0


class Message(Protocol):
    """What protobuf messages share."""

    def SerializeToString(self) -> bytes:
        """The message as bytes."""

    def ParseFromString(self, data: bytes) -> Any:
        """Replace the content."""


Answer = TypeVar("Answer", bound=Message)


class Server:
    """Calls to one server. Use it in a `with` block."""

    def __init__(
        self,
        targets: Sequence[str],
        security: Security | None,
        *,
        name: str = "",
        own: bool = False,
        credentials: tuple[str, str] | None = None,
        seconds: float = DEFAULT_SECONDS,
    ) -> None:
        """`name` is for people, `credentials` are user and password, `seconds` is for unary calls."""
        self.name = name or targets[0]
        self._targets = list(targets)
        self._security = security
        self._own = own
        self._metadata = (("authorization", _basic(*credentials)),) if credentials else ()
        self._seconds = seconds
        self._channel: grpc.Channel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def move_on(self) -> None:
        """A new connection for the next call, to the next target."""
        self._targets.append(self._targets.pop(0))
        self.close()

    def unary(self, path: str, request: Message, answer: Answer) -> Answer:
        """Fill `answer`. Raises AxonemeError."""
        for left in reversed(range(len(self._targets))):
            call: Any = self._current().unary_unary(path)
            try:
                data = call(request.SerializeToString(), timeout=self._seconds, metadata=self._metadata)
            except grpc.RpcError as error:
                self._next_or_raise(error, left)
            else:
                answer.ParseFromString(data)
                break
        return answer

    def stream(self, path: str, request: Message) -> Iterator[bytes]:
        """Responses as bytes, until the server ends the stream. Raises AxonemeError."""
        for left in reversed(range(len(self._targets))):
            opened: Any = self._current().unary_stream(path)
            call = opened(request.SerializeToString(), metadata=self._metadata)
            started = False
            try:
                for data in call:
                    started = True
                    yield data
                return
            except grpc.RpcError as error:
                self._next_or_raise(error, 0 if started else left)
            finally:
                call.cancel()

    def _current(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = open_client_channel(self._targets[0], self._security, own=self._own)
        return self._channel

    def _next_or_raise(self, error: grpc.RpcError, left: int) -> None:
        from axoneme.lib.rpcerrors import error_from_rpc  # loads the details of errors, which takes a while

        failure: AxonemeError = error_from_rpc(error)
        if failure.code != "UNAVAILABLE" or not left:
            raise failure from error
        self.move_on()


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
