"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: rules, subjects, scope, default deny, metadata."""

from __future__ import annotations

from typing import Any

import pytest

from axoneme.lib.policy.model import ANY_PORT, Action, AuthMode, Direction, one_port
from axoneme.lib.selectors import LabelSelector, Operator, Requirement
from services.policy.reading.metadata import AUDIT
from services.policy.rules import NO_RESTRICTION, EntityName, Peers, PortRule, Rule
from services.policy.scope import in_any_namespace, in_namespace
from tests.unit.services.policy.readings import (
    CCNP,
    CNP,
    TCP80,
    entry_of,
    faults_of,
    policy_of,
    read,
    read_text,
    refuses,
    rule_of,
)

APP = Requirement("any", "app", Operator.IN, ("x",))
IN, EG = Direction.INGRESS, Direction.EGRESS


def selector(*requirements: Requirement) -> LabelSelector:
    return LabelSelector.of(*requirements)


def test_an_entry_knows_its_path_direction_and_action() -> None:
    """Sections come in their order, elements with their index."""
    rule = rule_of({"egressDeny": [{"toEntities": ["world"]}], "ingress": [{}, {}]})
    assert [(entry.path, entry.direction, entry.action) for entry in rule.entries] == [
        ("spec.ingress[0]", IN, Action.ALLOW),
        ("spec.ingress[1]", IN, Action.ALLOW),
        ("spec.egressDeny[0]", EG, Action.DENY),
    ]


TCP80_RULES = (PortRule(ports=(one_port(6, 80),)),)
ANYONE, NOBODY = Peers(anyone=True), Peers()
OWN_NAMESPACE = Peers(selectors=(selector(in_namespace("shop")),))
ANY_NAMESPACE = Peers(selectors=(selector(in_any_namespace()),))


@pytest.mark.parametrize(
    ("section", "entry", "peers", "ports"),
    [
        # Fields absent or null.
        ("ingress", {}, NOBODY, NO_RESTRICTION),
        ("egress", {}, NOBODY, NO_RESTRICTION),
        ("ingress", {"toPorts": TCP80}, ANYONE, TCP80_RULES),
        ("egress", {"toPorts": TCP80}, ANYONE, TCP80_RULES),
        ("ingress", {"toPorts": None, "icmps": None}, NOBODY, NO_RESTRICTION),
        ("ingressDeny", {"toPorts": TCP80}, ANYONE, TCP80_RULES),
        ("egressDeny", {}, NOBODY, NO_RESTRICTION),
        # Every field as an empty list: nobody, with and without ports, in allows and denies.
        *[
            (section, {f"{side}{noun}": [], **ports}, NOBODY, TCP80_RULES if ports else NO_RESTRICTION)
            for section, side in (
                ("ingress", "from"),
                ("egress", "to"),
                ("ingressDeny", "from"),
                ("egressDeny", "to"),
            )
            for noun in ("Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes", "Groups")
            for ports in ({}, {"toPorts": TCP80})
        ],
        *[
            (section, {key: [], "toPorts": TCP80}, NOBODY, TCP80_RULES)
            for section, key in (
                ("egress", "toFQDNs"),
                ("egress", "toServices"),
                ("egressDeny", "toServices"),
            )
        ],
        # An empty field beside another: the other.
        (
            "ingress",
            {"fromEndpoints": [], "fromEntities": ["all"]},
            Peers(entities=(EntityName.ALL,)),
            NO_RESTRICTION,
        ),
        # Wildcards.
        ("ingress", {"fromEndpoints": [{}]}, OWN_NAMESPACE, NO_RESTRICTION),
        ("egress", {"toEndpoints": [{}]}, OWN_NAMESPACE, NO_RESTRICTION),
        ("egress", {"toEndpoints": [{"matchLabels": {}}]}, OWN_NAMESPACE, NO_RESTRICTION),
        ("egress", {"toEntities": ["all"]}, Peers(entities=(EntityName.ALL,)), NO_RESTRICTION),
        ("ingress", {"fromNodes": [{}]}, Peers(nodes=(selector(),)), NO_RESTRICTION),
        # Lists of ports and ICMP types.
        ("ingress", {"toPorts": []}, NOBODY, NO_RESTRICTION),
        (
            "ingress",
            {"fromEntities": ["all"], "toPorts": []},
            Peers(entities=(EntityName.ALL,)),
            NO_RESTRICTION,
        ),
        ("ingress", {"toPorts": [{}]}, ANYONE, ()),
        ("ingress", {"fromEndpoints": [{}], "toPorts": [{"ports": []}]}, OWN_NAMESPACE, ()),
        ("ingress", {"toPorts": [{}, *TCP80]}, ANYONE, TCP80_RULES),
        ("egress", {"icmps": []}, NOBODY, NO_RESTRICTION),
        ("egress", {"icmps": [{}]}, ANYONE, ()),
        ("egress", {"icmps": [{"fields": []}]}, ANYONE, ()),
        ("egress", {"icmps": [], "toPorts": TCP80}, ANYONE, TCP80_RULES),
        (
            "egress",
            {"icmps": [{"fields": [{"type": 8}]}], "toPorts": []},
            ANYONE,
            (PortRule(ports=(one_port(1, 8),)),),
        ),
    ],
)
def test_absent_empty_and_wildcard(
    section: str, entry: dict[str, Any], peers: Peers, ports: tuple[PortRule, ...]
) -> None:
    """The table of R-20 and R-22: what is absent, null, [] and [{}] mean, each its own."""
    read_entry = entry_of(section, entry)
    assert read_entry.peers == peers
    assert read_entry.ports == ports


