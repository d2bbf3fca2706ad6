"""One owner's way from what it has in the kernel to its plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.intent import Failure
from shim.lb import affinity
from shim.lb.model import Target
from shim.lb.plan import BackendSet, Plan
from shim.nodeipcache import failure_of
from shim.reconciler import WriteFault
from shim.socketchoices import Heir


@dataclass(slots=True)
class Applied:
    """What an owner has in the kernel."""

    frontends: frozenset[bytes] = frozenset()
    sets: dict[BackendSet, int] = field(default_factory=dict)
    targets: dict[Target, int] = field(default_factory=dict)


NOTHING: Final = Applied()


@dataclass(slots=True, kw_only=True)
class Change:
    """One owner's way from what it has to its plan. `tables` are made by the caller, empty."""

    owner: str
    plan: Plan
    sets: dict[BackendSet, int] = field(default_factory=dict)
    fresh: list[BackendSet] = field(default_factory=list)
    adopted: list[BackendSet] = field(default_factory=list)
    tables: dict[BackendSet, BpfMap] = field(default_factory=dict)
    failure: Failure | None = None
    before: dict[bytes, bytes | None] = field(default_factory=dict)
    moves: affinity.Moves = field(default_factory=dict)
    heirs: dict[tuple[bytes, bytes], Heir] = field(default_factory=dict)

    @property
    def wanted_tables(self) -> list[BackendSet]:
        """New sets that need a table."""
        return [one for one in self.fresh if one.table_size]


@dataclass(slots=True)
class Leaving:
    """Sets and backends that nothing new refers to."""

    due: float
    sets: dict[int, BackendSet]
    targets: tuple[Target, ...]


def going(changes: Iterable[Change]) -> Iterable[Change]:
    """Those that nothing was in the way of."""
    return (change for change in changes if change.failure is None)


def blame(faults: Mapping[bytes, WriteFault], askers: Mapping[bytes, Sequence[Change]]) -> None:
    """Makes faults of keys failures of those who asked for them."""
    for key, fault in faults.items():
        for change in askers[key]:
            change.failure = change.failure or failure_of(fault)
