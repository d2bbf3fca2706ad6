"""What each node holds, from this replica's streams and the progress keys of the others. No I/O.

Revisions of the streams' table become revisions of content: that of the last change in the store that can
matter to a mapstate.
"""

from __future__ import annotations

import bisect
import logging
from collections import deque
from typing import Final

from axoneme.lib import log
from axoneme.lib.intentstream.host import StreamHost
from axoneme.lib.kvstore import layout
from axoneme.lib.policy.model import SubjectPolicy
from services.policy.records.progress import NodeProgress, Progress, decode, merged

logger = logging.getLogger(__name__)

_STEPS: Final = 10_000


class NodeStanding:
    """Progress of the nodes of all replicas."""

    def __init__(self, host: StreamHost[SubjectPolicy], replica: str) -> None:
        self.content_revision = 0
        self._host = host
        self._replica = replica
        self._steps: deque[tuple[int, int]] = deque(maxlen=_STEPS)
        self._others: dict[str, Progress] = {}

    def published(self) -> None:
        """The table holds everything up to `content_revision`."""
        step = self._host.table.revision
        if self._steps and self._steps[-1][0] == step:
            self._steps.pop()
        self._steps.append((step, self.content_revision))

    def start_over(self, *, restored: bool) -> None:
        """A snapshot of the store follows. After a restore its revisions start again."""
        self._others.clear()
        if restored:
            self.content_revision = 0
            self._steps.clear()

    def put(self, key: str, value: bytes) -> None:
        """Another replica, or this one, reported."""
        name = key.removeprefix(layout.POLICY_PROGRESS)
        if name == self._replica:
            return
        try:
            self._others[name] = decode(value)
        except ValueError as error:
            logger.warning("progress not understood", extra={log.KEY: key, log.ERROR: log.clip(error)})
            self._others.pop(name, None)

    def remove(self, key: str) -> None:
        """A replica is gone."""
        self._others.pop(key.removeprefix(layout.POLICY_PROGRESS), None)

    def own(self) -> dict[str, NodeProgress]:
        """What the nodes of this replica hold."""
        return {
            node: NodeProgress(
                self._content(settled), {key: one.message or one.reason for key, one in failed.items()}
            )
            for node, (settled, failed) in self._host.standing().items()
        }

    def all(self) -> dict[str, NodeProgress]:
        """What the nodes of all replicas hold, as far as they said."""
        return merged([*self._others.values(), self.own()])

    def _content(self, settled: int) -> int:
        """The content revision that a revision of the table stands for; 0 for one that is long gone."""
        place = bisect.bisect_right(self._steps, settled, key=lambda step: step[0])
        return self._steps[place - 1][1] if place else 0
