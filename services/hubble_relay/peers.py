"""The nodes that the relay asks: who they are, how to reach them, and why one cannot be reached.

    Peer.Notify of one node ──► PeerSource ──► PeerPool ──► one Connection per node ──► queries

The source follows one node's list and moves on to another node when it ends; what was learnt stays. The
pool never gives up a node that was not taken off the list.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc
from prometheus_client import CollectorRegistry, Gauge

from axoneme.api.hubble.peer import peer_pb2, peer_pb2_grpc
from axoneme.lib.channel import open_channel
from axoneme.lib.intent import Backoff
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles, TlsFilesInvalid
from services.hubble_relay import reach

logger = logging.getLogger(__name__)
assert grpcsettings.ENVIRONMENT

_BROKEN = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """Where a node's observer is. `server_name` is empty for one that speaks no TLS."""

    name: str
    address: str
    server_name: str = ""


class Connection:
    """The channel to one node, watched in the background."""

    def __init__(self, peer: PeerAddress, tls: TlsFiles | None) -> None:
        self.peer = peer
        self.reason = self._misconfigured(tls)
        self._tls = tls if peer.server_name else None
        self._channel: grpc.aio.Channel | None = None
        self._available = not self.reason

    def _misconfigured(self, tls: TlsFiles | None) -> str:
        if self.peer.address.startswith(("unix:", "/")):
            return ""
        if tls is None:
            return f"TLS: no certificates configured to reach {self.peer.address}"
        return "" if self.peer.server_name else f"TLS: missing server name for {self.peer.address}"

    @property
    def available(self) -> bool:
        """True unless it is known that the node cannot be reached now."""
        return self._available

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel. Raises TlsFilesInvalid when the certificate files cannot be used."""
        if self._channel is None:
            target = reach.grpc_target(self.peer.address)
            self._channel = open_channel(target, self._tls, self.peer.server_name or None)
        return self._channel

    async def watch(self) -> None:
        """Keeps connecting and knows whether, and why not; runs until cancelled."""
        if self.reason:
            return
        while True:
            try:
                channel = self.channel
            except TlsFilesInvalid as error:
                self._available, self.reason = False, f"TLS: {error}"
                await asyncio.sleep(1.0)
                continue
            state = channel.get_state(try_to_connect=True)
            if state in _BROKEN:
                self._available = False
                self.reason = await reach.explain(self.peer.address, self.peer.server_name, self._tls)
                logger.info("node unreachable", extra={log.PEER: self.peer.name, log.REASON: self.reason})
            elif state is grpc.ChannelConnectivity.READY:
                self._available, self.reason = True, ""
            await channel.wait_for_state_change(state)

    def state_name(self) -> str:
        """Returns the state of the channel for the gauge."""
        return "NIL_CONNECTION" if self._channel is None else self._channel.get_state().name

    async def close(self) -> None:
        """Ends the channel and its calls."""
        if self._channel is not None:
            await self._channel.close()


class PeerPool:
    """All known nodes with their connections."""

    def __init__(self, tls: TlsFiles | None, scope: TaskScope, registry: CollectorRegistry) -> None:
        self._tls = tls
        self._scope = scope
        self._connection_by_name: dict[str, Connection] = {}
        self._watch_by_name: dict[str, asyncio.Task[None]] = {}
        self.changed = asyncio.Event()
        self._gauge = Gauge(
            "hubble_relay_pool_peer_connection_status",
            "Nodes by connection state.",
            ["status"],
            registry=registry,
        )

    @property
    def connections(self) -> Mapping[str, Connection]:
        """Connections by node name, in order of names."""
        return dict(sorted(self._connection_by_name.items()))

    async def upsert(self, peer: PeerAddress) -> None:
        """Adds a node or changes its address; the same announcement again keeps the connection."""
        known = self._connection_by_name.get(peer.name)
        if known is not None and known.peer == peer:
            return
        await self.delete(peer.name)
        connection = self._connection_by_name[peer.name] = Connection(peer, self._tls)
        self._watch_by_name[peer.name] = self._scope.start(
            f"peer {peer.name}", connection.watch(), critical=False
        )
        self.changed.set()

    async def delete(self, name: str) -> None:
        """Removes a node; removing none succeeds."""
        connection = self._connection_by_name.pop(name, None)
        if connection is not None:
            self._watch_by_name.pop(name).cancel()
            await connection.close()

    async def drop_unlisted(self, listed: set[str]) -> None:
        """Removes nodes that a list does not name and that cannot be reached.

        A peer service that has just started may not know all nodes yet: what answers stays.
        """
        for name, connection in self.connections.items():
            if name not in listed and not connection.available:
                await self.delete(name)

    async def close(self) -> None:
        """Ends all connections."""
        for name in list(self._connection_by_name):
            await self.delete(name)

    def refresh_gauge(self) -> None:
        """Counts the connections by state."""
        states = [connection.state_name() for connection in self._connection_by_name.values()]
        for name in ("NIL_CONNECTION", *(state.name for state in grpc.ChannelConnectivity)):
            self._gauge.labels(name).set(states.count(name))


class PeerSource:
    """Follows the list of nodes from one of several peer services, with failover."""

    def __init__(
        self,
        targets: tuple[str, ...],
        pool: PeerPool,
        *,
        tls: TlsFiles | None,
        cluster_name: str,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        list_seconds: float = 1.0,
        retry_limit_seconds: float = 30.0,
    ) -> None:
        self._targets = targets
        self._pool = pool
        self._tls = tls
        self._cluster_name = cluster_name
        self._clock = clock
        self._list_seconds = list_seconds
        self._backoff = Backoff(rng.random, limit=retry_limit_seconds)
        self._index = rng.randrange(len(targets))
        self.error = "not connected to a peer service yet"

    async def run(self) -> None:
        """Follows until cancelled; known nodes stay when the list cannot be had."""
        while True:
            target = self._targets[self._index]
            try:
                await self._follow(target)
                self.error = f"{target}: the list of nodes ended"
            except (reach.UnreachableError, TlsFilesInvalid) as error:
                self.error = f"{target}: {error}"
            except grpc.aio.AioRpcError as error:
                self.error = f"{target}: {error.code().name}: {error.details()}"
            logger.warning("peer service lost", extra={log.ADDRESS: target, log.ERROR: log.clip(self.error)})
            self._index = (self._index + 1) % len(self._targets)
            await asyncio.sleep(self._backoff.next_delay())

    async def _follow(self, target: str) -> None:
        plain = target.startswith(("unix:", "/"))
        server_name = ""
        if not plain:
            if self._tls is None:
                raise reach.UnreachableError(
                    "TLS: no certificates configured; set ca_file, cert_file and key_file"
                )
            server_name = await reach.node_server_name(target, self._cluster_name, self._tls)
        channel = open_channel(reach.grpc_target(target), None if plain else self._tls, server_name or None)
        async with channel:
            call = peer_pb2_grpc.PeerStub(channel).Notify(peer_pb2.NotifyRequest())
            await self._take_all(call)

    async def _take_all(
        self, call: grpc.aio.UnaryStreamCall[peer_pb2.NotifyRequest, peer_pb2.ChangeNotification]
    ) -> None:
        """Takes the notifications. The first ones are the whole list; it is complete when none follows for
        a while.
        """
        listed: set[str] | None = set()
        read = asyncio.ensure_future(call.read())
        try:
            while True:
                done, _ = await asyncio.wait((read,), timeout=self._list_seconds if listed else None)
                if not done:
                    assert listed is not None
                    await self._pool.drop_unlisted(listed)
                    listed = None
                    continue
                change = read.result()
                if not isinstance(change, peer_pb2.ChangeNotification):
                    return
                self.error = ""
                self._backoff.reset()
                await self._take(change)
                if listed is not None:
                    listed.add(change.name)
                read = asyncio.ensure_future(call.read())
        finally:
            read.cancel()

    async def _take(self, change: peer_pb2.ChangeNotification) -> None:
        if change.type == peer_pb2.PEER_DELETED:
            await self._pool.delete(change.name)
        elif change.type in (peer_pb2.PEER_ADDED, peer_pb2.PEER_UPDATED):
            await self._pool.upsert(
                PeerAddress(name=change.name, address=change.address, server_name=change.tls.server_name)
            )
