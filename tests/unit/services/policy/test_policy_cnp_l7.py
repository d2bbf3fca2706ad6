"""What a proxy is told to do: http, dns, kafka, l7proto, listeners, TLS; and what cannot be done."""

from __future__ import annotations

from typing import Any

import pytest

from services.policy.rules import L7, FqdnPeer, HeaderMatch, HttpRule, TlsContext
from tests.unit.services.policy.readings import CCNP, port_rule_of, refuses, rule_of

TCP80 = [{"port": "80", "protocol": "TCP"}]
DNS = [{"port": "53", "protocol": "UDP"}, {"port": "53", "protocol": "TCP"}]
SECRET = {"secret": {"namespace": "certs", "name": "one"}}


def l7_of(element: dict[str, Any], section: str = "egress") -> L7 | None:
    return port_rule_of({"ports": TCP80, **element}, section).l7


@pytest.mark.parametrize(
    "element",
    [
        {},
        {"rules": None},
        {"rules": {}},
        {"rules": {"http": []}},
        {"rules": {"http": None, "dns": None}},
        {"rules": {"dns": []}},
        {"rules": {"kafka": []}},
        {"serverNames": []},
    ],
)
@pytest.mark.parametrize("section", ["ingress", "egress"])
def test_nothing_to_do_for_a_proxy(element: dict[str, Any], section: str) -> None:
    """R-49: empty rules are no rules."""
    assert l7_of(element, section) is None


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, HttpRule()),
        ({"method": "GET"}, HttpRule(method="GET")),
        ({"path": "/a/.*", "host": "a\\.b"}, HttpRule(path="/a/.*", host="a\\.b")),
        ({"headers": []}, HttpRule()),
        ({"headers": ["X-A", "X-B:c", "X-A"]}, HttpRule(headers=("X-A", "X-B: c"))),
        (
            {"headerMatches": [{"name": "X-A", "value": "b", "mismatch": "LOG"}]},
            HttpRule(header_matches=(HeaderMatch(name="X-A", value="b", mismatch="LOG"),)),
        ),
        (
            {"headerMatches": [{"name": "X-A", "secret": {"name": "s"}}]},
            HttpRule(header_matches=(HeaderMatch(name="X-A", secret="shop/s"),)),
        ),
    ],
)
@pytest.mark.parametrize("section", ["ingress", "egress"])
def test_http(rule: dict[str, Any], expected: HttpRule, section: str) -> None:
    """Every condition; a rule without conditions lets everything through."""
    assert l7_of({"rules": {"http": [rule, rule]}}, section) == L7(
        parser="http", http=(expected,), allow_all=expected == HttpRule()
    )


def test_an_empty_rule_among_others_lets_everything_through() -> None:
    """The rules are a union, and no rule is lost."""
    l7 = l7_of({"rules": {"http": [{"method": "GET"}, {}]}})
    assert l7 == L7(parser="http", http=(HttpRule(), HttpRule(method="GET")), allow_all=True)


@pytest.mark.parametrize(
    ("rule", "path", "words"),
    [
        ({"path": "("}, ".path", "not a regular expression"),
        ({"method": "(?=GET)"}, ".method", "not a regular expression"),
        ({"method": "(?<!a)GET"}, ".method", "not a regular expression"),
        ({"host": "(a)\\1"}, ".host", "not a regular expression"),
        ({"path": "a" * 5000}, ".path", "longer than"),
        ({"path": "((a{1,1000}){1,1000}){1,1000}"}, ".path", "not a regular expression"),
        ({"path": 5}, ".path", "expected a text"),
        ({"Method": "GET"}, ".Method", "unknown key"),
        ({"headers": ["X A: b"]}, ".headers[0]", "not a header"),
        ({"headers": ["X-A value"]}, ".headers[0]", "not a header"),
        ({"headers": ["X-A:"]}, ".headers[0]", "not a header"),
        ({"headers": [""]}, ".headers[0]", "not a header"),
        ({"headers": ["X-A: b\nX-B: c"]}, ".headers[0]", "not a header"),
        ({"headerMatches": [{}]}, ".headerMatches[0]", "no name"),
        ({"headerMatches": [{"name": "X A"}]}, ".headerMatches[0].name", "not the name of a header"),
        (
            {"headerMatches": [{"name": "X", "mismatch": "DROP"}]},
            ".headerMatches[0].mismatch",
            "unknown mismatch",
        ),
        ({"headerMatches": [{"name": "X", "secret": {}}]}, ".headerMatches[0].secret", "no name"),
    ],
)
def test_http_rules_that_are_refused(rule: dict[str, Any], path: str, words: str) -> None:
    """RE2 syntax among them, so that no expression takes more than linear time."""
    spec = {"ingress": [{"toPorts": [{"ports": TCP80, "rules": {"http": [rule]}}]}]}
    refuses(spec, f"spec.ingress[0].toPorts[0].rules.http[0]{path}", words)


