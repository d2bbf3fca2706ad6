"""The engine feature by feature: who is affected, how subjects are locked, what references become."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib import identities
from axoneme.lib.labels import Label, LabelSet, workload_labels
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AuthMode,
    CidrDefinition,
    Direction,
    Enforcement,
    IdentityPeer,
    LabelsDefinition,
    NamedPort,
    PortBlock,
    SelectorPeer,
    SubjectPolicy,
)
from axoneme.lib.policy.precedence import Tier
from axoneme.lib.policy.subjects import host_key, subject_key
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.inputs import CidrGroup, CloudGroup, EnforcementMode, Node, PolicySettings, Service
from services.policy.resolution.engine import PolicyEngine
from services.policy.rules import (
    L7,
    CidrGroupPeer,
    CidrPeer,
    EntityName,
    ParsedPolicy,
    Peers,
    PolicyKey,
    PortRule,
    Rule,
    RuleEntry,
    ServicePeer,
    TlsContext,
)
from services.policy.scope import in_any_namespace, in_namespace

ALLOW, DENY = Enforcement.DEFAULT_ALLOW, Enforcement.DEFAULT_DENY
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
EVERYONE = LabelSelector((in_any_namespace(),))
TCP80, WEB = PortBlock(6, 80, 16), NamedPort(6, "web")


def pod(app: str, namespace: str = "a", cluster: str = "east") -> LabelSet:
    return workload_labels([f"app={app}"], namespace=namespace, cluster=cluster)


def apps(*names: str, namespace: str = "a") -> LabelSelector:
    return LabelSelector.of(in_namespace(namespace), Requirement("any", "app", Operator.IN, names))


def entry(peers: Peers, direction: Direction = INGRESS, index: int = 0, **more: Any) -> RuleEntry:
    values: dict[str, Any] = {"action": Action.ALLOW, **more}
    return RuleEntry(
        path=f"spec.{direction.name.lower()}[{index}]", direction=direction, peers=peers, **values
    )


def policy(
    name: str, *entries: RuleEntry, subject: LabelSelector = EVERYONE, audit: bool = False, **more: Any
) -> ParsedPolicy:
    locks = frozenset(one.direction for one in entries if one.tier is Tier.NORMAL)
    rule = Rule(**{"path": "spec", "subject": subject, "entries": entries, "locks": locks, **more})
    key = PolicyKey("CiliumNetworkPolicy", "a", name)
    return ParsedPolicy(key=key, labels=(), rules=(rule,), document={}, audit=audit)


def engine_with(*policies: ParsedPolicy, **settings: Any) -> PolicyEngine:
    engine = PolicyEngine(PolicySettings(**{"cluster_name": "east", **settings}))
    for number, app in ((300, "web"), (301, "db")):
        engine.put_identity(number, pod(app))
    for one in policies:
        engine.put_policy(one)
    engine.drain(1)
    return engine


def subject(engine: PolicyEngine, number: int) -> SubjectPolicy:
    found = engine.subject(number)
    assert found is not None
    return found


def numbers(found: SubjectPolicy, direction: Direction = INGRESS) -> set[int]:
    peers = [one.peer for one in found.contributions if one.direction is direction]
    return {peer.number for peer in peers if isinstance(peer, IdentityPeer)}


def references(found: SubjectPolicy) -> set[str]:
    named = {one.peer.key for one in found.contributions if isinstance(one.peer, SelectorPeer)}
    assert named == set(found.selectors)
    return named


def test_only_affected_subjects_change() -> None:
    """A new frontend touches the backend's policy and itself, nobody else."""
    engine = engine_with(policy("p", entry(Peers(selectors=(apps("front"),))), subject=apps("db")))
    engine.put_identity(302, pod("front"))
    assert engine.affected_subjects(302) == {subject_key(301), subject_key(302)}
    drained = engine.drain(3)
    assert set(drained.upserts) == {subject_key(301), subject_key(302)}
    assert drained.upserts[subject_key(301)].policy_revision == 3
    engine.put_policy(engine.policies[PolicyKey("CiliumNetworkPolicy", "a", "p")])
    assert not engine.drain(4).upserts
    engine.remove_identity(302)
    drained = engine.drain(5)
    assert (set(drained.upserts), set(drained.removals)) == ({subject_key(301)}, {subject_key(302)})
    engine.remove_policy(PolicyKey("CiliumNetworkPolicy", "a", "p"))
    assert set(engine.drain(6).upserts) == {subject_key(301)}
    assert engine.rules_of(301) == ()


