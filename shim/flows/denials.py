"""Which policies had switched default deny on when a record was made, without I/O.

A drop by default deny has no entry and so no cookie. The datapath stamps each record with the endpoint's
policy generation; this history says what each generation denied by default. The policy sink tells of a
generation after it switched the map and before it writes the generation where the datapath reads it, so:

- a record is never stamped with a generation that was not told;
- from the moment of telling on, every packet meets the new map, even if it still reads the old generation;
- a record with the old generation from the moment between switch and telling was judged by one of the two.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from shim.endpoints import generation_after
from shim.flows.context import EGRESS, PolicyOrigin

MAX_GENERATIONS = 256
MAX_ENDPOINTS = 4096
SWITCH_NS = 1_000_000_000
"""More than the time from the switch of a map until it is told."""
_GONE = -1

Denying = tuple[PolicyOrigin, ...] | None
"""Policies that switched default deny on; None where nothing is denied by default."""


class _Version(NamedTuple):
    since_ns: int
    generation: int
    ingress: Denying
    egress: Denying

    def denying(self, direction: int) -> Denying:
        return self.egress if direction == EGRESS else self.ingress


class DefaultDenials:
    """Default deny by endpoint, generation and time; also of endpoints that are gone."""

    def __init__(self, max_generations: int = MAX_GENERATIONS, max_endpoints: int = MAX_ENDPOINTS) -> None:
        self._max_generations, self._max_endpoints = max_generations, max_endpoints
        self._by_endpoint: OrderedDict[int, list[_Version]] = OrderedDict()

    def tell(
        self, endpoint_id: int, generation: int, *, ingress: Denying, egress: Denying, now_ns: int
    ) -> None:
        """From now on the endpoint is judged by this, and its generation is or becomes this one.

        A generation may be told again: a policy with equal entries switches no map.
        """
        versions = self._by_endpoint.setdefault(endpoint_id, [])
        self._by_endpoint.move_to_end(endpoint_id)
        if versions and versions[-1][1:] == (generation, ingress, egress):
            return
        versions.append(_Version(now_ns, generation, ingress, egress))
        del versions[: -self._max_generations]
        while len(self._by_endpoint) > self._max_endpoints:
            self._by_endpoint.popitem(last=False)

    def gone(self, endpoint_id: int, now_ns: int) -> None:
        """The endpoint is gone; its number may come back and count generations anew."""
        if endpoint_id in self._by_endpoint:
            self.tell(endpoint_id, _GONE, ingress=None, egress=None, now_ns=now_ns)

    def at(self, endpoint_id: int, direction: int, generation: int, time_ns: int) -> Sequence[PolicyOrigin]:
        """Policies behind a record that default deny dropped; empty when that is not known."""
        versions = self._by_endpoint.get(endpoint_id, [])
        told = bisect_right(versions, time_ns, key=lambda version: version.since_ns) - 1
        for version in _candidates(versions, told, generation, time_ns):
            denying = version.denying(direction)
            if denying is not None:
                return denying
        return ()


def _candidates(versions: list[_Version], told: int, generation: int, time_ns: int) -> list[_Version]:
    """Versions that may have judged a record of this generation, the likeliest first.

    `told` is the last version told before the record was made, -1 for none; the next one may have judged it
    when it was told right after.
    """
    now = versions[told : told + 1] if told >= 0 else []
    following = [v for v in versions[told + 1 : told + 2] if v.since_ns - time_ns <= SWITCH_NS]
    same = [index for index, version in enumerate(versions) if version.generation == generation]
    if not same:  # before the first map of an endpoint there was nothing to tell
        return [v for v in (*now, *following) if v.generation == generation_after(generation)]
    own = next((index for index in reversed(same) if index <= told), same[0])
    return [versions[own]] if own > told else [*now, versions[own], *following]
