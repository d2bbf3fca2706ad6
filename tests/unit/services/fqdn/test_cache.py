"""The cache against a plain list of everything that was learned."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.fqdn.cache import Limits, NameCache
from tests.unit.services.fqdn.parts import question, raw

NAMES = [question(f"n{n}.x").name for n in range(4)]
ADDRESSES = [raw(f"192.0.2.{n}") for n in range(4)]
SETS = {name: frozenset({"*.x"} if n < 2 else {f"n{n}.x"} if n == 2 else ()) for n, name in enumerate(NAMES)}

Steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("learn"),
            st.integers(1, 2),
            st.sampled_from(NAMES),
            st.lists(st.sampled_from(ADDRESSES), min_size=1, max_size=3, unique=True),
            st.integers(1, 20),
        ),
        st.tuples(st.just("pass"), st.integers(1, 6)),
        st.tuples(st.just("forget"), st.integers(1, 2), st.sampled_from(NAMES)),
        st.tuples(st.just("select"), st.sampled_from(NAMES), st.sampled_from(["", "*.x", "other"])),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(steps=Steps)
def test_cache_is_its_plain_twin(steps: list[tuple[object, ...]]) -> None:
    cache, now = NameCache(Limits()), 0
    twin: dict[tuple[object, object, object], int] = {}
    selectors = dict(SETS)
    for step in steps:
        match step:
            case ("learn", int(endpoint), bytes(name), list(addresses), int(lasts)):
                _, touched = cache.learn(endpoint, name, addresses, now + lasts, selectors.__getitem__)
                assert {one.address for one in touched} >= set(addresses)
                for address in addresses:
                    key = endpoint, name, address
                    twin[key] = max(twin.get(key, 0), now + lasts)
            case ("pass", int(seconds)):
                now += seconds
                gone = {key for key, expiry in twin.items() if expiry <= now}
                touched, _ = cache.expire(now, 1_000)
                assert {(one.endpoint_id, one.address) for one in touched} == {(e, a) for e, _, a in gone}
                twin = {key: expiry for key, expiry in twin.items() if key not in gone}
            case ("forget", int(endpoint), bytes(name)):
                cache.forget_name(endpoint, name)
                twin = {key: at for key, at in twin.items() if key[:2] != (endpoint, name)}
            case ("select", bytes(name), str(text)):
                selectors[name] = frozenset({text} - {""})
                for endpoint in (1, 2):
                    if known := cache.name(endpoint, name):
                        cache.reselect(endpoint, known, selectors[name])
        compare(cache, twin, selectors)


def compare(
    cache: NameCache, twin: dict[tuple[object, object, object], int], selectors: dict[bytes, frozenset[str]]
) -> None:
    found = {
        (endpoint, known.name, address): expiry
        for endpoint, known in cache.entries()
        for address, expiry in known.addresses.items()
    }
    assert found == twin
    assert cache.name_count == len({key[:2] for key in twin})
    assert cache.address_count == len({(e, a) for e, _, a in twin})
    for endpoint_id, endpoint in cache.endpoints.items():
        for address, one in endpoint.addresses.items():
            names = {n for e, n, a in twin if (e, a) == (endpoint_id, address)}
            assert set(one.names) == names
            assert one.union() == frozenset().union(*(selectors[n] for n in names))  # type: ignore[index]
            selecting = [twin[endpoint_id, n, address] for n in names if selectors[n]]  # type: ignore[index]
            assert one.expiry_ns >= max(selecting, default=0)
    earliest = min(twin.values(), default=None)
    due = cache.next_due_ns()
    assert earliest is None or (due is not None and due <= earliest)


def test_limits_take_the_oldest() -> None:
    cache = NameCache(Limits(ips_per_name=2, names=2, addresses=3))
    select = SETS.__getitem__
    cache.learn(1, NAMES[0], ADDRESSES[:2], 10, select)
    _, touched = cache.learn(1, NAMES[0], [ADDRESSES[0], ADDRESSES[2]], 10, select)
    assert [one.address for one in touched if not one.names] == [ADDRESSES[1]], "not seen for longest"
    cache.learn(1, NAMES[1], ADDRESSES[3:], 10, select)
    cache.learn(1, NAMES[0], ADDRESSES[:1], 10, select)
    cache.learn(1, NAMES[2], ADDRESSES[:1], 10, select)
    assert cache.name(1, NAMES[1]) is None, "not looked up for longest"
    assert set(cache.endpoints[1].names) == {NAMES[0], NAMES[2]}
    assert cache.evicted == 2
    cache.learn(1, NAMES[2], ADDRESSES[1:3], 10, select)
    assert cache.address_count == 3
    cache.learn(2, NAMES[2], ADDRESSES[1:3], 10, select)
    assert cache.address_count == 5, "limits are of one endpoint"


def test_names_are_kept_once() -> None:
    cache = NameCache(Limits())
    for endpoint in range(5):
        cache.learn(endpoint, bytes(bytearray(NAMES[0])), ADDRESSES[:1], 10, SETS.__getitem__)
    assert len({id(known.name) for _, known in cache.entries()}) == 1
    for endpoint in range(5):
        cache.forget_name(endpoint, NAMES[0])
    assert not cache._interned


def test_refreshing_for_ever_keeps_the_heap_small() -> None:
    cache = NameCache(Limits())
    for now in range(10_000):
        lasts = 10_000 - now if now % 2 else 20_000
        cache.learn(1, NAMES[0], ADDRESSES[:1], lasts, SETS.__getitem__)
    assert len(cache._due) < 2_000
