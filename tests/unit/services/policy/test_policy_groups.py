"""CIDR groups and cloud groups: what is accepted, its canonical form, and each refusal."""

from __future__ import annotations

from typing import Any

import pytest

from services.policy.inputs import CidrGroup, CloudGroup
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import parse_object
from services.policy.rules import PolicyKey


def cidr_group(version: str = "cilium.io/v2", **parts: Any) -> dict[str, Any]:
    """A CIDR group with parts replaced."""
    whole = {
        "apiVersion": version,
        "kind": "CiliumCIDRGroup",
        "metadata": {"name": "g", "labels": {"kind": "x"}},
        "spec": {"externalCIDRs": ["192.0.2.0/24", "2001:db8::/48"]},
    }
    return whole | parts


def cloud_group(**spec: Any) -> dict[str, Any]:
    """A cloud group with parts of its spec replaced."""
    reference = {"aws": {"securityGroupsIds": ["sg-2", "sg-1"], "region": "eu"}}
    return {
        "apiVersion": "axoneme.io/v1",
        "kind": "CloudGroup",
        "metadata": {"name": "web"},
        "spec": {"reference": reference, "cidrs": ["192.0.2.7/32", "2001:db8::7/128"]} | spec,
    }


@pytest.mark.parametrize("version", ["cilium.io/v2", "cilium.io/v2alpha1"])
def test_a_cidr_group(version: str) -> None:
    """Both versions are one object, so that writing the other one changes nothing."""
    group = parse_object(cidr_group(version))
    assert group == CidrGroup(
        key=PolicyKey("CiliumCIDRGroup", "", "g"),
        labels={"kind": "x"},
        cidrs=("192.0.2.0/24", "2001:db8::/48"),
        document=cidr_group(),
    )
    assert parse_object(group.document) == group


@pytest.mark.parametrize(
    ("written", "cidrs"),
    [
        ([], ()),
        (["10.9.9.9/8", "10.0.0.0/8"], ("10.0.0.0/8",)),
        (["2001:DB8::9/32", "2001:db8::/32"], ("2001:db8::/32",)),
        (["2001:db8::/32", "10.0.0.0/8"], ("10.0.0.0/8", "2001:db8::/32")),
    ],
)
def test_members_are_canonical(written: list[str], cidrs: tuple[str, ...]) -> None:
    """Host bits cleared, each once; an empty group is a group of nobody."""
    group = parse_object(cidr_group(spec={"externalCIDRs": written}))
    assert isinstance(group, CidrGroup)
    assert group.cidrs == cidrs
    cloud = parse_object(cloud_group(cidrs=written))
    assert isinstance(cloud, CloudGroup)
    assert cloud.cidrs == cidrs


def test_a_cloud_group_is_found_by_what_policies_write() -> None:
    """The reference of the group is the text that a policy's toGroups becomes, whatever the order of keys."""
    group = parse_object(cloud_group())
    assert isinstance(group, CloudGroup)
    assert parse_object(group.document) == group
    reordered = {"aws": {"region": "eu", "securityGroupsIds": ["sg-1", "sg-2"]}}
    policy = parse_object(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p"},
            "spec": {"endpointSelector": {}, "egress": [{"toGroups": [reordered]}]},
        }
    )
    assert not isinstance(policy, CidrGroup | CloudGroup)
    assert policy.rules[0].entries[0].peers.cloud_groups == (group.reference,)


AUDIT = {"name": "g", "annotations": {"policy.axoneme.io/audit": "true"}}


@pytest.mark.parametrize(
    ("document", "path", "reason", "fix"),
    [
        (cidr_group(spec=None), "", "no spec", "externalCIDRs"),
        (cidr_group(spec={}), "spec", "no externalCIDRs", "externalCIDRs: []"),
        (cidr_group(spec={"externalCIDRs": None}), "spec", "no externalCIDRs", "externalCIDRs: []"),
        (cidr_group(spec={"externalCidrs": []}), "spec.externalCidrs", "unknown key", "externalCIDRs?"),
        (cidr_group(spec={"externalCIDRs": "x"}), "spec.externalCIDRs", "expected a list", "- "),
        (cidr_group(spec={"externalCIDRs": ["10.0.0.1"]}), "spec.externalCIDRs[0]", "prefix", "/32"),
        (cidr_group(spec={"externalCIDRs": ["2001:db8::1"]}), "spec.externalCIDRs[0]", "prefix", "/128"),
        (cidr_group(spec={"externalCIDRs": ["::ffff:1.2.3.4/128"]}), "spec.externalCIDRs[0]", "prefix", ""),
        (cidr_group(spec={"externalCIDRs": [7]}), "spec.externalCIDRs[0]", "expected a text", "quotes"),
        (cidr_group(metadata={"name": "g", "namespace": "x"}),
         "metadata.namespace", "no namespace", "remove"),
        (cidr_group(metadata=AUDIT), "metadata", "for policies only", "annotate the policies"),
        (cloud_group() | {"metadata": AUDIT}, "metadata", "for policies only", "annotate the policies"),
        (cloud_group() | {"spec": None}, "", "no spec", "reference"),
        (cloud_group(reference=None), "spec", "no reference", "toGroups"),
        (cloud_group(cidrs=None), "spec", "no cidrs", "cidrs: []"),
        (cloud_group(reference={"gcp": {}}), "spec.reference.gcp", "unknown key 'gcp'", "aws"),
        (cloud_group(reference={"aws": {"groups": []}}),
         "spec.reference.aws.groups", "unknown key", "region"),
        (cloud_group(cidrs=["10.0.0.0"]), "spec.cidrs[0]", "prefix", "/32"),
        (cloud_group(cidrs=["2001:db8::"]), "spec.cidrs[0]", "prefix", "/128"),
    ],
)  # fmt: skip
def test_refusals(document: dict[str, Any], path: str, reason: str, fix: str) -> None:
    """Path, reason and fix."""
    with pytest.raises(InvalidPolicy) as caught:
        parse_object(document)
    found = [fault for fault in caught.value.faults if fault.path == path]
    assert found, caught.value.faults
    assert reason in found[0].reason
    assert fix in found[0].fix
