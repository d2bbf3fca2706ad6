"""Where policies stand: nodes that acknowledge, fail or stay away, over two replicas, on both stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Store
from axoneme.lib.labels import workload_labels
from axoneme.lib.tls import TlsFiles
from services.policy.store import PREFIX
from tests.contract.policyserver import NodeStream, RunningPolicy, running_policy
from tests.waiting import eventually

ADMIN, READER = "user/admin/ann", "user/reader/bob"
CNP = "CiliumNetworkPolicy"
BACKEND, FRONTEND = 300, 301
LABELS = {
    number: workload_labels([f"app={app}"], namespace="default", cluster="east")
    for number, app in ((BACKEND, "backend"), (FRONTEND, "frontend"))
}


def policy(name: str = "allow", app: str = "backend", port: int = 8080, **metadata: Any) -> str:
    """A policy of one application, for everybody on a port."""
    spec = {
        "endpointSelector": {"matchLabels": {"app": app}},
        "ingress": [
            {
                "fromEntities": ["cluster"],
                "toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}],
            }
        ],
    }
    found = {"name": name, "namespace": "default", **metadata}
    return json.dumps({"apiVersion": "cilium.io/v2", "kind": CNP, "metadata": found, "spec": spec})


async def status_of(running: RunningPolicy, name: str = "allow") -> Any:
    """The standing of one policy."""
    async with running.client(READER) as stub:
        answer = await stub.GetPolicyStatus(pb.GetPolicyStatusRequest(name=name))
    assert len(answer.policies) == 1
    return answer.policies[0]


async def apply(running: RunningPolicy, text: str) -> None:
    """Store policies."""
    async with running.client(ADMIN) as stub:
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=text))


async def until(running: RunningPolicy, condition: Callable[[Any], bool], name: str = "allow") -> Any:
    """The standing of a policy once it is as wanted; acknowledgements arrive when they arrive."""
    found: list[Any] = []

    async def holds() -> bool:
        found[:] = [await status_of(running, name)]
        return condition(found[0])

    await eventually(holds)
    return found[0]


def nodes(status: Any) -> tuple[int, int, dict[str, str]]:
    """Acknowledged and expected nodes, and the reasons of the others."""
    return (
        status.acknowledged_nodes,
        status.expected_nodes,
        {one.node_name: one.reason for one in status.pending},
    )


@pytest.fixture
async def second(
    policy_store: Store, policy_service: RunningPolicy, tls_files: Callable[[str], TlsFiles]
) -> AsyncIterator[RunningPolicy]:
    """Another replica over the same store."""
    async with running_policy(policy_store, tls_files, replica="second") as running:
        yield running


async def test_nodes_acknowledge_and_fail(policy_service: RunningPolicy) -> None:
    """Expected are the nodes where a subject lives; pending says why: absent, silent, failed."""
    await policy_service.add_identity(BACKEND, LABELS[BACKEND], "node1", "node2", "node3")
    await policy_service.add_identity(FRONTEND, LABELS[FRONTEND], "node4")
    await apply(policy_service, policy())
    status = await status_of(policy_service)
    assert (status.accepted, status.subjects) == (True, 1)
    assert nodes(status) == (0, 3, dict.fromkeys(("node1", "node2", "node3"), "not connected"))
    client = policy_service.client
    async with client("node/node1") as one, client("node/node2") as two, asyncio.timeout(20):
        first, other = NodeStream(one, "node1"), NodeStream(two, "node2")
        for stream in (first, other):
            await stream.start(BACKEND)
        await first.until(lambda have: f"subject:{BACKEND}" in have)
        await other.step(acknowledge=False)
        status = await until(policy_service, lambda found: found.acknowledged_nodes == 1)
        assert nodes(status) == (1, 3, {"node2": "", "node3": "not connected"})
        await apply(policy_service, policy(port=7070))
        await first.step(acknowledge=False)
        status = await until(policy_service, lambda found: found.acknowledged_nodes == 0)
        assert nodes(status)[2]["node1"] == "", "it has a difference that it did not acknowledge"
        await apply(policy_service, policy(port=9090))
        await first.step(failures={f"subject:{BACKEND}": "the map is full"})
        status = await until(policy_service, lambda found: found.pending[0].reason != "")
        assert nodes(status) == (0, 3, {"node1": "the map is full", "node2": "", "node3": "not connected"})
        first.cancel()
        other.cancel()
    status = await until(policy_service, lambda found: found.pending[0].reason == "not connected")
    assert nodes(status)[:2] == (0, 3)


async def test_a_failure_of_another_subject_is_another_policys(policy_service: RunningPolicy) -> None:
    """Two policies on one node, of which one subject fails."""
    for number, labels in LABELS.items():
        await policy_service.add_identity(number, labels, "node1")
    await apply(policy_service, f"{policy()}\n---\n{policy('other', 'frontend')}")
    async with policy_service.client("node/node1") as stub, asyncio.timeout(20):
        stream = NodeStream(stub, "node1")
        await stream.start(BACKEND, FRONTEND)
        await stream.step(failures={f"subject:{FRONTEND}": "no"})
        await until(policy_service, lambda found: found.acknowledged_nodes == 1)
        assert nodes(await status_of(policy_service, "other")) == (0, 1, {"node1": "no"})
        stream.cancel()


async def test_nodes_of_all_replicas_count(policy_service: RunningPolicy, second: RunningPolicy) -> None:
    """Each replica knows its own nodes at once and the others' by their progress keys."""
    await policy_service.add_identity(BACKEND, LABELS[BACKEND], "node1", "node2")
    await apply(policy_service, policy())
    await second.caught_up()
    async with policy_service.client("node/node1") as one, second.client("node/node2") as two:
        async with asyncio.timeout(20):
            streams = (NodeStream(one, "node1"), NodeStream(two, "node2"))
            for stream in streams:
                await stream.start(BACKEND)
                await stream.until(lambda have: f"subject:{BACKEND}" in have)
            await until(policy_service, lambda found: found.acknowledged_nodes == 1)
            await until(second, lambda found: found.acknowledged_nodes == 1)
            for running in (policy_service, second):
                await running.reporter.step()
            for running in (policy_service, second):
                assert nodes(await until(running, lambda found: found.acknowledged_nodes == 2)) == (2, 2, {})
            # Progress makes no progress: what was acknowledged stays so although the store moved on.
            await policy_service.reporter.step()
            await policy_service.caught_up()
            assert nodes(await status_of(policy_service))[0] == 2
            key = f"{layout.POLICY_PROGRESS}second"
            await policy_service.store.put(key, b"[" * 100_000)
            await policy_service.caught_up()
            assert nodes(await status_of(policy_service)) == (1, 2, {"node2": "not connected"})
            await policy_service.store.delete(key)
            await policy_service.caught_up()
            assert nodes(await status_of(policy_service)) == (1, 2, {"node2": "not connected"})
            for stream in streams:
                stream.cancel()


