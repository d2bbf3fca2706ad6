"""From flags to filters and requests."""

# ruff: noqa: E501  (tables of cases)

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.flags import build_filters
from axoneme.lib.flows.flagtable import conflicting_pairs
from axoneme.lib.flows.request import Selectors, make_request, select_responses
from axoneme.lib.flows.times import parse_time

NOW_NS = 1_772_359_200_000_000_000  # 2026-03-01T10:00:00Z


def built(*flags: tuple[str, ...]) -> tuple[list[Any], list[Any]]:
    lists = build_filters([(name, value, bool(negated)) for name, value, *negated in flags])
    return tuple(
        [json_format.MessageToDict(f, preserving_proto_field_name=True) for f in one] for one in lists
    )  # type: ignore[return-value]


def test_no_flags_no_filters() -> None:
    assert built() == ([], [])


def test_a_flag_of_either_side_makes_two_filters_and_copies_the_others() -> None:
    assert built(("pod", "a"), ("port", "53"), ("verdict", "dropped")) == (
        [
            {"source_pod": ["a"], "source_port": ["53"], "verdict": ["DROPPED"]},
            {"destination_pod": ["a"], "destination_port": ["53"], "verdict": ["DROPPED"]},
        ],
        [],
    )


def test_one_sided_flags_make_one_filter() -> None:
    assert built(("from-pod", "a"), ("to-port", "53"), ("to-port", "80")) == (
        [{"source_pod": ["a"], "destination_port": ["53", "80"]}],
        [],
    )


def test_negated_flags_share_one_filter() -> None:
    assert built(("verdict", "FORWARDED", "not"), ("to-port", "5432", "not")) == (
        [],
        [{"verdict": ["FORWARDED"], "destination_port": ["5432"]}],
    )


def test_namespaces_become_pods() -> None:
    assert built(("namespace", "shop"))[0] == [{"source_pod": ["shop/"]}, {"destination_pod": ["shop/"]}]
    assert built(("namespace", "shop"), ("pod", "web"))[0][0] == {"source_pod": ["shop/web"]}
    assert built(("to-namespace", "shop"), ("to-pod", "shop/web"))[0] == [{"destination_pod": ["shop/web"]}]
    assert built(("all-namespaces", ""))[0][1] == {"destination_pod": ["/"]}
    assert built(("namespace", "shop"), ("service", "api"))[0][0] == {"source_service": ["shop/api"]}
    with pytest.raises(InvalidArgument, match="namespace"):
        built(("namespace", "shop"), ("pod", "data/db"))


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [
        ("identity", "world", {"source_identity": [2]}),
        ("identity", "20101", {"source_identity": [20101]}),
        ("workload", "Deployment/web", {"source_workload": [{"kind": "Deployment", "name": "web"}]}),
        ("workload", "web", {"source_workload": [{"name": "web"}]}),
        ("type", "drop", {"event_type": [{"type": 1}]}),
        ("type", "trace:to-stack", {"event_type": [{"type": 4, "match_sub_type": True, "sub_type": 3}]}),
        (
            "type",
            "agent:policy-updated",
            {"event_type": [{"type": 130, "match_sub_type": True, "sub_type": 3}]},
        ),
        ("type", "5:0", {"event_type": [{"type": 5, "match_sub_type": True}]}),
        ("traffic-direction", "ingress", {"traffic_direction": ["INGRESS"]}),
        ("drop-reason-desc", "policy_deny", {"drop_reason_desc": ["POLICY_DENY"]}),
        ("tcp-flags", "syn,ACK", {"tcp_flags": [{"SYN": True, "ACK": True}]}),
        ("ip-version", "none", {"ip_version": ["IP_NOT_USED"]}),
        ("ipv4", "", {"ip_version": ["IPv4"]}),
        ("ipv6", "", {"ip_version": ["IPv6"]}),
        ("interface", "eth0", {"interface": [{"name": "eth0"}]}),
        ("reply", "false", {"reply": [False]}),
        ("protocol", "dns", {"protocol": ["dns"]}),
        ("type", "l7", {"event_type": [{"type": 129}]}),
        ("to-fqdn", "*.example.com", {"destination_fqdn": ["*.example.com"]}),
        ("dns-query", "^api\\.", {"dns_query": ["^api\\."]}),
        ("node-name", "east/n1", {"node_name": ["east/n1"]}),
    ],
)
def test_values(flag: str, value: str, wanted: dict[str, Any]) -> None:
    assert built((flag, value))[0][0] == wanted


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("identity", "nobody"), ("verdict", "MAYBE"), ("type", "x"), ("type", "trace:nowhere"), ("tcp-flags", "syn,x"),
        ("ip-version", "v5"), ("reply", "perhaps"), ("label", ""), ("traffic-direction", "up"), ("drop-reason-desc", "x"),
    ],
)  # fmt: skip
def test_bad_values_name_the_flag(flag: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=f"--{flag}"):
        built((flag, value))


