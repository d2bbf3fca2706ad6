"""Answers into the kernel: what is written, how long it lasts, what waits, what goes when."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.bpf.errors import BpfError
from services.fqdn.cache import Limits
from services.fqdn.learner import NameLearner
from services.fqdn.model import Released
from services.fqdn.pins import LearnedWrite
from tests.unit.services.fqdn.parts import (
    SECOND,
    Clock,
    Maps,
    answer,
    learner,
    question,
    raw,
    ruling,
    table,
)

EVERY4, EVERY6 = "0.0.0.0/0", "::/0"
ALL = {
    100: (EVERY4, ["a.x"]),
    101: (EVERY4, ["*.x"]),
    102: (EVERY4, ["a.x", "*.x"]),
    103: (EVERY6, ["a.x", "*.x"]),
    104: ("10.0.0.0/8", ["a.x", "*.x"]),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def maps() -> Maps:
    return Maps()


@pytest.fixture
def one(maps: Maps, clock: Clock) -> NameLearner:
    made = learner(maps, clock)
    made.replace_table(table(ALL, prefixes=["10.0.0.0/8"]))
    return made


def expire_all(one: NameLearner) -> None:
    while one.expire() == 0:
        pass


@pytest.mark.parametrize(
    ("address", "number"),
    [("192.0.2.1", 102), ("2001:db8::1", 103), ("10.1.2.3", 104), ("::ffff:10.1.2.3", 104)],
)
def test_an_address_gets_the_number_of_its_prefix_and_all_selectors(
    one: NameLearner, maps: Maps, clock: Clock, address: str, number: int
) -> None:
    assert one.learn(1, ruling(), question("A.x"), answer(address, ttl=60)) is Released.NOW
    (key, value), *rest = maps.learned.items()
    assert not rest
    assert key == (7, raw(address)[-4:] if number == 104 else raw(address))
    assert value == (number, clock.ns() + 61 * SECOND)


def test_names_that_no_selector_matches_stay_out_of_the_kernel(one: NameLearner, maps: Maps) -> None:
    assert one.learn(1, ruling(), question("other.y"), answer("192.0.2.1")) is Released.NOW
    assert not maps.learned
    assert one.cache.name(7, question("other.y").name) is not None


@pytest.mark.parametrize(
    ("identity", "learned"),
    [
        *((number, True) for number in (0, 2, 3, 9, 10, 1 << 24)),
        *((number, False) for number in (1, 4, 6, 5_000, 1 << 16 | 300)),
    ],
)
def test_addresses_of_pods_and_nodes_are_not_learned(
    one: NameLearner, maps: Maps, identity: int, learned: bool
) -> None:
    maps.known[raw("192.0.2.1")] = identity
    one.learn(1, ruling(), question("a.x"), answer("192.0.2.1"))
    assert bool(maps.learned) is learned


def test_one_address_of_two_names_has_the_union_until_one_expires(
    one: NameLearner, maps: Maps, clock: Clock
) -> None:
    one.replace_table(table({1: (EVERY4, ["a.x"]), 2: (EVERY4, ["b.y"]), 3: (EVERY4, ["a.x", "b.y"])}))
    one.learn(1, ruling(), question("a.x"), answer("192.0.2.1", ttl=5))
    one.learn(2, ruling(), question("b.y"), answer("192.0.2.1", ttl=100))
    assert maps.learned[7, raw("192.0.2.1")] == (3, clock.ns() + 101 * SECOND)
    clock.now += 6.1
    expire_all(one)
    assert maps.learned[7, raw("192.0.2.1")][0] == 2
    clock.now += 100
    expire_all(one)
    assert not maps.learned
    assert one.cache.name_count == one.cache.address_count == 0
    assert not one.cache.endpoints


def test_another_endpoint_is_not_affected(one: NameLearner, maps: Maps) -> None:
    one.learn(1, ruling(7), question("a.x"), answer("192.0.2.1"))
    assert one.number_of(7, raw("192.0.2.1")) == 102
    assert one.number_of(8, raw("192.0.2.1")) == 0


def test_repeated_answers_cost_no_write_and_still_last_their_ttl(
    one: NameLearner, maps: Maps, clock: Clock
) -> None:
    for _ in range(100):
        one.learn(1, ruling(), question("a.x"), answer("192.0.2.1", ttl=5))
        assert maps.learned[7, raw("192.0.2.1")][1] >= clock.ns() + int(5.4999 * SECOND)
        clock.now += 0.1
    assert 10 <= maps.writes <= 20


def test_names_of_one_address_share_a_write(one: NameLearner, maps: Maps, clock: Clock) -> None:
    for number in range(50):
        one.learn(1, ruling(), question(f"n{number}.x"), answer("192.0.2.1", ttl=5))
        assert maps.learned[7, raw("192.0.2.1")][1] >= clock.ns() + int(5.4999 * SECOND)
        clock.now += 0.02
    assert 2 <= maps.writes <= 3


def test_an_answer_of_before_moves_lifetimes(one: NameLearner, maps: Maps, clock: Clock) -> None:
    for name in ("a.x", "b.x", "c.y"):
        one.learn(1, ruling(), question(name), answer("192.0.2.1", "192.0.2.2", ttl=5))
    clock.now += 3
    one.learn(1, ruling(), question("a.x"), answer("192.0.2.1", "192.0.2.2", ttl=5))
    assert set(maps.learned.values()) == {(102, clock.ns() + 6 * SECOND)}
    assert list(one.cache.endpoints[7].names)[-1] == question("a.x").name
    clock.now += 3.1
    expire_all(one)
    assert {number for number, _ in maps.learned.values()} == {102}, "without b.x, which expired"
    assert one.cache.name_count == 1
    one.learn(1, ruling(), question("c.y"), answer("192.0.2.1", "192.0.2.2", ttl=5))
    clock.now += 3
    one.learn(1, ruling(), question("c.y"), answer("192.0.2.1", "192.0.2.2", ttl=5))
    expire_all(one)
    assert not maps.learned, "no selector matches the one name that is left"
    assert one.cache.name_count == 1


def test_what_the_kernel_refused_is_tried_again(
    one: NameLearner, maps: Maps, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(writes: list[LearnedWrite]) -> None:
        raise BpfError(1, "update", "axoneme_learned")

    one.learn(1, ruling(), question("a.x"), answer("192.0.2.1", ttl=5))
    for name in ("a.x", "n.x"):  # lasts longer; and has a new name
        clock.now += 1
        with monkeypatch.context() as patch:
            patch.setattr(maps, "write_learned", refuse)
            one.learn(1, ruling(), question(name), answer("192.0.2.1", ttl=5))
        assert maps.learned[7, raw("192.0.2.1")][1] < clock.ns() + 6 * SECOND
        one.learn(1, ruling(), question(name), answer("192.0.2.1", ttl=5))
        assert maps.learned[7, raw("192.0.2.1")] == (102, clock.ns() + 6 * SECOND)
    assert one.counts.map_failures == 3, "what could not be prolonged was learned anew at once"


TWIN_NAMES = {"a.x": {"a.x", "*.x"}, "b.x": {"*.x"}, "c.y": set[str]()}
TWIN_ADDRESSES = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
twin_steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(sorted(TWIN_NAMES)),
            st.lists(st.sampled_from(TWIN_ADDRESSES), min_size=1, max_size=2, unique=True),
            st.sampled_from([0, 1, 3]),
        ),
        st.sampled_from([0.1, 0.3, 0.7, 2.5]),
        st.integers(0, 1),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(steps=twin_steps)
def test_the_kernel_has_what_a_plain_twin_has(steps: list[object]) -> None:
    """Twin: each name's addresses with the latest time that an answer gave them. Tables come and go."""
    clock, maps = Clock(), Maps()
    one = learner(maps, clock)
    tables = [table(ALL), table({number + 100: key for number, key in ALL.items()})]
    one.replace_table(tables[0])
    number_of = {frozenset(texts): number for number, (prefix, texts) in ALL.items() if prefix == EVERY4}
    known: dict[tuple[str, str], int] = {}
    shift = 0
    for step in steps:
        match step:
            case float():
                clock.now += step
            case int():
                shift = step * 100
                one.replace_table(tables[step])
                for _ in one.review():
                    pass
            case (str(name), list(addresses), int(ttl)):
                assert one.learn(1, ruling(), question(name), answer(*addresses, ttl=ttl)) is Released.NOW
                for address in addresses:
                    known[name, address] = max(known.get((name, address), 0), clock.ns() + (ttl + 1) * SECOND)
        expire_all(one)
        known = {key: lasts for key, lasts in known.items() if lasts > clock.ns()}
        for address in TWIN_ADDRESSES:
            lasting = {name: lasts for (name, one_), lasts in known.items() if one_ == address}
            texts = frozenset().union(*(TWIN_NAMES[name] for name in lasting))
            found = maps.learned.get((7, raw(address)))
            if not texts:
                assert found is None
                continue
            assert found is not None
            assert found[0] == number_of[texts] + shift
            latest = max(lasts for name, lasts in lasting.items() if TWIN_NAMES[name])
            assert found[1] >= latest - SECOND // 2


