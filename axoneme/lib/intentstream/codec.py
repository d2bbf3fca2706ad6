"""What a service and a shim have to bring for one kind of stream.

Publisher codecs live beside their service (services/*/wire.py), subscriber codecs in shim/wire.py; both are
plain translations and do no I/O. The shared envelope is translated by envelope.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeVar

from axoneme.lib.intent import Ack, Change, Failure, Hello, Interest, Request, Resync, Update

V = TypeVar("V")
Consumed = TypeVar("Consumed", contravariant=True)

Message = Any  # a generated message of the stream; each codec knows its own types


class PublisherCodec(Protocol[V]):
    """Translation at the service's end."""

    def decode(self, request: Message) -> Request:
        """Returns the request. Raises ValueError when no kind is set."""

    def encode(self, update: Update[V]) -> Message:
        """Returns the message of an update, also for goodbye (only the header is set then)."""

    def weight(self, change: Change[V]) -> int:
        """Returns about how many bytes a change takes on the wire."""


class SubscriberCodec(Protocol[V]):
    """Translation at the shim's end."""

    def decode(self, response: Message, current: Callable[[str], V | None]) -> Update[V]:
        """Returns the update; what cannot be understood goes into Update.failures under its key and fails
        alone.

        `current` gives the value on which a difference builds. Raises ValueError only for a broken envelope.
        """

    def hello(self, hello: Hello) -> Message:
        """Returns the first request."""

    def ack(self, ack: Ack) -> Message:
        """Returns the answer to an update."""

    def resync(self, resync: Resync) -> Message:
        """Returns a request for a snapshot."""

    def interest(self, interest: Interest) -> Message:
        """Returns a change of interest. Raises TypeError for a stream without interest."""


class Sink(Protocol[Consumed]):
    """What takes the desired resources of a stream and makes them true, with retries of its own (R6)."""

    async def apply(
        self, upserts: Mapping[str, Consumed], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """Takes exact changes against everything told before and returns all resources that are not in
        effect.

        `complete`: what was never told is stale now and may be pruned. An exception makes the stream start
        over with everything told again.
        """