async def test_progress_goes_with_its_replica(policy_service: RunningPolicy, second: RunningPolicy) -> None:
    """The key hangs on a lease, and a replica that ends takes it away at once."""
    key = f"{layout.POLICY_PROGRESS}second"
    running = asyncio.ensure_future(second.reporter.run())
    row = await eventually(lambda: policy_service.store.get(key))
    assert row is not None
    assert row.lease
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await policy_service.store.get(key) is None


async def test_audit_warnings_and_bad_objects(policy_service: RunningPolicy) -> None:
    """A policy that is tried out, one that selects nobody, and one that cannot be read."""
    await policy_service.add_identity(BACKEND, LABELS[BACKEND], "node1")
    await policy_service.caught_up()
    audited = policy("tried", annotations={"policy.axoneme.io/audit": "true"})
    async with policy_service.client(ADMIN) as stub:
        applied = await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=audited))
        assert any("would switch default deny on" in text for text in applied.policies[0].warnings)
    await apply(policy_service, policy("nobody", app="none"))
    await policy_service.store.put(f"{PREFIX}{CNP}/default/nobody2", b"{}")
    await policy_service.store.put(f"{PREFIX}{CNP}/default/tried2", b"x")
    await policy_service.caught_up()
    tried, nobody = await status_of(policy_service, "tried"), await status_of(policy_service, "nobody")
    assert (tried.audit, tried.accepted, nobody.audit) == (True, True, False)
    assert any("remote-node" in text for text in tried.warnings), "cluster holds remote-node"
    assert any("selects no endpoint" in text for text in nobody.warnings)
    bad = await status_of(policy_service, "tried2")
    assert (bad.accepted, bad.problem.startswith("not JSON")) == (False, True)
    await policy_service.store.put(f"{PREFIX}{CNP}/default/nobody", b"{")
    await policy_service.caught_up()
    broken = await status_of(policy_service, "nobody")
    assert "the version before it stays in force" in broken.problem


async def test_pages_and_filters(policy_service: RunningPolicy) -> None:
    """Sorted, in pages; kind, namespace and name narrow them."""
    await apply(policy_service, "\n---\n".join(policy(f"p{index}") for index in range(5)))
    async with policy_service.client(READER) as stub:
        names: list[str] = []
        request = pb.GetPolicyStatusRequest(page_size=2)
        while True:
            answer = await stub.GetPolicyStatus(request)
            names += [one.policy.name for one in answer.policies]
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
        assert names == [f"p{index}" for index in range(5)]
        for filters, count in (
            ({"kind": CNP}, 5),
            ({"kind": "NetworkPolicy"}, 0),
            ({"namespace": "default"}, 5),
            ({"namespace": "other"}, 0),
            ({"name": "p3"}, 1),
        ):
            answer = await stub.GetPolicyStatus(pb.GetPolicyStatusRequest(**filters))  # type: ignore[arg-type]
            assert len(answer.policies) == count
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetPolicyStatus(pb.GetPolicyStatusRequest(page_size=-1))
        assert "page_size" in str(caught.value.details())
