"""Requests inside flows of a test file, with what must become of each.

    {http: {method, path, host, headers}}   {dns: name}   {tls: server name}
    {kafka: {apiKey: produce, ...}}         {l7proto: name, fields: {...}}

each with `expect` allow, deny or refuse, and `side` egress or ingress where one side alone is meant. The keys
of an HTTP request may also stand in the element itself.
"""

from __future__ import annotations

from typing import Final

from axoneme.lib.policy.model import Direction
from services.policy.cases.l7 import DnsRequest, GenericRequest, HttpRequest, Outcome, Request, TlsRequest
from services.policy.cases.testcase import RequestCheck
from services.policy.cases.testfields import elements, one_of, string_mapping, text_or
from services.policy.reading.document import Node
from services.policy.reading.fields import Fields

_HTTP: Final = ("method", "path", "host", "headers")
_KINDS: Final = ("http", "dns", "tls", "kafka", "l7proto", "fields")
_SIDES: Final = {"egress": Direction.EGRESS, "ingress": Direction.INGRESS}


def read_requests(node: Node | None, fields: Fields) -> tuple[RequestCheck, ...]:
    """The requests of a flow."""
    return tuple(_check(one, fields) for one in elements(node, fields))


def _check(node: Node, fields: Fields) -> RequestCheck:
    found = fields.mapping(node, ("expect", "side", *_KINDS, *_HTTP))
    if "expect" not in found:
        fields.fault(node, "a request needs expect", "add expect: allow, deny or refuse")
    return RequestCheck(
        request=_request(found, node, fields),
        expect=Outcome(one_of(found.get("expect"), tuple(Outcome), Outcome.ALLOW, fields)),
        side=_SIDES[one_of(found["side"], tuple(_SIDES), "egress", fields)] if "side" in found else None,
    )


def _request(found: dict[str, Node], node: Node, fields: Fields) -> Request:
    if len([kind for kind in _KINDS if kind in found and kind != "fields"]) > 1:
        fields.fault(node, "one request of several kinds", "write an element for each")
    if "dns" in found:
        return DnsRequest(name=fields.text(found["dns"]) or "")
    if "tls" in found:
        return TlsRequest(server_name=fields.text(found["tls"]) or "")
    if "kafka" in found:
        return _generic("kafka", found["kafka"], fields)
    if "l7proto" in found:
        return _generic(fields.text(found["l7proto"]) or "", found.get("fields"), fields)
    http = fields.mapping(found["http"], _HTTP) if "http" in found else found
    return HttpRequest(
        method=text_or(http.get("method"), "GET", fields),
        path=text_or(http.get("path"), "/", fields),
        host=text_or(http.get("host"), "", fields),
        headers=_headers(http.get("headers"), fields),
    )


def _headers(node: Node | None, fields: Fields) -> tuple[tuple[str, str], ...]:
    """`{Name: value}`, or a list of `Name: value` texts."""
    if node is None or node.mapping is not None:
        return tuple(string_mapping(node, fields).items())
    pairs = [(fields.text(one) or "").partition(":") for one in fields.items(node)]
    return tuple((name.strip(), value.strip()) for name, _, value in pairs)


def _generic(parser: str, node: Node | None, fields: Fields) -> GenericRequest:
    return GenericRequest(parser=parser, fields=tuple(sorted(string_mapping(node, fields).items())))
