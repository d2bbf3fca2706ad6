"""Differences between two states of the policies against a judge of single packets; copies of the engine."""

from __future__ import annotations

import ipaddress
import itertools
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib import identities
from axoneme.lib.errors import InvalidArgument, NotFound
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.judge import Judgement, judge
from axoneme.lib.policy.model import (
    Action,
    CidrDefinition,
    Direction,
    Enforcement,
    FqdnDefinition,
    MapEntry,
    PortBlock,
    SubjectPolicy,
    blocks_of_range,
    one_port,
)
from axoneme.lib.policy.outside import OutsideNames
from services.policy.inputs import PolicySettings
from services.policy.questions.asked import Deciding
from services.policy.questions.changeset import Candidate, Change, refuse_conflicts
from services.policy.questions.diff import VerdictChange, changes_of, packets_of, representatives
from services.policy.questions.explain import Question, Verdict
from services.policy.questions.parties import Party
from services.policy.questions.replay import combined, replay
from services.policy.reading.objects import parse_objects
from services.policy.resolution.engine import PolicyEngine
from services.policy.rules import PolicyKey
from tests.conftest import scaled
from tests.model.policycases import reserved_identities
from tests.model.policycases_random import random_policies

CLUSTER = "east"
SETTINGS = PolicySettings(cluster_name=CLUSTER)
PODS = {
    1000 + index: workload_labels(
        [
            f"app={'abc'[index % 3]}",
            f"role={('front', 'back')[index % 2]}",
            f"env={('prod', 'dev')[index % 2]}",
        ],
        namespace=namespace,
        cluster=CLUSTER if index != 7 else "west",
        namespace_labels={"team": ("red", "blue")[index % 2]},
    )
    for index, namespace in enumerate(["default"] * 4 + ["other"] * 3 + ["third"] * 2)
}
FAMILIES = frozenset({"ipv4", "ipv6"})
NAMED = {(6, "web"): 80, (17, "dns"): 53}
ADDRESSES = ("10.1.2.3", "192.0.2.9", "203.0.113.77", "2001:db8::7", "2001:db8:1::9", "fd00::17")
Told = tuple[object, ...]


def engine_with(objects: Iterable[Mapping[str, Any]]) -> PolicyEngine:
    """All pods and some policies, resolved."""
    engine = PolicyEngine(SETTINGS)
    for number, labels in PODS.items():
        engine.put_identity(number, labels)
    Change(objects=parsed(objects)).put_on(engine, ())
    engine.drain(1)
    return engine


