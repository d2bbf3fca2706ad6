"""Takes accelerated connections back to the stack. Their entries in `axoneme_sockhash` stay: taking a socket
out of it would lose what its reader has not read yet. Connections by themselves do this when policy changes
(shim/bpf/sockmap.bpf.c); this is for an address that leaves, and for switching the feature off.
"""

from __future__ import annotations

from dataclasses import replace

from axoneme.lib.bpf.maps import BpfMap
from shim.maps.base import Address, address_bytes
from shim.maps.sockets import PAIR_STACK, PairKey, SocketPair

MAX_ROUNDS = 4


def leave_for_good(pairs: BpfMap) -> int:
    """Ends all redirection; call it when no connection can begin any more. Returns how many it ended.

    A message that is being sent right now may still write its state over ours, hence the further rounds.
    """
    ended = 0
    for _ in range(MAX_ROUNDS):
        found = leave_to_stack(pairs)
        ended += found
        if not found:
            break
    return ended


def leave_to_stack(pairs: BpfMap, address: Address | None = None) -> int:
    """Ends the redirection of all connections, or of those from and to `address`. Returns how many."""
    wanted = None if address is None else address_bytes(address)
    ended = 0
    for raw, value in pairs.items():
        key, pair = PairKey.unpack(raw), SocketPair.unpack(value)
        if pair.state != PAIR_STACK and (wanted is None or wanted in (key.local, key.remote)):
            pairs.update(raw, replace(pair, state=PAIR_STACK).pack())
            ended += 1
    return ended
