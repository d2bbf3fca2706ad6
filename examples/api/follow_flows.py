"""Prints flows as they happen on any node. Asyncio API.

python examples/api/follow_flows.py [--context FILE] [--count N]
"""

from __future__ import annotations

import argparse
import asyncio

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.client import AsyncClient, load_context


def line(flow: flow_pb2.Flow) -> str:
    """Who, whom, and what became of it."""
    verdict = flow_pb2.Verdict.Name(flow.verdict)
    if flow.verdict == flow_pb2.DROPPED:
        verdict += f" ({flow_pb2.DropReason.Name(flow.drop_reason_desc)})"
    source, destination = name(flow.source, flow.IP.source), name(flow.destination, flow.IP.destination)
    return f"{flow.node_name}: {source} -> {destination} {verdict}"


def name(endpoint: flow_pb2.Endpoint, ip: str) -> str:
    """`namespace/pod` of a workload, the address of anything else."""
    return f"{endpoint.namespace}/{endpoint.pod_name}" if endpoint.pod_name else ip


async def follow(context: str | None, count: int) -> None:
    """Prints `count` flows, the newest recorded one first; 0 never ends."""
    request = observer_pb2.GetFlowsRequest(number=1, follow=True)
    printed = 0
    async with AsyncClient(load_context(context)) as client:
        async for response in client.observer.GetFlows(request):
            if response.WhichOneof("response_types") != "flow":
                continue  # node states and lost events come on the same stream
            print(line(response.flow), flush=True)
            printed += 1
            if printed == count:
                return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--context")
    parser.add_argument("--count", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(follow(arguments.context, arguments.count))


if __name__ == "__main__":
    main()
