"""From `ApplyPolicy` to the kernel of two nodes, with every process and connection in between.

The clock stops when both nodes' endpoint maps show a new policy generation, read from the pinned maps: that
is when packets are judged by the new policy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.bpf.maps import BpfMap, KernelMap
from shim.maps import layout
from tests.e2e.running import Running
from tests.perf.laboratory import measured
from tests.perf.result import Result

ROUNDS = 30
LIMIT_SECONDS = 5.0
POLL_SECONDS = 0.0005
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: bench, namespace: default}}
spec:
  endpointSelector: {{}}
  ingress:
  - fromEndpoints: [{{matchLabels: {{app: frontend}}}}]
    toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}]}}]
"""


def run() -> Iterator[Result]:
    with measured() as lab:
        maps = [endpoint_map(lab, node.name) for node in lab.cluster.nodes]
        milliseconds, stored = [], []
        for number in range(ROUNDS):
            before = [generations(one) for one in maps]
            begun = time.perf_counter()
            lab.client.policy.ApplyPolicy(
                policy_pb2.ApplyPolicyRequest(text=POLICY.format(port=8080 + number))
            )
            stored.append((time.perf_counter() - begun) * 1000)
            wait_changed(maps, before)
            milliseconds.append((time.perf_counter() - begun) * 1000)
    yield Result(name="policy change stored in etcd", unit="ms", values=stored)
    yield Result(name="policy change in the kernel of both nodes", unit="ms", values=milliseconds)


def wait_changed(maps: list[BpfMap], before: list[dict[int, int]]) -> None:
    """Waits until every endpoint of every node has another generation."""
    deadline = time.monotonic() + LIMIT_SECONDS
    for one, old in zip(maps, before, strict=True):
        while any(generation == old.get(index) for index, generation in generations(one).items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in the kernel after {LIMIT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)


def endpoint_map(lab: Running, node: str) -> BpfMap:
    pins = lab.state.plan(lab.cluster).pins / "axoneme" / node / f"v{layout.SCHEMA_VERSION}"
    return KernelMap.open(pins / "axoneme_ep")


def generations(endpoints: BpfMap) -> dict[int, int]:
    """Policy generation by interface."""
    rows = endpoints.items()
    return {
        int.from_bytes(key, "little"): layout.EndpointEntry.unpack(value).policy_generation
        for key, value in rows
    }
