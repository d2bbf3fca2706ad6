"""A node gets policies, and DNS rules, of those subjects only that live on it.

Stands between a stream and its host: messages pass, but subjects that the node does not claim (yet) are held
back. They are passed on once the claim shows up in the watch, so a new pod's interest that overtakes its own
claim is late, never lost. The host of another node is never any of a node's business: that is left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import grpc

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import log
from axoneme.lib.policycodec import host_node, interest_message, subject_keys, subject_number

logger = logging.getLogger(__name__)

RequestType: TypeAlias = type[pb.SubscribeEndpointPoliciesRequest] | type[pb.SubscribeDnsRulesRequest]
"""Requests of a stream with subjects as its interest."""


class AuthorisedStream:
    """A servicer context whose `read` gives only interest that is allowed; all else is the context's own."""

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        *,
        request: RequestType = pb.SubscribeEndpointPoliciesRequest,
        may_see: Callable[[str, int], bool],
        moved: Callable[[], Awaitable[object]],
    ) -> None:
        self._context = context
        self._request = request
        self._may_see = may_see
        self._moved = moved
        self._node_name = ""
        self._held: dict[str, None] = {}
        self._started = False
        self._reading: asyncio.Future[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        """The next message for the host."""
        while True:
            released = self._release() if self._started else ()
            if released:
                return self._interest(released, ())
            message = await self._next()
            if message is not None:
                return self._admit(message)

    async def _next(self) -> Any:
        """The next message of the node, or None when the state moved while interest is held back."""
        if not self._held and self._reading is None:
            return await self._context.read()  # nothing to release: the state may move as it likes
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._context.read())
        waits: set[asyncio.Future[Any]] = {self._reading}
        moved = asyncio.ensure_future(self._moved()) if self._held else None
        if moved is not None:
            waits.add(moved)
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._reading.cancel()
            raise
        finally:
            if moved is not None:
                moved.cancel()
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        return reading.result()

    def _admit(self, message: Any) -> Any:
        if message is grpc.aio.EOF:
            return message
        kind = message.WhichOneof("kind")
        if kind == "hello" and not self._node_name:
            self._node_name = message.hello.node_name
        if kind != "interest":
            return message
        self._started = True
        wanted = self._own(subject_keys(message.interest.added))
        dropped = subject_keys(message.interest.removed)
        for key in dropped:
            self._held.pop(key, None)
        self._held.update(dict.fromkeys(key for key in wanted if not self._allowed(key)))
        if self._held:
            extra = {log.NODE: self._node_name, log.COUNT: len(self._held)}
            logger.info("interest waits for the node's claim of the identity", extra=extra)
        return self._interest([key for key in wanted if key not in self._held], dropped)

    def _release(self) -> list[str]:
        released = [key for key in self._held if self._allowed(key)]
        for key in released:
            del self._held[key]
        return released

    def _own(self, keys: Iterable[str]) -> list[str]:
        """Leaves out the hosts of other nodes."""
        asked = list(keys)
        own = [key for key in asked if host_node(key) in (None, self._node_name)]
        if len(own) < len(asked):
            extra = {log.NODE: self._node_name, log.COUNT: len(asked) - len(own)}
            logger.warning("interest in the host of another node is left out", extra=extra)
        return own

    def _allowed(self, key: str) -> bool:
        return host_node(key) is not None or self._may_see(self._node_name, subject_number(key))

    def _interest(self, added: Iterable[str], removed: Iterable[str]) -> Any:
        return self._request(interest=interest_message(added, removed))
