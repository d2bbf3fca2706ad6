"""Explain over gRPC, on both stores: however the sides of a flow are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import identities
from axoneme.lib.labels import workload_labels
from axoneme.lib.tls import TlsFiles
from services.policy.settings import PolicySettings
from tests.contract.policyquestions import (
    ADMIN,
    BACKEND,
    CCNP,
    CNP,
    FROM_FRONTEND,
    FRONTEND,
    INVALID,
    LABELS,
    NOT_FOUND,
    OTHER,
    READER,
    asked,
    cnp,
    diff,
    filled,
    labelled,
    pod,
    ports,
    refused,
    told,
)
from tests.contract.policyserver import RunningPolicy, running_policy


@pytest.fixture
async def running(policy_service: RunningPolicy) -> RunningPolicy:
    """A service with three identities, two pods, a node and one policy."""
    return await filled(policy_service)


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
        assert lookup.egress.winners[0].rule == "spec.egress[1]"
        assert lookup.egress.reason.endswith("; every name may be asked for")
        few = [{"matchName": "B.example.com"}, {"matchPattern": "*.example.org"}]
        learn["toPorts"] = ports(53, protocol="UDP", rules={"dns": few})
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=cnp("dns", egress=rules)))
        lookup = await stub.ExplainFlow(asked(pod("backend"), pb.FlowParty(identity=FRONTEND), 53, 17))
        assert lookup.egress.reason.endswith("; names that may be asked for: *.example.org, b.example.com")


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


async def test_what_has_no_endpoint_here_has_no_policy(running: RunningPolicy) -> None:
    """Hosts, nodes, the unmanaged and pods of other clusters are peers only: in explain, diff and status."""
    west = workload_labels(["app=backend"], namespace="default", cluster="west")
    await running.add_identity(400, west, "far")
    await running.caught_up()
    wide = {
        "apiVersion": "cilium.io/v2",
        "kind": CCNP,
        "metadata": {"name": "wide"},
        "spec": {"endpointSelector": {}, "ingress": [{}]},
    }
    reserved = (identities.HOST, identities.REMOTE_NODE, identities.KUBE_APISERVER, identities.UNMANAGED)
    async with running.client(ADMIN) as stub:
        changes, totals = await diff(stub, json.dumps(wide))
        assert not {one.subject for one in changes} & {400, *reserved}
        # The backend is locked already; so is init, but from now on the local host gets in.
        expected = {FRONTEND, OTHER, identities.HEALTH, identities.INIT, identities.INGRESS}
        assert ({one.subject for one in changes}, totals.subjects) == (expected, 5)
        assert [told(one)[1] for one in changes if one.subject == identities.INIT] == [identities.HOST]
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=json.dumps(wide)))
        for number in (400, *reserved):
            answer = await stub.ExplainFlow(
                asked(pb.FlowParty(identity=number), pb.FlowParty(identity=number))
            )
            assert not answer.HasField("ingress")
            assert not answer.HasField("egress")
            assert answer.verdict == pb.VERDICT_ALLOW
        health = await stub.ExplainFlow(asked(pod("frontend"), pb.FlowParty(identity=identities.HEALTH)))
        assert health.ingress.verdict == pb.VERDICT_DENY


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
