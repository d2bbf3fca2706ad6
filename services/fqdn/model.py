"""What the hot path of the proxy and the rest of the process say to each other.

    proxy (one thread, raw epoll) ── Judge.judge ──► rules, by endpoint and server
                                  ── Learner.learn ─► kernel, before the answer is released
                                  ── EventSink ─────► DNS log, metrics

The proxy knows sockets and messages; it decides nothing. What it calls here returns at once: no I/O but
reads and writes of pinned maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple, Protocol

from axoneme.lib.dns.wire import Answer, Question

TCP, UDP = 6, 17
STANDING_SECONDS: Final = 0.005  # as long as what was read of the node's maps is remembered
REFUSED: Final = 5
NXDOMAIN: Final = 3


class Flow(NamedTuple):
    """Who asks whom. Addresses are 4 or 16 bytes, ports in host order; `protocol` 6 or 17."""

    protocol: int
    client: bytes
    client_port: int
    server: bytes
    server_port: int


class Verdict(IntEnum):
    """What became of a message, as `LookupVerdict` of the API."""

    FORWARDED = 1
    DENIED = 2
    ERROR = 3


class Ruling(NamedTuple):
    """What rules say of a query. `endpoint_id` 0: nobody of this node has the client's address."""

    allowed: bool
    endpoint_id: int
    server_identity: int
    reason: str = ""  # why not, in words


class Standing(NamedTuple):
    """What rules say of a client and a server, for every name. Not `lasting`: true of one query only."""

    matches: Callable[[bytes], bool]  # whether this name (wire form, lower case) may be asked for
    yes: Ruling
    no: Ruling
    lasting: bool = True


def no_name(name: bytes) -> bool:  # noqa: ARG001 - any
    """`matches` of who may ask nothing."""
    return False


class Released(IntEnum):
    """What `Learner.learn` asks for."""

    NOW = 1  # the kernel has what it needs: send the answer
    HELD = 2  # wait: `Learner.release` names the answer later
    DROP = 3  # by option: the kernel could not be told in time


class Judge(Protocol):
    """Rules of this moment."""

    @property
    def table(self) -> object:
        """Another one when rules changed: no standing of before holds."""

    def standing(self, flow: Flow) -> Standing:
        """What the client may ask the server for. A lasting one is used for STANDING_SECONDS at most."""


class Learner(Protocol):
    """Takes in answers before they are released."""

    def learn(self, ticket: int, ruling: Ruling, question: Question, answer: Answer) -> Released:
        """Gives the kernel the addresses of a usable answer (rcode 0, with addresses).

        `ticket` is the proxy's number of the answer; after HELD it comes back in `due`.
        """

    def due(self, now: float) -> list[tuple[int, Released]]:
        """Held answers that may go (NOW) or must not (DROP) since; `now` is of time.monotonic."""


class EventSink(Protocol):
    """Takes messages as they pass. Must not fail and must not wait."""

    watched: bool  # whether anybody wants to see them
    unseen: int  # queries that went on while nobody watched: counted here instead of told

    def request(self, flow: Flow, ruling: Ruling, question: Question, verdict: Verdict, error: str) -> None:
        """A query; `verdict` DENIED means that the proxy answered it itself.

        ERROR: refused by a limit, or it was said to be FORWARDED before and then could not be sent (refused)
        or was not answered in time (`error` is "timeout").
        """

    def response(
        self,
        flow: Flow,
        ruling: Ruling,
        question: Question,
        answer: Answer,
        latency_ns: int,
        verdict: Verdict,
        error: str,
    ) -> None:
        """An answer of the server."""

    def malformed(self, flow: Flow, error: str) -> None:
        """Bytes that are no query, or an answer that cannot be of its server; they went nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """Limits of the proxy; times in seconds."""

    port: int = 10_053
    deny_rcode: int = REFUSED
    forward_seconds: float = 10.0
    linger_seconds: float = 10.0  # an upstream socket without queries
    max_upstreams: int = 4_096
    max_in_flight: int = 16_384
    max_in_flight_per_client: int = 1_024  # by client address
    max_connections: int = 2_048
    max_connections_per_client: int = 64  # by client address
    idle_connection_seconds: float = 10.0
    max_pipelined: int = 64  # queries in flight of one TCP connection
    mark: int = 0xA400_0000
    # Of the proxy alone (added by it): other addresses than loopback are for tests and benchmarks.
    listen_addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    bind_seconds: float = 20.0  # how long a port in use is tried again
    max_held: int = 1_024  # answers that wait for the kernel
    max_query_bytes: int = 4_096  # longer queries are malformed
    max_buffered_bytes: int = 64 << 20  # of all TCP connections together
