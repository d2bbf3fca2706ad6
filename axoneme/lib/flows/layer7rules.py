"""Filter fields that look at what a proxy understood of a message."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from urllib.parse import unquote, urlsplit

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.flows.regexes import search_of
from axoneme.lib.flows.rule import Predicate, Rule


def dns_query(where: str, values: Sequence[str]) -> Predicate:
    """A regular expression, found anywhere in the name that was asked for."""
    patterns = [search_of(where, value) for value in values]

    def predicate(flow: flow_pb2.Flow) -> bool:
        if flow.l7.WhichOneof("record") != "dns":
            return False
        return any(found(flow.l7.dns.query) for found in patterns)

    return predicate


def http_status(where: str, values: Sequence[str]) -> Predicate:
    """A status code, or its first digits and +."""
    for value in values:
        if not re.fullmatch(r"[1-5](\d\d|\d?\+)", value):
            raise InvalidArgument.of_field(where, f"{value!r} is not a status code such as 503, 50+ or 5+")
    exact = frozenset(value for value in values if "+" not in value)
    prefixes = tuple(value.rstrip("+") for value in values if "+" in value)

    def predicate(flow: flow_pb2.Flow) -> bool:
        code = flow.l7.http.code if flow.l7.WhichOneof("record") == "http" else 0
        return code != 0 and (str(code) in exact or (bool(prefixes) and str(code).startswith(prefixes)))

    return predicate


def http_method(_: str, values: Sequence[str]) -> Predicate:
    """A method in any case."""
    wanted = frozenset(value.lower() for value in values)
    return lambda flow: flow.l7.WhichOneof("record") == "http" and flow.l7.http.method.lower() in wanted


def _http_text(text_of: Callable[[str], str | None]) -> Rule:
    """Regular expressions, found anywhere in what `text_of` takes from the URL of an HTTP message."""

    def rule(where: str, values: Sequence[str]) -> Predicate:
        patterns = [search_of(where, value) for value in values]

        def predicate(flow: flow_pb2.Flow) -> bool:
            if flow.l7.WhichOneof("record") != "http":
                return False
            text = text_of(flow.l7.http.url)
            return text is not None and any(found(text) for found in patterns)

        return predicate

    return rule


def _path(url: str) -> str | None:
    """The path of a URL, decoded; None for what is no URL."""
    try:
        return unquote(urlsplit(url).path, errors="strict")
    except ValueError:
        return None


http_url = _http_text(lambda url: url)
http_path = _http_text(_path)


def http_header(_: str, values: Sequence[flow_pb2.HTTPHeader]) -> Predicate:
    """A header by name and value, both exact."""
    wanted = frozenset((value.key, value.value) for value in values)

    def predicate(flow: flow_pb2.Flow) -> bool:
        if flow.l7.WhichOneof("record") != "http":
            return False
        return any((header.key, header.value) in wanted for header in flow.l7.http.headers)

    return predicate