@pytest.mark.parametrize(
    ("section", "key"),
    [
        *[
            ("ingress", f"from{noun}")
            for noun in ("Endpoints", "Entities", "CIDR", "CIDRSet", "Nodes", "Groups")
        ],
        *[("egressDeny", f"to{noun}") for noun in ("Endpoints", "Entities", "CIDR", "CIDRSet", "Services")],
        ("egress", "toFQDNs"),
    ],
)
def test_a_peer_field_without_a_value_is_refused(section: str, key: str) -> None:
    """It would read as absent: with ports that is anyone, and a template may have left it empty."""
    _, faults = read({**CNP, "spec": {"endpointSelector": {}, section: [{key: None, "toPorts": TCP80}]}})
    assert [(one.path, one.reason) for one in faults] == [(f"spec.{section}[0].{key}", f"{key} has no value")]


def test_requires_cannot_be_tried_out() -> None:
    """What they narrow is enforced, so that the trial would drop traffic."""
    head = {**CNP, "metadata": {**CNP["metadata"], "annotations": {AUDIT: "true"}}}
    entry = {"fromRequires": [{"matchLabels": {"app": "x"}}]}
    _, faults = read({**head, "spec": {"endpointSelector": {}, "ingress": [entry]}})
    assert [one.reason for one in faults] == ["fromRequires in a policy that is only tried out"]


def test_a_wildcard_of_a_cluster_wide_policy_is_every_pod() -> None:
    """Of every namespace, never world, nodes or health."""
    assert entry_of("ingress", {"fromEndpoints": [{}]}, CCNP).peers == ANY_NAMESPACE


def test_every_port_is_no_restriction() -> None:
    """An entry without ports is about every protocol."""
    assert entry_of("ingress", {"fromEntities": ["all"]}).ports == (PortRule(ports=(ANY_PORT,)),)


