"""Questions to the policy service over gRPC, on both stores: explain, diff, replay, selectors, refusals."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import identities
from axoneme.lib.labels import workload_labels
from axoneme.lib.tls import TlsFiles
from services.policy.questions import dryrun
from services.policy.reading.document import MAX_BYTES
from services.policy.settings import PolicySettings
from tests.contract.policyserver import RunningPolicy, running_policy

ADMIN, READER, NODE1 = "user/admin/ann", "user/reader/bob", "node/node1"
FRONTEND, BACKEND, OTHER = 300, 301, 302
LABELS = {
    number: workload_labels([f"app={app}"], namespace="default", cluster="east")
    for number, app in ((FRONTEND, "frontend"), (BACKEND, "backend"), (OTHER, "other"))
}
CNP, CCNP = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def cnp(name: str, **spec: Any) -> str:
    """A policy of the namespace default for the backend."""
    subject = {"endpointSelector": {"matchLabels": {"app": "backend"}}}
    metadata = {"name": name, "namespace": "default"}
    one = {"apiVersion": "cilium.io/v2", "kind": CNP, "metadata": metadata, "spec": {**subject, **spec}}
    return json.dumps(one)


def ports(*numbers: int | str, protocol: str = "TCP", **more: Any) -> list[dict[str, Any]]:
    """A toPorts list of one element."""
    return [{"ports": [{"port": str(one), "protocol": protocol} for one in numbers], **more}]


FROM_FRONTEND = {"fromEndpoints": [{"matchLabels": {"app": "frontend"}}]}
ALLOW = cnp("allow", ingress=[{**FROM_FRONTEND, "toPorts": ports(8080)}])


@pytest.fixture
async def running(policy_service: RunningPolicy) -> RunningPolicy:
    """A service with three identities, two pods, a node and one policy."""
    for number, labels in LABELS.items():
        await policy_service.add_identity(number, labels, "node1")
    await policy_service.add_address("10.1.0.5", FRONTEND, "default/frontend")
    await policy_service.add_address("fd00::5", FRONTEND, "default/frontend")
    await policy_service.add_address("10.1.0.6", BACKEND, "default/backend", ports={"web": 8080})
    await policy_service.add_node("node9", "172.18.0.9", "fd01::9", role="worker")
    await policy_service.caught_up()
    async with policy_service.client(ADMIN) as stub:
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW))
    return policy_service


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def pod(name: str) -> pb.FlowParty:
    """A pod of the namespace default."""
    return pb.FlowParty(pod=pb.PodName(namespace="default", name=name))


def asked(source: pb.FlowParty, destination: pb.FlowParty, port: int = 8080, protocol: int = 6) -> Any:
    """A request of ExplainFlow."""
    return pb.ExplainFlowRequest(source=source, destination=destination, protocol=protocol, port=port)


def labelled(*labels: str) -> pb.FlowParty:
    """A party by labels."""
    return pb.FlowParty(labels=pb.LabelTexts(labels=labels))


# --- explain


async def test_explain_pods_addresses_and_identities(running: RunningPolicy) -> None:
    """The same flow however its sides are named; the rule, the entry and both parties are told."""
    known = LABELS[FRONTEND].texts()
    sources = [pod("frontend"), pb.FlowParty(ip="10.1.0.5"), pb.FlowParty(ip="fd00::5")]
    sources += [pb.FlowParty(identity=FRONTEND), labelled(*known), labelled("k8s:app=frontend")]
    async with running.client(READER) as stub:
        for source in sources:
            answer = await stub.ExplainFlow(asked(source, pod("backend")))
            assert answer.verdict == pb.VERDICT_ALLOW
            assert answer.ingress.winners[0].rule == "spec.ingress[0]"
            assert answer.ingress.winners[0].policy.name == "allow"
            assert answer.ingress.entry.identity == FRONTEND
            assert answer.source.identity == FRONTEND
            assert tuple(answer.destination.labels) == LABELS[BACKEND].texts()
            assert answer.egress.verdict == pb.VERDICT_ALLOW
            assert answer.revision == running.state.revision
        denied = await stub.ExplainFlow(asked(pod("frontend"), pod("backend"), port=9090))
        assert denied.verdict == pb.VERDICT_DENY
        assert [one.policy.name for one in denied.ingress.default_deny] == ["allow"]
        assert "9090" in denied.ingress.fix


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
async def test_explain_addresses_outside(running: RunningPolicy, address: str) -> None:
    """Longest prefix, exceptions, and the world's labels; both families."""
    ipv4 = "." in address
    wide = "192.0.2.0/24" if ipv4 else "2001:db8::/32"
    narrow = "192.0.2.4/30" if ipv4 else "2001:db8::4/126"
    rule = {"fromCIDRSet": [{"cidr": wide, "except": [narrow]}], "toPorts": ports(443)}
    async with running.client(ADMIN) as stub:
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=cnp("cidr", ingress=[rule])))
        denied = await stub.ExplainFlow(asked(pb.FlowParty(ip=address), pod("backend"), 443))
        assert (denied.verdict, denied.source.prefix) == (pb.VERDICT_DENY, narrow)
        assert f"{address}/" in denied.ingress.fix
        other = address.replace("7", "9")
        allowed = await stub.ExplainFlow(asked(pb.FlowParty(ip=other), pod("backend"), 443))
        assert (allowed.verdict, allowed.source.prefix) == (pb.VERDICT_ALLOW, wide)
        world = identities.WORLD_IPV4 if ipv4 else identities.WORLD_IPV6
        assert allowed.source.identity == world
        assert not allowed.HasField("egress")


