"""Which requests L7 rules let through: anchoring, unions, headers, names, key/value pairs."""

from __future__ import annotations

import time

import pytest

from services.policy.cases.l7 import (
    DnsRequest,
    GenericRequest,
    HttpRequest,
    Outcome,
    Request,
    TlsRequest,
    accepts,
    judge,
)
from services.policy.rules import L7, FqdnPeer, HeaderMatch, HttpRule

GET = HttpRequest(method="GET", path="/public/a", host="shop.example.com", headers=(("X-Team", "red"),))


def http(*rules: HttpRule) -> L7:
    """An HTTP rule of an entry."""
    return L7(parser="http", http=rules)


@pytest.mark.parametrize(
    ("rule", "accepted"),
    [
        (HttpRule(), True),
        (HttpRule(method="GET"), True),
        (HttpRule(method="GE"), False),
        (HttpRule(method="get"), False),
        (HttpRule(path="/public"), False),
        (HttpRule(path="/public/.*"), True),
        (HttpRule(path="ublic/a"), False),
        (HttpRule(path="/x|/public/a"), True),
        (HttpRule(path="/public/a|/x"), True),
        (HttpRule(host="shop.example.com"), True),
        (HttpRule(host="example.com"), False),
        (HttpRule(headers=("x-team",)), True),
        (HttpRule(headers=("X-Team: red",)), True),
        (HttpRule(headers=("X-Team: blue",)), False),
        (HttpRule(headers=("X-Team", "X-Other")), False),
        (HttpRule(header_matches=(HeaderMatch(name="X-Team", value="red"),)), True),
        (HttpRule(header_matches=(HeaderMatch(name="X-Team", value="blue"),)), False),
        (HttpRule(header_matches=(HeaderMatch(name="X-Team", value="blue", mismatch="LOG"),)), True),
        (HttpRule(header_matches=(HeaderMatch(name="X-None", value="1", mismatch="ADD"),)), True),
        (HttpRule(header_matches=(HeaderMatch(name="X-Team", secret="ns/name"),)), False),
        (HttpRule(method="POST", path="/public/a"), False),
    ],
)
def test_http(rule: HttpRule, accepted: bool) -> None:
    """R-49: expressions match as a whole, all conditions of a rule hold together."""
    assert accepts(http(rule), GET) is accepted


def test_rules_of_all_entries_form_a_union() -> None:
    """R-47: one accepting entry is enough, an entry without L7 rules accepts everything."""
    post, get = http(HttpRule(method="POST")), http(HttpRule(method="GET"))
    assert judge([post], GET) is Outcome.DENY
    assert judge([post, get], GET) is Outcome.ALLOW
    assert judge([post, None], GET) is Outcome.ALLOW
    assert judge([], GET) is Outcome.DENY
    assert judge([L7(parser="http", allow_all=True)], GET) is Outcome.ALLOW


def test_nothing_is_dropped_where_no_rule_locks() -> None:
    """R-41: with default allow L7 rules only redirect."""
    assert judge([http(HttpRule(method="POST"))], GET, default_allow=True) is Outcome.ALLOW


def test_dns_is_refused() -> None:
    """R-30, R-33: names and patterns, without regard to case and the dot at the end."""
    rules = [
        L7(parser="dns", dns=(FqdnPeer(text="example.com"), FqdnPeer(text="*.example.org", pattern=True)))
    ]
    outcomes = {
        "Example.COM.": Outcome.ALLOW,
        "www.example.com": Outcome.REFUSE,
        "www.example.org": Outcome.ALLOW,
        "a.b.example.org": Outcome.REFUSE,
    }
    assert {name: judge(rules, DnsRequest(name=name)) for name in outcomes} == outcomes


@pytest.mark.parametrize(
    ("names", "asked", "accepted"),
    [
        ((), "x.example.com", True),
        (("x.example.com",), "x.example.com", True),
        (("x.example.com",), "y.example.com", False),
        (("*.example.com",), "y.example.com", True),
        (("*.example.com",), "z.y.example.com", False),
        (("**.example.com",), "z.y.example.com", True),
        (("x.example.com",), "", False),
    ],
)
def test_server_names(names: tuple[str, ...], asked: str, accepted: bool) -> None:
    """R-49a: names restrict TLS also where no other L7 rule does."""
    one = L7(parser="tls", allow_all=True, server_names=names)
    assert accepts(one, TlsRequest(server_name=asked)) is accepted


@pytest.mark.parametrize(
    ("pairs", "fields", "accepted"),
    [
        ((("role", "produce"),), (("apiKey", "metadata"),), True),
        ((("role", "produce"),), (("apiKey", "fetch"),), False),
        ((("apiKey", "fetch"), ("topic", "t")), (("apiKey", "Fetch"), ("topic", "t")), True),
        ((("apiKey", "fetch"), ("topic", "t")), (("apiKey", "fetch"), ("topic", "u")), False),
        ((("topic", "t"),), (), False),
        ((), (), True),
    ],
)
def test_kafka(
    pairs: tuple[tuple[str, str], ...], fields: tuple[tuple[str, str], ...], accepted: bool
) -> None:
    """Key/value pairs all have to be there; a role stands for API keys."""
    one = L7(parser="kafka", generic=(pairs,))
    assert accepts(one, GenericRequest(parser="kafka", fields=fields)) is accepted


def test_a_request_of_another_protocol_is_not_let_through() -> None:
    """Rules for one parser say nothing about requests of another."""
    others: list[Request] = [GET, DnsRequest(name="x"), GenericRequest(parser="other")]
    for one in others:
        assert not accepts(L7(parser="kafka", generic=((),)), one)


def test_an_expression_takes_linear_time() -> None:
    """CVE class of user-written expressions: no text makes matching exponential."""
    rule = http(HttpRule(path="(a|a)*(a|a)*b"))
    start = time.monotonic()
    assert not accepts(rule, HttpRequest(path="a" * 5000))
    assert time.monotonic() - start < 5
