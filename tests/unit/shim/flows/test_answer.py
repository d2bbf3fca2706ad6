"""Answers over packets and DNS messages equal what decoding, sorting and filtering everything gives."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.flows.filters import FlowMatcher
from shim.flows import answer as answer_module
from shim.flows import query as query_module
from shim.flows.answer import Answer
from shim.flows.decode import timestamp
from shim.flows.merge import merged
from tests.unit.shim.flows.lookupscene import LookupScene, answer, lookup
from tests.unit.shim.flows.scene import BOOT_OFFSET_NS, event

MILLISECOND = 1_000_000
DNS = flow_pb2.FlowFilter(protocol=["dns"])
FILTERS = {
    "dns": DNS,
    "l7": flow_pb2.FlowFilter(event_type=[flow_pb2.EventTypeFilter(type=129)]),
    "trace": flow_pb2.FlowFilter(event_type=[flow_pb2.EventTypeFilter(type=4)]),
    "udp": flow_pb2.FlowFilter(protocol=["udp"]),
    "dropped": flow_pb2.FlowFilter(verdict=[flow_pb2.DROPPED]),
    "redirected": flow_pb2.FlowFilter(verdict=[flow_pb2.REDIRECTED]),
    "query": flow_pb2.FlowFilter(dns_query=[r"^api\."]),
    "pod": flow_pb2.FlowFilter(destination_pod=["shop/api"]),
    "name": flow_pb2.FlowFilter(destination_fqdn=["api.example.com"]),
    "port": flow_pb2.FlowFilter(destination_port=["53"]),
    "reply": flow_pb2.FlowFilter(reply=[True]),
}


class Seen(NamedTuple):
    """One event of the node, in the order of arrival."""

    kind: str  # packet, message, lost packets or lost messages
    number: int

    def happen(self, scene: LookupScene, time_ns: int) -> None:
        if self.kind == "packet":
            verdict, destination = [(1, "192.0.2.7"), (2, "10.1.1.12"), (5, "10.1.1.12")][self.number % 3]
            scene.feed.append(event(time_ns=time_ns, verdict=verdict, destination_ip=destination))
        elif self.kind == "message":
            make = (lookup, answer)[self.number % 2]
            query = ("api.example.com.", "www.example.com.")[self.number // 2 % 2]
            scene.lookups.add([make(time_ns=time_ns, query=query, verdict=1 + self.number % 3)], 0)
        elif self.kind == "lost packets":
            scene.feed.add_lost(self.number + 1)
        else:
            scene.lookups.add([], self.number + 1)


seen = st.builds(
    Seen, st.sampled_from(["packet", "message", "message", "packet", "lost packets", "lost messages"]),
    st.integers(0, 5),
)  # fmt: skip


def all_flows(scene: LookupScene) -> list[flow_pb2.Flow]:
    """Everything that is held, by time; of equal times packets first."""
    flows = []
    for source in scene.sources:
        store = source.feed.store
        held = np.arange(store.oldest, store.seen)
        pairs = zip(held.tolist(), store.events(held), strict=True)
        flows += [source.decoder.decode(one, number) for number, one in pairs]
    return sorted(flows, key=lambda flow: flow.time.ToNanoseconds())


def expected(scene: LookupScene, request: observer_pb2.GetFlowsRequest) -> list[flow_pb2.Flow]:
    matcher = FlowMatcher(request.whitelist, request.blacklist)
    flows = [flow for flow in all_flows(scene) if matcher.matches(flow)]
    if request.HasField("since"):
        flows = [f for f in flows if f.time.ToNanoseconds() >= request.since.ToNanoseconds()]
    if request.HasField("until"):
        flows = [f for f in flows if f.time.ToNanoseconds() <= request.until.ToNanoseconds()]
    if request.number:
        flows = flows[: request.number] if request.first else flows[-request.number :]
    return flows


async def told(scene: LookupScene, request: observer_pb2.GetFlowsRequest) -> list[Any]:
    made = Answer(request, scene.sources, scene.decoder, scene.clock)
    return [response async for response in made.responses()]


def at(milliseconds: int) -> Any:
    return timestamp(BOOT_OFFSET_NS + milliseconds * MILLISECOND)


requests = st.builds(
    lambda allow, deny, **fields: observer_pb2.GetFlowsRequest(
        whitelist=[FILTERS[name] for name in allow],
        blacklist=[FILTERS[name] for name in deny],
        **{name: value for name, value in fields.items() if value is not None},
    ),
    allow=st.lists(st.sampled_from(sorted(FILTERS)), max_size=2),
    deny=st.lists(st.sampled_from(sorted(FILTERS)), max_size=1),
    number=st.sampled_from([0, 1, 2, 5, 2**64 - 1]),
    first=st.booleans(),
    since=st.none() | st.integers(1, 12).map(at),
    until=st.none() | st.integers(1, 12).map(at),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), seen), max_size=20), requests, st.sampled_from([2, 16]))
def test_answers_equal_brute_force(
    steps: list[tuple[int, Seen]], request: observer_pb2.GetFlowsRequest, capacity: int
) -> None:
    scene = LookupScene(capacity=capacity, lookups=capacity)
    now = 1
    for pause, one in steps:
        now += pause
        one.happen(scene, now * MILLISECOND)
    saved = query_module.CHUNK, answer_module.CHUNK
    query_module.CHUNK = answer_module.CHUNK = 3  # type: ignore[misc]
    try:
        responses = asyncio.run(told(scene, request))
    finally:
        query_module.CHUNK, answer_module.CHUNK = saved  # type: ignore[misc]
    flows = [response.flow for response in responses if response.HasField("flow")]
    assert flows == expected(scene, request)
    lost = [response.lost_events for response in responses if response.HasField("lost_events")]
    if not request.number and capacity == 16:  # nothing is left out
        for source in scene.sources:
            counts = [one.num_events_lost for one in lost if one.source == source.feed.loss_source]
            assert sum(counts) == source.feed.store.lost


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=3))
def test_merging_keeps_the_order_of_each_store(times: list[list[int]]) -> None:
    numbers = [np.arange(len(part), dtype=np.int64) for part in times]
    result = merged(numbers, [np.array(part, dtype=np.uint64) for part in times])
    for index in range(len(times)):
        assert result.numbers[result.stores == index].tolist() == list(range(len(times[index])))
    if all(part == sorted(part) for part in times):
        pairs = zip(result.stores.tolist(), result.numbers.tolist(), strict=True)
        placed = [times[store][number] for store, number in pairs]
        assert placed == sorted(placed)


@pytest.mark.parametrize(("first", "number"), [(False, 2), (True, 2), (False, 0)])
async def test_losses_stand_among_the_flows(first: bool, number: int) -> None:
    scene = LookupScene()
    for milliseconds, kind in enumerate(("packet", "message", "lost messages", "message", "packet"), start=1):
        Seen(kind, 0).happen(scene, milliseconds * MILLISECOND)
    responses = await told(scene, observer_pb2.GetFlowsRequest(first=first, number=number))
    kinds = [response.WhichOneof("response_types") for response in responses]
    flow, lost = "flow", "lost_events"
    wanted = {
        (False, 2): [lost, flow, flow],
        (True, 2): [flow, flow],
        (False, 0): [flow, flow, lost, flow, flow],
    }
    assert kinds == wanted[first, number]
    for response in responses:
        if response.HasField("lost_events"):
            assert response.lost_events.source == flow_pb2.OBSERVER_EVENTS_QUEUE
            assert response.lost_events.num_events_lost == 1


async def test_following_merges_what_is_there_and_waits_for_both() -> None:
    scene = LookupScene()
    request = observer_pb2.GetFlowsRequest(follow=True)
    responses = Answer(request, scene.sources, scene.decoder, scene.clock).responses()
    for milliseconds, kind in ((1, "packet"), (3, "packet"), (2, "message"), (4, "message")):
        Seen(kind, 0).happen(scene, milliseconds * MILLISECOND)
    got = [await asyncio.wait_for(anext(responses), 5) for _ in range(4)]
    assert [response.flow.time.nanos // MILLISECOND for response in got] == [1, 2, 3, 4]
    for kind, wanted in (("message", flow_pb2.L7), ("packet", flow_pb2.L3_L4)):
        waiting = asyncio.ensure_future(anext(responses))
        await asyncio.sleep(0)
        Seen(kind, 0).happen(scene, 5 * MILLISECOND)
        assert (await asyncio.wait_for(waiting, 5)).flow.Type == wanted
    await responses.aclose()  # type: ignore[attr-defined]
