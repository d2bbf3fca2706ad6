"""FlowsService: what its batches hold put together is what GetFlows answers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.flows.v1 import flows_pb2
from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.channel import open_channel
from axoneme.lib.tls import TlsFiles
from shim import flowbatches
from shim.flows.masks import FlowMask
from shim.lateobserver import LateObserver
from shim.peer import tls_server_name
from tests.conftest import scaled
from tests.unit.shim.flows.lookupscene import LookupScene, lookup
from tests.unit.shim.flows.scene import event, events
from tests.unit.shim.flows.test_answer import MILLISECOND, Seen, requests, seen
from tests.unit.shim.observednode import ObservedNode, served


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[ObservedNode]:
    async with served(tmp_path, ObservedNode()) as node:
        yield node


def fill(node: ObservedNode, numbers: range) -> None:
    node.scene.feed.append(events(*[event(time_ns=one * MILLISECOND, source_port=one) for one in numbers]))


def asked(batch_size: int = 0, **fields: Any) -> flows_pb2.StreamFlowsRequest:
    request = observer_pb2.GetFlowsRequest(**fields)
    return flows_pb2.StreamFlowsRequest(request=request, batch_size=batch_size)


def ports(message: flows_pb2.StreamFlowsResponse) -> list[int]:
    responses = [observer_pb2.GetFlowsResponse.FromString(one) for one in message.responses]
    return [one.flow.l4.TCP.source_port for one in responses]


async def both(
    node: ObservedNode, request: observer_pb2.GetFlowsRequest, size: int
) -> tuple[list[bytes], list[flows_pb2.StreamFlowsResponse]]:
    """One request to both services."""
    batched = flows_pb2.StreamFlowsRequest(request=request, batch_size=size)
    return await node.flows(request), [one async for one in node.batches.StreamFlows(batched)]


@settings(max_examples=scaled(40, 1_000), deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), seen), max_size=20),
    requests,
    st.sampled_from([0, 1, 2, 3, 1_000]),
    st.sampled_from([[], ["verdict"], ["time", "source.pod_name"]]),
)
def test_batches_put_together_are_what_get_flows_answers(
    steps: list[tuple[int, Seen]], request: observer_pb2.GetFlowsRequest, size: int, mask: list[str]
) -> None:
    scene, now = LookupScene(), 1
    for pause, one in steps:
        now += pause
        one.happen(scene, now * MILLISECOND)
    request.field_mask.paths.extend(mask)

    async def run(directory: Path) -> tuple[list[bytes], list[flows_pb2.StreamFlowsResponse]]:
        async with served(directory, ObservedNode(scene)) as node:
            return await both(node, request, size)

    with tempfile.TemporaryDirectory() as directory:
        flows, batches = asyncio.run(run(Path(directory)))
    assert [one for batch in batches for one in batch.responses] == flows
    times = [observer_pb2.GetFlowsResponse.FromString(one).time.ToNanoseconds() for one in flows]
    assert [time for batch in batches for time in batch.times_ns] == times
    assert all(0 < len(batch.responses) <= (size or 256) for batch in batches)


async def test_batches_are_full_where_flows_are_at_hand(node: ObservedNode) -> None:
    fill(node, range(64))
    batches = [one async for one in node.batches.StreamFlows(asked(batch_size=20))]
    assert [len(one.responses) for one in batches] == [20, 20, 20, 4]
    assert [port for one in batches for port in ports(one)] == list(range(64))


async def test_nothing_is_held_back(node: ObservedNode) -> None:
    fill(node, range(3))
    call = node.batches.StreamFlows(asked(follow=True, number=2))
    assert ports(await call.read()) == [1, 2]
    fill(node, range(3, 4))
    assert ports(await call.read()) == [3]
    node.scene.feed.add_lost(5)
    lost = observer_pb2.GetFlowsResponse.FromString((await call.read()).responses[0])
    assert lost.lost_events.num_events_lost == 5
    node.scene.lookups.add([lookup()], 0)
    (dns,) = (await call.read()).responses
    assert observer_pb2.GetFlowsResponse.FromString(dns).flow.l7.dns.query == "api.example.com."
    call.cancel()


async def test_a_long_batch_goes_on_in_the_next_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowbatches, "MAX_BATCH_BYTES", 100)
    responses = [observer_pb2.GetFlowsResponse(node_name="n" * size) for size in (40, 40, 40, 300, 1)]
    messages = list(flowbatches.encoded(responses))
    assert [len(one.responses) for one in messages] == [2, 1, 1, 1]
    assert [len(one.times_ns) for one in messages] == [2, 1, 1, 1]


REFUSED: dict[str, dict[str, Any]] = {
    "range": {"first": True, "follow": True},
    "mask": {"field_mask": FieldMask(paths=["nonsense"])},
    "filter": {"whitelist": [flow_pb2.FlowFilter(source_ip=["x"])]},
    "expression": {
        "whitelist": [
            flow_pb2.FlowFilter(experimental=flow_pb2.FlowFilter.Experimental(cel_expression=["1"]))
        ]
    },
}


@pytest.mark.parametrize("name", sorted(REFUSED))
async def test_errors_are_those_of_get_flows(node: ObservedNode, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as plain:
        await node.flows(observer_pb2.GetFlowsRequest(**REFUSED[name]))
    with pytest.raises(grpc.aio.AioRpcError) as batched:
        await node.batches.StreamFlows(asked(**REFUSED[name])).read()
    assert (batched.value.code(), batched.value.details()) == (plain.value.code(), plain.value.details())


async def test_a_batch_that_is_too_large_is_refused(node: ObservedNode) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="batch_size: 1001 is more than 1000") as caught:
        await node.batches.StreamFlows(asked(batch_size=1_001)).read()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_the_version_header(node: ObservedNode) -> None:
    call = node.batches.StreamFlows(asked())
    assert ("hubble-server-version", "0.1.0") in [tuple(pair) for pair in await call.initial_metadata()]


async def test_over_mutual_tls(tls_files: Callable[[str], TlsFiles]) -> None:
    node = ObservedNode()
    fill(node, range(3))
    listener = grpcserver.Listener("127.0.0.1:0", tls_files("node/node1"), "east.mesh")
    async with grpcserver.serving([listener], node.service.add_to, drain_seconds=0.0) as server:
        target, name = f"127.0.0.1:{server.port}", tls_server_name("node1", "east")
        async with open_channel(target, tls_files("svc/relay"), name) as channel:
            node.dial(channel)
            (batch,) = [one async for one in node.batches.StreamFlows(asked())]
            assert ports(batch) == [0, 1, 2]
        async with open_channel(target, tls_files("svc/identity"), name) as channel:
            node.dial(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await node.batches.StreamFlows(asked()).read()
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_call_before_the_flow_side_is_loaded_waits(tmp_path: Path) -> None:
    node, late = ObservedNode(), LateObserver()
    fill(node, range(2))
    address = f"unix://{tmp_path}/observer.sock"
    async with (
        grpcserver.serving([grpcserver.Listener(address)], late.add_to, drain_seconds=0.0),
        grpc.aio.insecure_channel(address) as channel,
    ):
        node.dial(channel)
        first = asyncio.ensure_future(node.batches.StreamFlows(asked()).read())
        await channel.channel_ready()
        late.set(node.service)
        assert ports(await first) == [0, 1]


def test_an_empty_mask_keeps_the_response() -> None:
    response = observer_pb2.GetFlowsResponse(node_name="n")
    assert FlowMask(FieldMask()).applied(response) is response