def test_dns() -> None:
    """Names and patterns, of UDP, TCP or both."""
    rules = {"dns": [{"matchPattern": "*"}, {"matchName": "A.b."}]}
    expected = L7(parser="dns", dns=(FqdnPeer(text="*", pattern=True), FqdnPeer(text="a.b")))
    for ports in (DNS, [{"port": "53"}], [{"port": "53", "protocol": "ANY"}], [{"port": "dns"}]):
        assert l7_of({"ports": ports, "rules": rules}) == expected


def test_dns_rules_may_have_a_name_and_a_pattern() -> None:
    """Alternatives, other than in toFQDNs; the canonical forms are the same."""
    rules = {"dns": [{"matchName": "A.b.", "matchPattern": "***.C.d"}, {"matchPattern": "x**.y"}]}
    expected = (
        FqdnPeer(text="**.c.d", pattern=True),
        FqdnPeer(text="a.b"),
        FqdnPeer(text="x*.y", pattern=True),
    )
    assert l7_of({"ports": DNS, "rules": rules}) == L7(parser="dns", dns=expected)


def test_so_many_ports_have_rules_at_most() -> None:
    """Over all entries of an endpoint: forty, whatever their protocols; ports without rules do not count."""

    def entry(port: int | str) -> dict[str, Any]:
        return {"toPorts": [{"ports": [{"port": str(port)}], "rules": NAMES}]}

    plain = {"toPorts": [{"ports": [{"port": "1", "endPort": 9000}]}]}
    forty = [plain, *(entry(port) for port in range(1, 41))]
    assert len(rule_of({"egress": [*forty, entry(40)]}).entries) == 42
    refuses({"egress": [*forty, entry("dns")]}, "spec", "41 ports with rules for a proxy, at most 40")


def test_kafka() -> None:
    """As pairs; role and apiKey in lower case, empty texts say nothing."""
    rules = {"kafka": [{"role": "Produce", "topic": "a.b"}, {"apiKey": "FETCH", "clientID": ""}]}
    assert l7_of({"rules": rules}, "ingress") == L7(
        parser="kafka", generic=((("apiKey", "fetch"),), (("role", "produce"), ("topic", "a.b")))
    )
    every = l7_of({"rules": {"kafka": [{}]}})
    assert every is not None
    assert every.allow_all


def test_other_parsers() -> None:
    """Keys and values; without any the parser lets everything through."""
    rules: dict[str, Any] = {"l7proto": "r2d2", "l7": [{"cmd": "READ", "file": "s3*"}, {"cmd": "HALT"}]}
    assert l7_of({"rules": rules}, "ingress") == L7(
        parser="r2d2", generic=((("cmd", "HALT"),), (("cmd", "READ"), ("file", "s3*")))
    )
    assert l7_of({"rules": {"l7proto": "r2d2"}}) == L7(parser="r2d2", allow_all=True)
    assert l7_of({"rules": {"l7proto": "r2d2", "l7": []}}) == L7(parser="r2d2", allow_all=True)
    assert l7_of({"rules": {"l7proto": "r2d2", "l7": [{}]}}) == L7(
        parser="r2d2", allow_all=True, generic=((),)
    )


def listener(**changed: Any) -> dict[str, Any]:
    return {"envoyConfig": {"name": "proxy"}, "name": "out", **changed}


def test_listeners() -> None:
    """Namespaced like the policy unless the kind says otherwise; a priority of 1 to 100."""
    assert l7_of({"listener": listener()}) == L7(parser="crd", allow_all=True, listener="shop/proxy/out")
    wide = {"kind": "CiliumClusterwideEnvoyConfig", "name": "proxy"}
    assert l7_of({"listener": listener(envoyConfig=wide, priority=7)}) == L7(
        parser="crd", allow_all=True, listener="/proxy/out", priority=7
    )
    element = {"ports": [{"port": "0", "protocol": "TCP"}], "listener": listener(), "serverNames": ["a"]}
    (entry,) = rule_of({"egress": [{"toPorts": [element]}]}, CCNP).entries
    assert entry.ports[0].l7 == L7(parser="crd", allow_all=True, listener="/proxy/out", server_names=("a",))


