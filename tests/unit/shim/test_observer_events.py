"""Agent events and debug events over a real connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.labels import LabelSet
from shim.agentevents.endpoints import EndpointEvents
from shim.endpoints import Endpoint, EndpointTable
from shim.flows import record
from shim.flows.decode import timestamp
from tests.unit.shim.flows.lookupscene import lookup
from tests.unit.shim.flows.scene import BOOT_OFFSET_NS, event
from tests.unit.shim.observednode import ObservedNode, served


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ObservedNode]:
    async with served(tmp_path, ObservedNode()) as node:
        yield node


def endpoint(number: int) -> Endpoint:
    return Endpoint(
        endpoint_id=number,
        namespace="shop",
        pod_name=f"api-{number}",
        labels=LabelSet.parse(["k8s:app=api"]),
        identity=20102,
        ips=("10.1.0.12",),
        netns="/run/netns/x",
    )


async def test_agent_events_stream_and_follow(node: ObservedNode) -> None:
    table = EndpointTable()
    EndpointEvents(node.log, table)
    node.scene.clock.now_ns = 1_772_359_203_500_000_000
    table.put(endpoint(402))
    call = node.stub.GetAgentEvents(observer_pb2.GetAgentEventsRequest(number=20, follow=True))
    created = await call.read()
    assert created.node_name == "east/node1"
    assert created.time.ToNanoseconds() == node.scene.clock.now_ns
    assert created.agent_event.type == flow_pb2.ENDPOINT_CREATED
    update = created.agent_event.endpoint_update
    assert (update.id, update.namespace, update.pod_name) == (402, "shop", "api-402")
    table.remove(402)
    assert (await call.read()).agent_event.type == flow_pb2.ENDPOINT_DELETED
    call.cancel()
    header = [tuple(pair) for pair in await call.initial_metadata()]
    assert ("hubble-server-version", "0.1.0") in header


@pytest.mark.parametrize("method", ["GetAgentEvents", "GetDebugEvents"])
async def test_first_does_not_go_with_follow(node: ObservedNode, method: str) -> None:
    request = getattr(observer_pb2, f"{method}Request")(first=True, follow=True)
    with pytest.raises(grpc.aio.AioRpcError, match="first: cannot be specified with follow") as caught:
        await getattr(node.stub, method)(request).read()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def debug(node: ObservedNode, **request: Any) -> list[observer_pb2.GetDebugEventsResponse]:
    asked = observer_pb2.GetDebugEventsRequest(**request)
    return [response async for response in node.stub.GetDebugEvents(asked)]


async def test_each_record_is_a_step(node: ObservedNode) -> None:
    steps = [
        {"event_type": record.TRACE, "sub_type": record.TO_STACK},
        {"event_type": record.TRACE, "sub_type": record.TO_ENDPOINT, "direction": record.INGRESS},
        {"event_type": record.TRACE, "sub_type": record.TO_PROXY},
        {"event_type": record.POLICY_VERDICT, "match_type": 1},
        {"event_type": record.POLICY_VERDICT, "verdict": flow_pb2.DROPPED, "drop_reason": 133},
        {"event_type": record.DROP, "verdict": flow_pb2.DROPPED, "drop_reason": 132, "protocol": 1},
    ]
    for number, values in enumerate(steps):
        node.scene.feed.append(event(time_ns=number, **values))
    node.scene.lookups.add([lookup()], 0)  # what the proxy says is no step of a program
    responses = await debug(node)
    events = [response.debug_event for response in responses]
    assert [flow_pb2.DebugEventType.Name(one.type) for one in events] == [
        "DBG_TO_STACK",
        "DBG_LOCAL_DELIVERY",
        "DBG_GENERIC",
        "DBG_L4_POLICY",
        "DBG_POLICY_DENIED",
        "DBG_GENERIC",
    ]
    ends = "10.1.0.11:41000 -> 10.1.1.12:8080 (TCP Flags: SYN)"
    assert events[0].message == f"Going to the stack: {ends}"
    assert events[2].message == f"At to-proxy: {ends}"
    assert events[4].message == f"Policy evaluation would deny packet from 20101 to 20102: {ends}"
    assert events[5].message.startswith("Dropped, INVALID_SOURCE_IP (132): 10.1.0.11 -> 10.1.1.12 (ICMPv4")
    assert (events[0].source.pod_name, events[1].source.pod_name) == ("web-1", "api-1")
    assert (events[0].arg1.value, events[0].arg2.value, events[0].arg3.value) == (20101, 20102, 5)
    assert not events[0].HasField("hash")
    assert not events[0].HasField("cpu")
    assert responses[3].time == timestamp(BOOT_OFFSET_NS + 3)
    assert responses[0].node_name == "east/node1"


async def test_debug_events_follow_and_keep_to_their_range(node: ObservedNode) -> None:
    for number in range(4):
        node.scene.feed.append(event(time_ns=number * 1_000_000, source_port=number + 1))
    since = timestamp(BOOT_OFFSET_NS + 1_000_000)
    until = timestamp(BOOT_OFFSET_NS + 2_000_000)
    assert len(await debug(node, since=since, until=until)) == 2
    (first,) = await debug(node, number=1, first=True)
    assert ":1 ->" in first.debug_event.message
    asked = observer_pb2.GetDebugEventsRequest(number=1, follow=True)
    call = node.stub.GetDebugEvents(asked)
    assert ":4 ->" in (await call.read()).debug_event.message
    node.scene.feed.append(event(source_port=9, source_ip="fd00:10:1::11", destination_ip="fd00:10:1:1::12"))
    assert "[fd00:10:1::11]:9 -> [fd00:10:1:1::12]:8080" in (await call.read()).debug_event.message
    node.scene.feed.add_lost(7)
    lost = (await call.read()).debug_event
    assert (lost.type, lost.message) == (
        flow_pb2.DBG_GENERIC,
        "7 events were lost (PERF_EVENT_RING_BUFFER)",
    )
    call.cancel()
