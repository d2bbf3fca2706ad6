"""Explanations: the verdict is that of the map, the rules are named, and the remedy works."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.model import Direction
from services.policy.inputs import PolicySettings
from services.policy.questions.asked import Deciding
from services.policy.questions.changeset import put
from services.policy.questions.explain import (
    DirectionExplanation,
    Question,
    Verdict,
    explain,
    judged,
    verdict_of,
)
from services.policy.questions.parties import FIRST_IMAGINED, Parties, Party, PartySpec
from services.policy.questions.remedy import remedy_for, remedy_policy
from services.policy.questions.replay import replay
from services.policy.reading.objects import parse_objects
from services.policy.records.addressbook import AddressBook
from services.policy.records.addresses import AddressRecord
from services.policy.resolution.engine import PolicyEngine
from tests.conftest import scaled
from tests.model.policycases import cluster_identities, policies

CLUSTER = "east"
FRONTEND, BACKEND, OTHER = 1000, 1001, 1002
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}]}]
  - fromCIDRSet:
    - {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    - {cidr: "2001:db8::/32", except: ["2001:db8:1::/48"]}
  ingressDeny:
  - fromEntities: [remote-node]
"""


def _engine(*texts: str) -> PolicyEngine:
    engine = PolicyEngine(PolicySettings(cluster_name=CLUSTER))
    for number, app in ((FRONTEND, "frontend"), (BACKEND, "backend"), (OTHER, "other")):
        engine.put_identity(number, workload_labels([f"app={app}"], namespace="default", cluster=CLUSTER))
    for text in texts:
        for one in parse_objects(text):
            put(engine, one)
    engine.drain(1)
    return engine


def _parties(engine: PolicyEngine, book: AddressBook | None = None) -> Parties:
    book = book or AddressBook()
    for number, labels in engine.identities.items():
        book.put_identity(number, labels)
    return Parties(book, engine.identities, engine.settings, engine.nodes)


def _ask(
    engine: PolicyEngine, source: PartySpec, *, port: int = 80, protocol: int = 6, to: int = BACKEND
) -> DirectionExplanation:
    parties = _parties(engine)
    question = Question(
        source=parties.resolve(source, name="source"),
        destination=parties.resolve(PartySpec(identity=to), name="destination"),
        protocol=protocol,
        port=port,
        families=engine.settings.families,
    )
    policy = engine.subject(to)
    assert policy is not None
    return explain(policy, Direction.INGRESS, question)


def test_an_allowed_flow_names_its_rule() -> None:
    """Winner, entry and reason."""
    found = _ask(_engine(POLICY), PartySpec(identity=FRONTEND))
    assert found.verdict is Verdict.ALLOW
    assert [one.origin.rule for one in found.winners] == ["spec.ingress[0]"]
    assert found.reason == "allowed by spec.ingress[0] of CiliumNetworkPolicy default/p"
    assert found.key is not None
    assert found.key.identity == FRONTEND
    assert found.fix == ""


def test_a_default_deny_names_who_switched_it_on() -> None:
    """No winner; all rules of the direction switch it on."""
    found = _ask(_engine(POLICY), PartySpec(identity=OTHER))
    assert found.verdict is Verdict.DENY
    assert not found.winners
    rules = [one.origin.rule for one in found.default_deny]
    assert rules == ["spec.ingressDeny[0]", "spec.ingress[0]", "spec.ingress[1]"]
    assert "default deny is on for ingress" in found.reason
    assert "app: other" in found.fix


def test_a_deny_rule_is_named_and_has_to_go() -> None:
    """No allow would help."""
    found = _ask(_engine(POLICY), PartySpec(identity=identities.REMOTE_NODE))
    assert found.verdict is Verdict.DENY
    assert [one.origin.rule for one in found.winners] == ["spec.ingressDeny[0]"]
    assert found.fix.startswith("delete or narrow")


