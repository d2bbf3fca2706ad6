"""Filters in CEL: the variable, its type, alternatives, failures, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument, Unsupported
from axoneme.lib.flows import celrules
from axoneme.lib.flows.filters import FlowMatcher

FLOW: dict[str, Any] = {
    "verdict": "DROPPED",
    "drop_reason_desc": "POLICY_DENIED",
    "time": "2026-03-01T10:00:00Z",
    "source": {"pod_name": "web-1", "namespace": "shop", "labels": ["k8s:app=web"]},
    "l4": {"TCP": {"destination_port": 80}},
    "IP": {"source": "10.1.0.11"},
    "is_reply": False,
}


def matcher(*expressions: str, **others: Any) -> FlowMatcher:
    fields = {"experimental": {"cel_expression": list(expressions)}, **others}
    return FlowMatcher([json_format.ParseDict(fields, flow_pb2.FlowFilter())])


def matches(*expressions: str, **others: Any) -> bool:
    return matcher(*expressions, **others).matches(json_format.ParseDict(FLOW, flow_pb2.Flow()))


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("_flow.verdict == Verdict.DROPPED", True),
        ("_flow.verdict == flow.Verdict.FORWARDED", False),
        ("_flow.source.pod_name.startsWith('web') && _flow.l4.TCP.destination_port == 80u", True),
        ("_flow.source.labels.exists(l, l == 'k8s:app=web')", True),
        ("has(_flow.is_reply) && !_flow.is_reply", True),
        ("has(_flow.l7)", False),
        ("_flow.time < timestamp('2026-03-01T10:00:01Z')", True),
        ("_flow.IP.source.matches('^10[.]')", True),
        ("_flow.source_names[3] == 'x'", False),
        ("!(_flow.source_names[3] == 'x')", False),
        ("true", True),
    ],
)
def test_expressions(expression: str, wanted: bool) -> None:
    assert matches(expression) is wanted


def test_several_are_alternatives_and_one_that_fails_is_none() -> None:
    assert matches("false", "_flow.source_names[3] == 'x'", "true")
    assert not matches("false", "_flow.source_names[3] == 'x'")
    assert matches()
    assert not matches("true", verdict=["FORWARDED"])


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("_flow.", "cannot be compiled"),
        ("_flow.nonsense == 1", "undefined field 'nonsense'"),
        ("_flow.l4.TCP.destination_port == '80'", "no matching overload"),
        ("_flow.IP.source", "is of type STRING, not bool"),
        ("1", "is of type INT, not bool"),
        ("other == 1", "undeclared reference"),
        ("a" * 5_000, "longer than 4096"),
        ("", "cannot be compiled"),
    ],
)
def test_what_cannot_be_compiled_names_its_field(expression: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"whitelist\[0\]\.experimental\.cel_expression") as caught:
        matcher("true", expression)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_expressions_are_bounded() -> None:
    with pytest.raises(InvalidArgument, match="more than 16"):
        matcher(*["true"] * 17)
    digits = "[0,1,2,3,4,5,6,7,8,9]"
    deep = "true"
    for name in "abcdefgh":
        deep = f"{digits}.all({name}, {deep})"
    assert not matches(deep)


def test_without_the_library_the_field_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    celrules._environment.cache_clear()
    monkeypatch.setitem(sys.modules, celrules.LIBRARY, None)
    with pytest.raises(Unsupported, match=r"whitelist\[0\]\.experimental\.cel_expression: needs the package"):
        matcher("true")


@given(
    st.sampled_from(["FORWARDED", "DROPPED", "AUDIT"]),
    st.sampled_from(["web-1", "api-1", ""]),
    st.integers(0, 100),
    st.sampled_from(["FORWARDED", "DROPPED"]),
    st.sampled_from(["web-1", ""]),
    st.integers(0, 100),
)
def test_an_expression_equals_the_fields_that_say_the_same(
    verdict: str, pod: str, port: int, asked_verdict: str, asked_pod: str, asked_port: int
) -> None:
    values = {"verdict": verdict, "source": {"pod_name": pod}, "l4": {"TCP": {"destination_port": port}}}
    flow = json_format.ParseDict(values, flow_pb2.Flow())
    said = f"_flow.verdict == Verdict.{asked_verdict} && _flow.source.pod_name == '{asked_pod}'"
    expression = matcher(f"{said} && _flow.l4.TCP.destination_port == {asked_port}u").matches(flow)
    plain = (verdict, pod, port) == (asked_verdict, asked_pod, asked_port)
    assert expression is plain
