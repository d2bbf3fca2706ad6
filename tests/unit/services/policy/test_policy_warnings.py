"""Each trap is said once, and not where there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.groups import GroupedContributions
from services.policy.inputs import Node, PolicySettings, Service
from services.policy.questions.changeset import put
from services.policy.reading.objects import parse_objects
from services.policy.resolution.engine import PolicyEngine
from services.policy.rules import ParsedPolicy
from services.policy.settings import EnforcementMode
from services.policy.warnings import MAP_ENTRIES, map_size, of_policy, traps_of

WEB, DB = 300, 301
TCP = [{"ports": [{"port": "80", "protocol": "TCP"}]}]


def engine_with(*texts: str, settings: PolicySettings | None = None, pods: int = 0) -> PolicyEngine:
    """Two applications, and some policies."""
    engine = PolicyEngine(settings or PolicySettings(cluster_name="east"))
    for number, app in ((WEB, "web"), (DB, "db")):
        engine.put_identity(number, workload_labels([f"app={app}"], namespace="default", cluster="east"))
    for index in range(pods):
        labels = workload_labels([f"n={index}", "many=x"], namespace="default", cluster="east")
        engine.put_identity(1000 + index, labels)
    for text in texts:
        for one in parse_objects(text):
            put(engine, one)
    engine.drain(1)
    return engine


def text_of(name: str = "p", *, kind: str = "CiliumNetworkPolicy", audit: bool = False, **spec: Any) -> str:
    """A policy of the web application, or of what `spec` selects."""
    metadata: dict[str, Any] = {"name": name}
    if kind == "CiliumNetworkPolicy":
        metadata["namespace"] = "default"
    if audit:
        metadata["annotations"] = {"policy.axoneme.io/audit": "true"}
    if "nodeSelector" not in spec:
        spec = {"endpointSelector": {"matchLabels": {"app": "web"}}, **spec}
    return json.dumps({"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": spec})


def policy(text: str) -> ParsedPolicy:
    """The only policy of a text."""
    (one,) = parse_objects(text)
    assert isinstance(one, ParsedPolicy)
    return one


FROM_DB = {"fromEndpoints": [{"matchLabels": {"app": "db"}}]}


@pytest.mark.parametrize(
    ("spec", "texts"),
    [
        ({"ingress": [{**FROM_DB, "toPorts": TCP}]}, []),
        ({"ingress": [{}]}, ["allows nothing: it names no peer"]),
        ({"ingress": [{"fromEndpoints": []}]}, ["allows nothing: it names no peer"]),
        ({"ingress": [{**FROM_DB, "toPorts": [{}]}]}, ["allows nothing: its toPorts name no port"]),
        ({"ingressDeny": [FROM_DB]}, ["so it denies every port", "only denies, but locks ingress"]),
        ({"ingressDeny": [FROM_DB], "ingress": [{"fromEntities": ["all"]}]}, ["so it denies every port"]),
        (
            {"ingressDeny": [{**FROM_DB, "toPorts": TCP}], "enableDefaultDeny": {"ingress": False}},
            [],
        ),
        (
            {"ingress": [{"fromEntities": ["remote-node"]}]},
            ["allows remote-node: traffic from outside that NodePort"],
        ),
        (
            {"ingress": [{"fromEntities": ["cluster"]}]},
            ["allows cluster: traffic from outside that NodePort"],
        ),
        ({"egress": [{"toEntities": ["cluster"]}]}, []),
        (
            {"ingress": [{**FROM_DB, "toPorts": [{"ports": TCP[0]["ports"], "rules": {"http": [{}]}}]}]},
            ["redirects to a proxy (http)"],
        ),
        ({"ingress": [{**FROM_DB, "authentication": {"mode": "required"}}]}, ["asks for authentication"]),
        ({"ingress": [{**FROM_DB, "authentication": {"mode": "disabled"}}]}, []),
    ],
)
def test_traps_of_the_object(spec: dict[str, Any], texts: list[str]) -> None:
    """What shows without a cluster."""
    found = of_policy(policy(text_of(**spec)))
    assert len(found) == len(texts), found
    for text in texts:
        assert any(text in one for one in found), found


def of(text: str, engine: PolicyEngine) -> list[str]:
    """The traps that show beside a cluster only."""
    found = policy(text)
    alone = of_policy(found)
    assert traps_of(found, engine)[: len(alone)] == alone
    return traps_of(found, engine)[len(alone) :]


def test_default_deny_as_a_side_effect() -> None:
    """Said where it is news: not when another policy locked before, not when the rule does not lock."""
    text = text_of(ingress=[FROM_DB])
    assert of(text, engine_with()) == [
        "switches default deny on for ingress of 1 identity: what no rule allows is dropped there"
    ]
    assert of(text, engine_with(text)) == []
    assert of(text_of("other", egress=[{"toEntities": ["world"]}]), engine_with(text))[0].startswith(
        "switches default deny on for egress"
    )
    assert of(text_of(ingress=[FROM_DB], enableDefaultDeny={"ingress": False}), engine_with()) == []
    both = text_of(endpointSelector={}, ingress=[FROM_DB])
    assert "of 2 identities" in of(both, engine_with())[0]
    assert "of 1 identity" in of(both, engine_with(text))[0]


def test_an_identity_that_two_rules_select_counts_once() -> None:
    """Also where one rule selects more than the other."""
    whole = json.loads(text_of(ingress=[FROM_DB]))
    narrow = whole.pop("spec")
    whole["specs"] = [narrow, {**narrow, "endpointSelector": {}}]
    for engine in (engine_with(), engine_with(json.dumps(whole))):
        found = engine.subject_policies(policy(json.dumps(whole)))
        assert sum(count for _, count in found) == 2


def test_default_deny_of_a_policy_that_is_tried_out() -> None:
    """Nothing is dropped; and two of them say it once."""
    text = text_of(ingress=[FROM_DB], audit=True)
    where = "default deny on for ingress of 1 identity"
    what = "what no rule allows is reported there, not dropped"
    assert of(text, engine_with()) == [f"would switch {where}: {what}"]
    assert of(text_of("q", ingress=[FROM_DB], audit=True), engine_with(text)) == []
    assert "switches default deny on" in of(text_of("q", ingress=[FROM_DB]), engine_with(text))[0]


def test_a_cluster_wide_policy_counts_no_identity_that_has_no_endpoint() -> None:
    """Nodes, hosts and the unmanaged are peers only; health, init and ingress endpoints are subjects."""
    text = text_of(
        kind="CiliumClusterwideNetworkPolicy", endpointSelector={}, ingress=[{"fromEntities": ["all"]}]
    )
    engine = engine_with()
    assert engine.selected_subjects(policy(text)) == {
        WEB,
        DB,
        identities.HEALTH,
        identities.INIT,
        identities.INGRESS,
    }
    # Init is locked already.
    assert "of 4 identities" in of(text, engine)[0]


def test_whom_it_selects() -> None:
    """Nobody; nobody yet; a nodeSelector that has no effect; a cluster that enforces nothing."""
    nobody = text_of(endpointSelector={"matchLabels": {"app": "none"}}, ingress=[FROM_DB])
    assert of(nobody, engine_with()) == [
        "selects no endpoint that is known now; check endpointSelector and namespace"
    ]
    host = text_of(
        kind="CiliumClusterwideNetworkPolicy",
        nodeSelector={"matchLabels": {"role": "edge"}},
        ingress=[{"fromEntities": ["health"]}],
    )
    assert "the host firewall is off" in of(host, engine_with())[0]
    firewall = engine_with(settings=PolicySettings(cluster_name="east", host_firewall=True))
    assert "selects no endpoint" in of(host, firewall)[0]
    firewall.put_node(Node(name="n", labels=LabelSet.parse(["reserved:host", "node:role=edge"])))
    assert of(host, firewall) == []
    never = engine_with(settings=PolicySettings(cluster_name="east", mode=EnforcementMode.NEVER))
    assert of(nobody, never) == ["has no effect: the enforcement mode of the cluster is never"]


def test_references_that_select_nobody() -> None:
    """Services, groups and names, each by its name; nothing once they are there."""
    service = {"toServices": [{"k8sService": {"serviceName": "s", "namespace": "default"}}]}
    text = text_of(
        egress=[
            service,
            {"toCIDRSet": [{"cidrGroupRef": "partners"}]},
            {"toFQDNs": [{"matchName": "example.com"}], "toPorts": TCP},
        ]
    )
    engine = engine_with(text)
    found, how = of(text, engine), "names are learned by rules.dns only"
    assert [one.split(";")[0] for one in found] == [
        "spec.egress[0] refers to service default/s, which selects nobody now",
        "spec.egress[1] refers to CIDR group partners, which selects nobody now",
        f"spec.egress[2] uses toFQDNs, but no DNS rule lets its subjects look names up: {how}",
    ]
    engine.put_service(Service(namespace="default", name="s", backends=("10.0.0.1",)))
    assert len(of(text, engine)) == 2
    dns = {"ports": [{"port": "53", "protocol": "UDP"}], "rules": {"dns": [{"matchPattern": "*"}]}}
    learns = text_of(
        egress=[{"toFQDNs": [{"matchName": "a.b"}]}, {"toEntities": ["cluster"], "toPorts": [dns]}]
    )
    assert not any("toFQDNs" in one for one in of(learns, engine))


def test_names_that_cannot_be_looked_up() -> None:
    """By no rule at all, or by none that has the name; rules of other policies for the subjects count."""

    def dns(**rule: str) -> dict[str, Any]:
        ports = [{"port": "53", "protocol": "UDP"}]
        return {"toEntities": ["cluster"], "toPorts": [{"ports": ports, "rules": {"dns": [rule]}}]}

    def reach(*names: str) -> dict[str, Any]:
        return {"toFQDNs": [{"matchPattern" if "*" in one else "matchName": one} for one in names]}

    def said(*egress: dict[str, Any], beside: str = "") -> list[str]:
        engine = engine_with(beside) if beside else engine_with()
        return [one for one in of(text_of(egress=list(egress)), engine) if "toFQDNs" in one]

    assert "no DNS rule lets its subjects look names up" in said(reach("a.b"))[0]
    assert said(reach("a.b"), dns(matchPattern="*")) == []
    assert said(reach("a.b"), dns(matchPattern="*.b")) == []
    assert said(reach("A.b.", "*.x.b"), dns(matchName="a.B"), dns(matchName="c.x.b")) == []
    other = said(reach("a.b", "a.c", "*.d"), dns(matchName="a.b"))
    assert other[0].startswith("spec.egress[0] names *.d, a.c in toFQDNs, which no DNS rule")
    assert said(reach("a.b"), beside=text_of("other", egress=[dns(matchName="a.b")])) == []
    assert "names a.b in" in said(reach("a.b"), beside=text_of("other", egress=[dns(matchName="a.c")]))[0]
    foreign = text_of("other", endpointSelector={"matchLabels": {"app": "db"}}, egress=[dns(matchName="a.b")])
    assert "look names up" in said(reach("a.b"), beside=foreign)[0]
    everybody = text_of("other", endpointSelector={}, egress=[dns(matchName="a.b")])
    assert said(reach("a.b"), beside=everybody) == []


def test_dns_rules_have_their_proxy() -> None:
    """Every node has a DNS proxy, so that nothing is to be known about it."""
    ports = [{"port": "53", "protocol": "UDP"}]
    elements = [{"ports": ports, "rules": {"dns": [{"matchPattern": "*"}]}}]
    assert of_policy(policy(text_of(egress=[{"toEntities": ["world"], "toPorts": elements}]))) == []


def sized(text: str, engine: PolicyEngine) -> list[str]:
    """The forecast alone."""
    return [one for one in of(text, engine) if one.startswith("needs")]


def test_the_forecast_of_a_map() -> None:
    """Said from four fifths on, before the policy is stored and after; a changed version counts once."""
    many = 7_000
    peers = {"fromEndpoints": [{"matchLabels": {"many": "x"}}]}
    one_port, two_ports = (
        [{"ports": [{"port": str(p), "protocol": "TCP"} for p in ports]}] for ports in ((1,), (1, 2))
    )
    small = text_of(ingress=[{**peers, "toPorts": one_port}])
    large = text_of(ingress=[{**peers, "toPorts": two_ports}])
    engine = engine_with(pods=many)
    assert sized(small, engine) == []
    (text,) = sized(large, engine)
    assert text.startswith(f"needs up to {2 * many} of the {MAP_ENTRIES} entries")
    stored = engine_with(large, pods=many)
    assert len(sized(large, stored)) == 1
    assert sized(small, stored) == []
    assert len(sized(small.replace('"p"', '"q"'), stored)) == 1


def test_prefixes_of_groups_count_in_the_forecast() -> None:
    """Each prefix is an identity on a node, and so an entry."""
    cidrs = [f"10.{index // 256}.{index % 256}.0/24" for index in range(200)]
    group = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumCIDRGroup",
        "metadata": {"name": "g"},
        "spec": {"externalCIDRs": [*cidrs, "2001:db8::/32"]},
    }
    text = text_of(ingress=[{"fromCIDRSet": [{"cidrGroupRef": "g"}], "toPorts": TCP}])
    engine = engine_with(json.dumps(group), text)
    subject = engine.subject(WEB)
    assert subject is not None
    assert isinstance(subject.contributions, GroupedContributions)
    assert map_size(subject) == 202, "201 prefixes and the local host"
    assert engine.size_of(policy(text)) == 201
