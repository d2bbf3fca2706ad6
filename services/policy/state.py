"""Everything the service knows, fed by one watch of its etcd.

    etcd ──follow──> PolicyState ──> PolicyEngine ──> StreamHost (mapstates to the nodes)
                          │
                          └──> stored policies, change log, occupancy (which node has which identity)

One task owns the feeding (`run`); the servicer reads. A stored object that cannot be used is quarantined:
named in log and metric, while the last usable version of it stays in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from axoneme.lib import log
from axoneme.lib.intent import fresh_epoch
from axoneme.lib.intentstream.host import StreamHost
from axoneme.lib.kvstore.follow import Snapshot, Synced, follow
from axoneme.lib.kvstore.port import Delete, Put, ReadStore, Row
from axoneme.lib.labels import InvalidLabels, LabelSet
from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import subject_key
from services.policy.engine import PolicyEngine
from services.policy.occupancy import IDENTITY_PREFIX, SLAVE_PREFIX, Occupancy, identity_number
from services.policy.rules import PolicyKey
from services.policy.store import PREFIX, StoredPolicy, decode, policy_key

logger = logging.getLogger(__name__)

PREFIXES: Final = (PREFIX, IDENTITY_PREFIX, SLAVE_PREFIX)
CHANGE_LOG: Final = 10_000


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One step of the change log; `stored` is None when the policy went away."""

    revision: int
    key: PolicyKey
    stored: StoredPolicy | None


class PolicyState:
    """Policies, identities and mapstates of the cluster as of `revision` of the store."""

    def __init__(
        self,
        *,
        cluster_name: str,
        host: StreamHost[SubjectPolicy],
        registry: CollectorRegistry,
        draw_bits: Callable[[int], int] = secrets.randbits,
    ) -> None:
        self.engine = PolicyEngine(cluster_name)
        self.occupancy = Occupancy()
        self.host = host
        self.stored: dict[PolicyKey, StoredPolicy] = {}
        self.revision = 0
        self.changes: deque[PolicyChange] = deque(maxlen=CHANGE_LOG)
        self.log_floor = 0
        self._draw_bits = draw_bits
        self._synced = asyncio.Event()
        self._moved = asyncio.Event()
        self._policies_gauge = Gauge(
            "axoneme_policy_policies_count", "Stored policies, by usability.", ["state"], registry=registry
        )
        self._subjects_gauge = Gauge(
            "axoneme_policy_subjects_count", "Subjects with a mapstate.", registry=registry
        )

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
        self.engine.put_identity(number, labels)
        self._publish()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        if snapshot.restored:
            self.host.reset(epoch=fresh_epoch(self._draw_bits), store_revision=snapshot.revision)
            self.revision = 0
        names = {row.key for row in snapshot.rows}
        for key in [key for key in self.stored if f"{PREFIX}{key}" not in names]:
            self._on_delete(f"{PREFIX}{key}", snapshot.revision)
        for number in self.occupancy.numbers() - {identity_number(name) for name in names}:
            self.engine.remove_identity(number)
        self.occupancy.clear()
        for row in snapshot.rows:
            self._on_row(row)
        self.changes.clear()
        self.log_floor = snapshot.revision

    def _on_row(self, row: Row) -> None:
        if row.key.startswith(PREFIX):
            self._on_policy(row)
        elif row.key.startswith(SLAVE_PREFIX):
            self.occupancy.put_slave(row.key, row.value)
        elif row.key.startswith(IDENTITY_PREFIX):
            self._on_identity(row)

    def _on_policy(self, row: Row) -> None:
        stored = decode(row)
        if stored is None:
            logger.error("a key holds no policy", extra={log.KEY: row.key})
            return
        self.stored[stored.key] = stored
        self.changes.append(PolicyChange(row.mod_revision, stored.key, stored))
        if stored.policy is None:
            extra = {log.POLICY: str(stored.key), log.ERROR: log.clip(stored.problem)}
            logger.error("a stored policy cannot be used", extra=extra)
            return
        self.engine.put_policy(stored.policy)

    def _on_identity(self, row: Row) -> None:
        number = identity_number(row.key)
        if number is None:
            return
        try:
            labels = LabelSet.from_key(row.value.decode())
        except (InvalidLabels, UnicodeDecodeError) as error:
            logger.error(
                "a stored identity cannot be used", extra={log.IDENTITY: number, log.ERROR: log.clip(error)}
            )
            return
        self.occupancy.add_number(number)
        self.engine.put_identity(number, labels)

    def _on_delete(self, key: str, revision: int) -> None:
        if key.startswith(PREFIX):
            policy = policy_key(key)
            if policy is not None and self.stored.pop(policy, None) is not None:
                self.changes.append(PolicyChange(revision, policy, None))
                self.engine.remove_policy(policy)
        elif key.startswith(SLAVE_PREFIX):
            self.occupancy.remove_slave(key)
        else:
            number = identity_number(key)
            if number is not None:
                self.occupancy.forget_number(number)
                self.engine.remove_identity(number)

    def _on_synced(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        self._publish()
        if not self.ready:
            self._synced.set()
            self.host.set_ready(True)
        usable = sum(stored.policy is not None for stored in self.stored.values())
        self._policies_gauge.labels("usable").set(usable)
        self._policies_gauge.labels("quarantined").set(len(self.stored) - usable)
        self._subjects_gauge.set(self.engine.subject_count)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _publish(self) -> None:
        drained = self.engine.drain(self.revision)
        self.host.apply(
            {subject_key(number): policy for number, policy in drained.upserts.items()},
            [subject_key(number) for number in drained.removals],
            store_revision=self.revision,
        )
