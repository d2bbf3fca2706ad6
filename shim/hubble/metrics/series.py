"""Series of metrics, bounded: by number, and by the life of the pods that they tell of.

A pod whose every place (an address, the number of an endpoint) is another's or nobody's is gone; what tells
of it is dropped a minute later, so that a scrape still sees its last values. The clock is the caller's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shim.hubble.metrics.plugin import Family

GONE_SECONDS: Final = 60.0
MAX_PLACES: Final = 4


class Key(NamedTuple):
    """Which series: the number of its family and the values of its labels."""

    family: int
    labels: tuple[str, ...]


class Place(NamedTuple):
    """Where a pod was met: its address, and its endpoint's number where it lives here (else 0)."""

    address: str
    endpoint_id: int


class Pod(NamedTuple):
    """A pod by name."""

    namespace: str
    name: str


class Series:
    """One counter or histogram."""

    __slots__ = ("bounds", "buckets", "count", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.count = 0
        self.total = 0.0
        self.buckets = [0] * (len(bounds) + 1) if bounds else []

    def add(self, times: int, value: float | None) -> None:
        """Count so many, each with that value."""
        self.count += times
        if value is not None:
            self.total += times * value
            self.buckets[bisect_left(self.bounds, value)] += times


@dataclass(slots=True)
class _PodLife:
    """Where a pod was met last, and what tells of it."""

    places: OrderedDict[Place, None] = field(default_factory=OrderedDict)
    series: set[Key] = field(default_factory=set)
    gone_since: float | None = None


class SeriesTable:
    """All series."""

    def __init__(self, families: Iterable[Family], max_series: int) -> None:
        self.families = tuple(families)
        self._series: list[dict[tuple[str, ...], Series]] = [{} for _ in self.families]
        self._max_series = max_series
        self._pods: dict[Pod, _PodLife] = {}
        self._owners: dict[Key, set[Pod]] = {}
        self.overflow = 0
        """Samples that found no room for their series."""
        self.revision = 0
        """Grows when series were dropped: who holds one must ask again."""

    def __len__(self) -> int:
        return sum(len(one) for one in self._series)

    def items(self, family: int) -> Iterator[tuple[tuple[str, ...], Series]]:
        """Label values and series of a family, in order of their labels."""
        yield from sorted(self._series[family].items())

    def get(self, key: Key) -> Series | None:
        """The series of a key, made when there is room; None when there is none."""
        known = self._series[key.family].get(key.labels)
        if known is None and len(self) < self._max_series:
            known = self._series[key.family][key.labels] = Series(self.families[key.family].buckets)
        return known

    def bind(self, key: Key, pod: Pod, place: Place) -> None:
        """A series lives with a pod, which was met at that place."""
        life = self._pods.get(pod)
        if life is None:
            life = self._pods[pod] = _PodLife()
        life.series.add(key)
        self._owners.setdefault(key, set()).add(pod)
        life.places[place] = None
        life.places.move_to_end(place)
        while len(life.places) > MAX_PLACES:
            life.places.popitem(last=False)

    def sweep(self, now: float, lives: Callable[[Pod, Place], bool]) -> Iterator[None]:
        """Drop what tells of pods that are gone for a minute; a step is a pod."""
        for pod, life in list(self._pods.items()):
            yield
            if any(lives(pod, place) for place in life.places):
                life.gone_since = None
            elif life.gone_since is None:
                life.gone_since = now
            elif now - life.gone_since >= GONE_SECONDS:
                self._drop(pod, life)

    def _drop(self, pod: Pod, life: _PodLife) -> None:
        for key in list(life.series):
            self._series[key.family].pop(key.labels, None)
            for owner in self._owners.pop(key, ()):
                self._pods[owner].series.discard(key)
        del self._pods[pod]
        self.revision += 1
