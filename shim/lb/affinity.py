"""Clients keep their backend when the list behind a frontend changes: their entries follow to its new set.

`axoneme_affinity` is written by the programs and keyed by set. Entries are copied before frontends name the
new set, so that known clients are found there at once, and again afterwards with whoever came meanwhile;
then the old ones go. An entry whose backend is gone chooses anew by itself.
"""

from __future__ import annotations

import contextlib
from typing import Final, TypeAlias

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from shim.maps.base import number_key
from shim.maps.lb import LB_AFFINITY, LbService

Moves: TypeAlias = dict[bytes, dict[bytes, frozenset[bytes]]]
"""Old set → new sets, each with its backends; all as the four bytes of their numbers."""

_SET: Final = slice(16, 20)
_BACKEND: Final = slice(8, 12)


def moves_on(before: bytes | None, after: bytes) -> tuple[bytes, bytes] | None:
    """Old and new set of a frontend whose clients have backends of their own; None when they stay."""
    if before is None:
        return None
    old, new = LbService.unpack(before), LbService.unpack(after)
    if not old.flags & new.flags & LB_AFFINITY or old.set_id == new.set_id:
        return None
    return number_key(old.set_id), number_key(new.set_id)


def carry(affinity: BpfMap, moves: Moves, *, remove: bool) -> None:
    """Copies entries that the new sets don't have and whose backend they have; `remove` takes old ones away.

    What the kernel refuses costs a client its backend, and nothing else.
    """
    with contextlib.suppress(BpfError):
        for key, value in affinity.items():
            old = key[_SET]
            for new, backends in moves.get(old, {}).items():
                moved = key[: _SET.start] + new + key[_SET.stop :]
                if value[_BACKEND] in backends and affinity.lookup(moved) is None:
                    affinity.update(moved, value)
            if remove and old in moves:
                affinity.delete(key)
