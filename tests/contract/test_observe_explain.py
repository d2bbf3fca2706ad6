"""`observe --explain` against a policy service: the rule that decided, and the one that nearly did."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.cli.hubble.explain import Explainer
from axoneme.lib.rpcerrors import error_from_rpc
from tests.contract.policyquestions import ADMIN, BACKEND, FROM_FRONTEND, FRONTEND, OTHER, cnp, filled, ports
from tests.contract.policyserver import RunningPolicy


@pytest.fixture
async def running(policy_service: RunningPolicy) -> RunningPolicy:
    """A service with three identities, two pods, a node and one policy."""
    return await filled(policy_service)


class Calls:
    """The calls of a stub for another thread, counted."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self._loop = asyncio.get_running_loop()
        self.count = 0

    def ExplainFlow(self, request: pb.ExplainFlowRequest) -> pb.ExplainFlowResponse:
        return self._call(self._stub.ExplainFlow, request)  # type: ignore[no-any-return]

    def GetPolicy(self, request: pb.GetPolicyRequest) -> pb.GetPolicyResponse:
        return self._call(self._stub.GetPolicy, request)  # type: ignore[no-any-return]

    def _call(self, method: Any, request: Any) -> Any:
        self.count += 1

        async def call() -> Any:
            return await method(request)

        try:
            return asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error


def flow(source: int, port: int, pod: str = "backend", **more: Any) -> flow_pb2.Flow:
    """A verdict on the way in to the backend."""
    values = {
        "IP": {"source": "10.1.0.5", "destination": "10.1.0.6"},
        "l4": {"TCP": {"source_port": 40_000, "destination_port": port}},
        "source": {"identity": source},
        "destination": {"identity": BACKEND, "namespace": "default", "pod_name": pod},
        "event_type": {"type": 5}, "traffic_direction": "INGRESS",
    }  # fmt: skip
    return json_format.ParseDict(values | more, flow_pb2.Flow())


async def explained(running: RunningPolicy, *flows: flow_pb2.Flow) -> tuple[list[list[str]], int]:
    async with running.client(ADMIN) as stub:
        calls = Calls(stub)
        explainer = Explainer(calls)
        lines = [list(await asyncio.to_thread(explainer.lines, one)) for one in flows]
    return lines, calls.count


PLACE = "spec.ingress[0] of CiliumNetworkPolicy default/allow"
PEERS = '{"fromEndpoints":[{"matchLabels":{"app":"frontend"}}]}'


async def test_the_rule_that_decided(running: RunningPolicy) -> None:
    lines, count = await explained(running, *[flow(FRONTEND, 8080)] * 5)
    assert lines[0][0].startswith("ingress: allowed by ")
    assert lines[0][1:] == [f"{PLACE}: {PEERS}, 8080/TCP"]
    assert lines == [lines[0]] * 5
    assert count == 2  # ExplainFlow and GetPolicy, once


async def test_the_rule_that_nearly_allowed_it(running: RunningPolicy) -> None:
    drop: dict[str, Any] = {
        "event_type": {"type": 1, "sub_type": 133},
        "drop_reason_desc": "POLICY_DENIED",
        "verdict": "DROPPED",
    }
    lines, _ = await explained(running, flow(FRONTEND, 9090, **drop), flow(OTHER, 8080), flow(OTHER, 9090))
    assert all("no rule allows it" in one[0] for one in lines)
    assert lines[0][1:] == [f"nearest: {PLACE} allows it, but only on 8080/TCP"]
    assert lines[1][1:] == [f"nearest: {PLACE} allows 8080/TCP, but only for {PEERS}"]
    assert lines[2][1:] == [f"nearest: {PLACE} allows 8080/TCP for {PEERS}"]


async def test_a_deny_rule_and_a_pod_that_is_gone(running: RunningPolicy) -> None:
    async with running.client(ADMIN) as stub:
        deny = cnp("deny", ingressDeny=[{**FROM_FRONTEND, "toPorts": ports(8080)}])
        await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=deny))
    lines, _ = await explained(running, flow(FRONTEND, 8080, pod="gone"))
    assert lines[0][0].startswith("ingress: denied by ")
    assert lines[0][1] == f"spec.ingressDeny[0] of CiliumNetworkPolicy default/deny: {PEERS}, 8080/TCP"


async def test_what_no_policy_decided_is_left_alone(running: RunningPolicy) -> None:
    plain = flow(FRONTEND, 8080, event_type={"type": 4})
    full = flow(FRONTEND, 8080, event_type={"type": 1, "sub_type": 155})
    assert await explained(running, plain, full, flow_pb2.Flow()) == ([[], [], []], 0)