async def test_explain_labels_that_nobody_has(running: RunningPolicy) -> None:
    """As if a pod had them, on either side; the live engine stays as it is."""
    namespace = "k8s:io.kubernetes.pod.namespace=default"
    async with running.client(READER) as stub:
        as_source = await stub.ExplainFlow(
            asked(labelled("k8s:app=frontend", "k8s:tier=x", namespace), pod("backend"))
        )
        assert (as_source.verdict, as_source.source.identity) == (pb.VERDICT_ALLOW, 0)
        as_subject = await stub.ExplainFlow(
            asked(pod("frontend"), labelled("k8s:app=backend", "k8s:tier=x", namespace))
        )
        assert as_subject.verdict == pb.VERDICT_ALLOW
        assert as_subject.ingress.winners[0].policy.name == "allow"
        both = await stub.ExplainFlow(
            asked(labelled("k8s:app=x", namespace), labelled("k8s:app=backend", "k8s:tier=x", namespace))
        )
        assert both.verdict == pb.VERDICT_DENY
    assert set(running.state.engine.identities) >= set(LABELS)
    assert max(running.state.engine.identities) == OTHER


async def test_explain_named_ports(running: RunningPolicy) -> None:
    """A name means the receiver's own port on ingress, and that of the peer's identity on egress."""
    named = cnp("named", ingress=[{**FROM_FRONTEND, "toPorts": ports("web")}])
    to_backend = {"toEndpoints": [{"matchLabels": {"app": "backend"}}], "toPorts": ports("web")}
    egress = cnp("out", endpointSelector={"matchLabels": {"app": "frontend"}}, egress=[to_backend])
    async with running.client(ADMIN) as stub:
        await stub.DeletePolicy(pb.DeletePolicyRequest(kind=CNP, namespace="default", name="allow"))
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=named))
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=egress))
        for destination in (pod("backend"), pb.FlowParty(identity=BACKEND)):
            answer = await stub.ExplainFlow(asked(pod("frontend"), destination))
            assert (answer.ingress.verdict, answer.egress.verdict) == (pb.VERDICT_ALLOW, pb.VERDICT_ALLOW)
            assert answer.egress.entry.ports.ports.port == 8080
        closed = await stub.ExplainFlow(asked(pod("frontend"), pod("backend"), port=8081))
        assert (closed.ingress.verdict, closed.egress.verdict) == (pb.VERDICT_DENY, pb.VERDICT_DENY)
        elsewhere = pb.FlowParty(identity=BACKEND)
        elsewhere.named_ports.add(name="web", protocol=6, port=8081)
        assert (
            await stub.ExplainFlow(asked(pod("frontend"), elsewhere, 8081))
        ).ingress.verdict == pb.VERDICT_ALLOW