def test_tls() -> None:
    """R-49a: parser tls, or that of the rules; a secret without a namespace is in that of the policy."""
    context = TlsContext(secret_namespace="certs", secret="one")
    names = {"serverNames": ["B.c", "*.a.", "**.d", "B.c"]}
    sides = {"terminatingTLS": SECRET, "originatingTLS": {"secret": {"name": "two"}, "trustedCA": "ca"}}
    both = {
        "terminating": context,
        "originating": TlsContext(secret_namespace="shop", secret="two", trusted_ca="ca"),
    }
    assert l7_of({"terminatingTLS": SECRET}, "ingress") == L7(
        parser="tls", allow_all=True, terminating=context
    )
    assert l7_of(names) == L7(parser="tls", allow_all=True, server_names=("**.d", "*.a", "b.c"))
    assert l7_of({**sides, **names, "rules": {"http": [{"method": "GET"}]}}) == L7(
        parser="http", http=(HttpRule(method="GET"),), server_names=("**.d", "*.a", "b.c"), **both
    )
    full = {"certificate": "c", "privateKey": "k"}
    read = l7_of({"terminatingTLS": {**SECRET, **full}})
    assert read is not None
    assert read.terminating == TlsContext(
        secret_namespace="certs", secret="one", certificate="c", private_key="k"
    )


HTTP = {"http": [{"method": "GET"}]}
NAMES = {"dns": [{"matchPattern": "*"}]}


@pytest.mark.parametrize(
    ("element", "path", "words"),
    [
        # Ports.
        ({"ports": [{"port": "80"}], "rules": HTTP}, ".ports[0]", "http rules need protocol TCP"),
        ({"ports": [{"port": "80", "protocol": "ANY"}], "rules": HTTP}, ".ports[0]", "need protocol TCP"),
        ({"ports": [{"port": "80", "protocol": "UDP"}], "rules": HTTP}, ".ports[0]", "need protocol TCP"),
        ({"ports": [{"port": "0", "protocol": "TCP"}], "rules": HTTP}, ".ports[0]", "port 0"),
        ({"ports": [], "rules": HTTP}, "", "without ports"),
        ({"rules": NAMES, "ports": []}, "", "without ports"),
        ({"ports": [{"port": "9", "protocol": "UDP"}], "rules": {"kafka": [{}]}}, ".ports[0]", "kafka rules"),
        ({"ports": [{"port": "9"}], "rules": {"l7proto": "x"}}, ".ports[0]", "x rules need protocol TCP"),
        (
            {"ports": [{"port": "53", "endPort": 54, "protocol": "UDP"}], "rules": NAMES},
            ".ports[0]",
            "a range of ports",
        ),
        ({"ports": [{"port": "0", "protocol": "UDP"}], "rules": NAMES}, ".ports[0]", "port 0"),
        ({"ports": [{"port": "53", "protocol": "SCTP"}], "rules": NAMES}, ".ports[0]", "DNS rules for SCTP"),
        # Several kinds.
        ({"rules": {**HTTP, "kafka": [{}]}}, ".rules.kafka", "http and kafka rules in one element"),
        ({"rules": {**HTTP, "l7proto": "x"}}, ".rules.l7proto", "in one element"),
        ({"rules": {"l7": [{}]}}, ".rules.l7", "without l7proto"),
        ({"rules": {"l7proto": "http"}}, ".rules.l7proto", "rules of its own"),
        ({"rules": {"l7proto": "a/b"}}, ".rules.l7proto", "not the name of a parser"),
        ({"rules": {"l7proto": "x", "l7": [{"a": 1}]}}, ".rules.l7[0].a", "expected a text"),
        ({"rules": {"l7proto": "x", "l7": [{"": "a"}]}}, ".rules.l7[0]", "a key is empty"),
        ({"rules": {"HTTP": [{}]}}, ".rules.HTTP", "unknown key"),
        ({"rules": []}, ".rules", "expected a mapping"),
        # Kafka.
        ({"rules": {"kafka": [{"role": "produce", "apiKey": "fetch"}]}}, ".rules.kafka[0].apiKey", "exclude"),
        ({"rules": {"kafka": [{"role": "admin"}]}}, ".rules.kafka[0].role", "not a role"),
        ({"rules": {"kafka": [{"apiKey": "fly"}]}}, ".rules.kafka[0].apiKey", "not an API key"),
        ({"rules": {"kafka": [{"apiVersion": "x"}]}}, ".rules.kafka[0].apiVersion", "not an API version"),
        ({"rules": {"kafka": [{"apiVersion": "32768"}]}}, ".rules.kafka[0].apiVersion", "not an API version"),
        ({"rules": {"kafka": [{"topic": "a b"}]}}, ".rules.kafka[0].topic", "not a topic"),
        ({"rules": {"kafka": [{"topic": "a" * 256}]}}, ".rules.kafka[0].topic", "not a topic"),
        # DNS.
        ({"ports": DNS, "rules": {"dns": [{}]}}, ".rules.dns[0]", "says nothing"),
        ({"ports": DNS, "rules": {"dns": [{"matchName": ""}]}}, ".rules.dns[0].matchName", "not a DNS name"),
        (
            {"ports": DNS, "rules": {"dns": [{"matchName": "a", "matchPattern": ""}]}},
            ".rules.dns[0].matchPattern",
            "not a pattern",
        ),
        ({"ports": DNS, "rules": {"dns": [{"matchRegex": "a"}]}}, ".rules.dns[0].matchRegex", "unknown key"),
        ({"ports": DNS, "rules": NAMES, "terminatingTLS": SECRET}, ".terminatingTLS", "DNS rules"),
        ({"ports": DNS, "rules": NAMES, "serverNames": ["a"]}, ".serverNames", "DNS rules"),
        # Listeners.
        ({"listener": listener(), "rules": HTTP}, ".listener", "a listener and rules"),
        ({"listener": {"name": "out"}}, ".listener", "no envoyConfig"),
        ({"listener": {"envoyConfig": {"name": "a"}}}, ".listener", "no name"),
        ({"listener": listener(envoyConfig={})}, ".listener.envoyConfig", "no name"),
        (
            {"listener": listener(envoyConfig={"name": "a", "kind": "X"})},
            ".listener.envoyConfig.kind",
            "unknown",
        ),
        ({"listener": listener(priority=0)}, ".listener.priority", "from 1 to 100"),
        ({"listener": listener(priority=101)}, ".listener.priority", "from 1 to 100"),
        ({"listener": listener(), "ports": []}, "", "without ports"),
        # TLS.
        ({"serverNames": ["a"], "rules": HTTP}, ".serverNames", "without terminatingTLS"),
        ({"serverNames": [""]}, ".serverNames[0]", "not a pattern"),
        ({"serverNames": ["a/b"]}, ".serverNames[0]", "not a pattern"),
        ({"terminatingTLS": {}}, ".terminatingTLS", "no secret"),
        ({"originatingTLS": {"secret": {}}}, ".originatingTLS.secret", "no name"),
        ({"originatingTLS": {"secret": {"name": "A"}}}, ".originatingTLS.secret.name", "not a valid name"),
        ({"originatingTLS": {**SECRET, "ca": "x"}}, ".originatingTLS.ca", "unknown key"),
    ],
)
def test_refused_on_egress(element: dict[str, Any], path: str, words: str) -> None:
    """R-49 and R-49a, one fault each."""
    spec = {"egress": [{"toPorts": [{"ports": TCP80, **element}]}]}
    refuses(spec, f"spec.egress[0].toPorts[0]{path}", words)