def test_what_comes_and_goes_between_drains_leaves_no_trace() -> None:
    """A change that is taken back is no change."""
    engine = engine_with(policy("p", entry(Peers(selectors=(apps("front"),)))))
    engine.put_identity(302, pod("front"))
    engine.remove_identity(302)
    engine.put_policy(policy("q", entry(Peers(anyone=True))))
    engine.remove_policy(PolicyKey("CiliumNetworkPolicy", "a", "q"))
    drained = engine.drain(2)
    assert not drained.upserts
    assert not drained.removals


def test_subjects_of_the_same_rules_share_one_policy() -> None:
    """Resolved once, sent as one object; groups that a change leaves alone stay the same objects."""
    engine = engine_with(
        policy("p", entry(Peers(selectors=(apps("front"),))), entry(Peers(anyone=True), EGRESS))
    )
    assert engine.subject(300) is engine.subject(301)
    before = subject(engine, 300).contributions.groups  # type: ignore[attr-defined]
    engine.put_identity(302, pod("front"))
    engine.drain(2)
    after = subject(engine, 300).contributions.groups  # type: ignore[attr-defined]
    assert after[1] is before[0]


@pytest.mark.parametrize(
    ("settings", "number", "expected"),
    [
        ({}, 300, (ALLOW, ALLOW)),
        ({}, identities.INIT, (DENY, DENY)),
        ({"mode": EnforcementMode.ALWAYS}, 300, (DENY, DENY)),
        ({"mode": EnforcementMode.ALWAYS}, identities.HOST, (ALLOW, ALLOW)),
        ({"mode": EnforcementMode.NEVER}, identities.INIT, (ALLOW, ALLOW)),
    ],
)
def test_modes_without_rules(
    settings: dict[str, Any], number: int, expected: tuple[Enforcement, Enforcement]
) -> None:
    """R-42; no rule about ingress, so the local host is not let in by itself either (R-43)."""
    found = subject(engine_with(**settings), number)
    assert (found.ingress, found.egress) == expected
    assert not found.contributions
    assert all((found.enforcement(d) is DENY) == bool(found.default_deny(d)) for d in Direction)
    assert set(found.ingress_default_deny | found.egress_default_deny) == set(found.origins)


def test_never_means_never() -> None:
    """R-42: nothing counts, denies included."""
    found = subject(
        engine_with(policy("p", entry(Peers(anyone=True), action=Action.DENY)), mode=EnforcementMode.NEVER),
        300,
    )
    assert (found.ingress, set(found.contributions)) == (ALLOW, set())


@pytest.mark.parametrize(
    ("one", "settings", "let_in"),
    [
        (policy("p", entry(Peers())), {}, True),
        (policy("p", entry(Peers())), {"allow_localhost": False}, False),
        (policy("p", entry(Peers(), EGRESS)), {}, False),
        (policy("p", entry(Peers(), EGRESS)), {"mode": EnforcementMode.ALWAYS}, False),
        (policy("p", locks=frozenset({INGRESS})), {}, True),
    ],
)
def test_localhost(one: ParsedPolicy, settings: dict[str, Any], let_in: bool) -> None:
    """R-43: only where a rule is about ingress."""
    assert (identities.HOST in numbers(subject(engine_with(one, **settings), 300))) is let_in


def test_a_locked_direction_without_entries_names_the_rule() -> None:
    """As knp `ingress: []`."""
    one = policy("p", locks=frozenset({INGRESS}))
    found = subject(engine_with(one), 300)
    assert {found.origins[number].rule for number in found.ingress_default_deny} == {"spec"}
    assert (found.ingress, found.egress) == (DENY, ALLOW)


def test_rules_that_lock_nothing_leave_the_default() -> None:
    """R-41: enableDefaultDeny false; a single rule that locks is enough."""
    quiet = policy("quiet", entry(Peers(selectors=(apps("db"),))), locks=frozenset())
    assert subject(engine_with(quiet), 300).ingress is ALLOW
    assert subject(engine_with(quiet, policy("loud", entry(Peers()))), 300).ingress is DENY


