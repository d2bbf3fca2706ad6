"""The kernel's decision on one packet, in Python: the rule that the datapath program implements.

Two longest-prefix look-ups (the identity of the peer, any identity); the higher precedence wins, on a tie the
longer port block, on a further tie the entry of the identity. No entry at all is the default deny.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from axoneme.lib.policy.model import (
    ANY_IDENTITY,
    ANY_PORT,
    Action,
    AuthMode,
    Direction,
    MapEntry,
    MapKey,
    one_port,
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What decided; all three are None when no entry matched."""

    action: Action | None
    key: MapKey | None
    entry: MapEntry | None

    @property
    def forwarded(self) -> bool:
        """Whether the packet goes on, to its destination or to a proxy."""
        if self.entry is None:
            return False
        return self.entry.action is not Action.DENY or self.entry.audit

    @property
    def auth(self) -> AuthMode | None:
        """What the connection must prove; None when nothing is asked or the packet is denied."""
        return None if self.entry is None else self.entry.auth


def lookup(
    mapstate: Mapping[MapKey, MapEntry], direction: Direction, identity: int, protocol: int, port: int
) -> Decision:
    """Decide on a packet by the peer's identity and the destination's protocol and port."""
    best: tuple[MapKey, MapEntry] | None = None
    for tree in (identity, ANY_IDENTITY):
        found = _longest(mapstate, direction, tree, protocol, port)
        if found is not None and (best is None or _rank(*found) > _rank(*best)):
            best = found
    if best is None:
        return Decision(None, None, None)
    return Decision(best[1].action, *best)


def _longest(
    mapstate: Mapping[MapKey, MapEntry], direction: Direction, identity: int, protocol: int, port: int
) -> tuple[MapKey, MapEntry] | None:
    # Protocol 0 (IPv6 hop-by-hop options) can match entries for every protocol only.
    exact = one_port(protocol, port) if protocol else ANY_PORT
    for block in (exact, *exact.ancestors()):
        key = MapKey(direction, identity, block)
        entry = mapstate.get(key)
        if entry is not None:
            return key, entry
    return None


def _rank(key: MapKey, entry: MapEntry) -> tuple[int, int, bool]:
    return (entry.precedence, key.ports.specificity, key.identity != ANY_IDENTITY)
