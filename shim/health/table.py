"""Which probe is due when, and what the last one of each found. Without I/O: clock and randomness come in.

Targets are spread over the first interval, so that the nodes of a cluster do not ask one of them all at once;
each next time is the interval plus or minus a tenth.
"""

from __future__ import annotations

import datetime as dt
import heapq
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from shim.routes import NodeEntry

ICMP, HTTP = "icmp", "http"
NODE, ENDPOINT = "node", "endpoint"
JITTER: Final = 0.1


class Target(NamedTuple):
    """One way to a node: `role` node or endpoint, `kind` icmp or http."""

    node: str
    role: str
    address: str
    kind: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe found: the seconds that an answer took, or why there was none."""

    seconds: float = 0.0
    error: str = ""

    @property
    def reachable(self) -> bool:
        """Answered in time."""
        return not self.error


@dataclass(frozen=True, slots=True)
class Result:
    """An outcome and when it came."""

    outcome: Outcome
    time: dt.datetime


def targets_of(nodes: Iterable[NodeEntry]) -> list[Target]:
    """Every address of every node, both ways; each once, in order."""
    found = []
    for node in nodes:
        for role, ips in ((NODE, node.internal_ips), (ENDPOINT, node.health_ips)):
            found += [Target(node.key, role, ip, kind) for ip in dict.fromkeys(ips) for kind in (ICMP, HTTP)]
    return found


class HealthTable:
    """Targets, when they are due, and their last results."""

    def __init__(self, interval_seconds: float, *, clock: Callable[[], float], rng: random.Random) -> None:
        self._interval, self._clock, self._rng = interval_seconds, clock, rng
        self._due_by_target: dict[Target, float] = {}
        self._results: dict[Target, Result] = {}
        self._running: set[Target] = set()
        self._queue: list[tuple[float, Target]] = []  # may hold what was replaced or moved

    @property
    def targets(self) -> list[Target]:
        """All targets, in order of name and address."""
        return sorted(self._due_by_target)

    @property
    def results(self) -> Mapping[Target, Result]:
        """The last result of each target that has one."""
        return self._results

    def replace(self, targets: Iterable[Target]) -> None:
        """Makes these all targets: new ones come within an interval, gone ones lose their results."""
        wanted = dict.fromkeys(targets)
        for target in [one for one in self._due_by_target if one not in wanted]:
            del self._due_by_target[target]
            self._results.pop(target, None)
        for target in wanted:
            if target not in self._due_by_target:
                self._schedule(target, self._rng.uniform(0, self._interval))

    def next_due(self) -> float | None:
        """When the next probe is due, by the clock; None without any."""
        while self._queue and not self._valid(*self._queue[0]):
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    def take_due(self) -> list[Target]:
        """Targets whose time has come; they are not due again before `finish`."""
        taken: list[Target] = []
        while (due := self.next_due()) is not None and due <= self._clock():
            target = heapq.heappop(self._queue)[1]
            self._running.add(target)
            taken.append(target)
        return taken

    def finish(self, target: Target, outcome: Outcome, time: dt.datetime) -> None:
        """Notes what a probe found; one of a target that is gone meanwhile is forgotten."""
        self._running.discard(target)
        if target in self._due_by_target:
            self._results[target] = Result(outcome, time)
            self._schedule(target, self._interval * self._rng.uniform(1 - JITTER, 1 + JITTER))

    def _schedule(self, target: Target, delay: float) -> None:
        due = self._clock() + delay
        self._due_by_target[target] = due
        heapq.heappush(self._queue, (due, target))

    def _valid(self, due: float, target: Target) -> bool:
        return self._due_by_target.get(target) == due and target not in self._running
