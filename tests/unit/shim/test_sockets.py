"""What the shim takes back from sockets: accelerated connections, and backends that datagrams keep to."""

from __future__ import annotations

import ipaddress

import pytest

from axoneme.lib.bpf.memory import MemoryMap
from shim.maps import base, lb, sockets
from shim.socketchoices import forget_choices
from shim.socketpairs import leave_to_stack

A = {4: ipaddress.ip_address("10.1.0.1"), 6: ipaddress.ip_address("fd00::1")}
B = {4: ipaddress.ip_address("10.1.0.2"), 6: ipaddress.ip_address("fd00::2")}
C = {4: ipaddress.ip_address("10.1.0.3"), 6: ipaddress.ip_address("fd00::3")}
family = pytest.mark.parametrize("v", [4, 6], ids=["ipv4", "ipv6"])


def pair(local: base.Address, remote: base.Address, port: int) -> bytes:
    ends = base.address_bytes(local), base.address_bytes(remote)
    return sockets.PairKey(*ends, port.to_bytes(2, "big"), b"\0P").pack()


def state(number: int) -> bytes:
    return sockets.SocketPair(3, 4, 101, 102, number, 1, 77).pack()


@family
def test_connections_of_an_address_leave_for_the_stack(v: int) -> None:
    pairs = MemoryMap(sockets.PAIRS)
    pairs.update(pair(A[v], B[v], 1), state(sockets.PAIR_REDIRECTED))
    pairs.update(pair(B[v], A[v], 2), state(sockets.PAIR_UNDECIDED))
    pairs.update(pair(A[v], C[v], 3), state(sockets.PAIR_STACK))
    pairs.update(pair(C[v], B[v], 4), state(sockets.PAIR_REDIRECTED))
    assert leave_to_stack(pairs, A[v]) == 2
    found = {key: sockets.SocketPair.unpack(value) for key, value in pairs.items()}
    assert found[pair(C[v], B[v], 4)].state == sockets.PAIR_REDIRECTED
    assert found[pair(A[v], B[v], 1)] == sockets.SocketPair(3, 4, 101, 102, sockets.PAIR_STACK, 1, 77)
    assert leave_to_stack(pairs) == 1
    assert {sockets.SocketPair.unpack(value).state for _, value in pairs.items()} == {sockets.PAIR_STACK}


@family
def test_only_choices_of_the_set_and_backend_are_forgotten(v: int) -> None:
    held = MemoryMap(lb.SOCKETS)

    def add(cookie: int, side: int, set_id: int, address: base.Address, port: int) -> bytes:
        key = lb.SocketKey(cookie, base.address_bytes(C[v]), b"\0P", side).pack()
        entry = lb.SocketEntry(base.address_bytes(address), port.to_bytes(2, "big"), set_id, 9)
        held.update(key, entry.pack())
        return key

    gone = {add(1, lb.SOCKET_BELIEVED, 5, A[v], 53), add(2, lb.SOCKET_BELIEVED, 5, A[v], 53)}
    kept = {
        add(3, lb.SOCKET_BELIEVED, 6, A[v], 53),
        add(4, lb.SOCKET_BELIEVED, 5, B[v], 53),
        add(5, lb.SOCKET_BELIEVED, 5, A[v], 54),
        add(6, lb.SOCKET_REAL, 5, A[v], 53),
    }
    assert forget_choices(held, 5, A[v], 53) == len(gone)
    assert {key for key, _ in held.items()} == kept
