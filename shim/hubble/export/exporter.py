"""One export: an answer that is followed, filtered as any other, and written to a file by its writer.

The loop's part is to decode what the filters leave; masks and JSON are the writer's. An export that is
overtaken by the ring says so in its file, as a stream to a client would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, Protocol

from google.protobuf.field_mask_pb2 import FieldMask

from axoneme.api.hubble.observer import observer_pb2
from shim.hubble.export.rotation import RotatedFile
from shim.hubble.export.settings import ExportSettings
from shim.hubble.export.writer import EventWriter

AT_ONCE: Final = 16
"""Flows after which others get a turn of the event loop."""
Request = observer_pb2.GetFlowsRequest
Response = observer_pb2.GetFlowsResponse


class Responses(Protocol):
    """What a request gets."""

    def responses(self) -> AsyncIterator[Response]:
        """Flows and losses, as they come."""


class Mask(Protocol):
    """Which fields of a flow are shown."""

    def applied(self, response: Response) -> Response:
        """The response with these."""


Ask = Callable[[Request], tuple[Responses, Mask]]
"""The node's observer. Raises InvalidArgument or Unsupported."""


class Exporter:
    """Writes the flows that one export asks for."""

    def __init__(
        self, settings: ExportSettings, ask: Ask, *, node_name: str, clock_ns: Callable[[], int]
    ) -> None:
        """Open nothing yet; raises InvalidArgument or Unsupported for what the observer refuses."""
        self.settings = settings
        self._clock_ns = clock_ns
        self._answer, self._mask = ask(_request(settings))
        self._node_name = node_name
        self.writer: EventWriter | None = None

    @property
    def active(self) -> bool:
        """Whether its time is not over."""
        end_ns = self.settings.end_ns
        return end_ns is None or self._clock_ns() < end_ns

    async def run(self) -> None:
        """Write until cancelled or until its time is over."""
        if not self.active:
            return
        settings = self.settings
        file = RotatedFile(
            settings.path,
            max_bytes=settings.max_bytes,
            max_backups=settings.max_backups,
            compress=settings.compress,
            clock_ns=self._clock_ns,
        )
        self.writer = EventWriter(file, node_name=self._node_name, clock_ns=self._clock_ns)
        try:
            await self._follow(self.writer)
        finally:
            await asyncio.shield(asyncio.to_thread(self.writer.stop))

    async def _follow(self, writer: EventWriter) -> None:
        taken = 0
        async for response in self._answer.responses():
            count = response.lost_events.num_events_lost if response.HasField("lost_events") else 1
            # As JSON, a response is the ExportEvent of the same fields.
            writer.put(partial(self._mask.applied, response), count)
            taken += 1
            if taken % AT_ONCE == 0:
                await asyncio.sleep(0)


def _request(settings: ExportSettings) -> Request:
    request = Request(
        follow=True,
        whitelist=settings.include,
        blacklist=settings.exclude,
        field_mask=FieldMask(paths=settings.field_mask),
    )
    if settings.end_ns is not None:
        request.until.FromNanoseconds(settings.end_ns)
    return request
