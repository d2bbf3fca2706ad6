"""DNS names of flows: as of their time, per endpoint, and found by filters as decoding finds them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FlowMatcher
from shim.flownames import NAMES_LAG_NS, NodeNames
from shim.flows import learnednames, query
from shim.flows.context import Address, mapped
from shim.flows.decode import FlowDecoder
from shim.flows.history import History
from shim.flows.query import FlowQuery
from shim.flows.record import Records
from shim.flows.store import FlowStore
from shim.localidentities import LocalIdentities
from tests.unit.shim.flows.lookupscene import LookupScene, lookup
from tests.unit.shim.flows.scene import Scene, event, events
from tests.unit.shim.memorynode import MemoryNode

SECOND = 1_000_000_000
ADDRESSES = ("192.0.2.7", "192.0.2.8", "2001:db8::7", "10.1.0.11")
NAMES = ("api.example.com.", "www.example.com.", "Old.Test", "b.api.example.com.")


class Learned:
    """Names by endpoint and address, as of a time."""

    def __init__(self) -> None:
        self.history = History[tuple[int, bytes], tuple[str, ...]](max_ended=64)

    def addresses(self) -> set[bytes]:
        return {address for _, address in self.history}

    def knows(self, endpoint_id: int, address: bytes) -> bool:
        return (endpoint_id, address) in self.history

    @property
    def revision(self) -> int:
        return self.history.revision

    def tell(self, endpoint_id: int, address: str, names: tuple[str, ...], since_ns: int) -> None:
        key = (endpoint_id, mapped(ip_address(address).packed))
        if names:
            self.history.put(key, names, since_ns)
        else:
            self.history.end(key, since_ns)

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> tuple[str, ...]:
        return self.history.at((endpoint_id, mapped(address.packed)), time_ns) or ()

    def change_times(self, endpoint_id: int, address: Address, after_ns: int) -> list[int]:
        return self.history.times((endpoint_id, mapped(address.packed)), after_ns)


class LearningScene(Scene):
    """The small node with learned names, asked by way of the shim's names."""

    names_of: NodeNames

    @property
    def names_revision(self) -> int:
        return self.names_of.names_revision

    def named_addresses(self) -> tuple[bytes, ...]:
        return tuple(self.names_of.named_addresses())

    def has_names(self, endpoint_id: int, address: bytes) -> bool:
        return self.names_of.has_names(endpoint_id, address)

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> tuple[str, ...]:
        return tuple(self.names_of.names(endpoint_id, address, time_ns))

    def name_times(self, endpoint_id: int, address: Address, after_ns: int) -> list[int]:
        return list(self.names_of.name_times(endpoint_id, address, after_ns))


def node_names(learned: Learned | None) -> NodeNames:
    node = MemoryNode()
    return NodeNames(
        node_name="node1", cluster_name="east", endpoints=node.endpoints, ipcache=node.ipcache,
        policies=node.policies, cookies=node.cookies, local=LocalIdentities(), learned=learned,
    )  # fmt: skip


def found(decoder: FlowDecoder, records: list[Records], **fields: Any) -> list[int]:
    store = FlowStore(16)
    store.append(events(*records))
    one = query.FlowQuery(store, decoder, [flow_pb2.FlowFilter(**fields)], [])
    return [number for number, _ in one.flows(0, store.seen)]