def test_an_audited_policy_locks_on_trial_only() -> None:
    """Its parts are marked, the enforced default stays."""
    tried = policy("tried", entry(Peers(selectors=(apps("db"),))), audit=True)
    found = subject(engine_with(tried), 300)
    assert (found.ingress, found.audit_ingress, found.audit_egress) == (ALLOW, DENY, None)
    assert found.ingress_default_deny
    assert {one.audit for one in found.contributions if one.peer == IdentityPeer(301)} == {True}
    both = subject(engine_with(tried, policy("real", entry(Peers()))), 300)
    assert (both.ingress, both.audit_ingress) == (DENY, None)


def test_the_baseline_counts_where_rules_lock() -> None:
    """Default deny is below every tier: the baseline decides what no rule of the tiers above does."""
    baseline = policy("base", entry(Peers(anyone=True), tier=Tier.BASELINE))
    origin = frozenset({baseline.origin_of_path("spec.ingress[0]").origin_id})
    for more in ((), (policy("p", entry(Peers())),), (policy("p", entry(Peers()), audit=True),)):
        found = subject(engine_with(baseline, *more), 300)
        assert origin in {one.origins for one in found.contributions}
        assert origin.isdisjoint(found.ingress_default_deny)


def test_unmanaged_is_no_member_of_the_cluster() -> None:
    """ADR 0009: an address whose identity is not known yet must not pass as part of the cluster."""
    engine = engine_with(policy("p", entry(Peers(entities=(EntityName.CLUSTER,)))))
    engine.put_identity(302, pod("x", cluster="west"))
    engine.drain(2)
    found = numbers(subject(engine, 300))
    assert identities.UNMANAGED not in found
    assert {identities.HOST, identities.KUBE_APISERVER, 300} <= found
    assert 302 not in found


@pytest.mark.parametrize(
    ("entity", "families", "expected", "keys"),
    [
        (EntityName.HOST, 2, {1}, set()),
        (EntityName.REMOTE_NODE, 2, {6, 7}, {"entity:remote-node"}),
        (EntityName.KUBE_APISERVER, 2, {7}, {"entity:kube-apiserver"}),
        (EntityName.HEALTH, 2, {4}, set()),
        (EntityName.INIT, 2, {5}, set()),
        (EntityName.UNMANAGED, 2, {3}, set()),
        (EntityName.INGRESS, 2, {8}, set()),
        (EntityName.NONE, 2, set(), set()),
        (EntityName.WORLD, 2, set(), {"entity:world"}),
        (EntityName.WORLD_IPV4, 2, set(), {"entity:world-ipv4"}),
        (EntityName.WORLD_IPV6, 2, set(), {"entity:world-ipv6"}),
        (EntityName.WORLD_IPV4, 1, set(), set()),
        (EntityName.WORLD_IPV6, 1, set(), set()),
        (EntityName.CLUSTER_MESH, 2, {1, 4, 5, 6, 7, 8, 300, 301, 302}, {"entity:cluster-mesh"}),
    ],
)
def test_entities(entity: EntityName, families: int, expected: set[int], keys: set[str]) -> None:
    """R-23 to R-25; in a cluster of one family nobody carries the name of a family."""
    both = frozenset({"ipv4", "ipv6"})
    one = policy("p", entry(Peers(entities=(entity,)), EGRESS))
    engine = engine_with(one, families=both if families == 2 else frozenset({"ipv6"}))
    engine.put_identity(302, pod("x", cluster="west"))
    engine.drain(2)
    found = subject(engine, 300)
    assert (numbers(found, EGRESS), references(found)) == (expected, keys)


def test_default_cluster() -> None:
    """R-19: only selectors that name neither a cluster nor a reserved label are narrowed."""
    other = LabelSelector((Requirement("k8s", "io.cilium.k8s.policy.cluster", Operator.EXISTS),))
    for selector, wide in ((EVERYONE, False), (other, True)):
        engine = engine_with(policy("p", entry(Peers(selectors=(selector,)))), default_local_cluster=True)
        engine.put_identity(302, pod("x", cluster="west"))
        engine.drain(2)
        assert (302 in numbers(subject(engine, 300))) is wide


