"""The collection removes what the kernel treats as absent, and only that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.bpf.memory import MemoryMap
from shim.collector import MARGIN_NS, Collector
from shim.lifetimes import CLOSING, CUT, ESTABLISHED, NEW, NS, Lifetimes
from shim.maps import base, layout, lb

NOW = 100_000 * NS
HEADER = Path(__file__).parents[3] / "shim/bpf/maps.h"


def connection(port: int, protocol: int, state: int, idle_seconds: int) -> tuple[bytes, bytes]:
    place = base.address_bytes("fd00::1" if port % 2 else "10.0.0.1")
    key = layout.CtKey(place, place, port.to_bytes(2, "big"), b"\x00\x50", protocol, 1, 7)
    return key.pack(), layout.CtEntry(NOW - idle_seconds * NS, 1, 2, 3, state, 0, 0).pack()


def translation(port: int, protocol: int, state: int, idle_seconds: int) -> tuple[bytes, bytes]:
    place = base.address_bytes("fd00::1" if port % 2 else "10.0.0.1")
    key = lb.NatKey(place, place, port.to_bytes(2, "big"), b"\x00\x50", protocol, lb.NAT_FROM_NET)
    entry = lb.NatEntry(place, place, b"\x00\x01", b"\x00\x50", 1, 1, 1, state, NOW - idle_seconds * NS)
    return key.pack(), entry.pack()


def test_the_lifetimes_are_those_of_the_programs() -> None:
    constants = dict(re.findall(r"__u32 ct_(\w+)_seconds = (\d+);", HEADER.read_text()))
    ours = Lifetimes()
    assert {name: int(value) for name, value in constants.items()} == {
        name: getattr(ours, name) for name in Lifetimes.__slots__
    }


@pytest.mark.parametrize(
    ("protocol", "state", "seconds"),
    [
        (6, NEW, 60),
        (6, ESTABLISHED, 8000),
        (132, ESTABLISHED, 8000),
        (6, CLOSING, 10),
        (17, ESTABLISHED, 60),
        (1, NEW, 60),
        (58, ESTABLISHED, 60),
        (6, CUT, 300),
        (17, CUT, 300),
    ],
)
def test_each_state_has_its_time(protocol: int, state: int, seconds: int) -> None:
    assert Lifetimes().seconds(state, protocol) == seconds


Rows = st.lists(
    st.tuples(st.sampled_from([6, 17, 1, 58, 132]), st.sampled_from([1, 2, 3, 4]), st.integers(0, 10_000)),
    max_size=30,
)


@given(rows=Rows)
def test_what_lives_stays_and_what_is_over_goes(rows: list[tuple[int, int, int]]) -> None:
    connections, translations = MemoryMap(layout.CT), MemoryMap(lb.NAT)
    living = set()
    for port, (protocol, state, idle) in enumerate(rows):
        connections.update(*connection(port, protocol, state, idle))
        translations.update(*translation(port, protocol, state, idle))
        if idle * NS <= Lifetimes().seconds(state, protocol) * NS + MARGIN_NS:
            living.add(port)
    collector = Collector(connections, translations, now_ns=lambda: NOW)
    gone = len(rows) - len(living)
    assert collector.run() == (gone, gone)
    assert (collector.collected.connections, collector.collected.translations) == (gone, gone)
    kept = {int.from_bytes(layout.CtKey.unpack(key).source_port_be, "big") for key, _ in connections.items()}
    assert kept == living
    assert len(translations.items()) == len(living)


def test_an_entry_that_came_to_life_again_stays() -> None:
    """A packet may arrive between the look at the table and the removal."""

    class Renewing(MemoryMap):
        def items(self) -> list[tuple[bytes, bytes]]:
            rows = super().items()
            self.update(*connection(1, 6, ESTABLISHED, 0))
            return rows

    connections = Renewing(layout.CT)
    connections.update(*connection(1, 6, ESTABLISHED, 9_999))
    collector = Collector(connections, MemoryMap(lb.NAT), now_ns=lambda: NOW)
    assert collector.run() == (0, 0)
    assert len(connections.items()) == 1
