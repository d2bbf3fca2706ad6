"""One contract for BPF maps: the kernel's and the one in memory must answer alike."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.bpf import BpfError, BpfMap, MapFullError, MapKind, MapSpec, MemoryMap
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.kinds import NO_PREALLOC
from axoneme.lib.bpf.maps import possible_cpus, split_cpus
from shim.maps.layout import MAPS

Maker = Callable[[MapSpec], BpfMap]


def spec(kind: MapKind, *, key: int = 4, value: int = 8, size: int = 4, flags: int = 0) -> MapSpec:
    return MapSpec(name="axt_map", kind=kind, key_size=key, value_size=value, max_entries=size, flags=flags)


HASH = spec(MapKind.HASH)
TRIE = spec(MapKind.LPM_TRIE, key=8, flags=NO_PREALLOC)


@pytest.fixture(params=["memory", pytest.param("kernel", marks=pytest.mark.root)])
def make(request: pytest.FixtureRequest) -> Iterator[Maker]:
    made: list[BpfMap] = []

    def maker(wanted: MapSpec) -> BpfMap:
        kernel = request.param == "kernel"
        cpus = possible_cpus() if kernel else 2
        made.append(create_map(wanted) if kernel else MemoryMap(wanted, cpus=cpus))
        return made[-1]

    yield maker
    for one in made:
        one.close()


def number(value: int) -> bytes:
    return struct.pack("=I", value)


def octets(value: int) -> bytes:
    return struct.pack("=Q", value)


def prefix(length: int, *address: int) -> bytes:
    return struct.pack("=I", length) + bytes(address)


def test_hash_round_trip(make: Maker) -> None:
    table = make(HASH)
    assert table.lookup(number(1)) is None
    table.update(number(1), octets(10))
    table.update(number(1), octets(11))
    table.update(number(2), octets(20))
    assert table.lookup(number(1)) == octets(11)
    assert dict(table.items()) == {number(1): octets(11), number(2): octets(20)}
    assert (table.name, table.key_size, table.value_size, table.max_entries) == ("axt_map", 4, 8, 4)


def test_delete_of_nothing_is_no_error(make: Maker) -> None:
    table = make(HASH)
    table.update(number(1), octets(1))
    assert table.delete(number(1))
    assert not table.delete(number(1))
    assert table.items() == []


@pytest.mark.parametrize("kind", [HASH, TRIE], ids=["hash", "trie"])
def test_full_map_keeps_what_it_has(make: Maker, kind: MapSpec) -> None:
    table = make(kind)
    keys = [number(i) if kind is HASH else prefix(32, 10, 0, 0, i) for i in range(5)]
    for key in keys[:4]:
        table.update(key, octets(1))
    with pytest.raises(MapFullError) as error:
        table.update(keys[4], octets(1))
    assert error.value.errno in (errno.E2BIG, errno.ENOSPC)
    assert error.value.key == keys[4]
    assert "axt_map" in str(error.value)
    table.update(keys[0], octets(2))  # replacing needs no room
    assert table.lookup(keys[0]) == octets(2)
    assert len(table.items()) == 4


@pytest.mark.parametrize(("key", "value"), [(b"abc", octets(1)), (number(1), b"short")])
def test_wrong_sizes_are_refused(make: Maker, key: bytes, value: bytes) -> None:
    with pytest.raises(BpfError) as error:
        make(HASH).update(key, value)
    assert error.value.errno == errno.EINVAL


def test_batches(make: Maker) -> None:
    table = make(spec(MapKind.HASH, size=10_000))
    entries = [(number(i), octets(i)) for i in range(9_000)]
    table.update_batch(entries)
    table.update_batch([])
    assert sorted(table.items()) == sorted(entries)
    assert table.delete_batch([number(i) for i in range(8_999, 9_010)]) == 1
    assert len(table.items()) == 8_999


def test_overflowing_batch_is_reported(make: Maker) -> None:
    table = make(HASH)
    with pytest.raises(MapFullError):
        table.update_batch([(number(i), octets(i)) for i in range(6)])
    assert len(table.items()) == 4


def test_trie_finds_the_longest_prefix(make: Maker) -> None:
    trie = make(TRIE)
    trie.update(prefix(8, 10, 0, 0, 0), octets(8))
    trie.update(prefix(16, 10, 1, 0, 0), octets(16))
    trie.update(prefix(0, 0, 0, 0, 0), octets(0))
    assert trie.lookup(prefix(32, 10, 1, 2, 3)) == octets(16)
    assert trie.lookup(prefix(32, 10, 9, 2, 3)) == octets(8)
    assert trie.lookup(prefix(8, 10, 1, 0, 0)) == octets(8)
    assert trie.lookup(prefix(32, 11, 0, 0, 0)) == octets(0)
    assert trie.delete(prefix(8, 10, 0, 0, 0))
    assert not trie.delete(prefix(8, 10, 0, 0, 0))
    assert trie.lookup(prefix(32, 10, 9, 2, 3)) == octets(0)
    assert len(trie.items()) == 2


def test_trie_refuses_too_long_prefixes(make: Maker) -> None:
    with pytest.raises(BpfError):
        make(TRIE).update(prefix(33, 10, 0, 0, 0), octets(1))


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_trie_lists_all_entries(make: Maker, count: int) -> None:
    trie = make(spec(MapKind.LPM_TRIE, key=20, size=6_000, flags=NO_PREALLOC))
    entries = [(prefix(128, *i.to_bytes(16, "big")), octets(i)) for i in range(count)]
    trie.update_batch(entries)
    assert sorted(trie.items()) == sorted(entries)


def test_lru_makes_room(make: Maker) -> None:
    table = make(spec(MapKind.LRU_HASH, size=64))
    for i in range(500):
        table.update(number(i), octets(i))
    assert table.lookup(number(499)) == octets(499)
    assert 0 < len(table.items()) <= 64


def test_array_entries_always_exist(make: Maker) -> None:
    array = make(spec(MapKind.ARRAY))
    assert array.lookup(number(3)) == octets(0)
    array.update(number(3), octets(5))
    assert array.lookup(number(3)) == octets(5)
    assert array.lookup(number(4)) is None
    with pytest.raises(MapFullError):
        array.update(number(4), octets(1))
    with pytest.raises(BpfError):
        array.delete(number(3))
    assert len(array.items()) == 4


def test_per_cpu_values_are_all_slots(make: Maker) -> None:
    array = make(spec(MapKind.PERCPU_ARRAY, value=12))
    value = array.lookup(number(0))
    assert value is not None
    slots = split_cpus(value, array.value_size)
    assert set(slots) == {bytes(12)}
    array.update(number(0), b"".join(bytes([i + 1]) * 12 + bytes(4) for i in range(len(slots))))
    value = array.lookup(number(0))
    assert value is not None
    assert split_cpus(value, array.value_size) == [bytes([i + 1]) * 12 for i in range(len(slots))]
    assert len(array.items()) == 4


def test_map_of_maps_switches_in_one_step(make: Maker) -> None:
    outer = make(
        MapSpec(
            name="axt_map", kind=MapKind.HASH_OF_MAPS, key_size=4, value_size=4, max_entries=4, inner=TRIE
        )
    )
    first, second = make(TRIE), make(TRIE)
    assert outer.inner_id(number(7)) is None
    outer.set_inner(number(7), first)
    assert outer.inner_id(number(7)) == first.map_id
    outer.set_inner(number(7), second)
    assert outer.inner_id(number(7)) == second.map_id
    assert dict(outer.items()) == {number(7): number(second.map_id)}
    assert outer.delete(number(7))
    assert outer.inner_id(number(7)) is None


def test_the_datapaths_own_maps_can_be_made(make: Maker) -> None:
    for wanted in MAPS.values():
        if wanted.kind is not MapKind.RINGBUF and wanted.max_entries < 100_000:
            assert make(wanted).kind is wanted.kind


Operations = st.lists(
    st.tuples(st.sampled_from(["update", "delete", "lookup"]), st.integers(0, 32), st.integers(0, 7)),
    max_size=30,
)


@pytest.mark.root
@settings(max_examples=30)
@given(operations=Operations)
def test_trie_in_memory_answers_like_the_kernels(operations: list[tuple[str, int, int]]) -> None:
    kernel, memory = create_map(TRIE), MemoryMap(TRIE)
    try:
        for name, length, pattern in operations:
            key = prefix(length, *(0xA0 | pattern, 0, 0, pattern))
            answers = []
            for one in (kernel, memory):
                try:
                    answers.append(
                        one.update(key, octets(pattern)) if name == "update" else getattr(one, name)(key)
                    )
                except MapFullError:
                    answers.append("full")
            assert answers[0] == answers[1], (name, key)
    finally:
        kernel.close()
