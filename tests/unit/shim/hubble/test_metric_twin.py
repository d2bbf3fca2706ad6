"""Counting columns equals decoding and counting each flow."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from shim.flows import record
from shim.hubble.metrics import follow, groups
from shim.hubble.metrics.counting import Addition, FlowCounter
from shim.hubble.metrics.options import CONTEXT_LABELS, IDENTIFIERS
from tests.unit.shim.flows.lookupscene import answer, lookup
from tests.unit.shim.flows.scene import event
from tests.unit.shim.hubble.hubblescene import MetricScene, values

PLUGINS = (
    "dns",
    "dns:query;ignoreAAAA",
    "drop",
    "flow",
    "flows-per-pod",
    "flows-to-world",
    "flows-to-world:any-drop;port",
    "flows-to-world:port;syn-only",
    "icmp",
    "policy",
    "port-distribution",
    "sctp",
    "tcp",
)
CONTEXTS = (
    "sourceContext",
    "destinationContext",
    "sourceEgressContext",
    "sourceIngressContext",
    "destinationEgressContext",
    "destinationIngressContext",
)
ADDRESSES = ("10.1.0.11", "10.1.1.12", "192.0.2.7", "198.51.100.9", "fd00:10:1::11", "fd00:10:1:1::12")
NAMED = ("drop_reason", "identities", "reply", "type", "verdict")

contexts = st.dictionaries(
    st.sampled_from(CONTEXTS), st.lists(st.sampled_from(IDENTIFIERS), min_size=1, max_size=2), max_size=2
).map(lambda chosen: [f"{name}={'|'.join(values)}" for name, values in chosen.items()])
labels = st.lists(st.sampled_from(CONTEXT_LABELS), max_size=2).map(
    lambda names: [f"labelsContext={','.join(names)}"] if names else []
)
wanted = st.lists(
    st.tuples(st.sampled_from(PLUGINS), contexts, labels).map(
        lambda parts: f"{parts[0]}{';' if ':' in parts[0] else ':'}{';'.join([*parts[1], *parts[2]])}"
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda text: text.partition(":")[0],
)

packets = st.fixed_dictionaries(
    {},
    optional={
        "event_type": st.sampled_from([record.DROP, record.TRACE, record.POLICY_VERDICT, 9]),
        "sub_type": st.integers(0, 15),
        "verdict": st.sampled_from([1, 2, 3, 4, 5]),
        "drop_reason": st.sampled_from([0, record.INVALID_SOURCE_IP, record.POLICY_DENIED, 181, 255]),
        "flags": st.integers(0, 63),
        "direction": st.integers(0, 2),
        "match_type": st.integers(0, 7),
        "protocol": st.sampled_from([1, 6, 17, 58, 132, 47]),
        "tcp_flags": st.sampled_from([0, 1, 2, 4, 16, 17, 18, 255]),
        "source_identity": st.sampled_from([0, 1, 9, 20101, 20102]),
        "destination_identity": st.sampled_from([0, 1, 9, 20101, 20102]),
        "source_ip": st.sampled_from(ADDRESSES),
        "destination_ip": st.sampled_from(ADDRESSES),
        "source_port": st.integers(0, 3),
        "destination_port": st.sampled_from([0, 3, 8, 53, 128, 8080]),
        "endpoint_id": st.sampled_from([0, 401, 402]),
    },
)
messages = st.fixed_dictionaries(
    {"kind": st.sampled_from([lookup, answer])},
    optional={
        "query": st.sampled_from(["api.example.com.", "www.example.com."]),
        "qtype": st.sampled_from([1, 28]),
        "verdict": st.integers(1, 3),
        "rcode": st.sampled_from([0, 3]),
        "rrtypes": st.lists(st.sampled_from([1, 5]), max_size=2),
        "protocol": st.sampled_from([6, 17]),
    },
)
steps = st.lists(st.lists(packets | messages, max_size=12), max_size=4)


def finish(step: Coroutine[Any, Any, None]) -> None:
    """Run what waits for nothing but its turn; a loop for each example would take longer than the example."""
    with suppress(StopIteration):
        while True:
            step.send(None)


def happen(scene: MetricScene, now: int, what: dict[str, Any]) -> None:
    values = dict(what)
    if (make := values.pop("kind", None)) is not None:
        scene.lookups.add([make(time_ns=now, **values)], 0)
    else:
        scene.feed.append(event(time_ns=now, **values))


@settings(max_examples=200, deadline=None)
@given(wanted, steps, st.integers(0, 60), st.integers(0, 60), st.booleans(), st.integers(0, 1))
def test_columns_count_what_each_flow_counts(
    metrics: list[str],
    batches: list[list[dict[str, Any]]],
    moves_at: int,
    forgets_at: int,
    tell: bool,
    few: int,
) -> None:
    scene = MetricScene(metrics)
    scene.names.moves_ns, scene.names.forgets_ns = moves_at, forgets_at
    saved = follow.CHUNK, groups.MAX_KINDS
    follow.CHUNK, groups.MAX_KINDS = (3, 2) if few else saved  # type: ignore[misc]
    try:
        now = 1
        for batch in batches:
            for what in batch:
                happen(scene, now, what)
                now += 1
            scene.names.revision += tell
            finish(scene.follower.step())
    finally:
        follow.CHUNK, groups.MAX_KINDS = saved  # type: ignore[misc]
    twin = FlowCounter(scene.wanted)
    for flow in scene.flows():
        twin.count(flow)
    assert values(scene.counter) == values(twin)
    assert scene.follower.lost()["hubble_ring_buffer"] == 0


def test_equal_packets_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = MetricScene(["flow:sourceContext=pod", "port-distribution"], capacity=1024)
    decoded: list[flow_pb2.Flow] = []
    counted = scene.counter.additions

    def count(flow: flow_pb2.Flow) -> list[Addition]:
        decoded.append(flow)
        return counted(flow)

    monkeypatch.setattr(scene.counter, "additions", count)
    for source_port in range(500):
        scene.feed.append(event(source_port=source_port, destination_ip=f"198.51.100.{source_port % 250}"))
    finish(scene.follower.step())
    assert len(decoded) == 1
    key = ("flows_processed", ("shop/web-1", "TCP", "Trace", "to-stack", "FORWARDED"))
    assert values(scene.counter)[key] == 500
