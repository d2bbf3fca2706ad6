"""A server of ready flows, for `tests.perf.flow_server`: one process, pinned to the first core.

    python -m tests.perf.flowsource ENGINE STYLE DIRECTORY

Prints its port, then the CPU seconds of each GetFlows call. ENGINE is grpc or h2. STYLE: `bytes` yields
serialised messages one by one, `lists` 64 of them at once, `messages` has the server serialise.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from axoneme.lib.tls import TlsFiles

BATCH = 64
KINDS = 1_000
MEAN_BYTES = 669
TRUST_DOMAIN = "east.mesh"


def responses() -> list[observer_pb2.GetFlowsResponse]:
    """Different flows whose mean size is that of real ones (FQDN_AND_PERFORMANCE C4)."""
    made = [_response(number) for number in range(KINDS)]
    missing = MEAN_BYTES - sum(one.ByteSize() for one in made) // KINDS
    for number, one in enumerate(made):
        one.flow.Summary += "s" * (missing - 20 + number % 41)
    return made


def _response(number: int) -> observer_pb2.GetFlowsResponse:
    labels = [f"k8s:app=service-{number % 50}", "k8s:io.kubernetes.pod.namespace=shop", "k8s:tier=backend"]
    end = {"identity": 256 + number, "namespace": "shop", "labels": labels, "pod_name": f"pod-{number}"}
    answer = observer_pb2.GetFlowsResponse(node_name="east/node1")
    flow = answer.flow
    flow.CopyFrom(
        flow_pb2.Flow(
            verdict=flow_pb2.FORWARDED,
            source=flow_pb2.Endpoint(**end),  # type: ignore[arg-type]
            destination=flow_pb2.Endpoint(**end),  # type: ignore[arg-type]
            IP=flow_pb2.IP(source=f"10.0.{number % 250}.7", destination="10.1.2.3"),
            node_name="east/node1",
            Summary="TCP Flags: ACK",
        )
    )
    answer.time.FromNanoseconds(1_700_000_000_000_000_000 + number)
    flow.time.CopyFrom(answer.time)
    return answer


class ReadyFlows(observer_pb2_grpc.ObserverServicer):
    """Answers GetFlows with `number` flows."""

    def __init__(self, style: str) -> None:
        self._style = style
        self._messages = responses()
        self._bytes = [one.SerializeToString() for one in self._messages]

    async def GetFlows(self, request: Any, context: Any) -> AsyncIterator[Any]:
        started = time.process_time()
        for item in self._items(request.number):
            yield item
        print(f"{time.process_time() - started:.6f}", flush=True)

    def _items(self, count: int) -> Iterator[Any]:
        source: list[Any] = self._messages if self._style == "messages" else self._bytes
        items = itertools.islice(itertools.cycle(source), count)
        if self._style != "lists":
            return items
        return iter(lambda: list(itertools.islice(items, BATCH)), [])


async def serve(engine: str, style: str, directory: Path) -> None:
    files = TlsFiles(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")

    def register(server: grpc.aio.Server) -> list[str]:
        observer_pb2_grpc.add_ObserverServicer_to_server(ReadyFlows(style), server)  # type: ignore[no-untyped-call]
        return ["observer.Observer"]

    listener = grpcserver.Listener("127.0.0.1:0", files, TRUST_DOMAIN)
    async with grpcserver.serving([listener], register, engine=engine, drain_seconds=0.1) as server:
        print(server.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    os.sched_setaffinity(0, {0})
    asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
