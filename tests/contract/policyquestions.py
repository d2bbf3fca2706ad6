"""Parties, policies and calls of the contract tests that ask the policy service questions."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any

import grpc
import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.labels import workload_labels
from tests.contract.policyserver import RunningPolicy

ADMIN, READER, NODE1 = "user/admin/ann", "user/reader/bob", "node/node1"
FRONTEND, BACKEND, OTHER = 300, 301, 302
LABELS = {
    number: workload_labels([f"app={app}"], namespace="default", cluster="east")
    for number, app in ((FRONTEND, "frontend"), (BACKEND, "backend"), (OTHER, "other"))
}
CNP, CCNP = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"
ALLOWED, DENIED = pb.VERDICT_ALLOW, pb.VERDICT_DENY
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


def flow(source: pb.FlowParty, destination: pb.FlowParty, port: int = 8080) -> pb.RecordedFlow:
    """A recorded flow."""
    return pb.RecordedFlow(source=source, destination=destination, protocol=6, port=port)


async def filled(policy_service: RunningPolicy) -> RunningPolicy:
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
