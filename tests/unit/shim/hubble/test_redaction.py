"""What redaction hides, and that it hides nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from shim.hubble.redaction import REDACTED, RedactionSettings, redact

REQUEST, RESPONSE = flow_pb2.REQUEST, flow_pb2.RESPONSE


def http(url: str, kind: flow_pb2.L7FlowType.ValueType = REQUEST, **headers: str) -> flow_pb2.Flow:
    said = flow_pb2.HTTP(
        method="GET",
        url=url,
        protocol="HTTP/1.1",
        code=200 if kind == RESPONSE else 0,
        headers=[flow_pb2.HTTPHeader(key=key, value=value) for key, value in headers.items()],
    )
    summary = f"HTTP/1.1 GET {url}" if kind == REQUEST else f"HTTP/1.1 200 7ms (GET {url})"
    layer7 = flow_pb2.Layer7(type=kind, latency_ns=7_900_000, http=said)
    return flow_pb2.Flow(l7=layer7, Summary=summary, node_name="east/node1")


def settings(**values: Any) -> RedactionSettings:
    return RedactionSettings(enabled=True, **values)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:pw@api.shop:80/items?q=1#x", f"http://u:{REDACTED}@api.shop:80/items"),
        ("http://u@api.shop/items?q=1", "http://u@api.shop/items"),
        ("http://:pw@api.shop/", f"http://:{REDACTED}@api.shop/"),
        ("//u:p@w@api.shop/a", f"//u:{REDACTED}@api.shop/a"),
        ("u:pw@api.shop", f"u:{REDACTED}@api.shop"),
        ("/items?u:pw@x", "/items"),
        ("/a@b:c", "/a@b:c"),
        ("http://api.shop/a:b@c", "http://api.shop/a:b@c"),
        ("#only", ""),
        ("", ""),
    ],
)
@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
def test_urls(url: str, shown: str, kind: flow_pb2.L7FlowType.ValueType) -> None:
    flow = redact(http(url, kind), settings(http_url_query=True))
    assert flow.l7.http.url == shown
    assert flow.Summary == http(shown, kind).Summary


@pytest.mark.parametrize(
    ("values", "hidden"),
    [
        ({}, {"Host", "Cookie"}),
        ({"http_headers_allow": frozenset(("host",))}, {"Cookie"}),
        ({"http_headers_deny": frozenset(("cookie",))}, {"Cookie"}),
        ({"http_headers_deny": frozenset(("other",))}, set()),
    ],
)
def test_headers(values: dict[str, Any], hidden: set[str]) -> None:
    flow = redact(http("/", Host="api", Cookie="secret"), settings(**values))
    assert {header.key for header in flow.l7.http.headers if header.value == REDACTED} == hidden
    assert "secret" not in str(flow) or "Cookie" not in hidden


def test_kafka_keys() -> None:
    said = flow_pb2.Kafka(api_key="produce", topic="orders")
    flow = flow_pb2.Flow(l7=flow_pb2.Layer7(kafka=said), Summary="Kafka request produce topic 'orders'")
    assert redact(flow, settings()) == flow
    hidden = redact(flow, settings(kafka_api_key=True))
    assert hidden.l7.kafka.api_key == REDACTED
    assert hidden.Summary == f"Kafka request {REDACTED} topic 'orders'"
    assert flow.l7.kafka.api_key == "produce"  # the flow itself stays


def test_by_default_nothing_is_hidden() -> None:
    flow = http("http://u:pw@h/?q", Cookie="secret")
    assert redact(flow, RedactionSettings(http_url_query=True)) is flow
    other = flow_pb2.Flow(l7=flow_pb2.Layer7(dns=flow_pb2.DNS(query="a.")), Summary="DNS Query a. A")
    assert redact(other, settings(http_url_query=True)) is other


@given(
    st.text(alphabet="ab:/@.", max_size=6),
    st.from_regex(r"\Asecret[a-z]{0,3}\Z"),
    st.text("a/?#:", max_size=6),
)
def test_a_password_never_shows(user: str, password: str, rest: str) -> None:
    plain = user.replace("/", "").replace("@", "").replace(":", "")
    flow = redact(http(f"http://{plain}:{password}@host/{rest}"), settings())
    assert password not in str(flow)
    assert flow.l7.http.url == f"http://{plain}:{REDACTED}@host/{rest}"