def test_refused_on_ingress() -> None:
    """DNS rules and listeners belong to clients."""
    dns = {"ingress": [{"toPorts": [{"ports": DNS, "rules": NAMES}]}]}
    refuses(dns, "spec.ingress[0].toPorts[0].rules", "DNS rules on ingress")
    out = {"ingress": [{"toPorts": [{"ports": TCP80, "listener": listener()}]}]}
    refuses(out, "spec.ingress[0].toPorts[0].listener", "a listener on ingress")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rules", HTTP),
        ("rules", {}),
        ("listener", listener()),
        ("terminatingTLS", SECRET),
        ("originatingTLS", SECRET),
        ("serverNames", ["a"]),
    ],
)
def test_a_deny_has_no_proxy(key: str, value: object) -> None:
    """R-51: dropping the key would deny more, or less, than was written."""
    spec = {"egressDeny": [{"toPorts": [{"ports": TCP80, key: value}]}]}
    refuses(spec, f"spec.egressDeny[0].toPorts[0].{key}", f"a deny has no {key}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("rules", HTTP), ("listener", listener()), ("terminatingTLS", SECRET), ("serverNames", ["a"])],
)
def test_nodes_have_dns_rules_only(key: str, value: object) -> None:
    """R-44."""
    spec = {"nodeSelector": {}, "egress": [{"toPorts": [{"ports": TCP80, key: value}]}]}
    refuses(spec, f"spec.egress[0].toPorts[0].{key}", "only DNS rules", CCNP)
    names = {"nodeSelector": {}, "egress": [{"toPorts": [{"ports": DNS, "rules": NAMES}]}]}
    assert rule_of(names, CCNP).entries[0].ports[0].l7 is not None


def test_a_cluster_wide_policy_uses_cluster_wide_listeners() -> None:
    """It has no namespace in which to look."""
    config = {"kind": "CiliumEnvoyConfig", "name": "proxy"}
    spec = {"egress": [{"toPorts": [{"ports": TCP80, "listener": listener(envoyConfig=config)}]}]}
    path = "spec.egress[0].toPorts[0].listener.envoyConfig.kind"
    refuses(spec, path, "cannot use a CiliumEnvoyConfig", CCNP)