@pytest.mark.parametrize("address", ["198.51.100.4", "2001:db8:ffff::4"])
async def test_explain_dns_names(running: RunningPolicy, address: str) -> None:
    """toFQDNs selects the address once one of its names was learned for it."""
    learn = {
        "toEntities": ["cluster"],
        "toPorts": ports(53, protocol="UDP", rules={"dns": [{"matchPattern": "*"}]}),
    }
    rules: list[dict[str, Any]] = [
        {"toFQDNs": [{"matchPattern": "*.example.com"}], "toPorts": ports(443)},
        learn,
    ]
    async with running.client(ADMIN) as stub:
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=cnp("dns", egress=rules)))
        unknown = await stub.ExplainFlow(asked(pod("backend"), pb.FlowParty(ip=address), 443))
        assert unknown.verdict == pb.VERDICT_DENY
        destination = pb.FlowParty(ip=address, dns_names=["WWW.example.com."])
        answer = await stub.ExplainFlow(asked(pod("backend"), destination, 443))
        assert answer.verdict == pb.VERDICT_ALLOW
        assert "fqdn:*.example.com" in answer.destination.labels
        assert not answer.HasField("ingress")
        lookup = await stub.ExplainFlow(asked(pod("backend"), pb.FlowParty(identity=FRONTEND), 53, 17))
        assert (lookup.egress.verdict, lookup.egress.parser) == (pb.VERDICT_REDIRECT, "dns")


async def test_explain_nodes_and_their_hosts(policy_store: Any, tls_files: Callable[[str], TlsFiles]) -> None:
    """A node's address is remote-node, with its labels and address where settings give nodes numbers; its own
    policy counts with the host firewall."""
    settings = PolicySettings(
        cluster_name="east", node_labels=True, cidr_match_nodes=True, host_firewall=True
    )
    host = {
        "apiVersion": "cilium.io/v2",
        "kind": CCNP,
        "metadata": {"name": "host"},
        "spec": {
            "nodeSelector": {"matchLabels": {"role": "worker"}},
            "ingress": [{"fromEntities": ["health"], "toPorts": ports(4240)}],
        },
    }
    rules: list[dict[str, Any]] = [{"fromNodes": [{"matchLabels": {"role": "worker"}}], "toPorts": ports(1)}]
    rules += [{"fromCIDR": ["fd01::/16"], "toPorts": ports(2)}]
    async with running_policy(policy_store, tls_files, settings=settings) as running:
        await running.add_identity(BACKEND, LABELS[BACKEND], "node9")
        await running.add_address("10.1.0.6", BACKEND, "default/backend")
        await running.add_node("node9", "172.18.0.9", "fd01::9", role="worker")
        await running.caught_up()
        async with running.client(ADMIN) as stub:
            await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=json.dumps(host)))
            await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=cnp("nodes", ingress=rules)))
            wanted = {("172.18.0.9", 1): "allow", ("fd01::9", 1): "allow", ("172.18.0.9", 2): "deny"}
            wanted |= {("fd01::9", 2): "allow"}
            for (address, port), verdict in wanted.items():
                answer = await stub.ExplainFlow(asked(pb.FlowParty(ip=address), pod("backend"), port))
                assert pb.Verdict.Name(answer.verdict) == f"VERDICT_{verdict.upper()}", (address, port)
                assert "node:role=worker" in answer.source.labels
            to_host = asked(pod("backend"), pb.FlowParty(ip="fd01::9"), 22)
            denied = await stub.ExplainFlow(to_host)
            assert denied.ingress.verdict == pb.VERDICT_DENY
            assert denied.ingress.default_deny[0].policy.name == "host"
            status = await stub.GetPolicyStatus(pb.GetPolicyStatusRequest(name="host"))
            assert (status.policies[0].expected_nodes, status.policies[0].subjects) == (1, 0)


async def test_explain_refusals(running: RunningPolicy) -> None:
    """Each names its field."""
    good = pod("frontend")
    cases = [
        (asked(pb.FlowParty(), good), INVALID, "source"),
        (asked(good, pb.FlowParty(ip="10.0.0.256")), INVALID, "destination"),
        (asked(good, pb.FlowParty(ip="fe80::1%eth0")), INVALID, "destination"),
        (asked(good, pod("nobody")), NOT_FOUND, "destination"),
        (asked(pb.FlowParty(identity=4711), good), NOT_FOUND, "source"),
        (asked(good, labelled("k8s:io.cilium.k8s.policy.cluster=east")), INVALID, "3 identities"),
        (asked(good, labelled("k8s:a=b;c")), INVALID, "labels"),
        (asked(good, pb.FlowParty(ip="10.0.0.1", dns_names=["a"] * 21)), INVALID, "destination"),
        (asked(good, good, protocol=0), INVALID, "protocol"),
        (asked(good, good, protocol=256), INVALID, "protocol"),
        (asked(good, good, port=65536), INVALID, "port"),
    ]
    async with running.client(READER) as stub:
        for request, code, text in cases:
            error = await refused(stub.ExplainFlow(request))
            assert error.code() is code, request
            assert text in str(error.details()), request