def test_selectors_that_only_nodes_can_resolve_travel() -> None:
    """A selector that an address outside may meet is a reference with its definition."""
    open_selector = LabelSelector((Requirement("reserved", "init", Operator.DOES_NOT_EXIST),))
    found = subject(engine_with(policy("p", entry(Peers(selectors=(open_selector, EVERYONE))))), 300)
    assert [*found.selectors.values()] == [LabelsDefinition((open_selector,))]
    assert identities.INIT not in numbers(found)
    assert 301 in numbers(found)


@pytest.mark.parametrize("backend", ["198.51.100.7", "2001:db8::7"])
def test_services(backend: str) -> None:
    """With a selector the pods of its namespace, else its addresses; until it is there nobody (R-22)."""
    engine = engine_with(policy("p", entry(Peers(services=(ServicePeer(namespace="a", name="s"),)), EGRESS)))
    peers = engine.policies[PolicyKey("CiliumNetworkPolicy", "a", "p")].rules[0].entries[0].peers
    assert not subject(engine, 300).contributions
    assert engine.unresolved(peers) == ["service a/s"]
    engine.put_identity(302, pod("db", "b"))
    engine.put_service(Service(namespace="a", name="s", selector={"app": "db"}))
    engine.drain(2)
    assert numbers(subject(engine, 300), EGRESS) == {301}
    engine.put_service(Service(namespace="a", name="s", backends=(backend, "nonsense", "10.0.0.0/8")))
    engine.drain(3)
    prefix = f"{backend}/{32 if '.' in backend else 128}"
    assert subject(engine, 300).selectors == {"service:a/s": CidrDefinition(include=(prefix,))}
    assert references(subject(engine, 300))
    engine.remove_service("a", "s")
    engine.drain(4)
    assert not subject(engine, 300).contributions
    assert not subject(engine, 300).selectors


def test_services_by_labels() -> None:
    """A service that gets the label joins."""
    wanted = LabelSelector((Requirement("any", "svc", Operator.IN, ("1",)),))
    engine = engine_with(policy("p", entry(Peers(services=(ServicePeer(selector=wanted),)), EGRESS)))
    service = Service(namespace="a", name="s", labels={"svc": "2"}, selector={"app": "db"})
    engine.put_service(service)
    assert not engine.drain(2).upserts
    engine.put_service(Service(namespace="a", name="s", labels={"svc": "1"}, selector={"app": "db"}))
    engine.drain(3)
    assert numbers(subject(engine, 300), EGRESS) == {301}
    engine.remove_service("a", "s")
    engine.drain(4)
    assert not subject(engine, 300).contributions


@pytest.mark.parametrize("cidr", ["192.0.2.0/24", "2001:db8::/48"])
def test_groups_by_labels(cidr: str) -> None:
    """A group that gets the label joins, one that goes leaves."""
    wanted = LabelSelector((Requirement("any", "kind", Operator.IN, ("x",)),))
    engine = engine_with(policy("p", entry(Peers(cidr_groups=(CidrGroupPeer(selector=wanted),)), EGRESS)))
    key = PolicyKey("CiliumCIDRGroup", "", "g")
    engine.put_cidr_group(CidrGroup(key=key, labels={"kind": "y"}, cidrs=(cidr,)))
    assert not engine.drain(2).upserts
    engine.put_cidr_group(CidrGroup(key=key, labels={"kind": "x"}, cidrs=(cidr,)))
    engine.drain(3)
    assert [*subject(engine, 300).selectors.values()] == [CidrDefinition(include=(cidr,))]
    engine.remove_cidr_group(key)
    engine.drain(4)
    assert not subject(engine, 300).contributions