def test_min_ttl_and_a_ttl_of_zero(maps: Maps, clock: Clock) -> None:
    for min_ttl, lasts in ((0, 1), (30, 31)):
        one = learner(maps, clock, min_ttl=min_ttl)
        one.replace_table(table(ALL))
        one.learn(1, ruling(), question("a.x"), answer("192.0.2.1", ttl=0))
        assert maps.learned[7, raw("192.0.2.1")][1] == clock.ns() + lasts * SECOND


def test_a_rotating_name_uses_one_identity_and_a_bounded_map(maps: Maps, clock: Clock) -> None:
    one = learner(maps, clock, limits=Limits(ips_per_name=1_000, names=10, addresses=3_000))
    one.replace_table(table(ALL))
    for first in range(0, 5_000, 8):
        addresses = [f"198.18.{n // 256}.{n % 256}" for n in range(first, first + 8)]
        assert one.learn(1, ruling(), question("a.x"), answer(*addresses, ttl=5)) is Released.NOW
        assert {raw(text) for text in addresses} <= {address for _, address in maps.learned}
    assert {number for number, _ in maps.learned.values()} == {102}
    assert len(maps.learned) == one.cache.address_count == 1_000
    assert one.counts.unforeseen == 0


# --- sets that nobody foresaw


def test_an_unforeseen_set_waits_is_asked_for_and_released_when_it_comes(maps: Maps, clock: Clock) -> None:
    one = learner(maps, clock)
    asked: list[object] = []
    one.on_wanted = lambda: asked.extend(one.wanted)
    one.replace_table(table({100: (EVERY4, ["a.x"])}, selectors=["*.x"]))
    assert one.learn(1, ruling(), question("a.x"), answer("192.0.2.1")) is Released.HELD
    assert asked == [(EVERY4, frozenset({"a.x", "*.x"}))]
    assert maps.learned[7, raw("192.0.2.1")][0] == 100, "what is known meanwhile: a subset"
    assert one.due(clock.now + 0.05) == []
    one.replace_table(table(ALL))
    for _ in one.review():
        pass
    assert one.due(clock.now + 0.06) == [(1, Released.NOW)]
    assert maps.learned[7, raw("192.0.2.1")][0] == 102
    assert one.counts.barrier_timeouts == 0