async def test_a_subject_with_a_fault_is_an_error_not_an_allow(running: RunningPolicy) -> None:
    """Two stored policies that contradict each other, and a subject that never had another policy."""
    rule = {**FROM_FRONTEND, "authentication": {"mode": "required"}, "toPorts": ports(1)}
    one = cnp("one", ingress=[rule])
    two = cnp("two", ingress=[{**rule, "authentication": {"mode": "disabled"}}])
    for name, text in (("one", one), ("two", two)):
        await running.store.put(f"axoneme/state/policies/v1/{CNP}/default/{name}", text.encode())
    labels = workload_labels(["app=backend", "v=2"], namespace="default", cluster="east")
    await running.add_identity(310, labels, "node1")
    await running.caught_up()
    async with running.client(READER) as stub:
        fresh = await stub.ExplainFlow(asked(pod("frontend"), pb.FlowParty(identity=310)))
        assert (fresh.verdict, fresh.ingress.verdict) == (pb.VERDICT_ERROR, pb.VERDICT_ERROR)
        assert "default/one" in fresh.ingress.reason
        assert "default/two" in fresh.ingress.reason
        kept = await stub.ExplainFlow(asked(pod("frontend"), pod("backend")))
        assert kept.verdict == pb.VERDICT_ALLOW
        assert "last policy that could be computed" in kept.ingress.reason
        found = await stub.GetPolicyStatus(pb.GetPolicyStatusRequest())
        by_name = {status.policy.name: status for status in found.policies}
        assert [by_name[name].accepted for name in ("allow", "one", "two")] == [True, False, False]


# --- diff


async def diff(stub: Any, text: str = "", *, limit: int = 0, **change: Any) -> tuple[list[Any], Any]:
    """The changed verdicts and the totals."""
    request = pb.DiffPoliciesRequest(change=pb.PolicyChangeSet(text=text, **change), limit=limit)
    steps = [step async for step in stub.DiffPolicies(request)]
    assert [step.WhichOneof("kind") for step in steps] == ["change"] * (len(steps) - 1) + ["totals"]
    return [step.change for step in steps[:-1]], steps[-1].totals


def told(change: Any) -> tuple[Any, ...]:
    """A change in short."""
    port = change.ports.ports.port if change.ports.WhichOneof("kind") == "ports" else None
    return (change.subject, change.peer or change.prefix, port, change.before, change.after)


ALLOWED, DENIED = pb.VERDICT_ALLOW, pb.VERDICT_DENY


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


# --- replay


def flow(source: pb.FlowParty, destination: pb.FlowParty, port: int = 8080) -> pb.RecordedFlow:
    """A recorded flow."""
    return pb.RecordedFlow(source=source, destination=destination, protocol=6, port=port)


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


# --- selectors


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


# --- applying


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


CLUSTER_WIDE = [
    {
        "apiVersion": "cilium.io/v2",
        "kind": CCNP,
        "metadata": {"name": "wide"},
        "spec": {"endpointSelector": {}, "egress": [{"toEntities": ["cluster"]}]},
    },
    {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "tiered"},
        "spec": {
            "tier": "Admin",
            "priority": 3,
            "subject": {"namespaces": {}},
            "ingress": [{"name": "no", "action": "Deny", "from": [{"namespaces": {}}]}],
        },
    },
    {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumCIDRGroup",
        "metadata": {"name": "partners"},
        "spec": {"externalCIDRs": ["203.0.113.0/24", "2001:db8:5::/48"]},
    },
    {
        "apiVersion": "axoneme.io/v1",
        "kind": "CloudGroup",
        "metadata": {"name": "web"},
        "spec": {"reference": {"aws": {"securityGroupsNames": ["web"]}}, "cidrs": ["198.51.100.0/24"]},
    },
]


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