@pytest.mark.parametrize(
    ("cidr", "hole"), [("192.0.2.0/24", "192.0.2.64/26"), ("2001:db8::/48", "2001:db8:0:1::/64")]
)
def test_groups_of_addresses(cidr: str, hole: str) -> None:
    """A group is one reference; an empty or missing one is nobody, never everybody (CVE-2025-64715)."""
    by_name = CidrGroupPeer(name="g", excepts=(hole,))
    by_labels = CidrGroupPeer(selector=LabelSelector((Requirement("any", "kind", Operator.EXISTS),)))
    key = PolicyKey("CiliumCIDRGroup", "", "g")
    engine = engine_with(policy("p", entry(Peers(cidr_groups=(by_name, by_labels)), EGRESS)))
    assert not subject(engine, 300).contributions
    assert subject(engine, 300).egress is DENY
    engine.put_cidr_group(CidrGroup(key=key, labels={"kind": "x"}, cidrs=(cidr,)))
    assert set(engine.drain(2).upserts) >= {subject_key(300), subject_key(301)}
    assert set(subject(engine, 300).selectors.values()) == {
        CidrDefinition(include=(cidr,), exclude=(hole,)),
        CidrDefinition(include=(cidr,)),
    }
    engine.put_cidr_group(CidrGroup(key=key, labels={}, cidrs=(cidr,)))
    engine.drain(3)
    assert references(subject(engine, 300)) == {f"cidrgroup:g-{hole}"}
    engine.remove_cidr_group(key)
    engine.drain(4)
    assert not subject(engine, 300).contributions


def test_cloud_groups() -> None:
    """By the text of the reference; one that reports nothing is nobody."""
    key = PolicyKey("CloudGroup", "", "c")
    engine = engine_with(policy("p", entry(Peers(cloud_groups=('{"aws":1}',)), EGRESS)))
    engine.put_cloud_group(
        CloudGroup(key=key, reference='{"aws":1}', cidrs=("192.0.2.0/24", "2001:db8::/48"))
    )
    engine.drain(2)
    (definition,) = subject(engine, 300).selectors.values()
    assert definition == CidrDefinition(include=("192.0.2.0/24", "2001:db8::/48"))
    engine.put_cloud_group(CloudGroup(key=key, reference='{"aws":2}', cidrs=("192.0.2.0/24",)))
    engine.drain(3)
    assert not subject(engine, 300).contributions
    engine.remove_cloud_group(key)
    assert not engine.drain(4).upserts


@pytest.mark.parametrize(
    ("cidr", "hole"), [("10.0.0.0/8", "10.1.0.0/16"), ("2001:db8::/32", "2001:db8:1::/48")]
)
def test_prefixes(cidr: str, hole: str) -> None:
    """A prefix never selects a number of the cluster; nodes only where the setting says so."""
    one = policy("p", entry(Peers(cidrs=(CidrPeer(cidr=cidr, excepts=(hole,)),)), EGRESS))
    for nodes in (False, True):
        found = subject(engine_with(one, cidr_match_nodes=nodes), 300)
        assert numbers(found, EGRESS) == set()
        assert found.selectors == {
            f"cidr:{cidr}-{hole}": CidrDefinition(include=(cidr,), exclude=(hole,), nodes=nodes)
        }


@pytest.mark.parametrize("address", ["10.0.0.9", "fd00::9"])
@pytest.mark.parametrize("anyone", [True, False])
def test_named_ports_of_egress(address: str, anyone: bool) -> None:
    """R-36: one clear number per identity; an unclear or unknown name is nothing, never every port."""
    peers = Peers(anyone=True) if anyone else Peers(selectors=(EVERYONE,))
    engine = engine_with(policy("p", entry(peers, EGRESS, ports=(PortRule(ports=(WEB,)),))))
    assert not subject(engine, 300).contributions
    engine.put_named_ports(301, "10.0.0.1", {(6, "web"): 80, (17, "web"): 81})
    engine.drain(2)
    assert {(one.peer, one.ports) for one in subject(engine, 300).contributions} == {
        (IdentityPeer(301), TCP80)
    }
    engine.put_named_ports(301, address, {(6, "web"): 8080})
    engine.drain(3)
    assert not subject(engine, 300).contributions
    engine.remove_named_ports(301, "10.0.0.1")
    engine.drain(4)
    assert {one.ports for one in subject(engine, 300).contributions} == {PortBlock(6, 8080, 16)}


