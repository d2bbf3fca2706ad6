"""Datagram sockets keep their backend when the list behind a frontend changes, unless it left that list.

A socket that is not connected stays on the backend that it got for a frontend (`axoneme_sockets`), as long as
the frontend names the set from which it came. Another list is another set: choices whose backend is still in
it, or is on its way out, are written down as choices of the new set; all others are void by themselves, also
of a backend that only left this service and serves another one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.maps import BpfMap
from shim.maps.base import number_key
from shim.maps.lb import LB_INSIDE, SOCKET_BELIEVED, LbKey, LbService

UDP: Final = 17
# Parts of a SocketKey and of a SocketEntry; all entries are looked at, so nothing is unpacked.
_FRONTEND, _SIDE = slice(8, 26), 26
_SET, _BACKEND = slice(20, 24), slice(24, 28)


class Heir(NamedTuple):
    """The set that a frontend names from now on; all numbers as the four bytes of maps."""

    set_key: bytes
    backends: frozenset[bytes]


Heirs = Mapping[tuple[bytes, bytes], Heir]
"""Old set, and address and port of a frontend → its new set."""


def heir_of(
    frontend: bytes, before: bytes | None, after: bytes, backends: Callable[[], frozenset[bytes]]
) -> tuple[tuple[bytes, bytes], Heir] | None:
    """An element of `Heirs` by key and values of `axoneme_lb`; None where no choice depends on it."""
    if before is None:
        return None
    key = LbKey.unpack(frontend)
    if key.protocol != UDP or key.scope != LB_INSIDE:
        return None
    old, new = LbService.unpack(before).set_id, LbService.unpack(after).set_id
    if old == new or not old or not new:
        return None
    return (number_key(old), key.address + key.port_be), Heir(number_key(new), backends())


def inherited(sockets: BpfMap, heirs: Heirs) -> list[tuple[bytes, bytes]]:
    """Choices that stay, as entries of the new sets. Read them before frontends name those."""
    found: list[tuple[bytes, bytes]] = []
    if not heirs:
        return found
    with contextlib.suppress(BpfError):  # costs sockets their backend, and nothing else
        for key, value in sockets.items():
            if key[_SIDE] != SOCKET_BELIEVED:
                continue
            heir = heirs.get((value[_SET], key[_FRONTEND]))
            if heir is not None and value[_BACKEND] in heir.backends:
                found.append((key, value[: _SET.start] + heir.set_key + value[_SET.stop :]))
    return found


def keep(sockets: BpfMap, entries: Iterable[tuple[bytes, bytes]], undone: Iterable[Heirs] = ()) -> None:
    """Writes what `inherited` found, once frontends name the new sets: over choices made in between, too.
    `undone`: frontends that keep their old sets after all."""
    without = {heir.set_key for heirs in undone for heir in heirs.values()}
    wanted = [entry for entry in entries if entry[1][_SET] not in without]
    if wanted:
        with contextlib.suppress(BpfError):
            sockets.update_batch(wanted)