@pytest.mark.parametrize(
    ("address", "verdict"),
    [
        ("10.2.3.4", Verdict.ALLOW),
        ("10.1.3.4", Verdict.DENY),
        ("192.0.2.1", Verdict.DENY),
        ("2001:db8:2::1", Verdict.ALLOW),
        ("2001:db8:1::1", Verdict.DENY),
        ("fd00::1", Verdict.DENY),
    ],
)
def test_addresses_outside(address: str, verdict: Verdict) -> None:
    """CIDR rules with exceptions, both families."""
    assert _ask(_engine(POLICY), PartySpec(ip=address)).verdict is verdict


def test_losers_say_why() -> None:
    """An allow that a deny of another policy beats."""
    deny = POLICY.replace("name: p", "name: q").replace("remote-node", "all")
    found = _ask(_engine(POLICY, deny), PartySpec(identity=FRONTEND))
    assert found.verdict is Verdict.DENY
    assert [(one.origin.name, one.origin.rule) for one in found.winners] == [("q", "spec.ingressDeny[0]")]
    assert {one.origin.rule for one in found.losers} == {"spec.ingress[0]"}
    assert all(one.note for one in found.losers)


def test_a_policy_that_is_tried_out() -> None:
    """The flow passes and is reported; the remedy is offered all the same."""
    audited = POLICY.replace("{name: p,", '{name: p, annotations: {policy.axoneme.io/audit: "true"},')
    found = _ask(_engine(audited), PartySpec(identity=OTHER))
    assert found.verdict is Verdict.AUDIT
    assert "only tried out" in found.reason
    assert found.fix


def test_a_remedy_names_only_what_a_policy_can_name() -> None:
    """A peer without a namespace cannot be; one of another cluster is, by its cluster."""
    engine = _engine(POLICY)
    subject = _parties(engine).resolve(PartySpec(identity=BACKEND), name="x")
    nowhere = Party(identity=1, labels=LabelSet.parse(["k8s:app=x"]))
    assert remedy_policy(Direction.INGRESS, subject, nowhere, 6, 80) is None
    assert "no policy can allow it" in remedy_for(Direction.INGRESS, subject, nowhere, 6, 80)
    west = workload_labels(["app=x"], namespace="default", cluster="west")
    remedy = remedy_policy(Direction.INGRESS, subject, Party(identity=1, labels=west), 6, 80)
    assert remedy is not None
    (selector,) = remedy["spec"]["ingress"][0]["fromEndpoints"]
    assert selector["matchLabels"] == {"k8s:app": "x", "k8s:io.cilium.k8s.policy.cluster": "west"}
    for texts, field in (
        (("reserved:world-ipv6", "cidr:2001-db8--0/32"), {"fromCIDR": ["2001:db8::/32"]}),
        (("reserved:world-ipv4",), {"fromEntities": ["world"]}),
    ):
        outside = Party(identity=1, labels=LabelSet.parse(texts))
        remedy = remedy_policy(Direction.INGRESS, subject, outside, 6, 80)
        assert remedy is not None
        assert remedy["spec"]["ingress"][0].items() >= field.items()