@pytest.mark.parametrize(
    ("head", "subject", "expected"),
    [
        (CNP, {}, selector(in_namespace("shop"))),
        (CNP, {"matchLabels": {"app": "x"}}, selector(APP, in_namespace("shop"))),
        (
            CNP,
            {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other", "app": "x"}},
            selector(APP, in_namespace("shop")),
        ),
        (
            CNP,
            {"matchExpressions": [{"key": "reserved:init", "operator": "DoesNotExist"}]},
            selector(Requirement("reserved", "init", Operator.DOES_NOT_EXIST), in_namespace("shop")),
        ),
        (
            CNP,
            {"matchLabels": {"reserved:host": ""}},
            selector(Requirement("reserved", "host", Operator.IN, ("",)), in_namespace("shop")),
        ),
        (CCNP, {}, selector()),
        (CCNP, {"matchLabels": {"app": "x"}}, selector(APP)),
        (
            CCNP,
            {"matchLabels": {"io.kubernetes.pod.namespace": "a"}},
            selector(Requirement("any", "io.kubernetes.pod.namespace", Operator.IN, ("a",))),
        ),
    ],
)
def test_subjects(head: dict[str, Any], subject: dict[str, Any], expected: LabelSelector) -> None:
    """A namespaced policy stays in its namespace (GHSA-4xp2-w642-7mcx); a cluster-wide one is as written."""
    assert rule_of({"endpointSelector": subject, "ingress": [{}]}, head).subject == expected


NAMESPACE = "io.kubernetes.pod.namespace"


@pytest.mark.parametrize(
    ("head", "subject", "peer", "added"),
    [
        (CNP, {}, {"matchLabels": {"app": "x"}}, in_namespace("shop")),
        (CNP, {}, {"matchLabels": {f"k8s:{NAMESPACE}": "b"}}, None),
        (CNP, {}, {"matchExpressions": [{"key": NAMESPACE, "operator": "Exists"}]}, None),
        (CNP, {}, {"matchLabels": {"io.cilium.k8s.namespace.labels.team": "b"}}, None),
        (CNP, {}, {"matchLabels": {"reserved:host": ""}}, None),
        (CNP, {}, {"matchLabels": {"$world": ""}}, None),
        (CNP, {}, {"matchLabels": {"cidr:10.0.0.0/8": ""}}, in_namespace("shop")),
        (CNP, {}, {"matchLabels": {"cidr:2001-db8--0/32": ""}}, in_namespace("shop")),
        (CNP, {}, {"matchLabels": {"container:io.kubernetes.pod.namespace": "b"}}, in_namespace("shop")),
        (CCNP, {}, {"matchLabels": {"app": "x"}}, in_any_namespace()),
        (CCNP, {}, {"matchLabels": {NAMESPACE: "b"}}, None),
        (CCNP, {}, {"matchLabels": {"reserved:health": ""}}, None),
        (CCNP, {"matchLabels": {"reserved:init": ""}}, {"matchLabels": {"app": "x"}}, None),
        (CCNP, {"matchLabels": {"reserved:health": ""}}, {"matchLabels": {"app": "x"}}, in_any_namespace()),
    ],
)
def test_peers_are_scoped(
    head: dict[str, Any], subject: dict[str, Any], peer: dict[str, Any], added: Requirement | None
) -> None:
    """R-16 and R-17: what the namespace of a policy adds to a peer; requires are scoped likewise."""
    spec = {"endpointSelector": subject, "egress": [{"toEndpoints": [peer], "toRequires": [peer]}]}
    (entry,) = rule_of(spec, head).entries
    (found,) = entry.peers.selectors
    written = 1
    assert len(found.requirements) == written + (added is not None)
    assert added is None or added in found.requirements
    assert entry.requires == (found,)


def test_node_selectors() -> None:
    """Keys of node selectors are node labels; the subject is untouched and peers are scoped as for pods."""
    spec = {
        "nodeSelector": {"matchLabels": {"role": "a", "node:zone": "b"}},
        "ingress": [{"fromEndpoints": [{}]}],
    }
    rule = rule_of(spec, CCNP)
    assert rule.of_nodes
    assert rule.subject == selector(
        Requirement("node", "role", Operator.IN, ("a",)), Requirement("node", "zone", Operator.IN, ("b",))
    )
    assert rule.entries[0].peers == ANY_NAMESPACE


@pytest.mark.parametrize(
    ("spec", "locks"),
    [
        ({"ingress": [{}]}, {IN}),
        ({"ingress": [{}], "egress": []}, {IN}),
        ({"ingress": None, "egress": [{}]}, {EG}),
        ({"ingressDeny": [{}]}, {IN}),
        ({"ingress": [{}], "egressDeny": [{}]}, {IN, EG}),
        ({"ingress": [{}], "enableDefaultDeny": {}}, {IN}),
        ({"ingress": [{}], "enableDefaultDeny": {"ingress": False}}, set()),
        ({"ingress": [{}], "enableDefaultDeny": {"ingress": True}}, {IN}),
        ({"ingress": [{}], "enableDefaultDeny": {"egress": True}}, {IN}),
        ({"ingress": [{}], "egress": [{}], "enableDefaultDeny": {"egress": False}}, {IN}),
        ({"ingressDeny": [{}], "enableDefaultDeny": {"ingress": False}}, set()),
        ({"ingress": [{}], "enableDefaultDeny": {"ingress": None}}, {IN}),
    ],
)
def test_locks(spec: dict[str, Any], locks: set[Direction]) -> None:
    """R-40, R-41: sections lock their direction unless enableDefaultDeny says no; it locks none itself."""
    assert rule_of(spec).locks == locks


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("required", AuthMode.REQUIRED),
        ("disabled", AuthMode.DISABLED),
        ("test-always-fail", AuthMode.ALWAYS_FAIL),
    ],
)
def test_authentication(mode: str, expected: AuthMode) -> None:
    """A mode of its own, or None to inherit one."""
    assert entry_of("ingress", {"authentication": {"mode": mode}, "toPorts": TCP80}).auth is expected
    assert entry_of("ingress", {"toPorts": TCP80}).auth is None


