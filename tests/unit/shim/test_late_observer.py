"""Calls on the node's socket that come before the flow side is loaded wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from axoneme.api.hubble.observer import observer_pb2
from shim.lateobserver import LateObserver


class Real:
    async def GetFlows(self, request: Any, context: Any) -> AsyncIterator[observer_pb2.GetFlowsResponse]:
        for name in ("a", "b"):
            yield observer_pb2.GetFlowsResponse(node_name=name)

    async def ServerStatus(self, request: Any, context: Any) -> observer_pb2.ServerStatusResponse:
        return observer_pb2.ServerStatusResponse(max_flows=7)


async def test_early_calls_wait_and_late_ones_do_not() -> None:
    late, context = LateObserver(), cast("Any", None)

    async def names() -> list[str]:
        request = observer_pb2.GetFlowsRequest()
        return [response.node_name async for response in late.GetFlows(request, context)]

    early = asyncio.ensure_future(names())
    status = asyncio.ensure_future(late.ServerStatus(observer_pb2.ServerStatusRequest(), context))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not early.done()
    assert not status.done()
    late.set(cast("Any", Real()))
    assert await early == ["a", "b"]
    assert (await status).max_flows == 7
    assert await names() == ["a", "b"]


def test_every_method_is_handed_on() -> None:
    methods = observer_pb2.DESCRIPTOR.services_by_name["Observer"].methods_by_name
    assert all(name in vars(LateObserver) for name in methods)