def test_parties() -> None:
    """Pods and addresses by the book, labels that nobody has, and refusals that name the field."""
    engine, book = _engine(POLICY), AddressBook()
    ports = {(6, "web"): 8080}
    book.put(
        AddressRecord(address="10.9.0.1", identity=FRONTEND, namespace="default", pod="fe", named_ports=ports)
    )
    book.put_node("node1", frozenset({"172.18.0.9"}))
    parties = _parties(engine, book)
    pod = parties.resolve(PartySpec(pod=("default", "fe")), name="source")
    assert (pod.identity, pod.named_ports) == (FRONTEND, ports)
    assert parties.resolve(PartySpec(ip="10.9.0.1"), name="source") == pod
    assert parties.resolve(PartySpec(ip="172.18.0.9"), name="source").identity == identities.REMOTE_NODE
    world = parties.resolve(PartySpec(ip="2001:db8::9"), name="source")
    assert (world.identity, world.address) == (identities.WORLD_IPV6, "2001:db8::9")
    labels = tuple(engine.identities[OTHER].texts())
    assert parties.resolve(PartySpec(labels=labels), name="source").identity == OTHER
    texts = ("k8s:app=new", "k8s:io.kubernetes.pod.namespace=default")
    new = parties.resolve(PartySpec(labels=texts), name="source")
    assert new.identity == FIRST_IMAGINED
    assert parties.resolve(PartySpec(labels=texts), name="source") == new
    assert list(parties.imagined) == [FIRST_IMAGINED]
    for spec, error in (
        (PartySpec(), InvalidArgument),
        (PartySpec(ip="10.0.0.300"), InvalidArgument),
        (PartySpec(pod=("default", "nobody")), NotFound),
        (PartySpec(identity=4711), NotFound),
    ):
        with pytest.raises(error, match="destination"):
            parties.resolve(spec, name="destination")


ADDRESSES = ("10.1.2.3", "2001:db8::7")
PACKETS = ((6, 80), (17, 53), (132, 8080), (1, 8), (58, 128))


@settings(max_examples=scaled(25, 200), deadline=None)
@given(objects=policies(), seed=st.integers(0, 10_000))
def test_explanations_agree_with_maps_and_remedies_work(objects: list[dict[str, Any]], seed: int) -> None:
    """The verdict is the map's; what the remedy of a default deny says makes the flow pass."""
    engine = PolicyEngine(PolicySettings(cluster_name=CLUSTER))
    pods = cluster_identities(CLUSTER)
    for number, labels in pods.items():
        engine.put_identity(number, labels)
    for one in parse_objects(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})):
        put(engine, one)
    engine.drain(1)
    parties = _parties(engine)
    numbers = list(pods)
    specs = [PartySpec(identity=numbers[(seed + 5 * step) % len(numbers)]) for step in range(3)]
    specs += [PartySpec(ip=address) for address in ADDRESSES]
    subject = parties.resolve(PartySpec(identity=numbers[seed % len(numbers)]), name="source")
    policy = engine.subject(subject.identity)
    assert policy is not None
    for direction in Direction:
        for spec in specs:
            peer = parties.resolve(spec, name="peer")
            packet = PACKETS[seed % len(PACKETS)]
            question = _question(direction, subject, peer, packet, engine)
            found = explain(policy, direction, question)
            assert found.verdict is verdict_of(judged(policy, direction, question))
            sides = {id(subject): Deciding(policy)}
            replayed = replay([question], lambda one, sides=sides: sides.get(id(one), Deciding()))  # type: ignore[misc]
            assert replayed[0].verdict is found.verdict
            if found.verdict is Verdict.DENY and not found.winners:
                _check_remedy(engine, direction, question)


def _question(
    direction: Direction, subject: Party, peer: Party, packet: tuple[int, int], engine: PolicyEngine
) -> Question:
    source, destination = (peer, subject) if direction is Direction.INGRESS else (subject, peer)
    return Question(
        source=source,
        destination=destination,
        protocol=packet[0],
        port=packet[1],
        families=engine.settings.families,
    )


def _check_remedy(engine: PolicyEngine, direction: Direction, question: Question) -> None:
    subject, peer = question.subject(direction), question.peer(direction)
    remedy = remedy_policy(direction, subject, peer, question.protocol, question.port)
    assert remedy is not None
    copy = engine.fork()
    before = {number: engine.subject(number) for number in engine.identities}
    for one in parse_objects(json.dumps(remedy)):
        put(copy, one)
    copy.drain(2)
    policy = copy.subject(subject.identity)
    assert policy is not None
    assert verdict_of(judged(policy, direction, question)) is Verdict.ALLOW, remedy
    assert before == {number: engine.subject(number) for number in engine.identities}, "the copy leaked"
