"""Random rules, inputs and sequences of changes for the policy engine, and named states of a small cluster.

A state is everything that is present; a change moves one state to another and can be played to an engine.
Rules are made from the rule model itself, so that what readers refuse is covered too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from hypothesis import strategies as st

from axoneme.lib.labels import Label, LabelSet, workload_labels
from axoneme.lib.policy.model import ANY_PORT, Action, AuthMode, Direction, NamedPort, PortBlock
from axoneme.lib.policy.precedence import Tier
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.inputs import CidrGroup, CloudGroup, EnforcementMode, Node, PolicySettings, Service
from services.policy.resolution.engine import PolicyEngine
from services.policy.resolution.plainresolve import PlainInputs
from services.policy.rules import (
    L7,
    CidrGroupPeer,
    CidrPeer,
    EntityName,
    FqdnPeer,
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

CLOUD_REFERENCES = (json.dumps({"aws": 1}), json.dumps({"aws": 2}))
PodPort: TypeAlias = tuple[int, str]


@dataclass(frozen=True)
class State:
    """Everything that is present, by name."""

    policies: Mapping[PolicyKey, ParsedPolicy] = field(default_factory=dict)
    identities: Mapping[int, LabelSet] = field(default_factory=dict)
    services: Mapping[tuple[str, str], Service] = field(default_factory=dict)
    cidr_groups: Mapping[PolicyKey, CidrGroup] = field(default_factory=dict)
    cloud_groups: Mapping[PolicyKey, CloudGroup] = field(default_factory=dict)
    nodes: Mapping[str, Node] = field(default_factory=dict)
    named_ports: Mapping[PodPort, Mapping[tuple[int, str], int]] = field(default_factory=dict)

    def inputs(self) -> PlainInputs:
        """What policies refer to."""
        return PlainInputs(
            services=self.services.values(),
            cidr_groups=self.cidr_groups.values(),
            cloud_groups=self.cloud_groups.values(),
            nodes=self.nodes.values(),
            named_ports=self.named_ports,
        )


KINDS = ("policies", "identities", "services", "cidr_groups", "cloud_groups", "nodes", "named_ports")


@dataclass(frozen=True)
class Change:
    """One thing set, or with `value` None removed."""

    kind: str
    key: Any
    value: Any = None

    def on(self, state: State) -> State:
        """The state afterwards."""
        present = dict(getattr(state, self.kind))
        if self.value is None:
            present.pop(self.key, None)
        else:
            present[self.key] = self.value
        return replace(state, **{self.kind: present})

    def play(self, engine: PolicyEngine) -> None:
        """Tell an engine."""
        put, remove = _CALLS[self.kind]
        if self.value is None:
            remove(engine, self.key)
        else:
            put(engine, self.key, self.value)


_CALLS: dict[str, tuple[Callable[[PolicyEngine, Any, Any], None], Callable[[PolicyEngine, Any], None]]] = {
    "policies": (lambda e, _, one: e.put_policy(one), lambda e, key: e.remove_policy(key)),
    "identities": (lambda e, key, one: e.put_identity(key, one), lambda e, key: e.remove_identity(key)),
    "services": (lambda e, _, one: e.put_service(one), lambda e, key: e.remove_service(*key)),
    "cidr_groups": (lambda e, _, one: e.put_cidr_group(one), lambda e, key: e.remove_cidr_group(key)),
    "cloud_groups": (lambda e, _, one: e.put_cloud_group(one), lambda e, key: e.remove_cloud_group(key)),
    "nodes": (lambda e, _, one: e.put_node(one), lambda e, key: e.remove_node(key)),
    "named_ports": (
        lambda e, key, one: e.put_named_ports(key[0], key[1], one),
        lambda e, key: e.remove_named_ports(key[0], key[1]),
    ),
}


def difference(before: State, after: State, rng: random.Random) -> list[Change]:
    """The changes from one state to another, in some order."""
    changes = []
    for kind in KINDS:
        old, new = getattr(before, kind), getattr(after, kind)
        changes += [Change(kind, key) for key in old if key not in new]
        changes += [Change(kind, key, one) for key, one in new.items() if old.get(key) != one]
    rng.shuffle(changes)
    return changes


# Strategies

_SELECTORS = [
    LabelSelector.of(*requirements)
    for requirements in (
        (in_namespace("a"),),
        (in_namespace("a"), Requirement("any", "app", Operator.IN, ("web",))),
        (in_namespace("b"), Requirement("any", "app", Operator.NOT_IN, ("web",))),
        (in_any_namespace(),),
        (in_any_namespace(), Requirement("k8s", "app", Operator.IN, ("db", "web"))),
        (Requirement("reserved", "init", Operator.DOES_NOT_EXIST),),
        (Requirement("reserved", "remote-node", Operator.EXISTS),),
        (Requirement("any", "app", Operator.EXISTS),),
        (),
    )
]
_NODE_SELECTORS = [LabelSelector(), LabelSelector((Requirement("any", "role", Operator.IN, ("db",)),))]
_selector = st.sampled_from(_SELECTORS)
_PREFIXES = ("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "2001:db8::/32")
_cidr = st.builds(
    lambda cidr, excepts: CidrPeer(cidr=cidr, excepts=tuple(excepts)),
    st.sampled_from(_PREFIXES),
    st.lists(st.sampled_from(["10.1.2.0/24", "2001:db8:1::/48"]), max_size=1),
)
_group = st.one_of(
    st.builds(lambda name: CidrGroupPeer(name=name), st.sampled_from(["g1", "g2"])),
    st.just(CidrGroupPeer(selector=LabelSelector((Requirement("any", "kind", Operator.EXISTS),)))),
)
_service = st.one_of(
    st.builds(lambda name: ServicePeer(namespace="a", name=name), st.sampled_from(["s1", "s2"])),
    st.just(ServicePeer(selector=LabelSelector((Requirement("any", "svc", Operator.IN, ("1",)),)))),
    st.just(ServicePeer(namespace="b", selector=LabelSelector())),
)
_NAMES = [FqdnPeer(text=text, pattern="*" in text) for text in ("x.example", "*.example", "*")]
_fqdn = st.sampled_from(_NAMES[:2])


def _some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, min_size=1, max_size=2, unique=True).map(tuple)


_peers = st.one_of(
    st.just(Peers(anyone=True)),
    st.just(Peers()),
    st.builds(lambda found: Peers(selectors=found), _some(_selector)),
    st.builds(lambda found: Peers(entities=found), _some(st.sampled_from(EntityName))),
    st.builds(lambda found: Peers(cidrs=found), _some(_cidr)),
    st.builds(lambda found: Peers(cidr_groups=found), _some(_group)),
    st.builds(lambda found: Peers(services=found), _some(_service)),
    st.builds(lambda found: Peers(cloud_groups=found), _some(st.sampled_from(CLOUD_REFERENCES))),
    st.builds(lambda found: Peers(fqdns=found), _some(_fqdn)),
    st.builds(lambda found: Peers(nodes=found), _some(st.sampled_from(_NODE_SELECTORS))),
)
_ports = st.sampled_from(
    [
        *(
            ANY_PORT,
            PortBlock(6, 80, 16),
            PortBlock(6, 80, 12),
            PortBlock(17, 53, 16),
            PortBlock(58, 128, 16),
        ),
        *(NamedPort(6, "web"), NamedPort(6, "www"), NamedPort(17, "dns")),
    ]
)
_l7 = st.sampled_from(
    [None, None, None, L7(parser="http"), L7(parser="tls"), L7(parser="dns"), L7(parser="r2d2")]
    + [L7(parser="dns", dns=(name,)) for name in _NAMES]
    + [L7(parser="crd", listener=name, priority=5, allow_all=True) for name in ("one", "two")]
    + [L7(parser="http", terminating=TlsContext(secret=name)) for name in ("x", "y")]
)
_port_rule = st.builds(
    lambda ports, l7: PortRule(ports=ports, l7=l7), st.lists(_ports, max_size=3).map(tuple), _l7
)


@st.composite
def entries(draw: st.DrawFn, path: str) -> RuleEntry:
    """An entry with anything in it."""
    tier = draw(st.sampled_from([Tier.NORMAL, Tier.NORMAL, Tier.NORMAL, Tier.ADMIN, Tier.BASELINE]))
    actions = [Action.ALLOW, Action.ALLOW, Action.DENY] + ([] if tier is Tier.NORMAL else [Action.PASS])
    return RuleEntry(
        path=path,
        direction=draw(st.sampled_from(Direction)),
        action=draw(st.sampled_from(actions)),
        peers=draw(_peers),
        ports=tuple(draw(st.lists(_port_rule, min_size=1, max_size=2))),
        tier=tier,
        priority=0 if tier is Tier.NORMAL else draw(st.integers(0, 2)),
        auth=draw(st.sampled_from([None, None, None, *AuthMode])),
        requires=draw(st.lists(_selector, max_size=1).map(tuple)) if draw(st.integers(0, 5)) == 0 else (),
    )


@st.composite
def policies(draw: st.DrawFn, key: PolicyKey) -> ParsedPolicy:
    """A policy with one or two rules; sometimes two entries share a path."""
    rules = []
    for number in range(draw(st.integers(1, 2))):
        of_nodes = draw(st.integers(0, 4)) == 0
        paths = [f"specs[{number}].section[{index}]" for index in (0, 1, draw(st.sampled_from([1, 2])))]
        made = tuple(draw(entries(path)) for path in paths[: draw(st.integers(0, 3))])
        rules.append(
            Rule(
                path=f"specs[{number}]",
                subject=draw(st.sampled_from(_NODE_SELECTORS) if of_nodes else _selector),
                entries=made,
                of_nodes=of_nodes,
                locks=frozenset(draw(st.sets(st.sampled_from(Direction)))),
            )
        )
    audit = draw(st.integers(0, 3)) == 0
    return ParsedPolicy(key=key, labels=(), rules=tuple(rules), document={}, audit=audit)


_labels = st.builds(
    lambda app, namespace, cluster: workload_labels([f"app={app}"], namespace=namespace, cluster=cluster),
    st.sampled_from(["web", "db"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["east", "east", "west"]),
)


def _keys(kind: str, *names: str) -> st.SearchStrategy[PolicyKey]:
    return st.sampled_from([PolicyKey(kind, "", name) for name in names])


def _change(
    kind: str, keys: st.SearchStrategy[Any], values: Callable[[Any], st.SearchStrategy[Any]]
) -> st.SearchStrategy[Change]:
    set_one = keys.flatmap(lambda key: values(key).map(lambda value: Change(kind, key, value)))
    return st.one_of(set_one, set_one, keys.map(lambda key: Change(kind, key)))


def _make_service(key: tuple[str, str]) -> st.SearchStrategy[Service]:
    return st.builds(
        lambda labels, selector, backends: Service(
            namespace=key[0], name=key[1], labels=labels, selector=selector, backends=backends
        ),
        st.sampled_from([{}, {"svc": "1"}]),
        st.sampled_from([None, {}, {"app": "web"}]),
        st.sampled_from([(), ("198.51.100.7",), ("2001:db8::7", "192.0.2.1")]),
    )


_cidr_lists = st.sampled_from([(), ("192.0.2.0/24",), ("192.0.2.0/26", "2001:db8:5::/48")])
_CHANGES = (
    _change("policies", _keys("CiliumNetworkPolicy", "p1", "p2", "p3", "p4"), policies),
    _change("policies", _keys("CiliumNetworkPolicy", "p1", "p2", "p3", "p4"), policies),
    _change("identities", st.integers(300, 304), lambda _: _labels),
    _change("services", st.sampled_from([("a", "s1"), ("a", "s2"), ("b", "s1")]), _make_service),
    _change(
        "cidr_groups",
        _keys("CiliumCIDRGroup", "g1", "g2"),
        lambda key: st.builds(
            lambda labels, cidrs: CidrGroup(key=key, labels=labels, cidrs=cidrs),
            st.sampled_from([{}, {"kind": "x"}]),
            _cidr_lists,
        ),
    ),
    _change(
        "cloud_groups",
        _keys("CloudGroup", "c1", "c2"),
        lambda key: st.builds(
            lambda reference, cidrs: CloudGroup(key=key, reference=reference, cidrs=cidrs),
            st.sampled_from(CLOUD_REFERENCES),
            _cidr_lists,
        ),
    ),
    _change(
        "nodes",
        st.sampled_from(["n1", "n2"]),
        lambda name: st.sampled_from(["db", "web"]).map(lambda role: node(name, role)),
    ),
    _change(
        "named_ports",
        st.tuples(st.integers(300, 302), st.sampled_from(["10.0.0.1", "fd00::1"])),
        lambda _: st.dictionaries(
            st.sampled_from([(6, "web"), (6, "www"), (17, "dns")]), st.sampled_from([80, 81, 53])
        ),
    ),
)
changes = st.one_of(*_CHANGES)
settings_of_clusters = st.builds(
    lambda mode, flags, families: PolicySettings(cluster_name="east", mode=mode, families=families, **flags),
    st.sampled_from([EnforcementMode.DEFAULT, EnforcementMode.DEFAULT, *EnforcementMode]),
    st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in ("allow_localhost", "cidr_match_nodes", "default_local_cluster", "host_firewall")
        }
    ),
    st.sampled_from([frozenset({"ipv4", "ipv6"}), frozenset({"ipv4"}), frozenset({"ipv6"})]),
)


def node(name: str, role: str) -> Node:
    """A node with a role."""
    return Node(name=name, labels=LabelSet.of([Label("node", "role", role), Label("reserved", "host", "")]))


# Named states


def _policy(name: str, *rule_entries: RuleEntry, subject: LabelSelector, audit: bool = False) -> ParsedPolicy:
    locks = frozenset(entry.direction for entry in rule_entries if entry.tier is Tier.NORMAL)
    rule = Rule(path="spec", subject=subject, entries=rule_entries, locks=locks)
    key = PolicyKey("CiliumNetworkPolicy", "a", name)
    return ParsedPolicy(key=key, labels=(), rules=(rule,), document={}, audit=audit)


def _entry(index: int, peers: Peers, **more: Any) -> RuleEntry:
    values: dict[str, Any] = {"direction": Direction.EGRESS, "action": Action.ALLOW, **more}
    return RuleEntry(path=f"spec.egress[{index}]", peers=peers, **values)


def named_states() -> dict[str, State]:
    """States that show one feature each."""
    pods = {
        300: workload_labels(["app=web"], namespace="a", cluster="east"),
        301: workload_labels(["app=db"], namespace="a", cluster="east"),
        302: workload_labels(["app=db"], namespace="b", cluster="west"),
    }
    web, everyone = _SELECTORS[1], _SELECTORS[3]
    named = (PortRule(ports=(NamedPort(6, "web"), PortBlock(6, 80, 16))),)
    to_services = _policy(
        "services", _entry(0, Peers(services=(ServicePeer(namespace="a", name="s1"),))), subject=web
    )
    to_names = _policy(
        "names",
        _entry(0, Peers(anyone=True), ports=named),
        _entry(1, Peers(selectors=(everyone,)), ports=named),
        subject=web,
    )
    to_groups = _policy(
        "groups",
        _entry(0, Peers(cidr_groups=(CidrGroupPeer(name="g1", excepts=("192.0.2.64/26",)),))),
        subject=web,
    )
    requires = _policy(
        "requires",
        _entry(0, Peers(), requires=(_SELECTORS[1],)),
        _entry(1, Peers(selectors=(everyone,))),
        subject=everyone,
    )
    audited = replace(to_groups, key=PolicyKey("CiliumNetworkPolicy", "a", "audited"), audit=True)
    baseline = _policy(
        "baseline", _entry(0, Peers(anyone=True), action=Action.DENY, tier=Tier.BASELINE), subject=everyone
    )
    service = Service(namespace="a", name="s1", selector={"app": "db"})
    group = CidrGroup(
        key=PolicyKey("CiliumCIDRGroup", "", "g1"), labels={"kind": "x"}, cidrs=("192.0.2.0/24",)
    )
    base = State(identities=pods)
    return {
        "empty": State(),
        "pods": base,
        "services": _with(base, to_services, services={("a", "s1"): service}),
        "addresses": _with(
            base,
            to_services,
            services={("a", "s1"): replace(service, selector=None, backends=("198.51.100.7", "2001:db8::7"))},
        ),
        "names": _with(base, to_names, named_ports={(301, "10.0.0.1"): {(6, "web"): 8080}}),
        "unclear names": _with(
            base,
            to_names,
            named_ports={(301, "10.0.0.1"): {(6, "web"): 80}, (301, "fd00::1"): {(6, "web"): 81}},
        ),
        "groups": _with(base, to_groups, cidr_groups={group.key: group}),
        "empty group": _with(base, to_groups, cidr_groups={group.key: replace(group, cidrs=())}),
        "requires": _with(base, requires, to_services, services={("a", "s1"): service}),
        "audited": _with(base, audited, baseline, cidr_groups={group.key: group}),
        "baseline": _with(base, baseline, nodes={"n1": node("n1", "db")}),
    }


def _with(state: State, *found: ParsedPolicy, **more: Any) -> State:
    return replace(state, policies={policy.key: policy for policy in found}, **more)


def expanders() -> Iterator[tuple[str, Callable[[list[str]], list[str]]]]:
    """Ways to stretch a sequence of states (after Felix): each state again, by way of nothing, and back."""
    yield "plain", lambda names: names
    yield "repeated", lambda names: [name for name in names for _ in range(2)]
    yield "by way of nothing", lambda names: [one for name in names for one in (name, "empty")]
    yield "there and back", lambda names: [*names, *reversed(names)]
