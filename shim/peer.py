"""The Peer API of one node: where the observers of all nodes are, for a relay.

The shim feeds the node table from its node stream; every `Notify` stream first gets all peers as added, then
changes. A change of name is a removal and an addition; a change of address is an update. A reader that falls
behind by too much is ended: it reconnects and starts afresh.
"""

# ruff: noqa: ARG002  (gRPC fixes the signatures)

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc

from axoneme.api.hubble.peer import peer_pb2, peer_pb2_grpc
from axoneme.lib.errors import ResourceExhausted

OBSERVER_PORT: Final = 4244
MAX_BACKLOG: Final = 65_536
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerNode:
    """A node whose observer listens at `address` (`ip`, `ip:port` or `[ip6]:port`)."""

    cluster: str
    name: str
    address: str
    tls: bool = True

    @property
    def full_name(self) -> str:
        """Name on the wire: `cluster/node`, or the bare node name in a cluster named default."""
        return self.name if self.cluster == "default" else f"{self.cluster}/{self.name}"


def tls_server_name(node: str, cluster: str) -> str:
    """Name in a node's certificate; dots become dashes, so that one wildcard per cluster covers it."""
    return f"{node.replace('.', '-')}.{cluster.replace('.', '-')}.hubble-grpc.cilium.io"


class PeerTable:
    """The known peers and the streams that follow them."""

    def __init__(self) -> None:
        """Start without peers."""
        self._peers: dict[str, PeerNode] = {}
        self._streams: set[asyncio.Queue[peer_pb2.ChangeNotification | None]] = set()

    @property
    def peers(self) -> Mapping[str, PeerNode]:
        """Known peers by full name."""
        return self._peers

    def replace(self, peers: Iterable[PeerNode]) -> None:
        """Take the whole table; what is not named is removed."""
        wanted = {peer.full_name: peer for peer in peers}
        for name in [name for name in self._peers if name not in wanted]:
            self.delete(name)
        for peer in wanted.values():
            self.upsert(peer)

    def upsert(self, peer: PeerNode) -> None:
        """Add a peer or change its address; a repetition tells nobody."""
        known = self._peers.get(peer.full_name)
        if known == peer:
            return
        self._peers[peer.full_name] = peer
        self._tell(_notification(peer, peer_pb2.PEER_UPDATED if known else peer_pb2.PEER_ADDED))

    def delete(self, full_name: str) -> None:
        """Remove a peer; removing none succeeds."""
        if peer := self._peers.pop(full_name, None):
            self._tell(_notification(peer, peer_pb2.PEER_DELETED))

    async def follow(self) -> AsyncIterator[peer_pb2.ChangeNotification]:
        """All peers, then changes. Raises ResourceExhausted when the reader is too slow."""
        queue: asyncio.Queue[peer_pb2.ChangeNotification | None] = asyncio.Queue()
        self._streams.add(queue)
        try:
            for peer in list(self._peers.values()):
                yield _notification(peer, peer_pb2.PEER_ADDED)
            while (change := await queue.get()) is not None:
                yield change
            raise ResourceExhausted(f"more than {MAX_BACKLOG} peer changes unread; connect again")
        finally:
            self._streams.discard(queue)

    def _tell(self, change: peer_pb2.ChangeNotification) -> None:
        for queue in list(self._streams):
            if queue.qsize() < MAX_BACKLOG:
                queue.put_nowait(change)
            else:
                self._streams.discard(queue)
                queue.put_nowait(None)


class PeerService(peer_pb2_grpc.PeerServicer):
    """Serves one peer table."""

    def __init__(self, table: PeerTable) -> None:
        """Take the table that the shim feeds."""
        self._table = table

    def add_to(self, server: grpc.aio.Server) -> list[str]:
        """Add the service and return its name for the health service."""
        peer_pb2_grpc.add_PeerServicer_to_server(self, server)
        return [peer_pb2.DESCRIPTOR.services_by_name["Peer"].full_name]

    async def Notify(
        self, request: peer_pb2.NotifyRequest, context: Context
    ) -> AsyncIterator[peer_pb2.ChangeNotification]:
        """Stream all peers, then changes."""
        async for change in self._table.follow():
            yield change


def _notification(
    peer: PeerNode, change: peer_pb2.ChangeNotificationType.ValueType
) -> peer_pb2.ChangeNotification:
    address = peer.address if _has_port(peer.address) else _with_port(peer.address)
    result = peer_pb2.ChangeNotification(name=peer.full_name, address=address, type=change)
    if peer.tls:
        result.tls.server_name = tls_server_name(peer.name, peer.cluster)
    return result


def _has_port(address: str) -> bool:
    return address.startswith("unix:") or address.count(":") == 1 or "]:" in address


def _with_port(address: str) -> str:
    return f"[{address.strip('[]')}]:{OBSERVER_PORT}" if ":" in address else f"{address}:{OBSERVER_PORT}"
