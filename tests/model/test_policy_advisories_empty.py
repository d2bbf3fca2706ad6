"""Advisories about emptiness: what is empty, or resolves to nothing, selects nobody, never everybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pytest
import yaml

from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.labels import LabelSet, workload_labels
from axoneme.lib.policy.model import Direction, SubjectPolicy
from axoneme.lib.policy.outside import outside_labels
from axoneme.lib.policycodec import decode_change, encode_change, subject_key
from services.policy import store
from services.policy.cases.verdicts import View
from services.policy.inputs import CidrGroup, CloudGroup, PolicySettings, Service
from services.policy.reading.objects import parse_object, parse_objects
from services.policy.resolution.engine import PolicyEngine
from services.policy.rules import ParsedPolicy, PolicyKey
from tests.model.advisorycases import TCP80, Json, address, cnp, everything, everywhere, knp

SUBJECT, PEER, OUT = 1000, 1001, 1 << 24
AWS: Final = {"aws": {"securityGroupsIds": ["sg-1"]}}
SELECTOR: Final = {"matchLabels": {"nobody": "has"}}

# Peers that are nobody, by side: written empty, or resolving to nothing.
NOBODY: Final[Mapping[str, tuple[Json, ...]]] = {
    "from": (
        {"fromEndpoints": []},
        {"fromEntities": []},
        {"fromEntities": ["none"]},
        {"fromCIDR": []},
        {"fromCIDRSet": []},
        {"fromNodes": []},
        {"fromGroups": []},
        {"fromGroups": [AWS]},
        {"fromCIDRSet": [{"cidrGroupRef": "empty"}]},
        {"fromCIDRSet": [{"cidrGroupRef": "missing"}]},
        {"fromCIDRSet": [{"cidrGroupSelector": SELECTOR}]},
        {"fromEndpoints": [SELECTOR]},
    ),
    "to": (
        {"toEndpoints": []},
        {"toCIDR": []},
        {"toCIDRSet": []},
        {"toNodes": []},
        {"toGroups": []},
        {"toGroups": [AWS]},
        {"toCIDRSet": [{"cidrGroupRef": "empty"}]},
        {"toCIDRSet": [{"cidrGroupRef": "missing", "except": []}]},
        {"toServices": []},
        {"toServices": [{"k8sService": {"serviceName": "missing"}}]},
        {"toServices": [{"k8sService": {"serviceName": "idle"}}]},
        {"toServices": [{"k8sServiceSelector": {"selector": SELECTOR}}]},
    ),
}
EMPTY_CASES: Final = [
    pytest.param(side, peers, deny, ports, id=f"{json.dumps(peers)} deny={deny} ports={bool(ports)}")
    for side, found in NOBODY.items()
    for peers in found
    for deny in (False, True)
    for ports in ({}, {"toPorts": TCP80})
]


def _engine(cluster: str) -> PolicyEngine:
    engine = PolicyEngine(PolicySettings(cluster_name=cluster))
    engine.put_identity(SUBJECT, workload_labels(["app=web"], namespace="shop", cluster=cluster))
    engine.put_identity(PEER, workload_labels(["app=peer"], namespace="shop", cluster=cluster))
    engine.put_cidr_group(CidrGroup(key=PolicyKey("CiliumCIDRGroup", "", "empty"), labels={}, cidrs=()))
    engine.put_service(Service(namespace="shop", name="idle"))
    reference = json.dumps(AWS, sort_keys=True, separators=(",", ":"))
    key = PolicyKey("CloudGroup", "", "idle")
    engine.put_cloud_group(CloudGroup(key=key, reference=reference, cidrs=()))
    return engine


def _transported(document: Json) -> ParsedPolicy:
    """The policy after YAML, the store's JSON and a second reading."""
    (first,) = parse_objects(yaml.safe_dump(document))
    second = parse_object(json.loads(store.encode(first)))
    assert second == first
    assert isinstance(second, ParsedPolicy)
    return second


def _over_the_wire(policy: SubjectPolicy) -> SubjectPolicy:
    """The policy as a node gets it."""
    raw = encode_change(subject_key(SUBJECT), policy).SerializeToString()
    received = decode_change(policy_pb2.SubjectChange.FromString(raw), None)
    assert received == policy
    return received


def _verdicts(policy: SubjectPolicy, family: int) -> dict[tuple[str, int, int], str]:
    """The whole verdict function over a few peers and ports."""
    labels: dict[int, LabelSet] = {OUT: outside_labels(address(family), policy.selectors.values())}
    view = View(policy, labels, {})
    return {
        (side.name.lower(), number, port): view.verdict(side, number, protocol, port).text
        for side in Direction
        for number in (PEER, OUT, 1, 4, 6)
        for protocol, port in ((6, 80), (6, 443), (17, 53), (58 if family == 6 else 1, 8))
    }


def _resolved(engine: PolicyEngine, policy: ParsedPolicy) -> SubjectPolicy:
    engine.put_policy(policy)
    assert not engine.drain(1).faults
    found = engine.subject(SUBJECT)
    assert found is not None
    return found