def test_a_name_for_a_number_of_the_same_entry_adds_nothing() -> None:
    """The set of contributions counts each once."""
    ports = (PortRule(ports=(TCP80, WEB)),)
    engine = engine_with(policy("p", entry(Peers(selectors=(apps("db"),)), EGRESS, ports=ports)))
    engine.put_named_ports(301, "10.0.0.1", {(6, "web"): 80})
    engine.drain(2)
    found = subject(engine, 300).contributions
    assert len(found) == len(set(found)) == 1


def test_named_ports_of_ingress_travel_by_name() -> None:
    """They are the endpoint's own."""
    one = policy("p", entry(Peers(selectors=(apps("db"),)), ports=(PortRule(ports=(WEB,)),)))
    assert WEB in {one.ports for one in subject(engine_with(one), 300).contributions}


def test_requires_narrow_every_endpoint_selector() -> None:
    """Of allow entries of the same direction of every rule of the subject; entities and denies stay."""
    requires = policy("r", entry(Peers(), requires=(apps("db"),)), subject=apps("web"))
    wide = policy(
        "w",
        entry(Peers(selectors=(EVERYONE,))),
        entry(Peers(selectors=(EVERYONE,)), index=1, action=Action.DENY),
        entry(Peers(entities=(EntityName.HEALTH,)), index=2),
        entry(Peers(selectors=(EVERYONE,)), EGRESS),
    )
    engine = engine_with(requires, wide, allow_localhost=False)
    found = subject(engine, 300)
    allowed = [one for one in found.contributions if one.action is Action.ALLOW]
    assert {one.peer for one in allowed if one.direction is INGRESS} == {IdentityPeer(301), IdentityPeer(4)}
    assert {300, 301} <= numbers(found, EGRESS)
    assert IdentityPeer(300) in {one.peer for one in found.contributions if one.action is Action.DENY}
    assert {300, 301} <= numbers(subject(engine, 301))
    engine.remove_policy(requires.key)
    engine.drain(2)
    assert {300, 301} <= numbers(subject(engine, 300))


def test_hosts() -> None:
    """R-44: subjects of nodeSelector rules only, and only with the host firewall on."""
    role = LabelSelector((Requirement("any", "role", Operator.IN, ("cp",)),))
    of_nodes = policy("h", entry(Peers(selectors=(apps("web"),))), subject=role, of_nodes=True)
    for firewall in (True, False):
        engine = engine_with(
            of_nodes, policy("p", entry(Peers(), EGRESS), subject=LabelSelector()), host_firewall=firewall
        )
        for name in ("cp", "worker"):
            labels = LabelSet.of([Label("node", "role", name), Label("reserved", "host", "")])
            engine.put_node(Node(name=f"n-{name}", labels=labels))
        drained = engine.drain(2)
        assert (host_key("n-cp") in drained.upserts) is firewall
        assert engine.selected_nodes(of_nodes) == ({"n-cp"} if firewall else set())
        assert engine.selected_subjects(of_nodes) == set()
        assert (subject(engine, identities.HOST).egress, subject(engine, 300).egress) == (ALLOW, DENY)
        if firewall:
            host, other = engine.host("n-cp"), engine.host("n-worker")
            assert host is not None
            assert other is not None
            assert (host.ingress, other.ingress) == (DENY, ALLOW)
            assert numbers(host) == {300}
            assert host_key("n-cp") in engine.affected_subjects(300)
            engine.remove_node("n-cp")
            assert engine.drain(3).removals == {host_key("n-cp")}


def test_nodes_as_peers_are_nodes() -> None:
    """RC-SCOPE (CVE-2025-30163): pods with equal labels are never meant."""
    role = LabelSelector((Requirement("node", "app", Operator.IN, ("db",)),))
    found = subject(engine_with(policy("p", entry(Peers(nodes=(role,)), EGRESS))), 300)
    assert numbers(found, EGRESS) == set()
    (definition,) = found.selectors.values()
    assert isinstance(definition, LabelsDefinition)
    assert Requirement("reserved", "remote-node", Operator.EXISTS) in definition.alternatives[0].requirements
    every = subject(engine_with(policy("p", entry(Peers(nodes=(LabelSelector(),)), EGRESS))), 300)
    assert numbers(every, EGRESS) == {identities.REMOTE_NODE, identities.KUBE_APISERVER}


