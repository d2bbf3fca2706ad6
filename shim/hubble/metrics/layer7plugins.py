"""The plugins that count what proxies understood. Names, labels and rules are Hubble's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from axoneme.api.hubble.flow import flow_pb2
from shim.flows import dnswords
from shim.hubble.metrics import words
from shim.hubble.metrics.plugin import SECONDS_BUCKETS, Columns, Family, Plugin, Sample

_NO_ERROR: Final = "No Error"
_DENIED: Final = "Policy denied"
_HTTP_SECONDS: Final = "Time until an HTTP request was answered."
Flow = flow_pb2.Flow


def dns(flags: frozenset[str]) -> Plugin:
    """Questions and answers; what was denied counts as a question."""
    with_query, without_aaaa = "query" in flags, "ignoreAAAA" in flags

    def samples(flow: Flow) -> Iterator[Sample]:
        if flow.l7.WhichOneof("record") != "dns":
            return
        said = flow.l7.dns
        qtypes = ",".join(said.qtypes)
        if without_aaaa and qtypes == "AAAA":
            return
        query = (said.query,) if with_query else ()
        if flow.verdict == flow_pb2.DROPPED or not flow.is_reply.value:
            code = _DENIED if flow.verdict == flow_pb2.DROPPED else ""
            yield Sample(0, (code, qtypes, str(len(said.ips)), *query))
            return
        code = dnswords.code_words(said.rcode) if said.rcode else _NO_ERROR
        yield Sample(1, (code, qtypes, str(len(said.ips)), *query))
        for rrtype in said.rrtypes:
            yield Sample(2, (rrtype, qtypes, *query))

    query_label = ("query",) if with_query else ()
    labels = ("rcode", "qtypes", "ips_returned", *query_label)
    return Plugin(
        families=(
            Family("dns_queries", "DNS queries seen.", labels),
            Family("dns_responses", "DNS responses seen.", labels),
            Family("dns_response_types", "Records in DNS responses.", ("type", "qtypes", *query_label)),
        ),
        columns=Columns(verdict=True, reply=True, message=True, query=with_query),
        samples=samples,
        layer7="dns",
    )


def http(_: frozenset[str]) -> Plugin:
    """Requests and responses apart."""

    def samples(flow: Flow) -> Iterator[Sample]:
        if flow.l7.WhichOneof("record") != "http":
            return
        said, reporter = flow.l7.http, words.reporter(flow)
        if flow.l7.type == flow_pb2.REQUEST:
            yield Sample(0, (said.method, said.protocol, reporter))
        elif flow.l7.type == flow_pb2.RESPONSE:
            yield Sample(1, (said.method, said.protocol, str(said.code), reporter))
            yield Sample(2, (said.method, reporter), flow.l7.latency_ns / 1e9)

    labels = ("method", "protocol", "reporter")
    with_status = ("method", "protocol", "status", "reporter")
    return Plugin(
        families=(
            Family("http_requests", "HTTP requests seen.", labels),
            Family("http_responses", "HTTP responses seen.", with_status),
            _http_seconds(),
        ),
        columns=Columns(),
        samples=samples,
        layer7="http",
    )


def http_v2(_: frozenset[str]) -> Plugin:
    """Requests that were answered, with the answer's status; labels tell the client as source."""

    def samples(flow: Flow) -> Iterator[Sample]:
        if flow.l7.WhichOneof("record") != "http" or flow.l7.type != flow_pb2.RESPONSE:
            return
        said, reporter = flow.l7.http, words.reporter(flow)
        yield Sample(0, (said.method, said.protocol, str(said.code), reporter))
        yield Sample(1, (said.method, reporter), flow.l7.latency_ns / 1e9)

    labels = ("method", "protocol", "status", "reporter")
    return Plugin(
        families=(Family("http_requests", "HTTP requests that were answered.", labels), _http_seconds()),
        columns=Columns(),
        samples=samples,
        layer7="http",
        inverted=True,
    )


def kafka(_: frozenset[str]) -> Plugin:
    """Kafka requests."""

    def samples(flow: Flow) -> Iterator[Sample]:
        if flow.l7.WhichOneof("record") != "kafka" or flow.l7.type != flow_pb2.REQUEST:
            return
        said, reporter = flow.l7.kafka, words.reporter(flow)
        yield Sample(0, (said.topic, said.api_key, str(said.error_code), reporter))
        yield Sample(1, (said.topic, said.api_key, reporter), flow.l7.latency_ns / 1e9)

    seconds = Family(
        "kafka_request_duration_seconds",
        "Time that a Kafka request took.",
        ("topic", "api_key", "reporter"),
        SECONDS_BUCKETS,
    )
    labels = ("topic", "api_key", "error_code", "reporter")
    return Plugin(
        families=(Family("kafka_requests", "Kafka requests seen.", labels), seconds),
        columns=Columns(),
        samples=samples,
        layer7="kafka",
    )


def _http_seconds() -> Family:
    labels = ("method", "reporter")
    return Family("http_request_duration_seconds", _HTTP_SECONDS, labels, SECONDS_BUCKETS)