def parsed(objects: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Objects as the readers give them."""
    found = list(objects)
    return parse_objects(json.dumps({"apiVersion": "v1", "kind": "List", "items": found})) if found else []


def audited(rng: random.Random, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of the policies only tried out."""
    for one in objects:
        if rng.random() < 0.25 and "Requires" not in json.dumps(one):
            one["metadata"]["annotations"] = {"policy.axoneme.io/audit": "true"}
    return objects


def told(judgement: Judgement) -> Told:
    """A judgement as diff tells entries apart."""
    if judgement.audit:
        return (Action.DENY, True, None, None)
    if judgement.action is None:
        allowed = judgement.default is Enforcement.DEFAULT_ALLOW
        return (Action.ALLOW, False, None, None) if allowed else (Action.DENY,)
    if judgement.action is Action.DENY:
        return (Action.DENY,)
    return (judgement.action, False, judgement.redirect, judgement.auth)


def shown(entry: MapEntry | None) -> Told:
    """An entry in the same words."""
    if entry is None or (entry.action is Action.DENY and not entry.audit):
        return (Action.DENY,)
    return (entry.action, entry.audit, entry.redirect, entry.auth)


def ports_to_ask(*policies: SubjectPolicy) -> set[tuple[int, int]]:
    """Packets at the edges of every block of both policies, and some elsewhere."""
    asked = {(6, 80), (6, 81), (17, 53), (132, 9), (1, 8), (58, 128), (47, 0)}
    for one in (one for policy in policies for one in policy.contributions):
        if isinstance(one.ports, PortBlock) and one.ports.protocol:
            last = one.ports.port + (1 << (16 - one.ports.prefix_length)) - 1
            edges = (one.ports.port - 1, one.ports.port, last, last + 1)
            asked |= {(one.ports.protocol, port) for port in edges if 0 <= port <= 0xFFFF}
    return asked


def predicted(
    changes: Iterable[VerdictChange], direction: Direction, number: int, packet: tuple[int, int]
) -> tuple[Told, Told] | None:
    """What the report says about a packet; None when it says nothing."""
    asked = one_port(*packet)
    found = [
        (shown(one.before), shown(one.after))
        for one in changes
        if one.direction is direction
        and one.peer.number == number
        and one.ports.covers(asked)
        and not any(block.covers(asked) for block in one.without)
    ]
    assert len(found) <= 1, "one packet, one row"
    return found[0] if found else None


def own_trees(policy: SubjectPolicy, local: Mapping[int, LabelSet]) -> set[tuple[Direction, int]]:
    """The peers that have entries of their own."""
    entries = finish(policy, local_identities=local, named_ports=NAMED)
    return {(key.direction, key.identity) for key in entries}


def check(before: SubjectPolicy, after: SubjectPolicy, rng: random.Random) -> Iterator[str]:
    """Packets, of a random choice, about which the report and the judge disagree."""
    changes = list(changes_of(before, after, PODS, named_ports=NAMED))
    definitions = (*before.selectors.values(), *after.selectors.values())
    peers = {number: one.labels for number, one in representatives(definitions).items()}
    trees = own_trees(before, peers) | own_trees(after, peers)
    stranger = 9_999  # an identity that no rule names
    numbers = [*_some(rng, [*PODS, *reserved_identities(), *peers], 12), stranger]
    packets = _some(rng, sorted(ports_to_ask(before, after)), 30)
    for direction in Direction:
        for number in numbers:
            place = number if (direction, number) in trees else 0
            for packet in packets:
                was, now = (
                    told(judge(one, direction, number, *packet, local_identities=peers, named_ports=NAMED))
                    for one in (before, after)
                )
                expected = None if was == now else (was, now)
                found = predicted(changes, direction, place, packet)
                if found != expected:
                    yield f"{direction.name} {number} {packet}: judged {expected}, reported {found}"


def _some(rng: random.Random, items: list[Any], most: int) -> list[Any]:
    return rng.sample(items, min(most, len(items)))


@settings(max_examples=scaled(25, 400), deadline=None)
@given(seed=st.integers(0, 2**32), share=st.booleans())
def test_what_is_reported_is_what_changes(seed: int, share: bool) -> None:
    """For random policies of all kinds, some of them audited, and packets at the edges of every block."""
    rng = random.Random(seed)
    old = audited(rng, random_policies(rng, [4, 6], 3))
    new = audited(rng, random_policies(rng, [4, 6], 3))
    if share:
        new = [*old[: rng.randint(0, len(old))], *under_other_names(new)]
    before, after = engine_with(old), engine_with(new)
    for number in rng.sample(sorted(PODS), 2):
        was, now = before.subject(number), after.subject(number)
        if was is not None and now is not None:
            assert not list(check(was, now, rng))


def under_other_names(objects: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies beside the originals; a baseline has one name only and is left out."""
    return [
        {**one, "metadata": {**one["metadata"], "name": f"new-{one['metadata']['name']}"}}
        for one in objects
        if one["kind"] != "BaselineAdminNetworkPolicy"
    ]


@settings(max_examples=scaled(25, 300), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_candidate_is_what_the_change_would_make(seed: int) -> None:
    """A copy with a change equals an engine that always had it, and the original does not notice."""
    rng = random.Random(seed)
    old, new = random_policies(rng, [4, 6], 4), random_policies(rng, [4, 6], 3)
    engine = engine_with(old)
    before = dict(engine.resolved)
    gone = [key for key in engine.policies if rng.random() < 0.4]
    coming = parsed(new)
    deleted = [key for key in gone if key not in {one.key for one in coming}]
    change = Change(objects=coming, deleted=deleted, replace_all=rng.random() < 0.3)
    try:
        refuse_conflicts(engine, change)
    except InvalidArgument:
        return
    candidate = Candidate(engine, change)
    candidate.resolve(2)
    rest = [] if change.replace_all else [one for key, one in engine.policies.items() if key not in deleted]
    twin = PolicyEngine(SETTINGS)
    for number, labels in PODS.items():
        twin.put_identity(number, labels)
    kept = [one for one in rest if one.key not in {each.key for each in coming}]
    Change(objects=[*kept, *coming]).put_on(twin, ())
    twin.drain(2)
    if not twin.drain(2).faults:
        assert dict(candidate.engine.resolved) == dict(twin.resolved)
    assert dict(engine.resolved) == before
    assert not engine.drain(3).upserts


@settings(max_examples=scaled(20, 200), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_conflicts_are_those_that_resolving_finds(seed: int) -> None:
    """Refused exactly when one of the new policies makes a subject's policy impossible, or could."""
    rng = random.Random(seed)
    first, second = random_policies(rng, [4, 6], 4), random_policies(rng, [4, 6], 4)
    engine = engine_with(first)
    if engine.drain(1).faults:
        return
    coming = parsed(under_other_names(second))
    candidate = Candidate(engine, Change(objects=coming))
    faults = candidate.resolve(2).faults
    found = engine.conflicts_of(*(one for one in coming if hasattr(one, "rules")))
    if faults:
        assert found
        assert all("new-" in str(one) for one in found)
    for one in found:
        assert one.reason


@pytest.mark.parametrize("seed", range(scaled(15, 200)))
def test_replay_agrees_with_single_packets(seed: int) -> None:
    """Many flows at once, inside and outside, as the judge decides on each."""
    rng = random.Random(seed)
    engine = engine_with(audited(rng, random_policies(rng, [4, 6], 4)))
    parties = [Party(identity=number, labels=labels) for number, labels in list(PODS.items())[:4]]
    outside = [
        Party(identity=identities.WORLD_IPV4, labels=LabelSet(()), address=str(ipaddress.ip_address(one)))
        for one in ADDRESSES
    ]
    packets = [(6, 80), (17, 53), (6, 443), (1, 8), (58, 128), (6, rng.randint(1, 65535))]
    questions = [
        Question(source=one, destination=two, protocol=proto, port=port, families=FAMILIES)
        for pod in parties
        for other in (*parties, *outside)
        for one, two in ((pod, other), (other, pod))
        for proto, port in rng.sample(packets, 2)
    ]
    sides = {id(one): Deciding(engine.subject(one.identity)) for one in parties}
    for question, found in zip(
        questions, replay(questions, lambda party: sides.get(id(party), Deciding())), strict=True
    ):
        for side in found.sides:
            policy = sides.get(id(question.subject(side.direction)), Deciding()).policy
            if policy is None:
                assert side.entry is None
                continue
            names = OutsideNames(policy.selectors.values())
            number, labels = question.peer(side.direction).seen_by(names, FAMILIES)
            local = {number: labels} if identities.is_local(number) else {}
            wanted = judge(
                policy,
                side.direction,
                number,
                question.protocol,
                question.port,
                local_identities=local,
                named_ports={},
            )
            assert shown(side.entry) == told(wanted)


def policy_of(ingress: Any) -> dict[str, Any]:
    """A policy of every pod of the namespace default."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"endpointSelector": {}, "ingress": ingress},
    }


def change_between(before: str, after: str, subject: int = 1000) -> list[VerdictChange]:
    """The changes for one pod between two texts, each `ingress` of one policy as JSON."""
    engines = [engine_with([policy_of(json.loads(text))]) for text in (before, after)]
    was, now = (engine.subject(subject) for engine in engines)
    assert was is not None
    assert now is not None
    return list(changes_of(was, now, PODS))


def test_a_range_that_grows_is_reported_without_what_was_open() -> None:
    """Nothing is listed twice, and what stays open is left out of the row around it."""
    one = '[{"fromEntities": ["all"], "toPorts": [{"ports": [{"port": "%s", "protocol": "TCP"}]}]}]'
    changes = change_between(one % 80, '[{"fromEntities": ["all"]}]')
    every = [found for found in changes if found.peer.number == 0]
    assert [(found.ports, found.without) for found in every] == [(PortBlock(0, 0, 0), (one_port(6, 80),))]


@pytest.mark.parametrize("cidr", ["192.0.2.0/24", "2001:db8::/32"])
def test_a_prefix_that_another_policy_narrows_keeps_its_verdict(cidr: str) -> None:
    """A narrower prefix with the same verdict is no change (R-28)."""
    inner = "192.0.2.0/25" if "." in cidr else "2001:db8::/33"
    before, after = f'[{{"fromCIDR": ["{cidr}"]}}]', f'[{{"fromCIDR": ["{cidr}", "{inner}"]}}]'
    assert change_between(before, after) == []


def test_parsers_and_authentication_are_changes() -> None:
    """A redirect to another proxy and another proof are told apart from the same verdict."""
    rule: dict[str, Any] = {
        "fromEndpoints": [{}],
        "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}],
    }
    auth = {**rule, "authentication": {"mode": "required"}}
    changes = change_between(json.dumps([rule]), json.dumps([auth]))
    assert {(found.before and found.before.auth, found.after and found.after.auth) for found in changes} == {
        (None, 2)
    }


@given(
    ranges=st.lists(
        st.tuples(st.sampled_from([6, 17]), st.integers(0, 65535), st.integers(0, 65535)), max_size=6
    )
)
@settings(max_examples=scaled(40, 300), deadline=None)
def test_packets_of_blocks(ranges: list[tuple[int, int, int]]) -> None:
    """Each packet's narrowest block is the one it stands for; a block without a packet is filled."""
    blocks = {
        block for proto, one, two in ranges for block in blocks_of_range(proto, min(one, two), max(one, two))
    }
    found = dict(packets_of(blocks))
    for block in blocks:
        inside = [one for one in blocks if one != block and block.covers(one)]
        if block in found:
            asked = one_port(*found[block])
            assert block.covers(asked)
            assert not any(one.covers(asked) for one in inside)
        else:
            size = 1 << (16 - block.prefix_length)
            covered = {
                port for one in inside for port in range(one.port, one.port + (1 << (16 - one.prefix_length)))
            }
            assert len(covered) == size


def test_what_a_change_refuses() -> None:
    """Names that are not there, or come and go at once."""
    one = policy_of([{}])
    engine, key = engine_with([one]), PolicyKey("CiliumNetworkPolicy", "default", "p")
    with pytest.raises(NotFound, match="default/other"):
        Candidate(engine, Change(deleted=[key._replace(name="other")]))
    with pytest.raises(InvalidArgument, match="gives too"):
        Candidate(engine, Change(objects=parsed([one]), deleted=[key]))
    assert Change(replace_all=True).gone(engine) == [key]


def test_representatives_of_both_families() -> None:
    """Prefixes, names, the world and API servers outside; of the families that the cluster has."""
    definitions = [CidrDefinition(("10.0.0.0/8", "0.0.0.0/0")), CidrDefinition(("2001:db8::/32",))]
    for families, prefixes, count in (
        (FAMILIES, {"10.0.0.0/8", "2001:db8::/32"}, 8),
        (frozenset({"ipv4"}), {"10.0.0.0/8"}, 4),
        (frozenset({"ipv6"}), {"2001:db8::/32"}, 4),
    ):
        found = representatives([*definitions, FqdnDefinition("a.b")], families)
        assert {one.prefix for one in found.values() if one.prefix} == prefixes
        assert len(found) == len({one.labels for one in found.values()}) == count
        assert all(identities.is_local(number) for number in found)


def test_both_sides_together() -> None:
    """What is worst for a flow wins; without any policy it passes."""
    order = [Verdict.ALLOW, Verdict.AUDIT, Verdict.REDIRECT, Verdict.DENY, Verdict.ERROR]
    for one, two in itertools.product(order, order):
        assert combined([one, two]) is max(one, two, key=order.index)
    assert combined([]) is Verdict.ALLOW


def test_rules_with_a_selector_that_selects_nobody_contradict_too() -> None:
    """The same selector means the same subjects, also before there are any."""
    rule = {"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}
    one, two = (
        {
            **policy_of([{**rule, "authentication": {"mode": mode}}]),
            "metadata": {"name": mode, "namespace": "none"},
        }
        for mode in ("required", "disabled")
    )
    with pytest.raises(InvalidArgument, match=r"none/disabled and .*none/required"):
        refuse_conflicts(engine_with([one]), Change(objects=parsed([two])))
    for present in ([], [one]):
        with pytest.raises(InvalidArgument, match="contradict each other"):
            refuse_conflicts(engine_with(present), Change(objects=parsed([one, two]), replace_all=True))


def test_labels_of_nodes_with_numbers_are_peers_of_their_own() -> None:
    """Where settings give nodes numbers, a rule about their labels shows in the report."""
    settings_ = PolicySettings(cluster_name=CLUSTER, node_labels=True)
    rule = [{"fromNodes": [{"matchLabels": {"role": "edge"}}]}]
    policies = []
    sections: list[Any] = [[{}], rule]
    for ingress in sections:
        engine = PolicyEngine(settings_)
        engine.put_identity(1000, PODS[1000])
        Change(objects=parsed([policy_of(ingress)])).put_on(engine, ())
        engine.drain(1)
        policies.append(engine.subject(1000))
    before, after = policies
    assert before is not None
    assert after is not None
    edge, core = (LabelSet.parse(["reserved:remote-node", f"node:role={role}"]) for role in ("edge", "core"))
    changes = list(changes_of(before, after, {}, nodes=[edge, core]))
    assert [(one.peer.labels, one.before, one.after and one.after.action) for one in changes] == [
        (edge, None, Action.ALLOW)
    ]
