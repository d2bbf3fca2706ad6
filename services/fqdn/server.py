"""The API of the node's DNS proxy. Decodes, asks, encodes; no rule lives here."""

# ruff: noqa: ARG002  (gRPC fixes the signatures)
from __future__ import annotations

import asyncio
import contextlib
import heapq
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

import grpc

from axoneme.api.fqdn.v1 import fqdn_pb2 as pb
from axoneme.api.fqdn.v1 import fqdn_pb2_grpc
from axoneme.lib import pagination
from axoneme.lib.dns.wire import text_of
from axoneme.lib.errors import InvalidArgument, MapFull
from axoneme.lib.grpcserver import caller
from axoneme.lib.intentstream import StreamHost
from axoneme.lib.policycodec import decode_subject
from axoneme.lib.policycodec.dnsrules import encode_rules
from axoneme.lib.requests import RequestLog
from services.fqdn import questions, wire
from services.fqdn.core import Core
from services.fqdn.learner import boottime_ns
from services.fqdn.redirectcall import RedirectCalls

SERVICE: Final = "axoneme.api.fqdn.v1.FqdnService"
GATHER_SECONDS: Final = 0.01
MAX_NAMES_OF_SELECTOR: Final = 100
Context = grpc.aio.ServicerContext[Any, Any]
Status = Callable[[], pb.GetStatusResponse]


