"""SyncRedirects: the open session between this node's shim and its DNS proxy, kept for ever.

    NodeDns ── snapshot, changes, file, identities given ──► proxy
            ◄─ rules ready, file applied, identity wanted ── proxy

Messages leave in the order in which things happened; the first is the whole state of the moment. Nothing of
the shim waits for the proxy: what comes from it is worked off by a task of its own, and while there is no
session the shim goes on without.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc

from axoneme.api.fqdn.v1 import fqdn_pb2, fqdn_pb2_grpc
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.channel import open_channel
from axoneme.lib.errors import AxonemeError
from axoneme.lib.intent import Backoff
from axoneme.lib.intentstream import StreamState
from axoneme.lib.policycodec import decode_subject, encode_subject
from axoneme.lib.tasks import TaskScope
from shim.dns.nodedns import NodeDns
from shim.localidentities import LocalKey

logger = logging.getLogger(__name__)
assert grpcsettings.ENVIRONMENT

NAME: Final = "SyncRedirects"
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.1, 1.0
FIRST_ANSWER_SECONDS: Final = 5.0
CLEAN_SECONDS: Final = 1.0
MAX_WANTED: Final = 1_024
ALONE_STEP_SECONDS: Final = 1.0


class Policies(Protocol):
    """What news of the proxy lead to (shim.policies.PolicySink)."""

    async def settle_again(self) -> None:
        """Tries again what waits."""

    async def name_sets(self, keys: Iterable[LocalKey]) -> dict[LocalKey, int]:
        """Numbers of unforeseen sets."""


class DnsSession:
    """The shim's end."""

    def __init__(
        self,
        target: str,
        dns: NodeDns,
        policies: Policies,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`target`: `unix:<path>`."""
        self._target, self._dns, self._policies, self._clock = target, dns, policies, clock
        self._backoff = Backoff(rng.random, first=FIRST_RETRY_SECONDS, limit=LAST_RETRY_SECONDS)
        self._outbox: deque[fqdn_pb2.SyncRedirectsRequest] = deque()
        self._leave = asyncio.Event()
        self._news = asyncio.Event()
        self._wanted: dict[LocalKey, fqdn_pb2.IdentityWanted] = {}
        self._gone: set[int] = set()  # endpoints whose cache the proxy has to forget
        self._clean = asyncio.Event()
        self._since = clock()
        self._synced, self._answered, self._error = False, False, "not connected yet"
        dns.on_redirects = self._send_redirects
        dns.on_table = self._send_table
        dns.on_forget = self._forget

    # --- for the node

    def status(self) -> StreamState:
        """As of any other stream."""
        return StreamState(
            name=NAME,
            synced=self._synced,
            stale_seconds=0.0 if self._answered else self._clock() - self._since,
            epoch=0,
            revision=self._dns.names.table.revision,
            error=self._error,
        )

    async def run(self) -> None:
        """Keeps a session open until cancelled."""
        async with TaskScope("DNS proxy") as scope:
            scope.start("news", self._work())
            scope.start("alone", self._settle_alone())
            while not scope.failed.is_set():
                try:
                    await self._session()
                except grpc.aio.AioRpcError as error:
                    self._error = f"{error.code().name}: {error.details()}"[:256]
                except (_EndedError, TimeoutError, asyncio.InvalidStateError, OSError) as error:
                    self._error = str(error)[:256] or type(error).__name__
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                    self._error = "the call was cancelled"
                await asyncio.sleep(self._backoff.next_delay())

    # --- one session

    async def _session(self) -> None:
        channel = open_channel(self._target, None)
        try:
            await asyncio.wait_for(_connected(channel), FIRST_ANSWER_SECONDS)
            call = fqdn_pb2_grpc.FqdnServiceStub(channel).SyncRedirects()
            try:
                self._open()
                async with TaskScope("session") as scope:
                    scope.start("writer", self._write(call), critical=False)
                    scope.start("cleaning", self._clean_up(channel), critical=False)
                    await self._read(call)
            finally:
                self._close()
                call.cancel()
        finally:
            await channel.close()

    def _open(self) -> None:
        """From the moment of the snapshot on, changes queue up behind it and redirects wait for rules."""
        self._outbox.clear()
        revision = self._dns.names.table.revision
        snapshot = fqdn_pb2.RedirectSnapshot(
            subjects=_subjects(self._dns.opened()), identities_revision=revision
        )
        self._outbox.append(fqdn_pb2.SyncRedirectsRequest(snapshot=snapshot))
        self._send_table(revision)

    def _close(self) -> None:
        if self._answered:
            logger.warning("DNS proxy is not connected", extra={log.ERROR: self._error})
            self._since = self._clock()
        self._answered = False
        self._outbox.clear()
        self._wanted.clear()
        if self._dns.order.connected and self._dns.closed():
            self._news.set()

    async def _write(self, call: Any) -> None:
        """Until the stream breaks, which the reader tells."""
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                while self._outbox:
                    await call.write(self._outbox.popleft())
                self._leave.clear()
                await self._leave.wait()

    async def _read(self, call: Any) -> None:
        seconds: float | None = FIRST_ANSWER_SECONDS
        while True:
            response = await asyncio.wait_for(call.read(), seconds)
            if response is grpc.aio.EOF:
                raise _EndedError(f"{(await call.code()).name}: {await call.details()}")
            self._take(response)
            if self._answered:
                seconds = None

    def _take(self, response: fqdn_pb2.SyncRedirectsResponse) -> None:
        kind = response.WhichOneof("kind")
        if kind == "ready":
            self._take_ready(response.ready)
        elif kind == "identities_applied":
            if self._dns.names.applied(response.identities_applied.revision):
                self._news.set()
        elif kind == "identity_wanted":
            wanted = response.identity_wanted
            key = LocalKey(wanted.prefix, frozenset(wanted.selectors))
            if len(self._wanted) < MAX_WANTED:
                self._wanted[key] = wanted
                self._news.set()
            else:
                self._give(wanted, 0)

    def _take_ready(self, ready: fqdn_pb2.RulesReady) -> None:
        subjects = {}
        for one in ready.subjects:
            with contextlib.suppress(AxonemeError):  # a kind of subject of a later version
                subjects[decode_subject(one.subject)] = one.rules_digest
        if self._dns.order.hear(subjects, complete=ready.complete, proxy_port=ready.proxy_port):
            self._news.set()
        if not self._answered:
            logger.info("DNS proxy is connected")
            self._answered, self._synced, self._error = True, True, ""
            self._backoff.reset()
            self._clean.set()

    # --- what is sent

    def _send(self, message: fqdn_pb2.SyncRedirectsRequest) -> None:
        if self._dns.order.connected:
            self._outbox.append(message)
            self._leave.set()

    def _send_redirects(self, changes: Mapping[str, bytes]) -> None:
        for one in _subjects(changes):
            self._send(fqdn_pb2.SyncRedirectsRequest(changed=one))

    def _send_table(self, revision: int) -> None:
        changed = fqdn_pb2.IdentityTableChanged(revision=revision)
        self._send(fqdn_pb2.SyncRedirectsRequest(identities=changed))

    def _give(self, wanted: fqdn_pb2.IdentityWanted, number: int) -> None:
        given = fqdn_pb2.IdentityGiven(
            wanted=wanted, identity=number, revision=self._dns.names.table.revision
        )
        self._send(fqdn_pb2.SyncRedirectsRequest(identity_given=given))

    # --- endpoints that are gone

    def _forget(self, endpoint_id: int) -> None:
        self._gone.add(endpoint_id)
        self._clean.set()

    async def _clean_up(self, channel: grpc.aio.Channel) -> None:
        """The proxy's cache forgets endpoints that are gone; one that it did not forget is told again."""
        stub = fqdn_pb2_grpc.FqdnServiceStub(channel)
        while True:
            await self._clean.wait()
            self._clean.clear()
            for number in sorted(self._gone):
                request = fqdn_pb2.CleanCacheRequest(endpoint_id=number)
                try:
                    await stub.CleanCache(request, timeout=CLEAN_SECONDS)
                except grpc.aio.AioRpcError as error:
                    logger.warning(
                        "proxy did not forget an endpoint",
                        extra={log.ENDPOINT: number, log.ERROR: error.details()},
                    )
                    break
                self._gone.discard(number)

    # --- what news lead to

    async def _work(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            wanted, self._wanted = self._wanted, {}
            numbers: dict[LocalKey, int] = {}
            try:
                if wanted:
                    numbers = await self._policies.name_sets(wanted)
                else:
                    await self._policies.settle_again()
            except (AxonemeError, BpfError, OSError) as error:
                logger.warning("news of the DNS proxy not worked off", extra={log.ERROR: log.clip(error)})
            for key, one in wanted.items():
                self._give(one, numbers.get(key, 0))

    async def _settle_alone(self) -> None:
        while True:
            await asyncio.sleep(ALONE_STEP_SECONDS)
            if await self._dns.settle_alone():
                self._news.set()


class _EndedError(Exception):
    """The proxy ended the session."""


async def _connected(channel: grpc.aio.Channel) -> None:
    """Returns once the socket is connected. Raises _EndedError when nobody listens there."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            raise _EndedError("nobody listens on its socket")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)


def _subjects(redirects: Mapping[str, bytes]) -> list[fqdn_pb2.SubjectRedirects]:
    return [
        fqdn_pb2.SubjectRedirects(subject=encode_subject(key), rules_digest=digest)
        for key, digest in sorted(redirects.items())
    ]
