"""The peer table and its stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from axoneme.api.hubble.peer import peer_pb2
from axoneme.lib.errors import ResourceExhausted
from shim import peer
from shim.peer import PeerNode, PeerTable, tls_server_name

ONE = PeerNode(cluster="east", name="node1", address="192.0.2.1:4244")
TWO = PeerNode(cluster="east", name="node2.rack", address="fd00::2")


async def take(stream: AsyncIterator[peer_pb2.ChangeNotification], count: int) -> list[tuple[str, str, str]]:
    changes = [await anext(stream) for _ in range(count)]
    return [(peer_pb2.ChangeNotificationType.Name(c.type), c.name, c.address) for c in changes]


async def test_all_peers_first_then_changes() -> None:
    table = PeerTable()
    table.replace([ONE, TWO])
    stream = table.follow()
    assert await take(stream, 2) == [
        ("PEER_ADDED", "east/node1", "192.0.2.1:4244"),
        ("PEER_ADDED", "east/node2.rack", "[fd00::2]:4244"),
    ]
    table.upsert(ONE)
    table.upsert(PeerNode(cluster="east", name="node1", address="192.0.2.9"))
    table.replace([ONE])
    assert await take(stream, 3) == [
        ("PEER_UPDATED", "east/node1", "192.0.2.9:4244"),
        ("PEER_DELETED", "east/node2.rack", "[fd00::2]:4244"),
        ("PEER_UPDATED", "east/node1", "192.0.2.1:4244"),
    ]
    table.delete("east/nobody")
    assert list(table.peers) == ["east/node1"]


async def test_a_change_during_the_first_listing_is_not_lost() -> None:
    table = PeerTable()
    table.replace([ONE])
    stream = table.follow()
    assert await take(stream, 1) == [("PEER_ADDED", "east/node1", "192.0.2.1:4244")]
    table.upsert(TWO)
    assert (await take(stream, 1))[0][:2] == ("PEER_ADDED", "east/node2.rack")


async def test_the_tls_name_and_the_default_cluster() -> None:
    assert tls_server_name("node2.rack", "eu.east") == "node2-rack.eu-east.hubble-grpc.cilium.io"
    table = PeerTable()
    table.replace([TWO, PeerNode(cluster="default", name="solo", address="192.0.2.3", tls=False)])
    stream = table.follow()
    changes = [await anext(stream), await anext(stream)]
    assert changes[0].tls.server_name == "node2-rack.east.hubble-grpc.cilium.io"
    assert (changes[1].name, changes[1].HasField("tls")) == ("solo", False)


async def test_a_reader_that_falls_behind_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "MAX_BACKLOG", 2)
    table = PeerTable()
    table.replace([ONE])
    stream = table.follow()
    await take(stream, 1)
    for number in range(5):
        table.upsert(PeerNode(cluster="east", name=f"n{number}", address="192.0.2.1"))
    assert len(await take(stream, 2)) == 2
    with pytest.raises(ResourceExhausted):
        await anext(stream)