@pytest.mark.parametrize(("drop", "released"), [(False, Released.NOW), (True, Released.DROP)])
def test_the_barrier_ends(maps: Maps, clock: Clock, drop: bool, released: Released) -> None:
    one = learner(maps, clock, drop=drop)
    one.replace_table(table({100: (EVERY4, ["a.x"])}, selectors=["*.x"]))
    assert one.learn(5, ruling(), question("a.x"), answer("192.0.2.1")) is Released.HELD
    assert one.due(clock.now + 0.099) == []
    assert one.due(clock.now + 0.1) == [(5, released)]
    assert one.counts.barrier_timeouts == 1
    assert one.due(clock.now + 9) == []


def test_a_refusal_ends_the_wait_at_once(maps: Maps, clock: Clock) -> None:
    one = learner(maps, clock)
    one.replace_table(table({}, selectors=["a.x"]))
    assert one.learn(5, ruling(), question("a.x"), answer("192.0.2.1")) is Released.HELD
    one.refuse((EVERY4, frozenset({"a.x"})))
    assert one.due(clock.now) == [(5, Released.NOW)]
    assert not maps.learned, "never wider than what is known"


def test_a_set_without_a_number_of_its_prefix_gets_none_of_a_wider_one(maps: Maps, clock: Clock) -> None:
    one = learner(maps, clock, barrier_seconds=0.0)
    one.replace_table(table({100: (EVERY4, ["a.x"])}, prefixes=["10.0.0.0/8"]))
    one.learn(5, ruling(), question("a.x"), answer("10.0.0.1"))
    assert not maps.learned


