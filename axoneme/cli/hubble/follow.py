"""A follow that survives the restart of its server: again, from the newest flow on, without repetitions.

The first connection must work; after that the command waits for its server as long as it takes and says so
once. Other errors end it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Final

from axoneme.api.hubble.observer import observer_pb2
from axoneme.cli.causes import connection_failure
from axoneme.cli.hubble.flowstream import FlowStream
from axoneme.lib.errors import AxonemeError, Unavailable
from axoneme.lib.flows.resuming import Resumption

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.2, 5.0
PASSING: Final = ("UNAVAILABLE", "CANCELLED")
"""What a server that stops, or a connection that breaks, makes of a stream."""
Response = observer_pb2.GetFlowsResponse


class Follow:
    """One followed query."""

    def __init__(
        self,
        stream: FlowStream,
        request: observer_pb2.GetFlowsRequest,
        say: Callable[[str], object],
        *,
        sleep: Callable[[float], object] = time.sleep,
        now_ns: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
    ) -> None:
        """`say` takes lines for people, with their newline."""
        self._stream = stream
        self._request = request
        self._say = say
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311  spreads load, hides nothing
        since_ns = request.since.ToNanoseconds() if request.HasField("since") else 0
        self._memory = Resumption(since_ns or now_ns())
        self._connected = False
        self._failures = 0

    def responses(self) -> Iterator[list[Response]]:
        """What is new, batch by batch. Raises AxonemeError."""
        request = self._request
        while True:
            try:
                for batch in self._stream.batches(request):
                    self._here_again()
                    fresh = [response for data in batch if (response := self._fresh(data)) is not None]
                    if fresh:
                        yield fresh
            except AxonemeError as error:
                self._lost(error)
            else:
                if not self._connected:
                    return
                # Nobody ends a followed query but who stops.
                self._lost(Unavailable("the server ended the stream"))
            self._sleep(self._pause())
            self._stream.server.move_on()
            request = self._continued()

    def _fresh(self, data: bytes) -> Response | None:
        response = Response.FromString(data)
        if response.HasField("node_status"):
            return response
        time = response.time if response.HasField("time") else response.flow.time
        time_ns = time.seconds * 10**9 + time.nanos
        return response if self._memory.take(time_ns, hash(data)) else None

    def _continued(self) -> observer_pb2.GetFlowsRequest:
        request = observer_pb2.GetFlowsRequest()
        request.CopyFrom(self._request)
        request.number, request.first = 0, False
        request.since.FromNanoseconds(self._memory.restart())
        return request

    def _here_again(self) -> None:
        if self._failures:
            self._say(f"{self._stream.server.name}: connected again\n")
        self._connected, self._failures = True, 0

    def _lost(self, error: AxonemeError) -> None:
        """Raises the error unless it is one that passes."""
        never = not self._connected and not self._failures
        if error.code not in PASSING or (never and connection_failure(error) is not None):
            raise error
        if not self._failures:
            reason = error.message.replace("\n", " ")
            self._say(f"{self._stream.server.name}: connection lost ({reason}); trying again\n")
        self._failures += 1

    def _pause(self) -> float:
        longest = min(FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), LAST_PAUSE_SECONDS)
        return self._rng.uniform(longest / 2, longest)