def test_requires_only_narrow() -> None:
    """An entry with nothing else allows nobody; [] adds nothing."""
    entry = entry_of("ingress", {"fromRequires": [{"matchLabels": {"app": "x"}}]})
    assert (entry.peers, entry.requires) == (NOBODY, (selector(APP, in_namespace("shop")),))
    assert entry_of("ingress", {"fromRequires": []}).requires == ()


def test_spec_and_specs_together() -> None:
    """Rules of both, each with the path it stands at."""
    one: dict[str, Any] = {"endpointSelector": {}, "ingress": [{}]}
    policy = policy_of({**CNP, "spec": one, "specs": [one, {**one, "description": "second"}]})
    assert [rule.path for rule in policy.rules] == ["spec", "specs[0]", "specs[1]"]
    assert [rule.entries[0].path for rule in policy.rules][2] == "specs[1].ingress[0]"


@pytest.mark.parametrize(
    "extra",
    [
        {"description": "why"},
        {"labels": [{"key": "team", "value": "shop", "source": "k8s"}, "k8s:a=b"]},
        {"log": {"value": "shop-in"}},
        {"log": {}},
    ],
)
def test_what_a_rule_says_about_itself_is_stored_and_changes_nothing(extra: dict[str, Any]) -> None:
    """Description, labels and log."""
    plain: dict[str, Any] = {"endpointSelector": {}, "ingress": [{}]}
    policy = policy_of({**CNP, "spec": {**plain, **extra}})
    assert policy.rules == policy_of({**CNP, "spec": plain}).rules
    assert policy.document["spec"] == {**plain, **extra}


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({}, "spec", "no rules"),
        ({"ingress": []}, "spec", "no rules"),
        ({"ingress": None, "egressDeny": []}, "spec", "no rules"),
        ({"endpointSelector": None, "ingress": [{}]}, "spec", "no endpointSelector"),
        ({"ingress": {}}, "spec.ingress", "expected a list"),
        ({"ingress": [None]}, "spec.ingress[0]", "null"),
        ({"ingress": ["x"]}, "spec.ingress[0]", "expected a mapping"),
        ({"ingress": [{}], "enableDefaultDeny": False}, "spec.enableDefaultDeny", "expected a mapping"),
        (
            {"ingress": [{}], "enableDefaultDeny": {"ingress": "no"}},
            "spec.enableDefaultDeny.ingress",
            "true or false",
        ),
        (
            {"ingress": [{}], "enableDefaultDeny": {"in": False}},
            "spec.enableDefaultDeny.in",
            "unknown key",
        ),
        ({"ingress": [{"fromEndpoint": []}]}, "spec.ingress[0].fromEndpoint", "unknown key"),
        ({"ingress": [{"toEndpoints": []}]}, "spec.ingress[0].toEndpoints", "unknown key"),
        (
            {"ingress": [{"fromFQDNs": [{"matchName": "a"}]}]},
            "spec.ingress[0].fromFQDNs",
            "unknown key",
        ),
        ({"ingress": [{"fromServices": []}]}, "spec.ingress[0].fromServices", "unknown key"),
        ({"egress": [{"toRequire": []}]}, "spec.egress[0].toRequire", "unknown key"),
        ({"egress": [{"authentication": {}}]}, "spec.egress[0].authentication", "no mode"),
        (
            {"egress": [{"authentication": {"mode": "on"}}]},
            "spec.egress[0].authentication.mode",
            "unknown mode",
        ),
        (
            {"egressDeny": [{"toFQDNs": [{"matchName": "a"}]}]},
            "spec.egressDeny[0].toFQDNs",
            "a deny of names",
        ),
        (
            {"egressDeny": [{"toFQDNs": [], "toPorts": TCP80}]},
            "spec.egressDeny[0].toFQDNs",
            "a deny of names",
        ),
        (
            {"egressDeny": [{"toRequires": [{}], "toEntities": ["all"]}]},
            "spec.egressDeny[0].toRequires",
            "a deny",
        ),
        (
            {"ingressDeny": [{"fromRequires": [{}], "fromEntities": ["all"]}]},
            "spec.ingressDeny[0].fromRequires",
            "a deny",
        ),
        (
            {"ingressDeny": [{"fromEntities": ["all"], "authentication": {"mode": "required"}}]},
            "spec.ingressDeny[0].authentication",
            "a deny",
        ),
        ({"ingressDeny": [{"toPorts": [{}]}]}, "spec.ingressDeny[0].toPorts[0]", "denies nothing"),
        (
            {"egressDeny": [{"toEntities": ["all"], "toPorts": [*TCP80, {"ports": []}]}]},
            "spec.egressDeny[0].toPorts[1]",
            "denies nothing",
        ),
        ({"egressDeny": [{"icmps": [{}]}]}, "spec.egressDeny[0].icmps[0]", "denies nothing"),
        (
            {"egress": [{"toPorts": TCP80, "icmps": [{"fields": [{"type": 8}]}]}]},
            "spec.egress[0].icmps",
            "toPorts and icmps",
        ),
        (
            {"ingress": [{"fromRequires": [{}], "toPorts": TCP80}]},
            "spec.ingress[0].fromRequires",
            "without peers",
        ),
        (
            {"nodeSelector": {}, "ingress": [{}]},
            "spec.nodeSelector",
            "a nodeSelector in a namespace",
        ),
        ({"ingress": [{}], "labels": [{"value": "x"}]}, "spec.labels[0]", "no key"),
        ({"ingress": [{}], "labels": ["a", 5]}, "spec.labels[1]", "expected a text"),
        ({"ingress": [{}], "log": {"value": "x" * 33}}, "spec.log.value", "cannot be logged"),
        ({"ingress": [{}], "description": 5}, "spec.description", "expected a text"),
        ({"ingress": [{}], "nodeselector": {}}, "spec.nodeselector", "unknown key"),
    ],
)
def test_refused_with_the_exact_position(spec: dict[str, Any], path: str, words: str) -> None:
    """One fault each, at the path that is at fault."""
    refuses(spec, path, words)