def _l7(**more: Any) -> tuple[PortRule, ...]:
    return (PortRule(ports=(TCP80,), l7=L7(**more)),)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ({"ports": _l7(parser="http")}, {"ports": _l7(parser="tls")}, ""),
        ({"ports": _l7(parser="http")}, {"ports": (PortRule(ports=(TCP80,)),)}, ""),
        ({"ports": _l7(parser="http")}, {"ports": _l7(parser="dns")}, "different parsers"),
        ({"ports": _l7(parser="r2d2")}, {"ports": _l7(parser="http")}, "different parsers"),
        ({"ports": _l7(parser="kafka")}, {"ports": _l7(parser="kafka")}, ""),
        ({"auth": AuthMode.REQUIRED}, {"auth": AuthMode.DISABLED}, "different authentication"),
        ({"auth": AuthMode.REQUIRED}, {}, ""),
        (
            {"ports": _l7(parser="tls", terminating=TlsContext(secret="x"))},
            {"ports": _l7(parser="tls", terminating=TlsContext(secret="y"))},
            "different TLS secrets",
        ),
        (
            {"ports": _l7(parser="crd", listener="x", priority=3)},
            {"ports": _l7(parser="crd", listener="y", priority=3)},
            "two listeners",
        ),
        (
            {"ports": _l7(parser="crd", listener="x", priority=3)},
            {"ports": _l7(parser="crd", listener="y", priority=4)},
            "",
        ),
    ],
)
def test_conflicts(one: dict[str, Any], other: dict[str, Any], reason: str) -> None:
    """R-48: found at submission, whichever comes first; both rules are named."""
    first = policy("first", entry(Peers(selectors=(EVERYONE,)), EGRESS, **one))
    second = policy("second", entry(Peers(selectors=(EVERYONE,)), EGRESS, **other))
    texts = []
    for present, new in ((first, second), (second, first)):
        found = engine_with(present).conflicts_of(new)
        texts.append([str(one) for one in found])
    assert texts[0] == texts[1]
    assert bool(texts[0]) == bool(reason)
    assert all(reason in text and "a/first" in text and "a/second" in text for text in texts[0])


@pytest.mark.parametrize(
    "other",
    [
        {"direction": INGRESS},
        {"peers": Peers(selectors=(apps("db"),))},
        {"ports": (PortRule(ports=(ANY_PORT,), l7=L7(parser="dns")),)},
        {"tier": Tier.ADMIN},
        {"action": Action.DENY},
    ],
)
def test_what_does_not_meet_does_not_conflict(other: dict[str, Any]) -> None:
    """Another direction, peer, port or tier; a deny says nothing about parsers."""
    values: dict[str, Any] = {
        "direction": EGRESS,
        "peers": Peers(selectors=(EVERYONE,)),
        "ports": _l7(parser="dns"),
        **other,
    }
    first = policy("first", entry(Peers(selectors=(EVERYONE,)), EGRESS, ports=_l7(parser="http")))
    assert engine_with(first).conflicts_of(policy("second", entry(**values))) == []
    own = entry(Peers(selectors=(EVERYONE,)), EGRESS, ports=_l7(parser="dns"))
    elsewhere = policy("third", own, subject=apps("web", namespace="b"))
    assert engine_with(first).conflicts_of(elsewhere) == []


def test_a_faulted_subject_keeps_its_last_policy() -> None:
    """A subject that comes between two rules that had none in common."""
    first = policy(
        "first", entry(Peers(selectors=(EVERYONE,)), EGRESS, ports=_l7(parser="http")), subject=apps("web")
    )
    second = policy(
        "second", entry(Peers(selectors=(EVERYONE,)), EGRESS, ports=_l7(parser="dns")), subject=apps("db")
    )
    engine = engine_with(first, second)
    before = engine.subject(300)
    engine.put_policy(policy("second", *second.rules[0].entries, subject=apps("db", "web")))
    drained = engine.drain(2)
    assert set(drained.faults) == {subject_key(300)}
    assert "a/first" in drained.faults[subject_key(300)]
    assert engine.fault_of(subject_key(300)) == drained.faults[subject_key(300)]
    assert engine.subject(300) is before
    assert not drained.upserts
    gone = engine.fork()
    gone.remove_identity(300)
    drained = gone.drain(3)
    assert (drained.faults, set(drained.removals)) == ({}, {subject_key(300)})
    tried = policy("second", *second.rules[0].entries, subject=apps("db", "web"), audit=True)
    engine.put_policy(tried)
    assert not engine.drain(3).faults
    engine.remove_policy(first.key)
    assert engine.fault_of(subject_key(300)) is None


