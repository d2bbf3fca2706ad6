"""Watch… calls over the mirror: a snapshot, a bookmark, then the change log as it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from axoneme.lib.errors import OutOfRange
from services.identity.mirror import ChangeLog, Mirror

K = TypeVar("K", int, str)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Watched(Generic[K, Answer]):
    """A listed resource: which keys there are, how one is shown (None when it is gone), where changes are."""

    log: ChangeLog[K]
    keys: Callable[[], Iterable[K]]
    message: Callable[[K], Any]
    answer: Callable[..., Answer]
    shown_key: Callable[[K], int | str] = lambda key: key


async def watch(mirror: Mirror, watched: Watched[K, Answer], revision: int) -> AsyncIterator[Answer]:
    """Steps from a revision on, or from a snapshot (0).

    Raises NotReady, RevisionCompacted when the log is shorter or an older backup of etcd was restored,
    OutOfRange for a revision that the store has not reached.
    """
    mirror.check_ready()
    restores = mirror.restores
    if revision > mirror.state.revision and revision > await mirror.catch_up():
        raise OutOfRange(f"revision {revision} is ahead of the store; watch again from 0")
    position = revision
    if not position:
        position = mirror.state.revision
        for key in sorted(watched.keys()):
            message = watched.message(key)
            if message is not None:
                yield watched.answer(revision=position, put=message)
        yield watched.answer(revision=position, bookmark=True)
    while True:
        reached = mirror.state.revision
        for key in sorted(watched.log.since(position)):
            message = watched.message(key)
            if message is not None:
                yield watched.answer(revision=reached, put=message)
            else:
                yield watched.answer(revision=reached, deleted=watched.shown_key(key))
        position = max(position, reached)
        await mirror.beyond(position, restores)