@everywhere
@pytest.mark.parametrize(("side", "peers", "deny", "ports"), EMPTY_CASES)
def test_cve_2025_64715_nothing_is_nobody(
    side: str, peers: Json, deny: bool, ports: Json, family: int, cluster: str
) -> None:
    """A cloud group without addresses was lost on its way, and the rule without a peer allowed everyone.

    Each way to name nobody allows and denies nobody, still locks its direction, and means the same before
    and after YAML, the store and protobuf.
    """
    section = ("ingress" if side == "from" else "egress") + ("Deny" if deny else "")
    policy = _resolved(_engine(cluster), _transported(cnp({section: [{**peers, **ports}]})))
    found = _verdicts(_over_the_wire(policy), family)
    assert found == _verdicts(policy, family)
    locked = "ingress" if side == "from" else "egress"
    for (direction, number, _), verdict in found.items():
        expected = "deny" if direction == locked and (number != 1 or side == "to") else "allow"
        assert verdict == expected, (direction, number)


@everywhere
@pytest.mark.parametrize("side", ["from", "to"])
def test_cve_2025_64715_a_deny_of_nobody_drops_no_other_deny(side: str, family: int, cluster: str) -> None:
    """Beside a peer that resolves to nothing, the others of the same rule keep their effect."""
    section = "ingressDeny" if side == "from" else "egressDeny"
    peers = [{"cidrGroupRef": "missing"}, {"cidr": everything(family)}]
    document = cnp({section: [{f"{side}CIDRSet": peers, "toPorts": TCP80}], "enableDefaultDeny": _unlocked()})
    found = _verdicts(_over_the_wire(_resolved(_engine(cluster), _transported(document))), family)
    locked = "ingress" if side == "from" else "egress"
    assert found[locked, OUT, 80] == "deny"
    assert all(verdict == "allow" for key, verdict in found.items() if key != (locked, OUT, 80))


def _unlocked() -> Json:
    return {"ingress": False, "egress": False}


@everywhere
def test_cve_2025_64715_a_group_that_empties_closes(family: int, cluster: str) -> None:
    """A group, a service and a cloud group that lose their last address let nobody in any more."""
    engine = _engine(cluster)
    own = f"{address(family)}/{32 if family == 4 else 128}"
    group = PolicyKey("CiliumCIDRGroup", "", "empty")
    cloud = PolicyKey("CloudGroup", "", "idle")
    reference = json.dumps(AWS, sort_keys=True, separators=(",", ":"))
    peers: list[dict[str, Any]] = [
        {"toCIDRSet": [{"cidrGroupRef": "empty"}], "toPorts": TCP80},
        {"toGroups": [AWS], "toPorts": TCP80},
        {"toServices": [{"k8sService": {"serviceName": "idle"}}], "toPorts": TCP80},
    ]
    for number, entry in enumerate(peers):
        engine.put_policy(_transported(cnp({"egress": [entry]}, name=f"policy-{number}")))
    for cidrs, backends in (((own,), (address(family),)), ((), ()), ((own,), (address(family),)), ((), ())):
        engine.put_cidr_group(CidrGroup(key=group, labels={}, cidrs=cidrs))
        engine.put_cloud_group(CloudGroup(key=cloud, reference=reference, cidrs=cidrs))
        engine.put_service(Service(namespace="shop", name="idle", backends=backends))
        engine.drain(1)
        policy = engine.subject(SUBJECT)
        assert policy is not None
        found = _verdicts(_over_the_wire(policy), family)
        assert found["egress", OUT, 80] == ("allow" if cidrs else "deny")
        assert found["egress", PEER, 80] == "deny"
    engine.remove_cidr_group(group)
    engine.remove_cloud_group(cloud)
    engine.remove_service("shop", "idle")
    engine.drain(2)
    policy = engine.subject(SUBJECT)
    assert policy is not None
    assert _verdicts(policy, family)["egress", OUT, 80] == "deny"


@everywhere
@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({"ingress": []}, "deny", "allow"),
        ({"ingress": [{}]}, "allow", "allow"),
        ({"ingress": [{"from": []}]}, "allow", "allow"),
        ({"ingress": [{"ports": [{"port": 80}], "from": []}]}, "port", "allow"),
        ({"policyTypes": ["Egress"], "egress": []}, "allow", "deny"),
        ({"policyTypes": ["Egress"], "egress": [{}]}, "allow", "allow"),
        ({"policyTypes": ["Ingress", "Egress"]}, "deny", "deny"),
    ],
)
def test_cve_2025_64715_kubernetes_reads_emptiness_otherwise(
    spec: Json, ingress: str, egress: str, family: int, cluster: str
) -> None:
    """In a NetworkPolicy no peers are anyone and no rules nobody: this too survives the way to the node."""
    policy = _over_the_wire(_resolved(_engine(cluster), _transported(knp(spec))))
    found = _verdicts(policy, family)
    for direction, expected in (("ingress", ingress), ("egress", egress)):
        for number in (PEER, OUT):
            assert found[direction, number, 80] == ("allow" if expected == "port" else expected)
            assert found[direction, number, 443] == ("deny" if expected == "port" else expected)
