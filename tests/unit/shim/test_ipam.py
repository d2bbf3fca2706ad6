"""Addresses and numbers: nobody gets what another one has, and what was released comes back last."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.errors import PoolExhausted
from shim.ipam import AddressPool, Ipam, NumberPool


@given(st.lists(st.tuples(st.sampled_from(["allocate", "release", "adopt"]), st.integers(0, 9)), max_size=60))
def test_numbers_against_a_plain_set(steps: list[tuple[str, int]]) -> None:
    pool, taken = NumberPool(1, 8), set[int]()
    for step, argument in steps:
        if step == "allocate":
            if len(taken) == 8:
                with pytest.raises(PoolExhausted):
                    pool.allocate()
                continue
            number = pool.allocate()
            assert number not in taken
            assert 1 <= number <= 8
            taken.add(number)
        elif step == "release":
            pool.release(argument)
            taken.discard(argument)
        elif 1 <= argument <= 8:
            pool.adopt(argument)
            taken.add(argument)


def test_numbers_go_round_the_whole_range_across_a_restart() -> None:
    pool = NumberPool(1, 8)
    for _ in range(3):
        pool.allocate()
    for number in (2, 3):
        pool.release(number)
    again = NumberPool(1, 8)
    again.adopt(1)
    again.resume(pool.last_given)
    assert [again.allocate() for _ in range(5)] == [4, 5, 6, 7, 8]
    wrapped = NumberPool(1, 8)
    wrapped.adopt(8)
    wrapped.resume(2)
    assert wrapped.allocate() == 3, "a living high number does not pull the pool back to the start"


@pytest.mark.parametrize("cidr", ["10.0.1.0/28", "fd00:1::/124", "10.0.1.0/31", "fd00:1::5/128"])
@given(data=st.data())
def test_addresses_against_a_list(cidr: str, data: st.DataObject) -> None:
    network = ipaddress.ip_network(cidr)
    router = str(network[1]) if network.num_addresses > 2 else ""
    pool = AddressPool(cidr, [router] if router else [])
    usable = {str(ip) for ip in network} - {router}
    if network.num_addresses > 2:
        usable.discard(str(network.network_address))
        if network.version == 4:
            usable.discard(str(network.broadcast_address))
    held: dict[int, str] = {}
    for owner in data.draw(st.lists(st.integers(1, 20), max_size=60)):
        if owner in held:
            pool.release(owner)
            del held[owner]
            continue
        if len(held) == len(usable):
            with pytest.raises(PoolExhausted):
                pool.allocate(owner)
            continue
        held[owner] = pool.allocate(owner)
        assert held[owner] in usable
        assert len(set(held.values())) == len(held)
    assert pool.free == len(usable) - len(held)


def test_released_address_comes_back_last() -> None:
    pool = AddressPool("10.0.0.0/29")
    first = pool.allocate(1)
    pool.release(1)
    others = [pool.allocate(owner) for owner in range(2, 7)]
    assert first not in others
    assert pool.allocate(9) == first


def test_one_address_of_each_family_or_none() -> None:
    ipam = Ipam(("10.1.0.0/30", "fd00:10:1::/64"), ("10.1.0.1", "fd00:10:1::1"))
    assert ipam.allocate(1) == ("10.1.0.2", "fd00:10:1::2")
    with pytest.raises(PoolExhausted, match=r"10\.1\.0\.0/30"):
        ipam.allocate(2)
    ipam.release(1)
    assert ipam.allocate(2) == ("10.1.0.2", "fd00:10:1::4"), (
        "the address of the failed attempt comes back last"
    )


def test_without_a_pod_cidr_it_says_what_is_missing() -> None:
    with pytest.raises(PoolExhausted, match="not registered"):
        Ipam().allocate(1)


def test_adopt_names_what_lies_outside() -> None:
    ipam = Ipam(("10.1.0.0/24",))
    assert ipam.adopt(1, ["10.1.0.9", "10.2.0.9"]) == ["10.2.0.9"]
    assert ipam.allocate(2) == ("10.1.0.10",)
