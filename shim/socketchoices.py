"""Ends what datagram sockets keep to when a backend leaves a service but serves another one.

A socket that is not connected stays on the backend that it got for a frontend (`axoneme_sockets`). A backend
that is gone altogether is noticed by the programs; one that only left this set is not. Answers that are still
under way keep showing the frontend.
"""

from __future__ import annotations

from axoneme.lib.bpf.maps import BpfMap
from shim.maps.base import Address, address_bytes
from shim.maps.lb import SOCKET_BELIEVED, SocketEntry, SocketKey


def forget_choices(sockets: BpfMap, set_id: int, address: Address, port: int) -> int:
    """Sockets that use the backend as one of the set choose anew with their next datagram: how many."""
    wanted = (set_id, address_bytes(address), port.to_bytes(2, "big"))
    found = []
    for raw, value in sockets.items():
        entry = SocketEntry.unpack(value)
        if SocketKey.unpack(raw).side == SOCKET_BELIEVED and wanted == (
            entry.set_id,
            entry.address,
            entry.port_be,
        ):
            found.append(raw)
    return sockets.delete_batch(found)
