"""FlowsService: what Observer.GetFlows answers, many responses in one message and already encoded.

Between our own nodes, relays and clients the message costs more than the flow. Order, errors and losses are
those of GetFlows, since one answer makes both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

import grpc

from axoneme.api.flows.v1 import flows_pb2, flows_pb2_grpc
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.errors import InvalidArgument
from shim.flows.answer import Answer
from shim.flows.masks import FlowMask

DEFAULT_BATCH: Final = 256
MAX_BATCH: Final = 1_000
MAX_BATCH_BYTES: Final = 1 << 20
"""A message ends here, long before the 4 MiB that gRPC clients take by default."""
Context = grpc.aio.ServicerContext[Any, Any]
Response = observer_pb2.GetFlowsResponse
Asked = Callable[[observer_pb2.GetFlowsRequest], tuple[Answer, FlowMask]]


class FlowBatches(flows_pb2_grpc.FlowsServiceServicer):
    """Serves the flows of one node in batches."""

    def __init__(self, answer: Asked, greet: Callable[[Context], Awaitable[None]]) -> None:
        """Take what answers a request (or raises as GetFlows does) and what sends the first headers."""
        self._answer = answer
        self._greet = greet

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        """Add the service and return its name for the health service."""
        flows_pb2_grpc.add_FlowsServiceServicer_to_server(self, server)
        return [service_name()]

    async def StreamFlows(
        self, request: flows_pb2.StreamFlowsRequest, context: Context
    ) -> AsyncIterator[flows_pb2.StreamFlowsResponse]:
        """Stream the responses of GetFlows as they come, at most `batch_size` at a time."""
        size = request.batch_size or DEFAULT_BATCH
        if size > MAX_BATCH:
            raise InvalidArgument.of_field("batch_size", f"{size} is more than {MAX_BATCH}")
        answer, mask = self._answer(request.request)
        await self._greet(context)
        async for batch in answer.batches(size):
            for message in encoded(map(mask.applied, batch)):
                yield message


def service_name() -> str:
    """Full name of the service."""
    return flows_pb2.DESCRIPTOR.services_by_name["FlowsService"].full_name


def encoded(responses: Iterable[Response]) -> Iterator[flows_pb2.StreamFlowsResponse]:
    """Responses as messages, almost always one; what is too long for one goes on in the next."""
    message, size = flows_pb2.StreamFlowsResponse(), 0
    for response in responses:
        data = response.SerializeToString()
        if size and size + len(data) > MAX_BATCH_BYTES:
            yield message
            message, size = flows_pb2.StreamFlowsResponse(), 0
        message.responses.append(data)
        message.times_ns.append(response.time.ToNanoseconds() if response.HasField("time") else 0)
        size += len(data)
    yield message