def test_two_subjects_are_refused() -> None:
    """R-1: exactly one."""
    spec: dict[str, Any] = {"endpointSelector": {}, "nodeSelector": {}, "ingress": [{}]}
    refuses(spec, "spec.nodeSelector", "in one rule", CCNP)
    refuses({"endpointSelector": None, "ingress": [{}]}, "spec", "no endpointSelector", CCNP)


@pytest.mark.parametrize("operator", ["In", "Exists"])
def test_only_node_labels_select_nodes(operator: str) -> None:
    """A key of another source would never match."""
    expression = {"key": "k8s:role", "operator": operator, **({"values": ["a"]} if operator == "In" else {})}
    spec = {"nodeSelector": {"matchExpressions": [expression]}, "ingress": [{}]}
    refuses(spec, "spec.nodeSelector", "k8s:role is not a label of nodes", CCNP)


def test_every_fault_of_an_object_is_named() -> None:
    """One bad part never hides another, wherever they stand."""
    spec = {
        "ingress": [{"fromCIDR": ["10.0.0.0", "2001:db8::1"]}, {"fromEntities": ["wrld"]}],
        "egress": [{"toPorts": [{"ports": [{"port": "0x10000"}, {"port": "80", "protocol": "TPC"}]}]}],
        "egressDeny": [{"toFQDNs": []}],
        "enableDefaultDeny": {"ingress": 1},
    }
    assert [path for path, _ in faults_of(spec)] == [
        "spec.ingress[0].fromCIDR[0]",
        "spec.ingress[0].fromCIDR[1]",
        "spec.ingress[1].fromEntities[0]",
        "spec.egress[0].toPorts[0].ports[1].protocol",
        "spec.egressDeny[0].toFQDNs",
        "spec.enableDefaultDeny.ingress",
    ]


def test_faults_say_line_path_reason_and_fix() -> None:
    """The line is that of the key in the text."""
    policy, faults = read_text(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n"
        "spec:\n  endpointSelector: {}\n  ingres:\n    - {}\n  egress: [{}]\n"
    )
    assert policy is None
    (fault,) = faults
    assert (fault.line, fault.path) == (6, "spec.ingres")
    assert (fault.reason, fault.fix) == ("unknown key 'ingres'", "did you mean ingress?")


@pytest.mark.parametrize("subject", [{"matchLabels": []}, {"matchExpressions": {}}, [], "x"])
def test_a_subject_of_another_form_is_refused(subject: object) -> None:
    """Never read as an empty one, which would select everything."""
    for head in (CNP, CCNP):
        policy, faults = read({**head, "spec": {"endpointSelector": subject, "ingress": [{}]}})
        assert policy is None
        assert faults


def test_a_rule_is_enforced_where_it_locks() -> None:
    """The word that warnings ask."""
    rule: Rule = rule_of({"ingress": [{}]})
    assert rule.enforces(IN)
    assert not rule.enforces(EG)
