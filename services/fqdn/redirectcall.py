"""SyncRedirects on the wire: messages in and out of `redirects.RedirectSync`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc

from axoneme.api.fqdn.v1 import fqdn_pb2 as pb
from axoneme.lib.errors import DeadlineExceeded, InvalidArgument, Superseded
from axoneme.lib.policycodec import decode_subject
from axoneme.lib.tasks import TaskScope
from services.fqdn.redirects import RedirectSession, RedirectSync
from services.fqdn.tables import Key
from services.fqdn.wire import told_message

FIRST_SECONDS: Final = 10.0
Context = grpc.aio.ServicerContext[Any, Any]


class RedirectCalls:
    """Serves calls of the shim; the newest one counts.

    `heard`: rules may have gone, or subjects have come. `identities`: the file is to be read. `refused`: no
    number will come for a set.
    """

    def __init__(
        self,
        sync: RedirectSync,
        *,
        port: Callable[[], int],
        heard: Callable[[], None],
        identities: Callable[[], None],
        refused: Callable[[Key], None],
    ) -> None:
        self._sync = sync
        self._port = port
        self._heard = heard
        self._identities = identities
        self._refused = refused

    async def serve(self, context: Context) -> None:
        """One call to its end. Raises Superseded, InvalidArgument, DeadlineExceeded."""
        first = await self._first(context)
        woken = asyncio.Event()
        session = self._sync.open(woken.set)
        try:
            self._take(session, first)
            async with TaskScope("redirects") as scope:
                reader = scope.start("requests", self._hear(session, context), critical=False)
                reader.add_done_callback(lambda _: woken.set())
                while not session.ended and not reader.done():
                    woken.clear()
                    for told in session.take(self._port()):
                        await context.write(told_message(told))
                    await woken.wait()
                if session.ended:
                    raise Superseded("a newer call of the shim took over")
                reader.result()
        finally:
            self._sync.close(session)

    async def _first(self, context: Context) -> pb.SyncRedirectsRequest:
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                first = await context.read()
        except TimeoutError as error:
            raise DeadlineExceeded("no snapshot came in time; send it first") from error
        if not isinstance(first, pb.SyncRedirectsRequest) or first.WhichOneof("kind") != "snapshot":
            raise InvalidArgument.of_field("kind", "snapshot must be the first message")
        return first

    async def _hear(self, session: RedirectSession, context: Context) -> None:
        while isinstance(message := await context.read(), pb.SyncRedirectsRequest):
            self._take(session, message)

    def _take(self, session: RedirectSession, message: pb.SyncRedirectsRequest) -> None:
        """Raises InvalidArgument, Unsupported."""
        match message.WhichOneof("kind"):
            case "snapshot":
                subjects = message.snapshot.subjects
                digests = {decode_subject(one.subject): one.rules_digest for one in subjects}
                self._sync.on_snapshot(session, digests)
                self._heard()
                self._identities()
            case "changed":
                subject = decode_subject(message.changed.subject)
                self._sync.on_changed(session, subject, message.changed.rules_digest)
                self._heard()
            case "identities":
                self._identities()
            case "identity_given":
                given = message.identity_given
                if not given.identity:
                    self._refused((given.wanted.prefix, frozenset(given.wanted.selectors)))
                else:
                    self._identities()
            case _:
                raise InvalidArgument.of_field("kind", "is not one that this version knows")
