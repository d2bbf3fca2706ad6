"""Everything the service knows, fed by one watch of its etcd.

    etcd ──follow──> PolicyState ──> PolicyEngine ──> StreamHost (mapstates to the nodes)
                          │                      └──> StreamHost (DNS rules to their proxies)
                          ├──> stored objects, change log
                          ├──> Intake: identities, claims, addresses, nodes, services
                          └──> what the nodes of all replicas hold

One task owns the feeding (`run`); the servicer reads. A stored object that cannot be used is quarantined:
named in log and metric, while the last usable version of it stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from axoneme.lib import log
from axoneme.lib.intent import fresh_epoch
from axoneme.lib.intentstream.host import StreamHost
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.follow import Snapshot, Synced, follow
from axoneme.lib.kvstore.port import Delete, Put, ReadStore, Row
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.model import SubjectPolicy
from services.policy.questions import changeset
from services.policy.records import intake
from services.policy.records.addressbook import AddressBook
from services.policy.records.intake import Intake
from services.policy.records.occupancy import Occupancy
from services.policy.records.progress import NodeProgress
from services.policy.records.standing import NodeStanding
from services.policy.resolution.engine import PolicyEngine, SelectorUse
from services.policy.rules import PolicyKey
from services.policy.settings import PolicySettings
from services.policy.store import PREFIX, StoredObject, decode, policy_key, store_key

logger = logging.getLogger(__name__)

PREFIXES: Final = (PREFIX, *intake.PREFIXES, layout.POLICY_PROGRESS)
CHANGE_LOG: Final = 10_000


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One step of the change log; `stored` is None when the object went away."""

    revision: int
    key: PolicyKey
    stored: StoredObject | None


