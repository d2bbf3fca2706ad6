"""Bodies of changes, each serialised once for all subjects and nodes that get it.

A body belongs to a pair of policies, the new one and the one that the receiver has. Policies are known by
identity and not kept alive: a body goes with either of its policies, or, the oldest first, when newer ones
need the room.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from axoneme.lib.policy.model import SubjectPolicy
from axoneme.lib.policycodec import change_body

LIMIT_BYTES: Final = 64 << 20
_OVERHEAD_BYTES: Final = 512

_Slot: TypeAlias = tuple[int, int]
_Weak: TypeAlias = weakref.ref[SubjectPolicy]


class _Kept(NamedTuple):
    value: _Weak
    previous: _Weak | None
    body: bytes


class Bodies:
    """Serialised bodies by pair of policies. `made` counts how often one was really serialised."""

    def __init__(
        self,
        make: Callable[[SubjectPolicy, SubjectPolicy | None], bytes] = change_body,
        *,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self.made = 0
        self.kept_bytes = 0
        self._make = make
        self._limit_bytes = limit_bytes
        self._kept: dict[_Slot, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, value: SubjectPolicy, previous: SubjectPolicy | None) -> bytes:
        """The body of a change."""
        slot = (id(value), id(previous))
        kept = self._kept.get(slot)
        if kept is not None and kept[0]() is value and (kept[1]() if kept[1] else None) is previous:
            return kept[2]  # the pair itself, and not a later one in the same place of memory
        self.made += 1
        body = self._make(value, previous)
        self._keep(slot, value, previous, body)
        return body

    def _keep(self, slot: _Slot, value: SubjectPolicy, previous: SubjectPolicy | None, body: bytes) -> None:
        self._forget(slot)
        gone = partial(self._forget, slot)
        weak = None if previous is None else weakref.ref(previous, gone)
        self._kept[slot] = _Kept(weakref.ref(value, gone), weak, body)
        self.kept_bytes += len(body) + _OVERHEAD_BYTES
        while self.kept_bytes > self._limit_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, slot: _Slot, _dead: object = None) -> None:
        kept = self._kept.pop(slot, None)
        if kept is not None:
            self.kept_bytes -= len(kept.body) + _OVERHEAD_BYTES
