"""From records to flows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.json_format import MessageToDict

from axoneme.api.hubble.flow import flow_pb2
from shim.flows import record
from shim.flows.decode import FlowDecoder
from shim.flows.icmp import describe
from shim.flows.record import Records
from tests.unit.shim.flows.scene import ALLOW, BOOT_OFFSET_NS, LOCKDOWN, Scene, event, make_feed


def decode(row: Records, number: int = 22) -> flow_pb2.Flow:
    return make_feed()[1].decode(row[0], number)


def test_a_forwarded_syn_has_every_field() -> None:
    flow = MessageToDict(decode(event(cookie=7)), preserving_proto_field_name=True)
    assert flow == {
        "time": "2026-03-01T10:00:00.002Z",
        "uuid": "12345678-9abc-4ef0-8000-000000000016",
        "verdict": "FORWARDED",
        "ethernet": {"source": "02:00:00:00:00:01", "destination": "02:00:00:00:00:02"},
        "IP": {"source": "10.1.0.11", "destination": "10.1.1.12", "ipVersion": "IPv4"},
        "l4": {"TCP": {"source_port": 41000, "destination_port": 8080, "flags": {"SYN": True}}},
        "source": {
            "ID": 401,
            "identity": 20101,
            "cluster_name": "east",
            "namespace": "shop",
            "labels": [
                "k8s:app=web",
                "k8s:io.cilium.k8s.policy.cluster=east",
                "k8s:io.kubernetes.pod.namespace=shop",
            ],
            "pod_name": "web-1",
            "workloads": [{"name": "web", "kind": "Deployment"}],
        },
        "destination": {
            "identity": 20102,
            "cluster_name": "east",
            "namespace": "shop",
            "labels": [
                "k8s:app=api",
                "k8s:io.cilium.k8s.policy.cluster=east",
                "k8s:io.kubernetes.pod.namespace=shop",
            ],
            "pod_name": "api-1",
        },
        "Type": "L3_L4",
        "node_name": "east/node1",
        "event_type": {"type": 4, "sub_type": 3},
        "traffic_direction": "EGRESS",
        "trace_observation_point": "TO_STACK",
        "trace_reason": "NEW",
        "is_reply": False,
        "interface": {"index": 5, "name": "axo401"},
        "Summary": "TCP Flags: SYN",
        "egress_allowed_by": [
            {"name": "allow-web", "namespace": "shop", "revision": "3", "kind": "CiliumNetworkPolicy"}
        ],
    }


def test_an_ipv6_flow() -> None:
    flow = decode(
        event(source_ip="fd00:10:1::11", destination_ip="fd00:10:1:1::12", flags=1 | 2 | 4, tcp_flags=0x12)
    )
    assert flow.IP.ipVersion == flow_pb2.IPv6
    assert flow.IP.source == "fd00:10:1::11"
    assert (flow.source.pod_name, flow.destination.pod_name) == ("web-1", "api-1")
    assert flow.is_reply.value
    assert flow.Summary == "TCP Flags: SYN, ACK"
    assert flow.trace_reason == flow_pb2.REPLY


def dropped(**values: int) -> flow_pb2.Flow:
    row = {
        "event_type": record.DROP, "sub_type": 133, "verdict": flow_pb2.DROPPED, "drop_reason": 133,
        "flags": 0,
        "direction": record.INGRESS, "source_ip": "10.1.1.12", "destination_ip": "10.1.0.11",
        "source_identity": 20102, "destination_identity": 20101,
    }  # fmt: skip
    return decode(event(**(row | values)))


def test_a_default_deny_names_the_policies_that_switched_it_on() -> None:
    flow = dropped()
    assert flow.drop_reason_desc == flow_pb2.POLICY_DENIED
    assert [policy.name for policy in flow.ingress_denied_by] == ["lockdown"]
    assert not flow.HasField("is_reply")
    assert flow.event_type.sub_type == 133
    assert flow.trace_observation_point == flow_pb2.UNKNOWN_POINT
    assert flow.destination.pod_name == "web-1"


def test_a_denying_entry_names_its_own_policy() -> None:
    flow = dropped(drop_reason=181, sub_type=181, cookie=7)
    assert flow.drop_reason_desc == flow_pb2.POLICY_DENY
    assert [policy.name for policy in flow.ingress_denied_by] == ["allow-web"]


def test_a_policy_is_named_once_however_many_of_its_rules_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Scene, "origins", lambda *_: (ALLOW, replace(ALLOW, labels=("k8s:rule=2",)), LOCKDOWN)
    )
    assert [policy.name for policy in decode(event(cookie=7)).egress_allowed_by] == ["allow-web", "lockdown"]


def test_times_do_not_tremble_with_the_measurement_but_follow_the_clock() -> None:
    offsets = [BOOT_OFFSET_NS]
    decoder = FlowDecoder(Scene(), boot_offset_ns=lambda: offsets[-1], uuid_salt=1)
    times = []
    for shift in (0, 300, -999_999, 5_000_000):
        offsets.append(BOOT_OFFSET_NS + shift)
        times.append(decoder.decode(event()[0], 0).time.ToNanoseconds() - BOOT_OFFSET_NS - 2_000_000)
    assert times == [0, 0, 0, 5_000_000]


def test_a_drop_that_no_policy_made_names_none() -> None:
    flow = dropped(drop_reason=171, sub_type=171)
    assert flow.drop_reason_desc == flow_pb2.INVALID_IDENTITY
    assert not flow.ingress_denied_by


def test_an_unknown_reason_keeps_its_number() -> None:
    flow = dropped(drop_reason=250)
    assert (flow.drop_reason, flow.drop_reason_desc) == (250, flow_pb2.DROP_REASON_UNKNOWN)


def test_a_spoofed_source_is_shown_as_the_endpoint_that_sent_it() -> None:
    flow = dropped(direction=record.EGRESS, drop_reason=record.INVALID_SOURCE_IP, source_ip="10.9.9.9")
    assert flow.source.pod_name == "web-1"
    assert flow.IP.source == "10.9.9.9"


def test_a_policy_verdict_carries_the_match_type() -> None:
    flow = decode(event(event_type=record.POLICY_VERDICT, sub_type=9, match_type=2, cookie=7))
    assert flow.policy_match_type == 2
    assert flow.event_type.sub_type == 0
    assert flow.egress_allowed_by[0].name == "allow-web"


def test_names_of_an_outside_address() -> None:
    flow = decode(event(destination_ip="192.0.2.7", destination_identity=9))
    assert flow.destination_names == ["api.example.com"]
    assert flow.destination.labels == ["reserved:world-ipv4"]
    assert flow.destination.pod_name == ""


def test_udp_and_other_protocols() -> None:
    assert decode(event(protocol=17)).l4.UDP.destination_port == 8080
    assert decode(event(protocol=132)).l4.SCTP.source_port == 41000
    assert decode(event(protocol=17)).Summary == "UDP"
    other = decode(event(protocol=47))
    assert not other.HasField("l4")
    assert other.Summary == "IP protocol 47"


def test_icmp_of_both_families() -> None:
    echo = decode(event(protocol=1, source_port=99, destination_port=8, tcp_flags=0))
    assert (echo.l4.ICMPv4.type, echo.Summary) == (8, "ICMPv4 EchoRequest")
    error = decode(event(protocol=58, destination_port=1, tcp_flags=4))
    assert (error.l4.ICMPv6.code, error.Summary) == (4, "ICMPv6 DestinationUnreachable(Port)")
    assert describe(4, 8, 1) == "ICMPv4 EchoRequest(Code: 1)"
    assert describe(4, 3, 99) == "ICMPv4 DestinationUnreachable(Code: 99)"
    assert describe(6, 250, 1) == "ICMPv6 250(1)"


def test_to_endpoint_and_unknown_points() -> None:
    assert decode(event(sub_type=record.TO_ENDPOINT)).trace_observation_point == flow_pb2.TO_ENDPOINT
    assert decode(event(sub_type=record.FROM_ENDPOINT)).trace_observation_point == flow_pb2.FROM_ENDPOINT
    assert decode(event(sub_type=77)).trace_observation_point == flow_pb2.UNKNOWN_POINT


def test_uuids_differ_by_number_and_read_as_version_4() -> None:
    one, two = decode(event(), 1).uuid, decode(event(), 2).uuid
    assert one != two
    assert one[14] == "4"
    assert one[19] in "89ab"
