"""Requests inside a redirected connection: which of them rules let through.

    L7 rules of every matching allow entry + one request -> allowed, denied, refused

Rules of facts R-46, R-47, R-49, R-49a: the rules of all matching entries form a union, and an entry without
rules accepts everything. HTTP expressions are anchored at both ends and have RE2 syntax, so that no text of a
user can take more than linear time. Pure; it parses no traffic and opens no connection.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import re2

from axoneme.lib import dnsnames
from services.policy.rules import L7, HeaderMatch, HttpRule

_OPTIONS: Final = re2.Options()
_OPTIONS.log_errors = False
# A mismatch that is only noted or mended by the proxy does not stop the request.
_HARMLESS_MISMATCHES: Final = frozenset({"LOG", "ADD", "DELETE", "REPLACE"})
# The API keys that stand behind a role of a Kafka client.
_KAFKA_ROLES: Final = {
    "produce": frozenset({"produce", "metadata", "apiversions"}),
    "consume": frozenset(
        {
            "fetch",
            "offsets",
            "metadata",
            "offsetcommit",
            "offsetfetch",
            "findcoordinator",
            "joingroup",
            "heartbeat",
            "leavegroup",
            "syncgroup",
            "apiversions",
        }
    ),
}


class Outcome(StrEnum):
    """What becomes of a request. `refuse` is the answer that a DNS client gets."""

    ALLOW = "allow"
    DENY = "deny"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """An HTTP request as a proxy sees it; `path` has its query, header names have any case."""

    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.host}{self.path}"

    def values(self, name: str) -> tuple[str, ...]:
        """The values of a header, in their order."""
        wanted = name.lower()
        return tuple(value for key, value in self.headers if key.lower() == wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsRequest:
    """A DNS query for a name."""

    name: str

    def __str__(self) -> str:
        return f"DNS {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRequest:
    """A TLS connection that asks for a server name; empty when it asks for none."""

    server_name: str = ""

    def __str__(self) -> str:
        return f"TLS {self.server_name or 'without server name'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenericRequest:
    """A request of any other parser (`kafka`, `l7proto`) as key/value pairs."""

    parser: str
    fields: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.parser} {', '.join(f'{key}={value}' for key, value in self.fields)}"


Request: TypeAlias = HttpRequest | DnsRequest | TlsRequest | GenericRequest


def judge(rules: Iterable[L7 | None], request: Request, *, default_allow: bool = False) -> Outcome:
    """What becomes of a request, by the L7 rules (None: an entry without) of all entries that let it in.

    `default_allow`: no rule switches default deny on in this direction, so L7 rules drop nothing (R-41).
    """
    if default_allow or any(accepts(one, request) for one in rules):
        return Outcome.ALLOW
    return Outcome.REFUSE if isinstance(request, DnsRequest) else Outcome.DENY


def accepts(l7: L7 | None, request: Request) -> bool:
    """Whether the rules of one entry let a request through."""
    if l7 is None:
        return True
    if isinstance(request, TlsRequest):
        return _accepts_server(l7, request.server_name)
    if l7.allow_all:
        return True
    if isinstance(request, HttpRequest):
        return any(_accepts_http(rule, request) for rule in l7.http)
    if isinstance(request, DnsRequest):
        return any(dnsnames.matches(one.text, pattern=one.pattern, name=request.name) for one in l7.dns)
    return l7.parser == request.parser and any(_accepts_pairs(pairs, request) for pairs in l7.generic)


def _accepts_server(l7: L7, name: str) -> bool:
    """Names restrict TLS; a redirect without names lets every name through."""
    return not l7.server_names or any(
        dnsnames.matches(one, pattern="*" in one, name=name) for one in l7.server_names if name
    )


def _accepts_http(rule: HttpRule, request: HttpRequest) -> bool:
    return (
        _whole(rule.method, request.method)
        and _whole(rule.path, request.path)
        and _whole(rule.host, request.host)
        and all(_has_header(text, request) for text in rule.headers)
        and all(_meets(match, request) for match in rule.header_matches)
    )


def _whole(expression: str, text: str) -> bool:
    return not expression or _compiled(expression)(text)


@functools.lru_cache(maxsize=4096)
def _compiled(expression: str) -> Callable[[str], bool]:
    pattern = re2.compile(expression, options=_OPTIONS)

    def matches(text: str) -> bool:
        try:
            return pattern.fullmatch(text) is not None
        except UnicodeEncodeError:  # half a surrogate pair, which no request can hold
            return False

    return matches


def _has_header(text: str, request: HttpRequest) -> bool:
    """`Name` asks for the header, `Name: value` for the header with this value."""
    name, colon, value = text.partition(":")
    values = request.values(name.strip())
    return value.strip() in values if colon and value.strip() else bool(values)


def _meets(match: HeaderMatch, request: HttpRequest) -> bool:
    if match.mismatch in _HARMLESS_MISMATCHES:
        return True
    values = request.values(match.name)
    if match.secret:
        # What the secret holds is not known here; a condition that cannot be checked is not met.
        return False
    return match.value in values if match.value else bool(values)


def _accepts_pairs(pairs: tuple[tuple[str, str], ...], request: GenericRequest) -> bool:
    given = dict(request.fields)
    return all(_accepts_pair(request.parser, key, value, given) for key, value in pairs)


def _accepts_pair(parser: str, key: str, value: str, given: dict[str, str]) -> bool:
    if parser == "kafka" and key == "role":
        return given.get("apiKey", "").lower() in _KAFKA_ROLES.get(value.lower(), frozenset())
    if parser == "kafka" and key == "apiKey":
        return given.get(key, "").lower() == value.lower()
    return given.get(key) == value
