"""Filters on ends over columns, where names change hands while most ends are strangers."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FlowMatcher
from shim.flows import enddirectory
from shim.flows.addresses import AddressTable
from shim.flows.context import mapped
from shim.flows.decode import FlowDecoder
from shim.flows.query import FlowQuery
from shim.flows.record import INVALID_SOURCE_IP
from shim.flows.store import FlowStore
from tests.conftest import scaled
from tests.unit.shim.flows.scene import BOOT_OFFSET_NS, Scene, event, events
from tests.unit.shim.flows.spill.test_spill import SECOND, Renamed

FILTERS = [
    {"source_label": ["app=web"]},
    {"destination_label": ["reserved:new"]},
    {"destination_label": ["reserved:world-ipv4"]},
    {"destination_label": ["!app"]},
    {"destination_pod": ["shop/api-2"]},
    {"source_pod": ["shop/web"]},
    {"source_cluster_name": ["east"]},
]
STRANGERS = [f"203.0.113.{number}" for number in range(6)]
rows = st.builds(
    event,
    time_ns=st.sampled_from([4, 5, 6]).map(lambda seconds: seconds * SECOND),
    source_identity=st.sampled_from([20101, 9, 70_000, 0]),
    destination_identity=st.sampled_from([20102, 9, 1 << 24]),
    source_ip=st.sampled_from(["10.1.0.11", *STRANGERS]),
    destination_ip=st.sampled_from(["10.1.1.12", *STRANGERS]),
    endpoint_id=st.sampled_from([0, 401]),
    drop_reason=st.sampled_from([0, 0, 0, INVALID_SOURCE_IP]),
)


@pytest.mark.parametrize("changing", [False, True])
def test_queries_equal_decoding_everything(changing: bool) -> None:
    @settings(max_examples=scaled(150, 5_000), deadline=None)
    @given(st.lists(rows, min_size=1, max_size=40), st.sampled_from(FILTERS))
    def check(some: list[Any], fields: dict[str, Any]) -> None:
        scene = Renamed() if changing else Scene()
        decoder = FlowDecoder(scene, boot_offset_ns=lambda: BOOT_OFFSET_NS, uuid_salt=1)
        store, wanted = FlowStore(64), flow_pb2.FlowFilter(**fields)
        store.append(events(*some))
        matcher = FlowMatcher([wanted])
        expected = [
            number for number, row in enumerate(some) if matcher.matches(decoder.decode(row[0], number))
        ]
        for _ in range(2):  # the second query finds the directory filled
            query = FlowQuery(store, decoder, [wanted], [])
            assert query.candidates(0, store.seen).tolist() == expected

    check()


def test_a_full_directory_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enddirectory, "MAX_ENDS", 3)
    decoder = FlowDecoder(Scene(), boot_offset_ns=lambda: BOOT_OFFSET_NS, uuid_salt=1)
    store = FlowStore(64)
    for number in range(20):
        store.append(event(source_identity=number + 1, source_ip="203.0.113.1", endpoint_id=0))
    store.append(event())
    for _ in range(3):
        query = FlowQuery(store, decoder, [flow_pb2.FlowFilter(source_label=["app=web"])], [])
        assert query.candidates(0, 21).tolist() == [20]
    assert decoder.ends.generation > 2


@given(st.lists(st.integers(0, 300), unique=True, max_size=20), st.lists(st.integers(0, 300), max_size=60))
def test_addresses_get_their_numbers(known: list[int], asked: list[int]) -> None:
    packed = [mapped(ip_address(0xC0000200 + number).packed) for number in known]
    table = AddressTable(packed)
    raw = b"".join(mapped(ip_address(0xC0000200 + number).packed) for number in asked)
    words = np.frombuffer(raw, dtype=np.uint64).reshape(-1, 2)
    assert table.numbers(words).tolist() == [
        known.index(number) + 1 if number in known else 0 for number in asked
    ]
