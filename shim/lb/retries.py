"""Owners that could not be written: why, and when each is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from axoneme.lib.intent import Failure
from shim.reconciler import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS


@dataclass(slots=True)
class _Retry:
    failure: Failure
    delay_seconds: float
    due: float


class Retries:
    """100 ms after the first failure of an owner, doubling to 60 s."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_owner: dict[str, _Retry] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_owner)

    def note(self, tried: Iterable[str], failed: Mapping[str, Failure]) -> None:
        """What came of a try."""
        now = self._clock()
        for key in tried:
            known = self._by_owner.pop(key, None)
            if (failure := failed.get(key)) is not None:
                delay = min(known.delay_seconds * 2, LAST_RETRY_SECONDS) if known else FIRST_RETRY_SECONDS
                self._by_owner[key] = _Retry(failure, delay, now + delay)

    def due(self) -> set[str]:
        """Owners whose time has come."""
        now = self._clock()
        return {key for key, one in self._by_owner.items() if one.due <= now}

    def next_due(self) -> float | None:
        """Time of the next try, by the clock."""
        return min((one.due for one in self._by_owner.values()), default=None)

    def failures(self) -> dict[str, Failure]:
        """Why each is not in effect."""
        return {key: one.failure for key, one in self._by_owner.items()}
