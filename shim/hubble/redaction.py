"""Hides what messages of layer 7 may give away: queries and passwords of URLs, headers, API keys.

Off by default. What is hidden is hidden before filters look at a flow, for a filter that may ask about a
password tells it sooner or later. Text that looks like no URL is taken apart by the same rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from axoneme.api.hubble.flow import flow_pb2
from shim.flows.decode import FlowDecoder
from shim.flows.query import RecordDecoder

REDACTED: Final = "HUBBLE_REDACTED"
_AUTHORITY: Final = re.compile(r"(?P<before>([A-Za-z][A-Za-z0-9+.-]*:)?//)?(?P<authority>[^/?#]*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedactionSettings:
    """What is hidden."""

    enabled: bool = False
    http_url_query: bool = False
    """The query of a URL, and what follows it."""
    http_user_info: bool = True
    """The password of a URL."""
    http_headers_allow: frozenset[str] = frozenset()
    """Headers (lower case) whose values are shown, and no others."""
    http_headers_deny: frozenset[str] = frozenset()
    """Headers (lower case) whose values are hidden, and no others; without both lists all are."""
    kafka_api_key: bool = False


def redact(flow: flow_pb2.Flow, settings: RedactionSettings) -> flow_pb2.Flow:
    """The flow without what is to be hidden: itself where it holds nothing of it, else another one."""
    record = flow.l7.WhichOneof("record") if settings.enabled and flow.HasField("l7") else None
    if record not in ("http", "kafka"):
        return flow
    shown = flow_pb2.Flow()
    shown.CopyFrom(flow)
    if record == "http":
        _redact_http(shown, settings)
    elif settings.kafka_api_key and flow.l7.kafka.api_key:
        shown.l7.kafka.api_key = REDACTED
        shown.Summary = shown.Summary.replace(flow.l7.kafka.api_key, REDACTED)
    return shown


def _redact_http(flow: flow_pb2.Flow, settings: RedactionSettings) -> None:
    http = flow.l7.http
    for header in http.headers:
        if _hides(header.key.lower(), settings):
            header.value = REDACTED
    url = _url(http.url, settings)
    if url != http.url:
        http.url = url
        flow.Summary = _summary(flow.l7)  # made anew: the old one may spell the URL in another way


def _hides(header: str, settings: RedactionSettings) -> bool:
    if settings.http_headers_allow:
        return header not in settings.http_headers_allow
    return not settings.http_headers_deny or header in settings.http_headers_deny


def _url(text: str, settings: RedactionSettings) -> str:
    if settings.http_url_query:
        text = re.split(r"[?#]", text, maxsplit=1)[0]
    match = _AUTHORITY.match(text)
    if not settings.http_user_info or match is None:
        return text
    user_info, at, host = match["authority"].rpartition("@")
    user, colon, _ = user_info.partition(":")
    if not at or not colon:
        return text
    return f"{match['before'] or ''}{user}:{REDACTED}@{host}{text[match.end() :]}"


def _summary(layer7: flow_pb2.Layer7) -> str:
    """The one line about a message, as Hubble writes it."""
    http = layer7.http
    if layer7.type == flow_pb2.RESPONSE:
        milliseconds = layer7.latency_ns // 1_000_000
        return f"{http.protocol} {http.code} {milliseconds}ms ({http.method} {http.url})"
    return f"{http.protocol} {http.method} {http.url}"


class RedactingDecoder:
    """Decodes as another decoder, and hides."""

    def __init__(self, decoder: RecordDecoder, settings: RedactionSettings) -> None:
        self._decoder, self._settings = decoder, settings

    @property
    def names(self) -> FlowDecoder:
        """What tells the names of ends."""
        return self._decoder.names

    def decode(self, event: Any, number: int) -> flow_pb2.Flow:
        """The flow of a record, as it may be shown."""
        return redact(self._decoder.decode(event, number), self._settings)
