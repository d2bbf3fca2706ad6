"""Flows of a server, many at a time where it can: FlowsService of our nodes and relays, else GetFlows.

A server without batches answers UNIMPLEMENTED before anything else, and one that does not let us have them
PERMISSION_DENIED; both are then asked the stock way, and remembered as long as this object lives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from axoneme.api.flows.v1 import flows_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.cli.hubble.server import Server
from axoneme.lib.errors import AxonemeError

GET_FLOWS: Final = "/observer.Observer/GetFlows"
STREAM_FLOWS: Final = "/axoneme.api.flows.v1.FlowsService/StreamFlows"
BATCH_SIZE: Final = 256
WITHOUT_BATCHES: Final = ("UNIMPLEMENTED", "PERMISSION_DENIED")


class FlowStream:
    """Queries to one server."""

    def __init__(self, server: Server) -> None:
        """Take a server that the caller closes."""
        self.server = server
        self._batched = True

    def batches(self, request: observer_pb2.GetFlowsRequest) -> Iterator[Sequence[bytes]]:
        """Encoded GetFlowsResponses as they come, never empty. Raises AxonemeError."""
        if self._batched:
            started = False
            try:
                for batch in self._stream_flows(request):
                    started = True
                    if batch:
                        yield batch
                return
            except AxonemeError as error:
                if started or error.code not in WITHOUT_BATCHES:
                    raise
                self._batched = False
        for data in self.server.stream(GET_FLOWS, request):
            yield (data,)

    def _stream_flows(self, request: observer_pb2.GetFlowsRequest) -> Iterator[Sequence[bytes]]:
        wanted = flows_pb2.StreamFlowsRequest(request=request, batch_size=BATCH_SIZE)
        for data in self.server.stream(STREAM_FLOWS, wanted):
            yield flows_pb2.StreamFlowsResponse.FromString(data).responses
