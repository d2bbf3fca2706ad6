"""Leases that end because nobody was there to renew them: nodes may declare again before anything goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.intent.v1 import intent_pb2
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.tls import TlsFiles
from services.identity import upkeep
from services.identity.records import decode_record
from tests.etcdserver import EtcdServer, etcd_server  # noqa: F401
from tests.identityservice import RunningIdentity, running_identity
from tests.waiting import eventually

pytestmark = pytest.mark.etcd

WEB = ["k8s:app=web"]
PREFIX = "10.1.0.7/32"


@pytest.fixture(autouse=True)
def _fast_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TICK_SECONDS", 0.05)


@pytest.fixture
async def store(etcd_server: EtcdServer) -> AsyncIterator[EtcdStore]:  # noqa: F811
    async with EtcdStore.connect(etcd_server.endpoints, None) as opened:
        yield opened


class Subscriber:
    """The ipcache of a node, as its stream tells it."""

    def __init__(self, stub: Any, name: str) -> None:
        self.entries: dict[str, int] = {}
        self.complete = False
        self.removals = 0
        self._call = stub.SubscribeIpcache()
        self._task = asyncio.ensure_future(self._run(name))

    async def _run(self, name: str) -> None:
        await self._call.write(pb.SubscribeIpcacheRequest(hello=intent_pb2.Hello(node_name=name)))
        while (update := await self._call.read()) is not grpc.aio.EOF:
            header = update.header
            if header.snapshot_part == 1:
                self.entries = {}
            self.entries.update({entry.prefix: entry.identity for entry in update.upserts})
            for prefix in update.removed_prefixes:
                self.entries.pop(prefix, None)
                self.removals += 1
            self.complete = self.complete or header.snapshot_last
            ack = intent_pb2.Ack(nonce=header.nonce, revision=header.revision)
            await self._call.write(pb.SubscribeIpcacheRequest(ack=ack))

    async def close(self) -> None:
        self._call.cancel()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@contextlib.asynccontextmanager
async def subscriber(service: RunningIdentity, name: str) -> AsyncIterator[Subscriber]:
    made = Subscriber(service.stub(f"node/{name}"), name)
    try:
        yield made
    finally:
        await made.close()


async def _declared(service: RunningIdentity, name: str = "node1") -> Any:
    """node1 with one address, as a shim declares it at each connection."""
    stub = service.stub(f"node/{name}")
    node = pb.Node(name=name, internal_ips=["198.18.1.101"], pod_cidrs=["10.1.0.0/24"])
    await eventually(lambda: _done(stub.RegisterNode(pb.RegisterNodeRequest(node=node))))
    number = (
        await stub.AllocateIdentity(pb.AllocateIdentityRequest(node_name=name, labels=WEB))
    ).identity.identity
    await stub.PublishAddresses(
        pb.PublishAddressesRequest(
            node_name=name, complete=True, addresses=[pb.Address(ip="10.1.0.7", identity=number)]
        )
    )
    return stub


async def _done(call: Any) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False
    return True


async def _record(store: EtcdStore, name: str = "node1") -> Any:
    row = await store.get(layout.record_key("east", name))
    assert row is not None
    return decode_record(row.value)


async def _expire(store: EtcdStore, name: str = "node1") -> None:
    for lease in (await _record(store, name)).leases:
        await store.revoke(lease)


async def test_a_node_that_comes_back_within_the_grace_loses_nothing(
    store: EtcdStore, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with running_identity(store, tls_files, redeclare_grace_seconds=60.0) as service:
        stub = await _declared(service)
        async with subscriber(service, "node2") as other:
            await eventually(lambda: PREFIX in other.entries)
            await _expire(store)
            assert await store.get(layout.ip_key("10.1.0.7")) is None
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.RenewNode(pb.RenewNodeRequest(node_name="node1"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            listed = await stub.ListAddresses(pb.ListAddressesRequest())
            assert [(a.ip, a.node_name) for a in listed.addresses] == [("10.1.0.7", "node1")]
            await _declared(service)
            assert (await _record(store)).declared
            assert await store.get(layout.ip_key("10.1.0.7")) is not None
            assert PREFIX in other.entries
            assert other.removals == 0


async def test_what_the_node_no_longer_has_goes_when_it_has_declared(
    store: EtcdStore, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with running_identity(store, tls_files, redeclare_grace_seconds=60.0) as service:
        await _declared(service)
        async with subscriber(service, "node2") as other:
            await eventually(lambda: PREFIX in other.entries)
            await _expire(store)
            await service.register("node1", pod_cidrs=["10.1.0.0/24"])
            await eventually(lambda: PREFIX not in other.entries)


async def test_a_node_that_stays_away_goes_after_the_grace_and_keeps_its_pod_cidrs(
    store: EtcdStore, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with running_identity(store, tls_files, redeclare_grace_seconds=0.6) as service:
        await _declared(service)
        async with subscriber(service, "node2") as other:
            await eventually(lambda: PREFIX in other.entries)
            await _expire(store)
            await eventually(lambda: PREFIX not in other.entries)
            assert (await _record(store)).expired
            stub = service.stub("node/node3")
            node = pb.Node(name="node3", internal_ips=["198.18.1.103"], pod_cidrs=["10.1.0.0/25"])
            with pytest.raises(grpc.aio.AioRpcError, match="node1"):
                await stub.RegisterNode(pb.RegisterNodeRequest(node=node))
            await _declared(service)
            await eventually(lambda: PREFIX in other.entries)


async def test_deleting_a_node_counts_at_once(store: EtcdStore, tls_files: Callable[[str], TlsFiles]) -> None:
    async with running_identity(store, tls_files, redeclare_grace_seconds=60.0) as service:
        stub = await _declared(service)
        async with subscriber(service, "node2") as other:
            await eventually(lambda: PREFIX in other.entries)
            await stub.DeleteNode(pb.DeleteNodeRequest(node_name="node1"))
            await eventually(lambda: PREFIX not in other.entries)
            assert await store.get(layout.record_key("east", "node1")) is None


async def test_a_service_that_starts_after_the_expiry_waits_for_the_nodes(
    store: EtcdStore, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with running_identity(store, tls_files) as service:
        await _declared(service)
    await _expire(store)
    async with (
        running_identity(store, tls_files, redeclare_grace_seconds=60.0) as service,
        subscriber(service, "node2") as other,
    ):
        await eventually(lambda: _done(service.stub("node/node2").ListNodes(pb.ListNodesRequest())))
        assert not other.complete
        await _declared(service)
        await eventually(lambda: other.complete)
        assert PREFIX in other.entries


async def test_a_service_that_starts_after_the_expiry_gives_up_after_the_grace(
    store: EtcdStore, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with running_identity(store, tls_files) as service:
        await _declared(service)
    await _expire(store)
    async with (
        running_identity(store, tls_files, redeclare_grace_seconds=0.6) as service,
        subscriber(service, "node2") as other,
    ):
        await eventually(lambda: other.complete)
        assert other.entries == {}


async def test_etcd_restarts_under_the_service(
    etcd_server: EtcdServer,  # noqa: F811
    store: EtcdStore,
    tls_files: Callable[[str], TlsFiles],
) -> None:
    async with running_identity(store, tls_files) as service:
        stub = await _declared(service)
        async with subscriber(service, "node2") as other:
            await eventually(lambda: PREFIX in other.entries)
            etcd_server.stop(kill=True)
            request = pb.AllocateIdentityRequest(node_name="node1", labels=["k8s:app=new"])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.AllocateIdentity(request)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            etcd_server.start()
            await eventually(lambda: _done(stub.AllocateIdentity(request)), seconds=15)
            assert other.entries.keys() == {PREFIX}
            assert other.removals == 0