@pytest.mark.parametrize(
    ("one", "other"),
    [("pod", "from-pod"), ("ip", "pod"), ("namespace", "to-pod"), ("label", "to-label"), ("port", "from-port"),
     ("from-ip", "from-fqdn"), ("all-namespaces", "namespace"), ("identity", "to-identity")],
)  # fmt: skip
def test_contradictions_are_errors(one: str, other: str) -> None:
    with pytest.raises(InvalidArgument, match=f"filters --{one} and --{other} cannot be combined"):
        built((one, "1"), (other, "2"))


def test_what_may_stand_together() -> None:
    pairs = {frozenset(pair) for pair in conflicting_pairs()}
    for pair in (
        ("from-pod", "to-pod"),
        ("from-ip", "to-pod"),
        ("pod", "port"),
        ("namespace", "pod"),
        ("ip", "label"),
    ):
        assert frozenset(pair) not in pairs


REQUESTS = [
    ({}, {"number": "20"}),
    ({"last": 5}, {"number": "5"}),
    ({"first": 3}, {"number": "3", "first": True}),
    ({"take_all": True}, {"number": "18446744073709551615"}),
    ({"follow": True}, {"follow": True}),
    ({"follow": True, "last": 3}, {"follow": True, "number": "3"}),
    ({"since": "5m"}, {"since": "2026-03-01T09:55:00Z"}),
    ({"since": "5m", "until": "1m"}, {"since": "2026-03-01T09:55:00Z", "until": "2026-03-01T09:59:00Z"}),
    ({"since": "5m", "last": 7}, {"since": "2026-03-01T09:55:00Z", "number": "7"}),
    ({"since": "5m", "first": 2}, {"since": "2026-03-01T09:55:00Z", "number": "2", "first": True}),
    ({"until": "1m"}, {"until": "2026-03-01T09:59:00Z"}),
    ({"until": "1m", "follow": True}, {"follow": True}),
    ({"last": 0}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("selectors", "wanted"), REQUESTS)
def test_requests(selectors: dict[str, Any], wanted: dict[str, Any]) -> None:
    request = make_request(Selectors(**selectors), [], [], now_ns=NOW_NS)
    assert json_format.MessageToDict(request, preserving_proto_field_name=True) == wanted


@pytest.mark.parametrize(
    ("selectors", "output"),
    [({"first": 1, "last": 1}, ""), ({"first": 1, "take_all": True}, ""), ({"first": 1, "follow": True}, ""),
     ({"last": 1, "take_all": True}, ""), ({"follow": True}, "table"), ({"follow": True}, "tab")],
)  # fmt: skip
def test_selectors_that_exclude_each_other(selectors: dict[str, Any], output: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be combined"):
        Selectors(**selectors).check(output)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0s", "2026-03-01T10:00:00Z"),
        ("1h30m", "2026-03-01T08:30:00Z"),
        ("1.5s", "2026-03-01T09:59:58.500Z"),
        ("2026-02-28", "2026-02-28T00:00:00Z"),
        ("2026-02-28T10Z", "2026-02-28T10:00:00Z"),
        ("2026-02-28T10:05+01:00", "2026-02-28T09:05:00Z"),
        ("2026-02-28T10:05:06Z", "2026-02-28T10:05:06Z"),
        ("2026-02-28T10:05:06.123456789+02:00", "2026-02-28T08:05:06.123456789Z"),
        ("Sat, 28 Feb 2026 10:05:06 +0000", "2026-02-28T10:05:06Z"),
    ],
)
def test_times(text: str, wanted: str) -> None:
    expected = Timestamp()
    expected.FromJsonString(wanted)
    assert parse_time(text, "since", NOW_NS) == expected


@pytest.mark.parametrize("text", ["", "5", "yesterday", "2026-13-01", "5m ", "-5m"])
def test_bad_times_name_the_flag(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--until"):
        parse_time(text, "until", NOW_NS)


def responses(*seconds: int) -> list[observer_pb2.GetFlowsResponse]:
    made = []
    for second in seconds:
        response = observer_pb2.GetFlowsResponse(node_name="n")
        response.time.seconds = second
        response.flow.node_name = "n"
        made.append(response)
    return made


def picked(everything: bool = False, **request: Any) -> list[int]:
    wanted = observer_pb2.GetFlowsRequest(**request)
    return [r.time.seconds for r in select_responses(responses(1, 2, 3, 4), wanted, everything=everything)]


def test_selection_in_a_file() -> None:
    assert picked(number=2) == [3, 4]
    assert picked(number=2, first=True) == [1, 2]
    assert picked(number=2, everything=True) == [1, 2, 3, 4]
    assert picked(number=2**64 - 1) == [1, 2, 3, 4]
    assert picked(since=Timestamp(seconds=2), until=Timestamp(seconds=3)) == [2, 3]
