"""The columnar store against a list that remembers everything."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.flows.context import mapped
from shim.flows.record import EVENT_DTYPE, Records
from shim.flows.store import FlowStore, Network, Selection
from tests.unit.shim.flows.scene import event, events

ADDRESSES = ["10.1.0.11", "10.1.0.12", "10.2.0.1", "fd00::1", "fd00::2", "::ffff:0:1"]


class PlainStore:
    """The brute-force twin: keeps all records, looks at each."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.records: list[Any] = []

    def append(self, records: Records) -> None:
        self.records += list(records)

    def select(self, selection: Selection, first: int, last: int) -> list[int]:
        oldest = max(0, len(self.records) - self.capacity)
        span = range(max(first, oldest), min(last, len(self.records)))
        return [number for number in span if holds(selection, self.records[number])]


def holds(selection: Selection, row: Any) -> bool:
    time_ns = int(row["time_ns"])
    if selection.since_ns is not None and time_ns < selection.since_ns:
        return False
    if selection.until_ns is not None and time_ns > selection.until_ns:
        return False
    if any(int(row[name]) not in numbers for name, numbers in selection.values):
        return False
    for name, networks in selection.networks:
        words = [int.from_bytes(bytes(row[name])[i : i + 8], "big") for i in (0, 8)]
        if not any(all(w & m == b for w, m, b in zip(words, n.mask, n.base, strict=True)) for n in networks):
            return False
    if selection.event_types and not any(
        row["event_type"] == kind and sub in (None, int(row["sub_type"]))
        for kind, sub in selection.event_types
    ):
        return False
    flags = int(row["tcp_flags"])
    wanted = selection.tcp_flags
    return not wanted or (row["protocol"] == 6 and any(flags & bits == bits for bits in wanted))


def network(text: str) -> Network:
    parsed = ip_network(text)
    return Network.of(
        mapped(parsed.network_address.packed), parsed.prefixlen + (96 if parsed.version == 4 else 0)
    )


records = st.builds(
    event,
    time_ns=st.integers(0, 50),
    source_identity=st.integers(1, 4),
    source_ip=st.sampled_from(ADDRESSES),
    destination_ip=st.sampled_from(ADDRESSES),
    destination_port=st.sampled_from([53, 80, 443]),
    protocol=st.sampled_from([6, 17]),
    tcp_flags=st.integers(0, 31),
    event_type=st.sampled_from([1, 4, 5]),
    sub_type=st.integers(0, 5),
    verdict=st.integers(1, 2),
)
networks = st.lists(
    st.sampled_from(["10.1.0.0/16", "10.1.0.11/32", "fd00::/64", "fd00::1/128", "0.0.0.0/0", "::/0"]),
    min_size=1,
).map(lambda texts: tuple(network(text) for text in texts))
some = st.one_of(st.none(), st.integers(0, 50))
selections = st.builds(
    Selection,
    since_ns=some,
    until_ns=some,
    values=st.lists(
        st.tuples(
            st.sampled_from(["verdict", "destination_port", "source_identity", "protocol"]),
            st.frozensets(
                st.sampled_from([1, 2, 6, 17, 53, 80, 443, 70_000, -1, 3, 4, 5, 7, 8, 9, 10]), min_size=1
            ),
        ),
        max_size=2,
    ).map(tuple),
    networks=st.lists(st.tuples(st.sampled_from(["source_ip", "destination_ip"]), networks), max_size=2).map(
        tuple
    ),
    tcp_flags=st.lists(st.integers(1, 31), max_size=2).map(tuple),
    event_types=st.lists(st.tuples(st.sampled_from([1, 4, 5]), some), max_size=2).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(records, max_size=9), max_size=6), selections, st.integers(0, 20), st.integers(0, 60)
)
def test_selects_what_the_plain_store_selects(
    batches: list[list[Records]], selection: Selection, first: int, last: int
) -> None:
    store, plain = FlowStore(16), PlainStore(16)
    for batch in batches:
        together = events(*batch) if batch else np.zeros(0, dtype=EVENT_DTYPE)
        store.append(together)
        plain.append(together)
    numbers = store.select(selection, first, last)
    assert numbers.tolist() == plain.select(selection, first, last)
    assert [row.tobytes() for row in store.rows(numbers)] == [plain.records[n].tobytes() for n in numbers]
    assert store.seen == len(plain.records)


def test_a_batch_larger_than_the_store_keeps_its_end() -> None:
    store = FlowStore(4)
    store.append(events(*[event(time_ns=number) for number in range(11)]))
    assert store.seen == 11
    assert store.oldest == 7
    assert store.rows(store.select(Selection(), 0, 99))["time_ns"].tolist() == [7, 8, 9, 10]


def test_identities_and_times() -> None:
    store = FlowStore(4)
    assert store.times(0, 9) is None
    store.append(events(event(time_ns=5, source_identity=300), event(time_ns=3, destination_identity=9)))
    assert store.times(0, 9) == (3, 5)
    assert store.identities(Selection(since_ns=4)) == [300, 20102]


def test_the_capacity_is_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        FlowStore(1000)
    assert len(FlowStore(8)) == 0
    assert FlowStore(1 << 10).memory_bytes <= 128 << 10


def test_prefix_of_an_ipv4_address() -> None:
    assert network("10.1.0.0/16").base == (0, int(ip_address("::ffff:10.1.0.0")) & (1 << 64) - 1)
