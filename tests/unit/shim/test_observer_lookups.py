"""DNS messages beside packets in the Observer API, over a real gRPC connection on a unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from shim.flows import record
from shim.flows.decode import timestamp
from shim.observer import ObserverService
from tests.unit.shim.flows.lookupscene import LookupScene, answer, lookup
from tests.unit.shim.flows.scene import BOOT_OFFSET_NS, event, events

MILLISECOND = 1_000_000
DNS = flow_pb2.FlowFilter(protocol=["dns"])
V6 = {"client": "fd00:10:1::11", "server": "fd00:10:1:1::12"}


class Node(LookupScene):
    """A served observer with both feeds."""

    stub: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.service = ObserverService(
            self.feed, self.decoder, version="0.1.0", boot_clock_ns=self.clock, started_ns=1_000_000_000,
            lookups=self.lookups,
        )  # fmt: skip

    async def flows(self, **request: Any) -> list[observer_pb2.GetFlowsResponse]:
        return [response async for response in self.stub.GetFlows(observer_pb2.GetFlowsRequest(**request))]

    async def summaries(self, **request: Any) -> list[str]:
        return [response.flow.Summary for response in await self.flows(**request)]

    def look_up_and_connect(self) -> None:
        """A lookup, then a connection to what it answered; the proxy's report comes last."""
        redirected = event(
            time_ns=1 * MILLISECOND, protocol=17, destination_port=53, verdict=flow_pb2.REDIRECTED,
            sub_type=record.TO_PROXY,
        )  # fmt: skip
        connected = event(time_ns=4 * MILLISECOND, destination_ip="192.0.2.7", destination_port=443)
        self.feed.append(events(redirected, connected))
        self.lookups.add([lookup(time_ns=2 * MILLISECOND), answer(time_ns=3 * MILLISECOND)], 0)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node()
    address = f"unix://{tmp_path}/observer.sock"
    async with (
        grpcserver.serving([grpcserver.Listener(address)], node.service.add_to, drain_seconds=0.0),
        grpc.aio.insecure_channel(address) as channel,
    ):
        node.stub = observer_pb2_grpc.ObserverStub(channel)
        yield node


QUERY = "DNS Query api.example.com. A"
ANSWER = 'DNS Answer "192.0.2.7" TTL: 30 (Proxy api.example.com. A)'
ALL = ["UDP", QUERY, ANSWER, "TCP Flags: SYN"]


@pytest.mark.parametrize(
    ("request_fields", "wanted"),
    [
        ({}, ALL),
        ({"number": 2}, ALL[2:]),
        ({"number": 3, "first": True}, ALL[:3]),
        ({"since": timestamp(BOOT_OFFSET_NS + 3 * MILLISECOND)}, ALL[2:]),
        ({"until": timestamp(BOOT_OFFSET_NS + 2 * MILLISECOND), "number": 1}, [QUERY]),
        ({"whitelist": [DNS]}, [QUERY, ANSWER]),
        ({"whitelist": [DNS], "number": 1}, [ANSWER]),
        ({"blacklist": [DNS]}, [ALL[0], ALL[3]]),
        ({"whitelist": [flow_pb2.FlowFilter(event_type=[flow_pb2.EventTypeFilter(type=129)])]}, ALL[1:3]),
        ({"whitelist": [flow_pb2.FlowFilter(protocol=["udp"])]}, ALL[:3]),
        ({"whitelist": [flow_pb2.FlowFilter(dns_query=["^api"])]}, ALL[1:3]),
        ({"whitelist": [flow_pb2.FlowFilter(dns_query=["^www"])]}, []),
        ({"whitelist": [flow_pb2.FlowFilter(destination_fqdn=["*.example.com"])]}, ALL[3:]),
        ({"whitelist": [flow_pb2.FlowFilter(verdict=[flow_pb2.REDIRECTED])]}, ALL[:1]),
        ({"whitelist": [flow_pb2.FlowFilter(source_pod=["shop/web"])]}, [ALL[0], QUERY, ALL[3]]),
    ],
)
async def test_messages_stand_between_packets(
    node: Node, request_fields: dict[str, Any], wanted: list[str]
) -> None:
    node.look_up_and_connect()
    assert await node.summaries(**request_fields) == wanted


async def test_a_message_of_ipv6_over_tcp(node: Node) -> None:
    node.lookups.add([lookup(protocol=6, qtype=28, **V6)], 0)
    (response,) = await node.flows(whitelist=[flow_pb2.FlowFilter(ip_version=[flow_pb2.IPv6])])
    assert response.flow.IP.destination == V6["server"]
    assert response.flow.l7.dns.qtypes == ["AAAA"]
    assert response.node_name == "east/node1"
    assert response.time == response.flow.time == timestamp(BOOT_OFFSET_NS + 2 * MILLISECOND)


async def test_the_mask_of_the_stock_client_keeps_what_was_asked(node: Node) -> None:
    node.look_up_and_connect()
    mask = FieldMask(paths=["l7", "verdict", "Summary", "event_type"])
    (response,) = await node.flows(field_mask=mask, whitelist=[DNS], number=1)
    assert response.flow.l7.dns.ips == ["192.0.2.7"]
    assert not response.flow.HasField("IP")


async def test_followers_are_woken_by_messages_and_told_what_was_lost(node: Node) -> None:
    call = node.stub.GetFlows(observer_pb2.GetFlowsRequest(follow=True, whitelist=[DNS]))
    await call.initial_metadata()
    node.feed.append(event())
    node.lookups.add([lookup()], 0)
    assert (await call.read()).flow.Summary == QUERY
    node.lookups.add([answer()], 5)
    lost = (await call.read()).lost_events
    assert (lost.source, lost.num_events_lost) == (flow_pb2.OBSERVER_EVENTS_QUEUE, 5)
    assert (await call.read()).flow.Summary == ANSWER
    node.lookups.add([lookup(time_ns=n) for n in range(1, 101)], 0)
    overtaken = (await call.read()).lost_events
    assert (overtaken.source, overtaken.num_events_lost) == (flow_pb2.HUBBLE_RING_BUFFER, 36)
    call.cancel()


async def test_status_and_namespaces_count_messages(node: Node) -> None:
    node.look_up_and_connect()
    status = await node.stub.ServerStatus(observer_pb2.ServerStatusRequest())
    assert (status.num_flows, status.max_flows, status.seen_flows) == (4, 128, 4)
    assert status.flows_rate == pytest.approx(4 / 60)
    names = await node.stub.GetNamespaces(observer_pb2.GetNamespacesRequest())
    assert [one.namespace for one in names.namespaces] == ["shop"]


async def test_uuids_differ_between_packets_and_messages(node: Node) -> None:
    node.look_up_and_connect()
    flows = [response.flow for response in await node.flows()]
    assert len({flow.uuid for flow in flows}) == 4
    again = await node.flows(whitelist=[flow_pb2.FlowFilter(uuid=[flows[1].uuid])])
    assert [response.flow for response in again] == [flows[1]]
