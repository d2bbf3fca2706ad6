"""The node API over its unix socket: WatchEndpoints."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc

from axoneme.api.node.v1 import node_pb2, node_pb2_grpc
from axoneme.lib import grpcserver
from axoneme.lib.requests import RequestLog
from shim.server import NodeService
from tests.unit.shim.memorynode import MemoryNode, wanted


@contextlib.asynccontextmanager
async def served(node: MemoryNode, directory: Path) -> AsyncIterator[node_pb2_grpc.NodeServiceAsyncStub]:
    """The API of a memory node; what WatchEndpoints does not use is left out."""
    unused: Any = SimpleNamespace()
    service = NodeService(
        endpoints=node.endpoints,
        workloads=node.workloads,
        policies=node.policies,
        cookies=node.cookies,
        merge=node.ipcache.merge,
        ipcache_table=unused,
        audit=unused,
        status=unused,
        health=unused,
        inspection=unused,
        requests=RequestLog(),
    )
    address = f"unix://{directory}/shim.sock"
    async with (
        grpcserver.serving([grpcserver.Listener(address)], service.add_to, drain_seconds=0.1),
        grpc.aio.insecure_channel(f"unix:{directory}/shim.sock") as channel,
    ):
        yield node_pb2_grpc.NodeServiceStub(channel)


async def test_watch_shows_snapshot_bookmark_changes_and_removals(socket_directory: Path) -> None:
    node = MemoryNode()
    old = await node.workloads.add(wanted("old"))
    async with served(node, socket_directory) as api, asyncio.timeout(20):
        call = api.WatchEndpoints(node_pb2.WatchEndpointsRequest())
        events = aiter(call)
        snapshot = await anext(events)
        assert (snapshot.put.endpoint_id, snapshot.put.pod_name) == (old.endpoint_id, "old")
        assert snapshot.put.state == node_pb2.ENDPOINT_STATE_READY
        assert (await anext(events)).bookmark

        new = await node.workloads.add(wanted("new"))
        states: list[int] = []
        while not states or states[-1] != node_pb2.ENDPOINT_STATE_READY:
            event = await anext(events)
            assert event.put.endpoint_id == new.endpoint_id
            states.append(event.put.state)
        assert states[0] == node_pb2.ENDPOINT_STATE_LOCKED

        await node.workloads.delete(old.endpoint_id)
        event = await anext(events)
        while event.WhichOneof("kind") == "put":
            assert event.put.endpoint_id in (old.endpoint_id, new.endpoint_id)
            event = await anext(events)
        assert event.deleted == old.endpoint_id
        call.cancel()
    assert node.endpoints._listeners == [], "a watch that ended listens no more"
