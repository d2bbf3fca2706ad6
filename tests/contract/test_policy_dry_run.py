"""Diff and replay over gRPC, on both stores: what a change would change, and that it stays a dry run."""

from __future__ import annotations

import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from services.policy.questions import dryrun
from services.policy.reading.document import MAX_BYTES
from tests.contract.policyquestions import (
    ADMIN,
    ALLOW,
    ALLOWED,
    BACKEND,
    CNP,
    DENIED,
    FROM_FRONTEND,
    FRONTEND,
    INVALID,
    LABELS,
    NOT_FOUND,
    READER,
    asked,
    cnp,
    diff,
    filled,
    flow,
    labelled,
    pod,
    ports,
    refused,
    told,
)
from tests.contract.policyserver import RunningPolicy


@pytest.fixture
async def running(policy_service: RunningPolicy) -> RunningPolicy:
    """A service with three identities, two pods, a node and one policy."""
    return await filled(policy_service)


async def test_diff_of_a_changed_policy_stores_nothing(running: RunningPolicy) -> None:
    """The old port closes, the new one opens, for one peer of one subject; rules are named."""
    async with running.client(READER) as stub:
        before = running.state.revision
        changes, totals = await diff(stub, ALLOW.replace("8080", "9090"))
        expected = {(BACKEND, FRONTEND, 8080, ALLOWED, DENIED), (BACKEND, FRONTEND, 9090, DENIED, ALLOWED)}
        assert set(map(told, changes)) == expected
        assert {rule.policy.name for one in changes for rule in one.rules} == {"allow"}
        assert (totals.changes, totals.subjects, totals.revision) == (2, 1, before)
        assert tuple(changes[0].subject_labels) == LABELS[BACKEND].texts()
        assert await running.store.revision() == before
        assert await diff(stub, ALLOW) == ([], pb.DiffTotals(revision=before))
        assert (await diff(stub))[1].changes == 0


