"""Applying objects of every kind over gRPC, on both stores: conflicts, namespaces, roles, selectors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.labels import workload_labels
from tests.contract.policyquestions import (
    ADMIN,
    ALLOW,
    BACKEND,
    CCNP,
    CLUSTER_WIDE,
    CNP,
    FROM_FRONTEND,
    FRONTEND,
    INVALID,
    NODE1,
    NOT_FOUND,
    READER,
    asked,
    cnp,
    diff,
    filled,
    pod,
    ports,
    refused,
)
from tests.contract.policyserver import RunningPolicy


@pytest.fixture
async def running(policy_service: RunningPolicy) -> RunningPolicy:
    """A service with three identities, two pods, a node and one policy."""
    return await filled(policy_service)


async def test_conflicts_are_refused_naming_both_rules(running: RunningPolicy) -> None:
    """Between a new policy and one in force, between two new ones, in either order, in a dry run (R-48)."""
    rule = {**FROM_FRONTEND, "toPorts": ports(80)}
    one = cnp("one", ingress=[{**rule, "authentication": {"mode": "required"}}])
    two = cnp("two", ingress=[{**rule, "authentication": {"mode": "disabled"}}])
    async with running.client(ADMIN) as stub:
        for text in (f"{one}\n---\n{two}", f"{two}\n---\n{one}"):
            error = await refused(stub.ApplyPolicy(pb.ApplyPolicyRequest(text=text)))
            assert error.code() is INVALID
            assert "spec.ingress[0] of CiliumNetworkPolicy default/one" in str(error.details())
            assert "spec.ingress[0] of CiliumNetworkPolicy default/two" in str(error.details())
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=one))
        for request in (pb.ApplyPolicyRequest(text=two), pb.ApplyPolicyRequest(text=two, validate_only=True)):
            assert (await refused(stub.ApplyPolicy(request))).code() is INVALID
        error = await refused(diff(stub, two))
        assert "contradict" in str(error.details())
        changed = one.replace("required", "disabled")
        assert await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=f"{changed}\n---\n{two}"))
        assert {key.name for key in running.state.stored} == {"allow", "one", "two"}
        assert not running.state.faults


async def test_conflicts_about_a_group_that_comes_with_them(running: RunningPolicy) -> None:
    """The group is not in force yet, but the rules are about the same addresses."""
    rule = {"fromCIDRSet": [{"cidrGroupRef": "partners"}], "toPorts": ports(80)}
    one = cnp("one", ingress=[{**rule, "authentication": {"mode": "required"}}])
    two = cnp("two", ingress=[{**rule, "authentication": {"mode": "disabled"}}])
    group = next(each for each in CLUSTER_WIDE if each["kind"] == "CiliumCIDRGroup")
    async with running.client(ADMIN) as stub:
        text = "\n---\n".join([one, two, json.dumps(group)])
        assert "contradict" in str(
            (await refused(stub.ApplyPolicy(pb.ApplyPolicyRequest(text=text)))).details()
        )


async def test_a_conflict_goes_with_its_policy(running: RunningPolicy) -> None:
    """A change that takes the other policy away is no conflict."""
    rule = {**FROM_FRONTEND, "toPorts": ports(80)}
    one = cnp("one", ingress=[{**rule, "authentication": {"mode": "required"}}])
    two = cnp("two", ingress=[{**rule, "authentication": {"mode": "disabled"}}])
    name = pb.PolicyName(kind=CNP, namespace="default", name="one")
    async with running.client(ADMIN) as stub:
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=one))
        changes, _ = await diff(stub, two, deleted=[name])
        assert [(one.before_auth, one.after_auth) for one in changes] == [
            (pb.AUTH_MODE_REQUIRED, pb.AUTH_MODE_DISABLED)
        ]
        await diff(stub, two, replace_all=True)


async def test_only_namespace_and_changes(running: RunningPolicy) -> None:
    """-n refuses objects of other namespaces; a configured object says what changed."""
    async with running.client(ADMIN) as stub:
        request = pb.ApplyPolicyRequest(text=ALLOW, namespace="shop", only_namespace=True)
        error = await refused(stub.ApplyPolicy(request))
        assert error.code() is INVALID
        assert "namespace default, not shop" in str(error.details())
        free = ALLOW.replace(', "namespace": "default"', "")
        request = pb.ApplyPolicyRequest(text=free, namespace="shop", only_namespace=True)
        created = await stub.ApplyPolicy(request)
        assert created.policies[0].policy.namespace == "shop"
        changed = await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW.replace("8080", "9090")))
        assert list(changed.policies[0].changes) == [
            'spec.ingress[0].toPorts[0].ports[0].port: "8080" -> "9090"'
        ]
        error = await refused(stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW, namespace="No!")))
        assert "namespace" in str(error.details())
        error = await refused(stub.ApplyPolicy(pb.ApplyPolicyRequest(text="")))
        assert error.code() is INVALID


async def test_cluster_wide_kinds_and_groups(running: RunningPolicy) -> None:
    """Stored, read back, in force, deleted; a group and the policy that names it in one text."""
    names = pb.AppliedPolicy
    by_group = cnp("by-group", ingress=[{"fromCIDRSet": [{"cidrGroupRef": "partners"}]}])
    text = "\n---\n".join([by_group, *map(json.dumps, CLUSTER_WIDE)])
    async with running.client(ADMIN) as stub:
        applied = await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=text))
        assert {one.outcome for one in applied.policies} == {names.OUTCOME_CREATED}
        again = await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=text))
        assert {one.outcome for one in again.policies} == {names.OUTCOME_UNCHANGED}
        for one in CLUSTER_WIDE:
            kind, name = str(one["kind"]), str(one["metadata"]["name"])  # type: ignore[index]
            got = await stub.GetPolicy(pb.GetPolicyRequest(kind=kind, name=name))
            assert (got.policy.namespace, json.loads(got.policy.document)["spec"]) == ("", one["spec"])
            request = pb.GetPolicyRequest(kind=kind, namespace="default", name=name)
            assert "namespace" in str((await refused(stub.GetPolicy(request))).details())
        listed = await stub.ListPolicies(pb.ListPoliciesRequest(namespace="default"))
        assert [one.name for one in listed.policies] == ["allow", "by-group"]
        denied = await stub.ExplainFlow(asked(pod("frontend"), pod("backend")))
        assert denied.ingress.winners[0].policy.kind == "ClusterNetworkPolicy"
        by_prefix = asked(pb.FlowParty(ip="2001:db8:5::1"), pod("backend"))
        assert (await stub.ExplainFlow(by_prefix)).ingress.verdict == pb.VERDICT_ALLOW
        group = pb.PolicyName(kind="CiliumCIDRGroup", name="partners")
        changes, _ = await diff(stub, deleted=[group])
        assert {one.prefix for one in changes} == {"203.0.113.0/24", "2001:db8:5::/48"}
        for one in CLUSTER_WIDE:
            kind, name = str(one["kind"]), str(one["metadata"]["name"])  # type: ignore[index]
            await stub.DeletePolicy(pb.DeletePolicyRequest(kind=kind, name=name))
        assert (await stub.ExplainFlow(by_prefix)).ingress.verdict == pb.VERDICT_DENY
        status = await stub.GetPolicyStatus(pb.GetPolicyStatusRequest(name="by-group"))
        assert any("CIDR group partners" in text for text in status.policies[0].warnings)


async def test_keys_are_checked(running: RunningPolicy) -> None:
    """Missing parts and slashes are named."""
    async with running.client(ADMIN) as stub:
        for request, field in (
            (pb.GetPolicyRequest(kind=CNP, name="a"), "namespace"),
            (pb.GetPolicyRequest(namespace="default", name="a"), "kind"),
            (pb.GetPolicyRequest(kind=CCNP), "name"),
            (pb.GetPolicyRequest(kind=CNP, namespace="default", name="a/b"), "name"),
        ):
            error = await refused(stub.GetPolicy(request))
            assert error.code() is INVALID
            assert field in str(error.details())
        unknown = pb.GetPolicyRequest(kind="Other", name="a")
        assert (await refused(stub.GetPolicy(unknown))).code() is NOT_FOUND


async def test_who_may_ask(running: RunningPolicy) -> None:
    """Readers ask, nodes do not; nobody but admins writes."""
    explain = asked(pod("frontend"), pod("backend"))
    async with running.client(NODE1) as node, running.client(READER) as reader, asyncio.timeout(20):
        for call in (
            node.ExplainFlow(explain),
            node.ReplayFlows(pb.ReplayFlowsRequest()),
            node.GetPolicyStatus(pb.GetPolicyStatusRequest()),
            node.ListSelectors(pb.ListSelectorsRequest()),
            node.DiffPolicies(pb.DiffPoliciesRequest()).read(),
            reader.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW)),
            reader.DeletePolicy(pb.DeletePolicyRequest(kind=CNP, namespace="default", name="allow")),
        ):
            assert (await refused(call)).code() is grpc.StatusCode.PERMISSION_DENIED
        await reader.ExplainFlow(explain)
        await reader.GetPolicyStatus(pb.GetPolicyStatusRequest())
        await reader.ListSelectors(pb.ListSelectorsRequest())
        assert (await diff(reader))[1].changes == 0


async def test_selectors_in_pages(running: RunningPolicy) -> None:
    """Sorted by text, each with its identities and policies; the filter is part of the text."""
    async with running.client(READER) as stub:
        found: list[Any] = []
        token = ""
        while True:
            answer = await stub.ListSelectors(pb.ListSelectorsRequest(page_size=1, page_token=token))
            found += answer.selectors
            token = answer.next_page_token
            if not token:
                break
        assert [one.text for one in found] == sorted(one.text for one in found)
        by_identity = {tuple(one.identities): one for one in found}
        assert {(FRONTEND,), (BACKEND,)} <= set(by_identity)
        one = by_identity[BACKEND,]
        assert (one.uses, one.identity_count, one.policies[0].name) == (1, 1, "allow")
        only = await stub.ListSelectors(pb.ListSelectorsRequest(filter="frontend"))
        assert [list(one.identities) for one in only.selectors] == [[FRONTEND]]
        labels = workload_labels(["app=frontend", "v=2"], namespace="default", cluster="east")
        await running.add_identity(310, labels)
        await running.caught_up()
        only = await stub.ListSelectors(pb.ListSelectorsRequest(filter="frontend"))
        assert [list(one.identities) for one in only.selectors] == [[FRONTEND, 310]]
        error = await refused(stub.ListSelectors(pb.ListSelectorsRequest(page_token="x")))
        assert error.code() is INVALID
