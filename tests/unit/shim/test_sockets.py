"""What the shim takes back from sockets: accelerated connections, and backends that datagrams keep to."""

from __future__ import annotations

import ipaddress

import pytest

from axoneme.lib.bpf.memory import MemoryMap
from shim.maps import base, lb, sockets
from shim.socketchoices import heir_of, inherited, keep
from shim.socketpairs import leave_for_good, leave_to_stack

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
def test_for_good_means_until_nothing_is_left(v: int) -> None:
    """A message that is being sent may write its state over ours."""

    class Racing(MemoryMap):
        races = 2

        def update(self, key: bytes, value: bytes) -> None:
            super().update(key, value)
            if self.races:
                self.races -= 1
                super().update(key, state(sockets.PAIR_REDIRECTED))

    pairs = Racing(sockets.PAIRS)
    MemoryMap.update(pairs, pair(A[v], B[v], 1), state(sockets.PAIR_UNDECIDED))
    assert leave_for_good(pairs) == 3
    assert {sockets.SocketPair.unpack(value).state for _, value in pairs.items()} == {sockets.PAIR_STACK}


def service(set_id: int) -> bytes:
    return lb.LbService(set_id, 2).pack()


def frontend(v: int, protocol: int = 17, scope: int = lb.LB_INSIDE) -> bytes:
    return lb.LbKey(base.address_bytes(C[v]), b"\0\x35", protocol, scope).pack()


@family
def test_only_udp_inside_has_choices_to_keep(v: int) -> None:
    assert heir_of(frontend(v), service(5), service(6), frozenset) is not None
    assert heir_of(frontend(v, protocol=6), service(5), service(6), frozenset) is None
    assert heir_of(frontend(v, scope=lb.LB_OUTSIDE), service(5), service(6), frozenset) is None
    assert heir_of(frontend(v), None, service(6), frozenset) is None
    assert heir_of(frontend(v), service(5), service(5), frozenset) is None
    assert heir_of(frontend(v), service(0), service(6), frozenset) is None


@family
def test_choices_follow_a_frontend_to_its_new_set(v: int) -> None:
    held = MemoryMap(lb.SOCKETS)

    def add(cookie: int, set_id: int, backend: int, side: int = lb.SOCKET_BELIEVED, to: int = 53) -> bytes:
        key = lb.SocketKey(cookie, base.address_bytes(C[v]), to.to_bytes(2, "big"), side).pack()
        held.update(key, lb.SocketEntry(base.address_bytes(A[v]), b"\0\x35", set_id, backend).pack())
        return key

    stays = add(1, set_id=5, backend=9)
    left = [
        add(2, set_id=5, backend=8),  # not in the new set
        add(3, set_id=4, backend=9),  # another set's
        add(4, set_id=5, backend=9, to=54),  # another frontend of the same set
        add(5, set_id=5, backend=9, side=lb.SOCKET_REAL),
    ]
    before = dict(held.items())
    heir = heir_of(frontend(v), service(5), service(6), lambda: frozenset({base.number_key(9)}))
    assert heir is not None
    entries = inherited(held, dict([heir]))
    assert dict(held.items()) == before, "frontends do not name the new set yet"
    keep(held, entries, [dict([heir])])
    assert dict(held.items()) == before, "the change was undone"
    keep(held, entries)
    found = {key: lb.SocketEntry.unpack(value) for key, value in held.items()}
    assert found.pop(stays) == lb.SocketEntry(base.address_bytes(A[v]), b"\0\x35", 6, 9)
    assert found == {key: lb.SocketEntry.unpack(before[key]) for key in left}