def test_selector_uses() -> None:
    """Each selector once, with whom it selects and who uses it."""
    engine = engine_with(
        policy("p", entry(Peers(selectors=(EVERYONE,)))),
        policy("q", entry(Peers(cidrs=(CidrPeer(cidr="10.0.0.0/8"),)), EGRESS)),
    )
    uses = {one.text: one for one in engine.selector_uses()}
    assert uses[str(EVERYONE)].identities == {300, 301}
    assert uses[str(EVERYONE)].uses == 3
    assert [key.name for key in uses[str(EVERYONE)].policies] == ["p", "q"]
    assert uses["cidr:10.0.0.0/8"].identities == frozenset()
    assert engine.drain(2).upserts == {}


def test_selector_keys_are_unlike_for_unlike_selectors() -> None:
    """Values with the characters of the text itself do not make two selectors one."""
    one = LabelSelector((Requirement("container", "x", Operator.IN, ("a,b",)),))
    other = LabelSelector((Requirement("container", "x", Operator.IN, ("a", "b")),))
    found = subject(engine_with(policy("p", entry(Peers(selectors=(one, other))))), 300)
    assert len(found.selectors) == 2
    assert set(found.selectors.values()) == {LabelsDefinition((one,)), LabelsDefinition((other,))}


@pytest.mark.parametrize("others", [1, 5])
def test_names_of_others_open_nothing(others: int) -> None:
    """Only identities that the entry selects, whichever of the two are more."""
    ports = (PortRule(ports=(WEB,)),)
    one = policy("p", entry(Peers(selectors=(apps("db", "more"),)), EGRESS, ports=ports))
    engine = engine_with(one)
    engine.put_identity(400, pod("more"))
    engine.put_identity(401, pod("more", cluster="west"))
    for number in (301, *range(500, 500 + others)):
        engine.put_named_ports(number, "10.0.0.1", {(6, "web"): 80})
    engine.drain(2)
    assert numbers(subject(engine, 300), EGRESS) == {301}


def test_a_policy_written_in_another_order_changes_nobody() -> None:
    """The same ports and prefixes, turned round."""
    ports = (TCP80, PortBlock(17, 53, 16))
    cidrs = (CidrPeer(cidr="10.0.0.0/8"), CidrPeer(cidr="2001:db8::/32"))
    engine = engine_with(policy("p", entry(Peers(cidrs=cidrs), EGRESS, ports=(PortRule(ports=ports),))))
    turned = entry(Peers(cidrs=cidrs[::-1]), EGRESS, ports=(PortRule(ports=ports[::-1]),))
    engine.put_policy(policy("p", turned))
    assert not engine.drain(2).upserts


def test_two_entries_of_one_path_count_once() -> None:
    """What both say is one contribution, so that numbers of entries agree wherever they are counted."""
    both = (apps("db"), apps("db", "web"), apps("db"))
    engine = engine_with(policy("p", *(entry(Peers(selectors=(one,)), EGRESS) for one in both)))
    found = subject(engine, 300).contributions
    assert len(found) == len(set(found)) == 2
    engine.remove_policy(PolicyKey("CiliumNetworkPolicy", "a", "p"))
    engine.drain(2)
    assert not subject(engine, 300).contributions


def test_what_a_fork_forgets_the_original_keeps() -> None:
    """A policy removed in a copy still hears of new identities in the original."""
    engine = engine_with(policy("p", entry(Peers(selectors=(apps("front"),)))))
    twin = engine.fork()
    twin.remove_policy(PolicyKey("CiliumNetworkPolicy", "a", "p"))
    twin.drain(2)
    engine.put_identity(302, pod("front"))
    engine.drain(2)
    assert 302 in numbers(subject(engine, 300))
    assert subject(twin, 300).ingress is ALLOW
