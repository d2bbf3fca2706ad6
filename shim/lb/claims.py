"""Who has which frontend, when more than one wants it: the first by name, whatever came first. Pure.

The service that allocates addresses lets no two services have one, so this decides only while it is wrong or
while changes cross. A service goes before a host port.
"""

from __future__ import annotations

from collections.abc import Iterable

from shim.lb.model import Frontend

NOBODY: tuple[str, ...] = ()


class Claims:
    """Frontends of all owners."""

    def __init__(self) -> None:
        self._by_frontend: dict[Frontend, tuple[str, ...]] = {}
        self._by_owner: dict[str, frozenset[Frontend]] = {}

    def put(self, owner: str, frontends: Iterable[Frontend]) -> set[str]:
        """Makes these all that an owner claims; returns others whose frontends that changes."""
        claimed, affected = frozenset(frontends), set[str]()
        before = self._by_owner.pop(owner, frozenset())
        for frontend in before - claimed:
            rest = tuple(one for one in self._by_frontend[frontend] if one != owner)
            affected.update(rest)
            if rest:
                self._by_frontend[frontend] = rest
            else:
                del self._by_frontend[frontend]
        for frontend in claimed - before:
            others = self._by_frontend.get(frontend, NOBODY)
            affected.update(others)
            self._by_frontend[frontend] = tuple(sorted((*others, owner))) if others else (owner,)
        if claimed:
            self._by_owner[owner] = claimed
        return affected

    def winner(self, frontend: Frontend) -> str:
        """Who has it; empty when nobody wants it."""
        return (self._by_frontend.get(frontend) or ("",))[0]

    def frontends_of(self, owner: str) -> frozenset[Frontend]:
        """What an owner claims."""
        return self._by_owner.get(owner, frozenset())

    def lost(self, owner: str) -> dict[Frontend, str]:
        """What an owner claims in vain, and who has it."""
        claimed = self.frontends_of(owner)
        in_vain = [one for one in claimed if self.winner(one) != owner]
        return {one: self.winner(one) for one in sorted(in_vain)}
