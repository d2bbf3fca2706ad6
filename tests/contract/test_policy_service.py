"""The policy service over both stores, etcd and memory: RPCs, quarantine, interest, acknowledgement."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import grpc
import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.identities import RESERVED
from axoneme.lib.labels import workload_labels
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Action, Direction, Enforcement
from services.policy.rules import PolicyKey
from services.policy.store import PREFIX, store_key
from tests.contract.policyserver import NodeStream, RunningPolicy

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"
ALLOW = (EXAMPLES / "allow-frontend.yaml").read_text()
DENY = (EXAMPLES / "deny-frontend.yaml").read_text()
KEY = PolicyKey("CiliumNetworkPolicy", "default", "allow-frontend")
FRONTEND = workload_labels(["app=frontend"], namespace="default", cluster="east")
BACKEND = workload_labels(["app=backend"], namespace="default", cluster="east")
ADMIN, READER, NODE1, NODE2 = "user/admin/ann", "user/reader/bob", "node/node1", "node/node2"


async def test_apply_get_list_delete(policy_service: RunningPolicy) -> None:
    """Created, unchanged, configured; read back at once; deleted."""
    async with policy_service.client(ADMIN) as stub:
        first = await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW))
        again = await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW))
        changed = await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW.replace("8080", "8081")))
        outcomes = [answer.policies[0].outcome for answer in (first, again, changed)]
        names = pb.AppliedPolicy
        assert outcomes == [names.OUTCOME_CREATED, names.OUTCOME_UNCHANGED, names.OUTCOME_CONFIGURED]
        assert "selects no endpoint" in first.policies[0].warnings[0]
        got = await stub.GetPolicy(pb.GetPolicyRequest(kind=KEY.kind, namespace=KEY.namespace, name=KEY.name))
        assert got.policy.generation == 2
        assert got.policy.revision == changed.policies[0].policy.revision
        assert (
            json.loads(got.policy.document)["spec"]["ingress"][0]["toPorts"][0]["ports"][0]["port"] == "8081"
        )
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=DENY))
        page = await stub.ListPolicies(pb.ListPoliciesRequest(page_size=1))
        rest = await stub.ListPolicies(pb.ListPoliciesRequest(page_token=page.next_page_token))
        assert [one.name for one in (*page.policies, *rest.policies)] == ["allow-frontend", "deny-frontend"]
        request = pb.DeletePolicyRequest(kind=KEY.kind, namespace=KEY.namespace, name=KEY.name)
        await stub.DeletePolicy(request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.DeletePolicy(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert set(policy_service.state.stored) == {KEY._replace(name="deny-frontend")}


async def test_all_or_nothing_revision_and_request_id(policy_service: RunningPolicy) -> None:
    """A fault stores nothing; a stale revision is ABORTED; a repeated request gets the same answer."""
    async with policy_service.client(ADMIN) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ApplyPolicy(
                pb.ApplyPolicyRequest(text=f"{ALLOW}---\n{DENY.replace('ingressDeny', 'x')}")
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not policy_service.state.stored
        dry = await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW, validate_only=True))
        assert dry.policies[0].outcome == pb.AppliedPolicy.OUTCOME_CREATED
        assert await policy_service.store.get(store_key(KEY)) is None
        request = pb.ApplyPolicyRequest(text=ALLOW, request_id="r1")
        assert await stub.ApplyPolicy(request) == await stub.ApplyPolicy(request)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=DENY, expected_revision=1))
        assert caught.value.code() is grpc.StatusCode.ABORTED
    async with policy_service.client(READER) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=DENY))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_bad_stored_object_is_named_and_the_rest_works(policy_service: RunningPolicy) -> None:
    """The last usable version stays in force; other objects are not affected."""
    await policy_service.add_identity(300, BACKEND)
    async with policy_service.client(ADMIN) as stub:
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW))
        for key, value in [
            (store_key(KEY), b"{"),
            (f"{PREFIX}CiliumNetworkPolicy/default/deep", b"[" * 100_000),
            (f"{PREFIX}CiliumNetworkPolicy/default/other", b'{"kind": "Pod"}'),
            (f"{PREFIX}odd", b"x"),
            ("cilium/state/identities/v1/id/999", b"\xff"),
            ("cilium/state/identities/v1/id/1", BACKEND.key.encode()),
            ("cilium/state/identities/v1/id/99999999999", BACKEND.key.encode()),
            ("cilium/state/identities/v1/value/odd/node1", b"x"),
        ]:
            revision = await policy_service.store.put(key, value)
        assert await policy_service.state.wait_revision(revision, 5)
        assert policy_service.state.stored[KEY].problem.startswith("not JSON")
        assert policy_service.state.engine.labels(1) == RESERVED[1][1]
        subject = pb.GetSubjectPolicyRequest(subject=pb.Subject(identity=300))
        answer = await stub.GetSubjectPolicy(subject)
        assert answer.policy.header.ingress == pb.ENFORCEMENT_DEFAULT_DENY
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW))
        assert policy_service.state.stored[KEY].problem == ""
        await stub.DeletePolicy(pb.DeletePolicyRequest(kind=KEY.kind, namespace=KEY.namespace, name="other"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetSubjectPolicy(pb.GetSubjectPolicyRequest(subject=pb.Subject(identity=999)))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_watch(policy_service: RunningPolicy) -> None:
    """Snapshot, bookmark, changes; resumed from a revision without a gap; too far ahead is refused."""
    async with policy_service.client(ADMIN) as stub:
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW))
        call = stub.WatchPolicies(pb.WatchPoliciesRequest())
        kinds = [(await call.read()).WhichOneof("kind") for _ in range(2)]
        assert kinds == ["put", "bookmark"]
        position = policy_service.state.revision
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=DENY))
        await stub.DeletePolicy(pb.DeletePolicyRequest(kind=KEY.kind, namespace=KEY.namespace, name=KEY.name))
        seen = [await call.read() for _ in range(2)]
        assert [(one.WhichOneof("kind"), getattr(one, one.WhichOneof("kind")).name) for one in seen] == [
            ("put", "deny-frontend"),
            ("deleted", "allow-frontend"),
        ]
        resumed = stub.WatchPolicies(pb.WatchPoliciesRequest(revision=position))
        assert [(await resumed.read()).WhichOneof("kind") for _ in range(3)] == ["bookmark", "put", "deleted"]
        late = stub.WatchPolicies(pb.WatchPoliciesRequest(revision=10**9))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await late.read()
        assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_a_node_gets_its_subjects_and_the_changes(policy_service: RunningPolicy) -> None:
    """Whole mapstate first, then differences; the finished map decides as the policy says."""
    await policy_service.add_identity(300, BACKEND, "node1")
    await policy_service.add_identity(301, FRONTEND, "node2")
    async with (
        policy_service.client(ADMIN) as admin,
        policy_service.client(NODE1) as stub,
        asyncio.timeout(20),
    ):
        node = NodeStream(stub, "node1")
        await node.start(300)
        await node.until(lambda have: "subject:300" in have)
        assert node.policies["subject:300"].ingress is Enforcement.DEFAULT_ALLOW
        await admin.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW))
        await node.until(lambda have: have["subject:300"].ingress is Enforcement.DEFAULT_DENY)
        mapstate = finish(node.policies["subject:300"], local_identities={}, named_ports={})
        assert lookup(mapstate, Direction.INGRESS, 301, 6, 8080).forwarded
        assert not lookup(mapstate, Direction.INGRESS, 301, 6, 8081).forwarded
        await admin.ApplyPolicy(pb.ApplyPolicyRequest(text=DENY))
        await node.until(lambda have: any(c.action is Action.DENY for c in have["subject:300"].contributions))
        mapstate = finish(node.policies["subject:300"], local_identities={}, named_ports={})
        assert not lookup(mapstate, Direction.INGRESS, 301, 6, 8080).forwarded
        assert lookup(mapstate, Direction.INGRESS, 301, 6, 8080).action is Action.DENY
        assert lookup(mapstate, Direction.INGRESS, 302, 6, 8080).action is None
        await admin.DeletePolicy(pb.DeletePolicyRequest(**KEY._replace(name="deny-frontend")._asdict()))
        await node.until(
            lambda have: all(c.action is Action.ALLOW for c in have["subject:300"].contributions)
        )
        mapstate = finish(node.policies["subject:300"], local_identities={}, named_ports={})
        assert lookup(mapstate, Direction.INGRESS, 301, 6, 8080).forwarded
        assert node.deltas >= 3
        node.cancel()


async def test_interest_waits_for_the_nodes_claim(policy_service: RunningPolicy) -> None:
    """Before the slave key nothing is sent; it arrives, the policy does; a foreign subject never does."""
    await policy_service.add_identity(300, BACKEND, "node2")
    async with policy_service.client(NODE1) as stub, asyncio.timeout(20):
        node = NodeStream(stub, "node1")
        await node.start(300, 5)
        await node.until(lambda have: "subject:5" in have)
        assert set(node.policies) == {"subject:5"}
        assert node.policies["subject:5"].egress is Enforcement.DEFAULT_DENY
        await policy_service.claim(300, BACKEND, "node1")
        await node.until(lambda have: "subject:300" in have)
        node.cancel()
        with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
            await NodeStream(stub, "node2").start(300)


async def test_await_identity(policy_service: RunningPolicy) -> None:
    """Names the nodes that have not acknowledged a new peer, and returns when they have."""
    await policy_service.add_identity(300, BACKEND, "node1")
    async with (
        policy_service.client(ADMIN) as admin,
        policy_service.client(NODE1) as stub,
        asyncio.timeout(20),
    ):
        await admin.ApplyPolicy(pb.ApplyPolicyRequest(text=ALLOW))
        node = NodeStream(stub, "node1")
        await node.start(300)
        await node.until(lambda have: "subject:300" in have)
        await policy_service.store.put("cilium/state/identities/v1/id/301", FRONTEND.key.encode())
        request = pb.AwaitIdentityRequest(identity=301, labels=FRONTEND.texts())
        request.timeout.FromMilliseconds(300)
        answer = await stub.AwaitIdentity(request)
        assert (answer.acknowledged, list(answer.pending_nodes)) == (False, ["node1"])
        request.timeout.FromMilliseconds(9000)
        waiting = asyncio.ensure_future(stub.AwaitIdentity(request))
        await node.until(
            lambda have: any(getattr(c.peer, "number", 0) == 301 for c in have["subject:300"].contributions)
        )
        assert (await waiting).acknowledged
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.AwaitIdentity(pb.AwaitIdentityRequest(identity=301, labels=BACKEND.texts()))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.AwaitIdentity(pb.AwaitIdentityRequest(identity=4000))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        node.cancel()
