"""A node's observer behind a real server on a unix socket, with packets, DNS messages and agent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from axoneme.lib import grpcserver  # isort: skip  (before grpc)
import grpc

from axoneme.api.flows.v1 import flows_pb2_grpc
from axoneme.api.hubble.observer import observer_pb2, observer_pb2_grpc
from shim.agentevents.log import AgentEventLog
from shim.observer import ObserverService
from tests.unit.shim.flows.lookupscene import LookupScene


class ObservedNode:
    """The parts of a served node and the stubs of its clients."""

    def __init__(self, scene: LookupScene | None = None, log: AgentEventLog | None = None) -> None:
        self.scene = scene or LookupScene()
        self.log = log or AgentEventLog(clock_ns=lambda: self.scene.clock())
        self.service = ObserverService(
            self.scene.feed,
            self.scene.decoder,
            version="0.1.0",
            boot_clock_ns=self.scene.clock,
            started_ns=1_000_000_000,
            lookups=self.scene.lookups,
            agent_events=self.log,
        )
        self.stub: Any = None
        self.batches: Any = None

    def dial(self, channel: grpc.aio.Channel) -> None:
        """Makes the stubs."""
        self.stub = observer_pb2_grpc.ObserverStub(channel)
        self.batches = flows_pb2_grpc.FlowsServiceStub(channel)

    async def flows(self, request: observer_pb2.GetFlowsRequest) -> list[bytes]:
        """All answers of GetFlows, encoded."""
        return [response.SerializeToString() async for response in self.stub.GetFlows(request)]


@asynccontextmanager
async def served(directory: Path, node: ObservedNode) -> AsyncIterator[ObservedNode]:
    """Serves until the block ends."""
    address = f"unix://{directory}/observer.sock"
    async with (
        grpcserver.serving([grpcserver.Listener(address)], node.service.add_to, drain_seconds=0.0),
        grpc.aio.insecure_channel(address) as channel,
    ):
        node.dial(channel)
        yield node