class FqdnServicer(fqdn_pb2_grpc.FqdnServiceServicer):
    """Serves one core."""

    def __init__(
        self,
        core: Core,
        *,
        names: StreamHost[bytes],
        redirects: RedirectCalls,
        endpoints: Callable[[], Mapping[int, object]],
        status: Status,
        log: RequestLog,
        boot_to_wall_ns: Callable[[], int],
    ) -> None:
        self._core = core
        self._names = names
        self._redirects = redirects
        self._endpoints = endpoints
        self._status = status
        self._log = log
        self._boot_to_wall_ns = boot_to_wall_ns

    # --- the cache

    async def ListCache(self, request: pb.ListCacheRequest, context: Context) -> pb.ListCacheResponse:
        size = pagination.checked_size(request.page_size)
        after = _position(request.page_token)
        wanted = questions.cache_filter(request)
        response, last = pb.ListCacheResponse(), ""
        for endpoint_id, name in self._keys_after(wanted.endpoint_id, after):
            with self._core.learner.lock:
                entry = self._entry(endpoint_id, name, wanted)
            if entry is None:
                continue
            if len(response.entries) == size:
                response.next_page_token = pagination.encode_token(last)
                break
            response.entries.append(entry)
            last = f"{endpoint_id} {name.hex()}"
            if not len(response.entries) % 64:
                await asyncio.sleep(0)
        return response

    def _keys_after(self, endpoint_id: int, after: tuple[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """Keys of the cache in order, beginning after a position."""
        endpoints = self._core.learner.cache.endpoints
        for number in [endpoint_id] if endpoint_id else sorted(list(endpoints)):  # noqa: C414 - it changes
            if number >= after[0]:
                keys = [key for part in self._core.learner.slices(number) for key in part if key > after]
                heapq.heapify(keys)
                while keys:
                    yield heapq.heappop(keys)

    def _entry(self, endpoint_id: int, name: bytes, wanted: questions.CacheFilter) -> pb.CacheEntry | None:
        cache = self._core.learner.cache
        known = cache.name(endpoint_id, name)
        if known is None or not wanted.holds(known):
            return None
        return wire.cache_entry(cache, endpoint_id, known, boot_to_wall_ns=self._boot_to_wall_ns())

    async def CleanCache(self, request: pb.CleanCacheRequest, context: Context) -> pb.CleanCacheResponse:
        matches = questions.pattern(request.match_pattern)

        async def clean() -> pb.CleanCacheResponse:
            removed = 0
            for part in self._core.learner.slices(request.endpoint_id):
                removed += self._core.learner.forget(
                    key for key in part if matches is None or matches(key[1])
                )
                await asyncio.sleep(0)
            return pb.CleanCacheResponse(removed=removed)

        content = request.SerializeToString(deterministic=True)
        return await self._log.run(caller(context), "CleanCache", request.request_id, clean, content=content)

    async def ReportLookups(
        self, request: pb.ReportLookupsRequest, context: Context
    ) -> pb.ReportLookupsResponse:
        found = questions.lookups(request.lookups, self._endpoints())

        async def report() -> pb.ReportLookupsResponse:
            learned = 0
            for one in found:
                if not self._core.learner.report(*one):
                    raise MapFull("the kernel did not take every address; lookups before it are learned")
                learned += len(one.answer.addresses)
                await asyncio.sleep(0)
            return pb.ReportLookupsResponse(learned=learned)

        content = request.SerializeToString(deterministic=True)
        return await self._log.run(
            caller(context), "ReportLookups", request.request_id, report, content=content
        )

    # --- rules and selectors

    async def ListSelectors(
        self, request: pb.ListSelectorsRequest, context: Context
    ) -> pb.ListSelectorsResponse:
        table = self._core.learner.table
        chosen, token = pagination.page(
            table.selectors, lambda one: f"{one.text} {one.pattern:d}", request.page_size, request.page_token
        )
        found = {one.text: pb.SelectorNames(identities=table.numbers_with(one.text)) for one in chosen}
        seen: dict[bytes, frozenset[str]] = {}
        for part in self._core.learner.slices():
            for _, name in part:
                if name not in seen:
                    seen[name] = table.matching(name)
                    for text in seen[name] & found.keys():
                        _count_name(found[text], name)
            await asyncio.sleep(0)
        for one in chosen:
            found[one.text].selector.text, found[one.text].selector.pattern = one.text, one.pattern
        return pb.ListSelectorsResponse(selectors=[found[one.text] for one in chosen], next_page_token=token)

    async def ListRules(self, request: pb.ListRulesRequest, context: Context) -> pb.ListRulesResponse:
        current = self._core.book.current()
        if request.HasField("subject"):
            key = decode_subject(request.subject)
            current = {key: current[key]} if key in current else {}
        chosen, token = pagination.page(
            sorted(current), lambda key: key, request.page_size, request.page_token
        )
        return pb.ListRulesResponse(
            rules=[encode_rules(key, current[key]) for key in chosen], next_page_token=token
        )

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        return self._status()

    # --- streams

    async def WatchLookups(
        self, request: pb.WatchLookupsRequest, context: Context
    ) -> AsyncIterator[pb.WatchLookupsResponse]:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        deny_rcode = self._core.cfg.proxy.deny_rcode

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
                loop.call_soon_threadsafe(woken.set)

        reader = self._core.feed.open(wake)
        # The reader is there before the caller knows: what it does next is seen.
        await context.send_initial_metadata(())
        try:
            while True:
                await woken.wait()
                await asyncio.sleep(GATHER_SECONDS)  # one message for many events
                woken.clear()
                while True:
                    seen, lost = reader.take()
                    if not seen and not lost:
                        break
                    events = [wire.denied_event(one, deny_rcode) for one in seen]
                    yield pb.WatchLookupsResponse(events=events, lost=lost)
        finally:
            self._core.feed.close(reader)

    async def SubscribeNames(  # type: ignore[override]  # reads and writes by its context
        self, _requests: object, context: Context
    ) -> None:
        await self._names.serve(context)

    async def SyncRedirects(  # type: ignore[override]  # reads and writes by its context
        self, _requests: object, context: Context
    ) -> None:
        await self._redirects.serve(context)


def boot_to_wall_ns() -> int:
    """What makes a time of the wall clock of one of CLOCK_BOOTTIME."""
    return time.time_ns() - boottime_ns()


def _position(token: str) -> tuple[int, bytes]:
    """Raises InvalidArgument."""
    if not token:
        return 0, b""
    number, _, name = pagination.decode_token(token).partition(" ")
    try:
        return int(number), bytes.fromhex(name)
    except ValueError as error:
        raise InvalidArgument.of_field(
            "page_token", "not a token of this list; start again without one"
        ) from error


def _count_name(selector: pb.SelectorNames, name: bytes) -> None:
    selector.name_count += 1
    if len(selector.names) < MAX_NAMES_OF_SELECTOR:
        selector.names.append(text_of(name))