# --- the table changes, and what is no more


def test_another_table_moves_and_removes_what_is_known(one: NameLearner, maps: Maps) -> None:
    one.learn(1, ruling(), question("a.x"), answer("192.0.2.1"))
    one.learn(2, ruling(), question("b.x"), answer("192.0.2.2"))
    one.replace_table(table({200: (EVERY4, ["a.x"])}))
    for _ in one.review():
        pass
    assert {key[1]: number for key, (number, _) in maps.learned.items()} == {raw("192.0.2.1"): 200}


def test_forgetting_names_and_endpoints_reaches_the_kernel(one: NameLearner, maps: Maps) -> None:
    for endpoint_id in (7, 8):
        one.learn(1, ruling(endpoint_id), question("a.x"), answer("192.0.2.1"))
        one.learn(1, ruling(endpoint_id), question("b.x"), answer("192.0.2.1", "192.0.2.2"))
    assert one.forget([(7, question("a.x").name), (7, question("nobody.x").name)]) == 1
    assert maps.learned[7, raw("192.0.2.1")][0] == 101
    one.forget_endpoint(7)
    assert {endpoint_id for endpoint_id, _ in maps.learned} == {8}
    assert one.changes() == {(number, raw(f"192.0.2.{n}")) for number in (7, 8) for n in (1, 2)}


def test_a_full_map_makes_room_of_the_endpoints_own(clock: Clock) -> None:
    maps = Maps(room=100)
    one = learner(maps, clock)
    one.replace_table(table(ALL))
    for n in range(100):
        one.learn(n, ruling(), question(f"n{n}.x"), answer(f"192.0.2.{n}"))
    assert one.learn(100, ruling(), question("new.x"), answer("198.51.100.1")) is Released.NOW
    assert (7, raw("198.51.100.1")) in maps.learned
    assert (7, raw("192.0.2.0")) not in maps.learned
    assert one.counts.map_failures == 0
    maps.room = 0
    assert one.learn(101, ruling(9), question("other.x"), answer("198.51.100.2")) is Released.NOW
    assert one.counts.map_failures == 1, "counted, and released by option"


def test_strangers_in_the_kernel_stay_until_they_expire_or_their_number_goes(
    one: NameLearner, maps: Maps, clock: Clock
) -> None:
    later = clock.ns() + 10 * SECOND
    for n, number in ((1, 102), (2, 999), (3, 102)):
        maps.learned[7, raw(f"192.0.2.{n}")] = number, later
    one.learn(1, ruling(), question("a.x"), answer("192.0.2.3", ttl=100))
    one.adopt([LearnedWrite(*key, *value) for key, value in maps.learned.items()])
    for _ in one.review():
        pass
    assert {address for _, address in maps.learned} == {raw("192.0.2.1"), raw("192.0.2.3")}
    clock.now += 11
    one.expire()
    assert {address for _, address in maps.learned} == {raw("192.0.2.3")}


def test_an_answer_with_more_addresses_than_a_name_may_have_keeps_the_first(maps: Maps, clock: Clock) -> None:
    one = learner(maps, clock, limits=dataclasses.replace(Limits(), ips_per_name=3))
    one.replace_table(table(ALL))
    one.learn(1, ruling(), question("a.x"), answer(*(f"192.0.2.{n}" for n in range(1, 9))))
    assert sorted(address[3] for _, address in maps.learned) == [1, 2, 3]
