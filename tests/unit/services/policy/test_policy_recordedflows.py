"""Recorded flows reduced to questions, from the lines that `axoneme observe -o jsonpb` writes."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from axoneme.api.hubble.observer import observer_pb2
from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.cli.flowprinter_json import parse_response, response_json
from axoneme.lib import identities
from services.policy.questions.analysiswire import MAX_NAMES as SERVICE_NAMES
from services.policy.questions.recordedflows import MAX_NAMES, record, reduce

POD = {"identity": 300, "namespace": "default", "pod_name": "web", "labels": ["k8s:app=web", "k8s:a=b"]}
HOST = {"identity": 1, "labels": ["reserved:host"]}
WORLD = {"identity": identities.WORLD_IPV4, "labels": ["reserved:world-ipv4"]}
NAMED = {"identity": identities.LOCAL_SCOPE + 7, "labels": ["cidr:10.0.0.0/8", "reserved:world-ipv4"]}


def response(**fields: Any) -> observer_pb2.GetFlowsResponse:
    """A flow as it comes back from its line of JSON."""
    flow = {
        "verdict": "FORWARDED",
        "IP": {"source": "10.1.0.5", "destination": "192.0.2.7", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 40000, "destination_port": 443}},
        "source": POD,
        "destination": WORLD,
        "is_reply": False,
        **fields,
    }
    message = json_format.ParseDict({"flow": flow}, observer_pb2.GetFlowsResponse())
    line = response_json(message)
    assert "\n" not in line
    return parse_response(line)


def reduced(**fields: Any) -> pb.RecordedFlow | None:
    """What is left of a flow."""
    return reduce(response(**fields).flow)


def test_a_flow_to_the_world() -> None:
    """Pods by their labels, the world by address, with the names that were learned for it."""
    found = reduced(destination_names=["www.example.com", "a.example.com"])
    assert found is not None
    assert (found.protocol, found.port) == (6, 443)
    assert list(found.source.labels.labels) == ["k8s:a=b", "k8s:app=web"]
    assert found.destination.ip == "192.0.2.7"
    assert list(found.destination.dns_names) == ["a.example.com", "www.example.com"]


@pytest.mark.parametrize(
    ("l4", "protocol", "port"),
    [
        ({"UDP": {"destination_port": 53}}, 17, 53),
        ({"SCTP": {"destination_port": 9}}, 132, 9),
        ({"ICMPv4": {"type": 8}}, 1, 8),
        ({"ICMPv6": {"type": 128}}, 58, 128),
        ({"TCP": {}}, 6, 0),
    ],
)
def test_protocols(l4: dict[str, Any], protocol: int, port: int) -> None:
    """The destination's port, or the type."""
    found = reduced(l4=l4)
    assert found is not None
    assert (found.protocol, found.port) == (protocol, port)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (POD, "labels"),
        (HOST, "labels"),
        (WORLD, "ip"),
        (NAMED, "ip"),
        ({"identity": 4711}, "identity"),
        ({}, "ip"),
        ({"identity": identities.LOCAL_SCOPE * 2 + 5, "labels": ["reserved:remote-node", "node:a=b"]}, "ip"),
    ],
)
def test_parties(end: dict[str, Any], kind: str) -> None:
    """What only a node has a number for goes by its address; either family, either side."""
    for source, destination in (("10.1.0.5", "10.1.0.6"), ("fd00::5", "fd00::6")):
        ip = {"source": source, "destination": destination}
        for field in ("source", "destination"):
            found = reduced(IP=ip, **{field: end})
            assert found is not None
            party = getattr(found, field)
            assert party.WhichOneof("kind") == kind
            if kind == "ip":
                assert party.ip == ip[field]


@pytest.mark.parametrize("fields", [{"is_reply": True}, {"l4": {}}, {"l4": {}, "is_reply": True}])
def test_what_policy_never_looked_at(fields: dict[str, Any]) -> None:
    """Replies, and what has no port."""
    assert reduced(**fields) is None


def test_a_flow_without_addresses() -> None:
    """There is nobody to ask about."""
    flow = response().flow
    flow.ClearField("IP")
    assert reduce(flow) is None


def test_a_recording_counts_equal_flows_once() -> None:
    """Distinct flows with their number; source ports are no difference; node events are none."""
    lost = observer_pb2.GetFlowsResponse()
    lost.lost_events.num_events_lost = 3
    port = {"TCP": {"source_port": 1, "destination_port": 443}}
    recording = record([response(), response(l4=port), response(source=HOST), response(is_reply=True), lost])
    assert (recording.total, recording.skipped) == (3, 1)
    assert [count for _, count in recording.flows()] == [2, 1]


def test_an_address_with_many_names_is_still_accepted() -> None:
    """No more names than the service takes."""
    found = reduced(destination_names=[f"n{index}.example.com" for index in range(99)])
    assert found is not None
    assert len(found.destination.dns_names) == MAX_NAMES == SERVICE_NAMES
