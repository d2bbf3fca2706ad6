"""Numbers that stand for sets of origins in policy entries and events, without I/O.

A cookie is a node-local number of 32 bits for a set of origins (0 = none). The kernel copies it from the
policy entry into conntrack and into events, so a number keeps its meaning after its last entry is gone and
across a restart: the table goes into the state file, numbers are never reused while the table knows them,
and only the oldest are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from axoneme.lib.policy.model import Origin

MAX_COOKIES = 50_000
_LAST_COOKIE = 0xFFFF_FFFF


class CookieTable:
    """Set of origins ↔ cookie, with the origins themselves."""

    def __init__(self, max_cookies: int = MAX_COOKIES) -> None:
        self._max_cookies = max_cookies
        self._cookie_by_set: dict[frozenset[int], int] = {}
        self._set_by_cookie: dict[int, frozenset[int]] = {}
        self._origins: dict[int, Origin] = {}
        self._next = 1
        self._dumped: dict[str, Any] | None = None

    def learn(self, origins: Mapping[int, Origin]) -> None:
        """Remembers origins by number."""
        fresh = {number: origin for number, origin in origins.items() if number not in self._origins}
        if fresh:
            self._origins.update(fresh)
            self._dumped = None

    def cookie_of(self, origin_ids: frozenset[int]) -> int:
        """The number of a set, the same on every call; 0 for the empty set."""
        if not origin_ids:
            return 0
        cookie = self._cookie_by_set.get(origin_ids)
        if cookie is None:
            cookie = self._next_free()
            self._cookie_by_set[origin_ids] = cookie
            self._set_by_cookie[cookie] = origin_ids
            self._dumped = None
        return cookie

    def origins_of(self, cookie: int) -> tuple[Origin, ...]:
        """The origins behind a cookie, in order of number; empty for 0 and for a forgotten one."""
        return self.origins(self._set_by_cookie.get(cookie, frozenset()))

    def origins(self, origin_ids: Iterable[int]) -> tuple[Origin, ...]:
        """Known origins among `origin_ids`, in order of number."""
        return tuple(self._origins[number] for number in sorted(origin_ids) if number in self._origins)

    def forget_unused(self, used: Callable[[], Iterable[int]]) -> int:
        """Drops the oldest cookies above the limit that no map holds; returns how many went."""
        excess = len(self._set_by_cookie) - self._max_cookies
        if excess <= 0:
            return 0
        held = set(used())
        self._dumped = None
        oldest = [cookie for cookie in self._set_by_cookie if cookie not in held][:excess]
        for cookie in oldest:
            del self._cookie_by_set[self._set_by_cookie.pop(cookie)]
        alive = {number for origin_ids in self._cookie_by_set for number in origin_ids}
        self._origins = {number: origin for number, origin in self._origins.items() if number in alive}
        return len(oldest)

    def dump(self) -> dict[str, Any]:
        """Form for the state file; the same object until something changes."""
        if self._dumped is not None:
            return self._dumped
        needed = {number for origin_ids in self._cookie_by_set for number in origin_ids}
        origins = [
            [o.origin_id, o.kind, o.namespace, o.name, o.rule, list(o.labels)]
            for number, o in self._origins.items()
            if number in needed
        ]
        sets = [[cookie, sorted(origin_ids)] for cookie, origin_ids in self._set_by_cookie.items()]
        self._dumped = {"next": self._next, "sets": sets, "origins": origins}
        return self._dumped

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Takes over what `dump` wrote before a restart."""
        self._dumped = None
        for cookie, origin_ids in dumped.get("sets", ()):
            self._cookie_by_set[frozenset(origin_ids)] = cookie
            self._set_by_cookie[cookie] = frozenset(origin_ids)
        for number, kind, namespace, name, rule, labels in dumped.get("origins", ()):
            self._origins[number] = Origin(
                origin_id=number, kind=kind, namespace=namespace, name=name, rule=rule, labels=tuple(labels)
            )
        self._next = max(int(dumped.get("next", 1)), 1)

    def _next_free(self) -> int:
        while self._next in self._set_by_cookie:
            self._advance()
        cookie = self._next
        self._advance()
        return cookie

    def _advance(self) -> None:
        self._next = 1 if self._next >= _LAST_COOKIE else self._next + 1
