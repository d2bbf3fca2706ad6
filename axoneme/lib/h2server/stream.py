"""One stream: what is left of its windows, what waits to be read and to be sent. Pure."""

from __future__ import annotations

from collections import deque
from typing import Protocol

from axoneme.lib.h2server.faults import CallFault
from axoneme.lib.h2server.limits import DEFAULT_WINDOW
from axoneme.lib.h2server.messages import MessageReader
from axoneme.lib.h2server.pending import Pending

MESSAGE_OVERHEAD = 64
"""What an object costs beside its bytes, so that a flood of empty messages has a size."""


class StreamListener(Protocol):
    """Who serves a stream; called from within `Connection.receive` and `Connection.flush`."""

    def on_arrival(self) -> None:
        """Messages, or the end of the request, can be taken."""

    def on_room(self) -> None:
        """Less than half of the buffer waits to be sent."""

    def on_reset(self) -> None:
        """The client is not interested any more; the stream is gone."""

    def on_fault(self, fault: CallFault) -> None:
        """The call has to end with this status."""


class Stream:
    """State of a stream that is open at least on one side."""

    __slots__ = (
        "head_sent",
        "id",
        "listener",
        "messages",
        "out",
        "queued_bytes",
        "reader",
        "receive_left",
        "remote_ended",
        "send_left",
        "trailers",
        "unreleased",
    )

    def __init__(self, stream_id: int, send_window: int, most_bytes: int) -> None:
        self.id = stream_id
        self.listener: StreamListener | None = None
        self.receive_left = DEFAULT_WINDOW
        self.unreleased = 0
        self.send_left = send_window
        self.remote_ended = False
        self.head_sent = False
        self.trailers: bytes | None = None
        self.out = Pending()
        self.reader = MessageReader(most_bytes)
        self.messages: deque[bytes] = deque()
        self.queued_bytes = 0

    @property
    def buffered(self) -> int:
        """Bytes of requests that are held for this stream."""
        return self.queued_bytes + len(self.reader)

    def queue(self, messages: list[bytes]) -> None:
        """Keeps complete messages until the handler takes them."""
        self.messages.extend(messages)
        self.queued_bytes += sum(len(message) + MESSAGE_OVERHEAD for message in messages)

    def take(self) -> bytes:
        """The oldest message. Raises IndexError."""
        message = self.messages.popleft()
        self.queued_bytes -= len(message) + MESSAGE_OVERHEAD
        return message

    def releasable(self) -> int:
        """Bytes that the client may be given back: none while a handler does not keep up."""
        if self.remote_ended or self.queued_bytes >= DEFAULT_WINDOW or self.unreleased < DEFAULT_WINDOW // 2:
            return 0
        return self.unreleased
