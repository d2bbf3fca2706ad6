"""UDP: queries from the listeners, answers through raw sockets from the server's address and port."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Final

from axoneme.lib.dns.wire import Malformed, read_question, refusal
from services.fqdn.model import REFUSED, UDP, EventSink, Flow
from services.fqdn.proxy import datagram, sockets
from services.fqdn.proxy.counters import Counters
from services.fqdn.proxy.inbox import TRUNCATED, Inbox
from services.fqdn.proxy.lookups import Lookups, Reply
from services.fqdn.proxy.mishaps import Mishaps
from services.fqdn.proxy.paths import NoRoom, Path, Paths

BATCH: Final = 64  # queries before answers have their turn


class Replies:
    """Answers to clients of one family; all through one raw socket."""

    def __init__(
        self,
        sender: sockets.Socket,
        counters: Counters,
        identification: Callable[[], int],
    ) -> None:
        self._sendto = sender.sendto
        self._counters = counters
        self._identification = identification

    def to4(self, flow: Flow, client: str) -> Reply:
        """How answers of this flow are sent."""
        head = datagram.head4(flow.server, flow.server_port, flow.client, flow.client_port)
        sendto, words, to = self._sendto, datagram.words, (client, 0)

        def reply(query: bytes, message: bytes) -> None:
            packet = head + words(len(message) + 8, 0) + query[:2] + message[2:]  # as `answer4`
            try:
                sendto(packet, to)
            except OSError as error:
                self._otherwise(error, packet, to)

        return reply

    def to6(self, flow: Flow, client: str) -> Reply:
        """The same for IPv6."""
        head, constant = datagram.head6(flow.server, flow.server_port, flow.client, flow.client_port)
        sendto, answer6, to = self._sendto, datagram.answer6, (client, 0)

        def reply(query: bytes, message: bytes) -> None:
            packet = answer6(head, constant, query, message)
            try:
                sendto(packet, to)
            except OSError as error:
                self._otherwise(error, packet, to)

        return reply

    def _otherwise(self, error: OSError, packet: bytes, to: sockets.Address) -> None:
        """In fragments when it was too big; else it is lost, as a datagram may be."""
        if error.errno != errno.EMSGSIZE:
            self._counters.send_errors += 1
            return
        self._counters.fragmented += 1
        cut = datagram.fragments4 if packet[0] >> 4 == 4 else datagram.fragments6
        try:
            for fragment in cut(packet, self._identification()):
                self._sendto(fragment, to)
        except OSError:
            self._counters.send_errors += 1


class UdpFront:
    """One listener."""

    def __init__(
        self,
        listener: sockets.Socket,
        replies: Replies,
        paths: Paths,
        lookups: Lookups,
        sink: EventSink,
        mishaps: Mishaps,
        *,
        clock: Callable[[], float],
        max_query_bytes: int,
    ) -> None:
        self.listener = listener
        self._make = replies.to6 if listener.family == socket.AF_INET6 else replies.to4
        name, control = sockets.INBOX_HEAD[socket.AddressFamily(listener.family)]
        self._inbox = Inbox(BATCH, max_query_bytes, name=name, control=control)
        self._paths = paths
        self._known = paths.by_key
        self._ask = lookups.ask
        self._counters = lookups.counters
        self._sink = sink
        self._mishaps = mishaps
        self._clock = clock
        self._expected = 1  # queries of the next round

    def readable(self, _: int) -> None:
        """Takes what has come, up to a batch.

        To find a socket empty costs as much as a datagram, so no more is looked for than came lately; with
        more there, the poll is ready again at once and the next round takes twice as many.
        """
        known, ask, paths = self._known, self._ask, self._paths
        expected = self._expected
        datagrams = self._inbox.receive(self.listener.fileno(), expected)
        count = len(datagrams)
        self._expected = min(2 * expected, BATCH) if count == expected else count or 1
        self._counters.udp_queries += count
        now = self._clock()
        for key, query, flags in datagrams:
            try:
                path = known.get(key) or self._new(key, query)
                if path is None or (flags & TRUNCATED and self._too_long(path)):
                    continue
                path.used = now
                message = ask(path, query, now)
                if message is not None:
                    try:
                        (path.send or paths.open(path))(message)
                    except OSError as error:
                        paths.failed(path, message[:2], error)
            except Exception as error:  # noqa: BLE001  one query must not end the loop
                self._mishaps.note("query", error)

    def _new(self, key: bytes, query: bytes) -> Path | None:
        """The path of a client socket's first query; None when there is no room, and it was refused."""
        flow = Flow(UDP, *sockets.ends_of(key))
        try:
            return self._paths.add(key, flow, self._make)
        except NoRoom:
            self._no_room(query, flow)
            return None

    def _too_long(self, path: Path) -> bool:
        self._counters.malformed_queries += 1
        self._sink.malformed(path.flow, "a query that is too long")
        return True

    def _no_room(self, query: bytes, flow: Flow) -> None:
        """Every upstream socket is in use: refused like by the other limits, without judging."""
        self._counters.upstreams_refused += 1
        try:
            message = refusal(query, read_question(query).end, REFUSED)
        except Malformed:
            self._counters.malformed_queries += 1
            return
        self._make(flow, sockets.text_of(flow.client))(query, message)