@pytest.mark.parametrize(
    ("address", "source"), [("192.0.2.7", "10.1.0.11"), ("2001:db8::7", "fd00:10:1::11")]
)
def test_names_are_shown_without_their_last_dot_as_of_the_flow(address: str, source: str) -> None:
    learned = Learned()
    learned.tell(401, address, ("www.example.com.", "api.example.com."), 10 * SECOND)
    learned.tell(401, address, (), 15 * SECOND)
    decoder = FlowDecoder(node_names(learned), boot_offset_ns=lambda: 0, uuid_salt=1)
    sent = {"source_ip": source, "destination_ip": address}
    heard_ns = 10 * SECOND - NAMES_LAG_NS
    times = (heard_ns - 1, heard_ns, 15 * SECOND - 1, 15 * SECOND)
    records = [event(time_ns=time_ns, **sent) for time_ns in times]
    flows = [decoder.decode(row[0], 0) for row in records]
    names = ["api.example.com", "www.example.com"]
    assert [list(flow.destination_names) for flow in flows] == [[], names, names, []]
    other = decoder.decode(event(time_ns=12 * SECOND, endpoint_id=402, **sent)[0], 0)
    assert list(other.destination_names) == [], "another endpoint did not ask"
    back = decoder.decode(event(time_ns=12 * SECOND, source_ip=address, destination_ip=source)[0], 0)
    assert list(back.source_names) == names
    for pattern in ("*.example.com", "api.example.com", "API.example.com."):
        assert found(decoder, records, destination_fqdn=[pattern]) == [1, 2]
    assert found(decoder, records, destination_fqdn=["example.com"]) == []
    assert found(decoder, records, source_fqdn=["*"]) == []


def test_nothing_learned_means_no_names() -> None:
    names = node_names(None)
    address = ip_address("192.0.2.7")
    assert list(names.names(401, address, None)) == []
    assert list(names.name_times(401, address, 0)) == []
    assert names.names_revision == 0


def test_messages_name_a_resolver_that_was_looked_up() -> None:
    scene = LookupScene()
    scene.lookups.add([lookup(server="192.0.2.7", server_identity=9)], 0)
    for pattern, count in (("api.*", 1), ("www.*", 0)):
        wanted = [flow_pb2.FlowFilter(destination_fqdn=[pattern])]
        asked = FlowQuery(scene.lookups.store, scene.lookups.decoder, wanted, [])
        assert len(list(asked.flows(0, 1))) == count


times = st.integers(0, 12).map(lambda n: n * NAMES_LAG_NS // 2)
rows = st.builds(
    event,
    time_ns=times,
    source_ip=st.sampled_from(ADDRESSES),
    destination_ip=st.sampled_from(ADDRESSES),
    endpoint_id=st.sampled_from([0, 401, 402]),
)
statements = st.tuples(
    st.sampled_from([401, 402]),
    st.sampled_from(ADDRESSES),
    st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple),
    times,
)
patterns = st.sampled_from(["*.example.com", "api.example.com", "old.test", "*", "*.api.example.com"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(rows, statements), min_size=1, max_size=20),
    st.lists(patterns, max_size=2),
    st.lists(patterns, max_size=2),
    st.integers(0, 3),
)
def test_filters_by_name_equal_brute_force(
    steps: list[Any], source: list[str], destination: list[str], max_pairs: int
) -> None:
    scene = LearningScene()
    learned = Learned()
    scene.names_of = node_names(learned)
    decoder = FlowDecoder(scene, boot_offset_ns=lambda: 0, uuid_salt=1)
    store = FlowStore(8)
    wanted = flow_pb2.FlowFilter(source_fqdn=source, destination_fqdn=destination)
    matcher = FlowMatcher([wanted])
    saved, learnednames.MAX_PAIRS = learnednames.MAX_PAIRS, max_pairs  # type: ignore[misc]
    try:
        asked = FlowQuery(store, decoder, [wanted], [])
        kept: list[Records] = []
        for step in steps:
            if isinstance(step, tuple):
                learned.tell(*step)
                continue
            store.append(step)
            kept.append(step)
            flows = {n: decoder.decode(kept[n][0], n) for n in range(store.oldest, store.seen)}
            expected = [number for number, flow in flows.items() if matcher.matches(flow)]
            assert asked.candidates(0, store.seen).tolist() == expected
    finally:
        learnednames.MAX_PAIRS = saved  # type: ignore[misc]