class PolicyState:
    """Objects, identities and mapstates of the cluster as of `revision` of the store."""

    def __init__(
        self,
        *,
        settings: PolicySettings,
        host: StreamHost[SubjectPolicy],
        dns_host: StreamHost[DnsRules],
        registry: CollectorRegistry,
        replica: str = "",
        draw_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self.engine = PolicyEngine(settings)
        self.occupancy = Occupancy()
        self.addresses = AddressBook()
        self.host = host
        self.dns_host = dns_host
        self.stored: dict[PolicyKey, StoredObject] = {}
        self.faults: Mapping[str, str] = {}
        self.revision = 0
        self.changes: deque[PolicyChange] = deque(maxlen=CHANGE_LOG)
        self.log_floor = 0
        self._intake = Intake(self.engine, self.occupancy, self.addresses)
        self._standing = NodeStanding(host, replica)
        self._draw_bits = draw_bits
        self._uses: tuple[int, list[SelectorUse]] | None = None
        self._synced = asyncio.Event()
        self._moved = asyncio.Event()
        self._gauges = _Gauges(registry)

    @property
    def ready(self) -> bool:
        """Whether the first snapshot of the store is in."""
        return self._synced.is_set()

    async def run(self, store: ReadStore) -> None:
        """Feed the state until cancelled."""
        async with contextlib.aclosing(follow(store, PREFIXES)) as steps:
            async for step in steps:
                if isinstance(step, Snapshot):
                    self._on_snapshot(step)
                elif isinstance(step, Put):
                    self._on_row(step.row)
                elif isinstance(step, Delete):
                    self._on_delete(step.key, step.mod_revision)
                elif isinstance(step, Synced):
                    self._on_synced(step.revision)

    async def wait_revision(self, revision: int, timeout: float) -> bool:
        """Wait until everything up to a revision is in; False when the time passed first."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.revision < revision or not self.ready:
                    await self.moved()
        return self.revision >= revision and self.ready

    def moved(self) -> Awaitable[object]:
        """An awaitable of the next progress after this call (not after its first await)."""
        return self._moved.wait()

    def learn_identity(self, number: int, labels: LabelSet) -> None:
        """Take an identity that the store has and the watch has not brought yet."""
        self._intake.put_identity(number, labels)
        self._uses = None
        self._publish()

    def selector_uses(self) -> list[SelectorUse]:
        """Every selector in use; worked out once for all pages of a list."""
        at = self._standing.content_revision
        if self._uses is None or self._uses[0] != at:
            self._uses = (at, self.engine.selector_uses())
        return self._uses[1]

    def own_progress(self) -> dict[str, NodeProgress]:
        """What the nodes of this replica hold."""
        return self._standing.own()

    def progress(self) -> Mapping[str, NodeProgress]:
        """What the nodes of all replicas hold, as far as they said."""
        return self._standing.all()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        if snapshot.restored:
            self.host.reset(epoch=fresh_epoch(self._draw_bits), store_revision=snapshot.revision)
            self.dns_host.reset(epoch=fresh_epoch(self._draw_bits), store_revision=snapshot.revision)
            self.revision = 0
        names = {row.key for row in snapshot.rows}
        for key in [key for key in self.stored if store_key(key) not in names]:
            self._on_delete(store_key(key), snapshot.revision)
        self._intake.start_over(names)
        self._standing.start_over(restored=snapshot.restored)
        for row in snapshot.rows:
            self._on_row(row)
        self.changes.clear()
        self.log_floor = snapshot.revision

    def _on_row(self, row: Row) -> None:
        if row.key.startswith(layout.POLICY_PROGRESS):
            self._standing.put(row.key, row.value)
            return
        self._standing.content_revision = max(self._standing.content_revision, row.mod_revision)
        if row.key.startswith(PREFIX):
            self._on_object(row)
        else:
            self._intake.put(row)

    def _on_object(self, row: Row) -> None:
        stored = decode(row)
        if stored is None:
            logger.error("a key holds no policy", extra={log.KEY: row.key})
            return
        self.stored[stored.key] = stored
        self.changes.append(PolicyChange(row.mod_revision, stored.key, stored))
        if stored.parsed is None:
            extra = {log.POLICY: str(stored.key), log.ERROR: log.clip(stored.problem)}
            logger.error("a stored policy cannot be used", extra=extra)
            return
        changeset.put(self.engine, stored.parsed)

    def _on_delete(self, key: str, revision: int) -> None:
        if key.startswith(layout.POLICY_PROGRESS):
            self._standing.remove(key)
            return
        self._standing.content_revision = max(self._standing.content_revision, revision)
        if not key.startswith(PREFIX):
            self._intake.delete(key)
            return
        name = policy_key(key)
        if name is not None and self.stored.pop(name, None) is not None:
            self.changes.append(PolicyChange(revision, name, None))
            changeset.remove_key(self.engine, name)

    def _on_synced(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        self._publish()
        if not self.ready:
            self._synced.set()
            self.dns_host.set_ready(True)
            self.host.set_ready(True)
        self._gauges.show(self)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _publish(self) -> None:
        drained = self.engine.drain(self.revision)
        self.faults = drained.faults
        # First, because a node waits with redirects until its proxy has the rules.
        rules = {key: one for key, one in drained.dns_rules.items() if one is not None}
        without = drained.dns_rules.keys() - rules.keys()
        self.dns_host.apply(rules, without, store_revision=self.revision)
        self.host.apply(drained.upserts, drained.removals, store_revision=self.revision)
        self._standing.published()


class _Gauges:
    """What the metrics page says about the state."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._policies = Gauge(
            "axoneme_policy_policies_count", "Stored policies, by usability.", ["state"], registry=registry
        )
        self._subjects = Gauge(
            "axoneme_policy_subjects_count", "Subjects with a mapstate.", registry=registry
        )
        self._faults = Gauge(
            "axoneme_policy_faults_count", "Subjects whose policy cannot be computed.", registry=registry
        )

    def show(self, state: PolicyState) -> None:
        usable = sum(stored.parsed is not None for stored in state.stored.values())
        self._policies.labels("usable").set(usable)
        self._policies.labels("quarantined").set(len(state.stored) - usable)
        self._subjects.set(state.engine.subject_count)
        self._faults.set(len(state.faults))
