"""What the main thread does beside the API: follows endpoints, identities and rules, expires, keeps files.

axoneme_ep (polled) ─► endpoints that went away are forgotten; subjects ─► interest of the stream
dns-identities.json ─► learner, judge ─► everything known is settled anew ─► identities_applied
rules ───────────────► judge ─► file ─► the shim is told
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from axoneme.lib import log
from axoneme.lib.intentstream import IntentClient, StreamHost
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.subjects import IDENTITY_PREFIX, subject_key
from services.fqdn import wire
from services.fqdn.core import Core, HotLoop
from services.fqdn.persistence import FAILED_PAUSE_SECONDS
from services.fqdn.pins import NodeEndpoint
from services.fqdn.redirects import RedirectSync
from services.fqdn.rulesfile import save_rules

logger = logging.getLogger(__name__)

ENDPOINTS_SECONDS: Final = 0.5
MAPS_SECONDS: Final = 0.2
IDENTITIES_SECONDS: Final = 1.0
NAMES_SECONDS: Final = 0.1
FILES_SECONDS: Final = 0.5
NAMES_BATCH: Final = 1_000


class Upkeep:
    """The loops of one process; each runs until it is cancelled."""

    def __init__(self, core: Core, hot: HotLoop, sync: RedirectSync, names: StreamHost[bytes]) -> None:
        self.endpoints: dict[int, NodeEndpoint] = {}
        self.problem = "the node's maps were not opened yet"
        self.maps_read = asyncio.Event()
        self._core = core
        self._hot = hot
        self._sync = sync
        self._names = names
        self._interest_changed = asyncio.Event()
        self._reload = asyncio.Event()
        self._rules_dirty = False

    # --- endpoints and interest

    async def follow_endpoints(self) -> None:
        """Polls the node's endpoints."""
        while problem := self._core.open_maps():
            self.problem = problem
            await asyncio.sleep(MAPS_SECONDS)
        await self._adopt()
        while True:
            self._look()
            await asyncio.sleep(ENDPOINTS_SECONDS)

    async def _adopt(self) -> None:
        """Compares what the kernel holds since before with what is known."""
        assert self._core.maps is not None
        try:
            self._core.learner.adopt(self._core.maps.learned())
        except OSError as error:
            logger.warning("learned addresses not read", extra={log.ERROR: log.clip(error)})
        self._reload.set()

    def _look(self) -> None:
        assert self._core.maps is not None
        try:
            found = self._core.maps.endpoints()
        except OSError as error:
            self.problem = f"the endpoints cannot be read: {log.clip(error)}"
            return
        self.problem = ""
        known, self.endpoints = self.endpoints, found
        gone = {number for number, one in known.items() if found.get(number, one).place != one.place}
        gone |= (known.keys() | set(self._core.learner.cache.endpoints)) - found.keys()
        for number in gone:
            self._core.learner.forget_endpoint(number)
        if gone or known != found:
            self._core.maps.forget()
            self._interest_changed.set()
        self.maps_read.set()

    def subjects(self) -> set[str]:
        """Whose rules this node needs: of its endpoints, and of those that the shim named."""
        found = {subject_key(one.identity) for one in self.endpoints.values() if one.identity}
        return found | {key for key in self._sync.subjects if key.startswith(IDENTITY_PREFIX)}

    async def follow_interest(self, client: IntentClient[DnsRules]) -> None:
        """Keeps the stream's interest; begins the stream with the first one."""
        told: set[str] = set()
        while True:
            await self._interest_changed.wait()
            self._interest_changed.clear()
            wanted = self.subjects()
            added, removed = wanted - told, told - wanted
            if added or removed:
                await client.change_interest(sorted(added), sorted(removed))
                told = wanted

    # --- what the shim says

    def on_heard(self) -> None:
        """The shim named subjects, or confirmed redirects."""
        self._core.rebuild()
        self._interest_changed.set()

    def on_identities(self) -> None:
        """The shim says that the file changed."""
        self._reload.set()

    async def follow_identities(self) -> None:
        """Reads the file when told, and looks at its time besides."""
        first = True
        while True:
            told = self._reload.is_set()
            self._reload.clear()
            if self._core.read_identities() or first or told:
                await self._review()
                first = False
            try:
                async with asyncio.timeout(IDENTITIES_SECONDS):
                    await self._reload.wait()
            except TimeoutError:
                continue

    async def _review(self) -> None:
        if self._core.learner.table_unreadable:
            return
        revision = self._core.learner.table.revision
        self._hot.wake()
        for _ in self._core.learner.review():
            await asyncio.sleep(0)
        if self._core.maps is not None:
            self._sync.applied(revision)

    # --- rules

    def on_rules(self, subjects: Collection[str]) -> None:
        """Rules changed: they are judged by from here on."""
        self._core.rebuild()
        self._sync.rules_changed(subjects)
        self._rules_dirty = True

    # --- time and files

    async def expire(self) -> None:
        """Forgets what expired."""
        while True:
            seconds = self._core.learner.expire()
            await asyncio.sleep(max(seconds, 0.001))

    async def publish_names(self) -> None:
        """Brings the stream of names after the cache."""
        while True:
            changed = self._core.learner.changes()
            while changed:
                part = {changed.pop() for _ in range(min(NAMES_BATCH, len(changed)))}
                self._publish(part)
                await asyncio.sleep(0)
            self._names.set_ready(True)
            await asyncio.sleep(NAMES_SECONDS)

    def _publish(self, part: Collection[tuple[int, bytes]]) -> None:
        upserts: dict[str, bytes] = {}
        removals: list[str] = []
        with self._core.learner.lock:
            for endpoint_id, address in part:
                key = wire.stream_key(endpoint_id, address)
                one = self._core.learner.cache.address(endpoint_id, address)
                if one is None:
                    removals.append(key)
                else:
                    upserts[key] = wire.learned_name(one)
        self._names.apply(upserts, removals, store_revision=0)

    async def keep_files(self) -> None:
        """Compacts the journal and writes rules; a full disk stops neither."""
        while True:
            await asyncio.sleep(FILES_SECONDS)
            if self._rules_dirty:
                self._rules_dirty = False
                await _quietly(
                    "rules", lambda: save_rules(self._core.cfg.rules_file, self._core.book.current())
                )
            if self._core.compactor.due() and not await asyncio.to_thread(self._core.compactor.compact):
                await asyncio.sleep(FAILED_PAUSE_SECONDS)


async def _quietly(what: str, work: Callable[[], None]) -> None:
    try:
        await asyncio.to_thread(work)
    except OSError as error:
        logger.warning("file not written", extra={log.KEY: what, log.ERROR: log.clip(error)})