async def test_diff_of_deletion_and_replacement(running: RunningPolicy) -> None:
    """Without its only policy the backend is open; `replace_all` lets everything else go."""
    name = pb.PolicyName(kind=CNP, namespace="default", name="allow")
    async with running.client(READER) as stub:
        for change in ({"deleted": [name]}, {"replace_all": True}):
            changes, totals = await diff(stub, **change)
            assert told(changes[0]) == (BACKEND, "", None, DENIED, ALLOWED)
            assert [told(one)[1] for one in changes[1:]] == [FRONTEND]
            assert list(changes[0].without) == []
            assert totals.subjects == 1
        missing = pb.PolicyName(kind=CNP, namespace="default", name="none")
        request = pb.DiffPoliciesRequest(change=pb.PolicyChangeSet(deleted=[missing]))
        assert (await refused(stub.DiffPolicies(request).read())).code() is NOT_FOUND
        request = pb.DiffPoliciesRequest(change=pb.PolicyChangeSet(text=ALLOW, deleted=[name]))
        assert (await refused(stub.DiffPolicies(request).read())).code() is INVALID
        request = pb.DiffPoliciesRequest(limit=100_001)
        assert "limit" in str((await refused(stub.DiffPolicies(request).read())).details())
        big = pb.PolicyChangeSet(text="é" * (MAX_BYTES // 2 + 1))
        error = await refused(stub.DiffPolicies(pb.DiffPoliciesRequest(change=big)).read())
        assert "change.text" in str(error.details())


async def test_diff_limit_totals_and_warnings(
    running: RunningPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list ends at the limit, the totals do not; traps of the new policies are told."""
    open_all = cnp("open", ingress=[{"fromEntities": ["all"], "toPorts": ports(1, 3, 5, 7)}])
    async with running.client(READER) as stub:
        changes, totals = await diff(stub, open_all, limit=2)
        # Each port for the frontend, which has an entry of its own, and for everybody else.
        assert (len(changes), totals.changes) == (2, 8)
        trap = cnp("trap", ingress=[{"fromEntities": ["remote-node"]}])
        _, totals = await diff(stub, trap)
        assert any("remote-node" in text for text in totals.warnings)
        monkeypatch.setattr(dryrun, "MAX_COUNTED", 1)
        for changes, totals in (await diff(stub, open_all), await diff(stub, ALLOW.replace("8080", "1"))):
            assert totals.incomplete
            assert (len(changes), totals.subjects) == (totals.changes, 1)


async def test_a_diff_says_that_it_compares_no_requests(running: RunningPolicy) -> None:
    """Rules inside a redirect change no verdict on connections; whoever changes them is told."""

    def http(path: str) -> str:
        rules = {"http": [{"path": path}]}
        return cnp("http", ingress=[{**FROM_FRONTEND, "toPorts": ports(80, rules=rules)}])

    async with running.client(ADMIN) as stub:
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=http("/a")))
        changes, totals = await diff(stub, http("/b"))
        assert changes == []
        assert any("only connections are compared" in text for text in totals.warnings)
        _, totals = await diff(stub, http("/a"))
        assert not any("only connections are compared" in text for text in totals.warnings)


async def test_diff_of_prefixes_ranges_and_named_ports(running: RunningPolicy) -> None:
    """Prefixes by name in both families, ranges as blocks, names as the ports that pods have."""
    rules = [{"fromCIDR": ["192.0.2.0/24", "2001:db8::/32"], "toPorts": ports(443)}]
    ranged = [{"ports": [{"port": "1024", "endPort": 2047, "protocol": "TCP"}]}]
    rules += [{"fromEntities": ["world"], "toPorts": ranged}, {**FROM_FRONTEND, "toPorts": ports("web")}]
    async with running.client(ADMIN) as stub:
        changes, _ = await diff(stub, cnp("more", ingress=rules))
        shown = {told(one)[1:3] for one in changes}
        assert {("192.0.2.0/24", 443), ("2001:db8::/32", 443)} <= shown
        blocks = {one.ports.ports.prefix_length for one in changes if one.ports.ports.port == 1024}
        assert blocks == {6}
        worlds = {tuple(one.peer_labels) for one in changes if not one.peer and not one.prefix}
        assert {("reserved:world-ipv4",), ("reserved:world-ipv6",)} <= worlds
        await stub.DeletePolicy(pb.DeletePolicyRequest(kind=CNP, namespace="default", name="allow"))
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=cnp("lock", ingress=[{}])))
        changes, _ = await diff(stub, cnp("named", ingress=[{**FROM_FRONTEND, "toPorts": ports("web")}]))
        assert list(map(told, changes)) == [(BACKEND, FRONTEND, 8080, DENIED, ALLOWED)]


async def test_replay(running: RunningPolicy) -> None:
    """Before and after in order; who cannot be found is a problem of that flow alone."""
    namespace = "k8s:io.kubernetes.pod.namespace=default"
    gone = labelled("k8s:app=frontend", "k8s:was=here", namespace)
    flows = [
        flow(pod("frontend"), pod("backend")),
        flow(pod("frontend"), pod("backend"), 9090),
        flow(pod("nobody"), pod("backend")),
        flow(gone, labelled(*LABELS[BACKEND].texts()), 9090),
        flow(pb.FlowParty(ip="2001:db8::1"), pod("backend")),
    ]
    change = pb.PolicyChangeSet(text=ALLOW.replace("8080", "9090"))
    async with running.client(READER) as stub:
        answer = await stub.ReplayFlows(pb.ReplayFlowsRequest(change=change, flows=flows))
        assert [(one.before, one.after) for one in answer.flows] == [
            (ALLOWED, DENIED),
            (DENIED, ALLOWED),
            (pb.VERDICT_UNSPECIFIED, pb.VERDICT_UNSPECIFIED),
            (DENIED, ALLOWED),
            (DENIED, DENIED),
        ]
        assert "nobody" in answer.flows[2].problem
        assert [one.rules[0].rule for one in answer.flows if one.rules] == ["spec.ingress[0]"] * 3
        named = cnp("allow", ingress=[{**FROM_FRONTEND, "toPorts": ports("web")}])
        by_labels = flow(pod("frontend"), labelled(*LABELS[BACKEND].texts()))
        request = pb.ReplayFlowsRequest(change=pb.PolicyChangeSet(text=named), flows=[by_labels])
        same = await stub.ReplayFlows(request)
        assert (same.flows[0].before, same.flows[0].after) == (ALLOWED, ALLOWED), "the name is the pod's port"
        too_many = pb.ReplayFlowsRequest(flows=[flows[0]] * 5001)
        error = await refused(stub.ReplayFlows(too_many))
        assert error.code() is INVALID
        assert "flows" in str(error.details())
        unchanged = await stub.ReplayFlows(pb.ReplayFlowsRequest(flows=flows[:1]))
        assert (unchanged.flows[0].before, unchanged.flows[0].after) == (ALLOWED, ALLOWED)


async def test_replay_and_explain_agree_with_a_diff(running: RunningPolicy) -> None:
    """What a diff says changes is what explain says once the change is made."""
    text = cnp("deny", ingressDeny=[{**FROM_FRONTEND, "toPorts": ports(8080)}])
    question = asked(pod("frontend"), pod("backend"))
    async with running.client(ADMIN) as stub:
        changes, _ = await diff(stub, text)
        recorded = flow(question.source, question.destination)
        replayed = await stub.ReplayFlows(
            pb.ReplayFlowsRequest(change=pb.PolicyChangeSet(text=text), flows=[recorded])
        )
        before = await stub.ExplainFlow(question)
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=text))
        after = await stub.ExplainFlow(question)
        assert [told(one) for one in changes] == [(BACKEND, FRONTEND, 8080, before.verdict, after.verdict)]
        assert (replayed.flows[0].before, replayed.flows[0].after) == (before.verdict, after.verdict)
        assert after.ingress.winners[0].policy.name == "deny"
        assert after.ingress.losers[0].note
