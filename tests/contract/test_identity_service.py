"""The identity service end to end: mTLS gRPC, real etcd, Cilium's keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.api.intent.v1 import intent_pb2
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.tls import TlsFiles
from tests.etcdserver import EtcdServer, etcd_server  # noqa: F401
from tests.identityservice import RunningIdentity, running_identity
from tests.waiting import eventually

pytestmark = pytest.mark.etcd

WEB = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"]


@pytest.fixture
async def store(etcd_server: EtcdServer) -> AsyncIterator[EtcdStore]:  # noqa: F811
    async with EtcdStore.connect(etcd_server.endpoints, None) as opened:
        yield opened


@pytest.fixture
async def service(store: EtcdStore, tls_files: Callable[[str], TlsFiles]) -> AsyncIterator[RunningIdentity]:
    async with running_identity(store, tls_files) as running:
        await eventually(lambda: _ready(running))
        yield running


async def _ready(running: RunningIdentity) -> bool:
    try:
        await running.stub("user/reader/ann").ListNodes(pb.ListNodesRequest())
    except grpc.aio.AioRpcError:
        return False
    return True


async def _allocate(stub: Any, node: str, labels: list[str], request_id: str = "") -> Any:
    request = pb.AllocateIdentityRequest(node_name=node, labels=labels, request_id=request_id)
    return await stub.AllocateIdentity(request)


async def _code(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name


async def test_a_node_gets_pod_cidrs_and_its_keys_are_ciliums(
    service: RunningIdentity, store: EtcdStore
) -> None:
    stub = await service.register("node1", labels={"zone": "a"}, observer_address="198.18.1.101:4244")
    answer = await service.stub("user/reader/ann").ListNodes(pb.ListNodesRequest())
    (node,) = answer.nodes
    assert list(node.pod_cidrs) == ["10.1.0.0/24", "fd00:10:1::/64"]
    assert list(node.router_ips) == ["10.1.0.1", "fd00:10:1::1"]
    row = await store.get("cilium/state/nodes/v1/east/node1")
    assert row is not None
    assert row.lease
    value = json.loads(row.value)
    assert value["IPv4AllocCIDR"] == {"IP": "10.1.0.0", "Mask": "////AA=="}
    assert value["ClusterID"] == 1
    assert (await stub.RenewNode(pb.RenewNodeRequest(node_name="node1"))).lease_ttl.seconds == 900


async def test_health_addresses_and_features_are_kept_and_listed(
    service: RunningIdentity, store: EtcdStore
) -> None:
    features = {"tcx": "yes", "redirect_peer": "no"}
    health = ["10.1.0.9", "10.200.0.9", "fd00:10:1::9"]
    refused = pb.Node(name="node1", internal_ips=["198.18.1.101"], health_ips=health)
    request = pb.RegisterNodeRequest(node=refused)
    assert await _code(service.stub("node/node1").RegisterNode(request)) == "INVALID_ARGUMENT"
    await service.register("node1", health_ips=["10.200.0.9", "fd00:10:1::9"], features=features)
    (node,) = (await service.stub("user/reader/ann").ListNodes(pb.ListNodesRequest())).nodes
    assert dict(node.features) == features
    assert list(node.health_ips) == ["fd00:10:1::9"], "the other one is outside the PodCIDRs"
    row = await store.get("cilium/state/nodes/v1/east/node1")
    assert row is not None
    value = json.loads(row.value)
    assert (value["IPv4HealthIP"], value["IPv6HealthIP"]) == ("", "fd00:10:1::9")
    assert value["AxonemeFeatures"] == features


async def test_allocation_is_one_number_for_a_set_and_idempotent(
    service: RunningIdentity, store: EtcdStore
) -> None:
    stub = await service.register("node1")
    first = await _allocate(stub, "node1", WEB, "r1")
    assert first.allocated
    assert 65536 <= first.identity.identity < 131072
    again = await _allocate(stub, "node1", WEB, "r1")
    assert again == first
    other = await _allocate(stub, "node1", list(reversed(WEB)))
    assert other.identity == first.identity
    assert not other.allocated
    key = "k8s:app=web;k8s:io.cilium.k8s.policy.cluster=east;k8s:io.kubernetes.pod.namespace=default;"
    number = first.identity.identity
    master = await store.get(layout.master_key(number))
    slave = await store.get(f"cilium/state/identities/v1/value/{key}/node1")
    assert master is not None
    assert slave is not None
    assert (master.value.decode(), master.lease, slave.value.decode()) == (key, 0, str(number))
    reader = service.stub("user/reader/ann")
    got = await reader.GetIdentity(pb.GetIdentityRequest(identity=number))
    assert "k8s:app=web" in got.identity.labels
    await stub.ReleaseIdentity(pb.ReleaseIdentityRequest(identity=number, node_name="node1"))
    assert await store.get(f"cilium/state/identities/v1/value/{key}/node1") is None


async def test_a_node_acts_only_for_itself(service: RunningIdentity) -> None:
    await service.register("node1")
    stranger = service.stub("node/node2")
    assert await _code(_allocate(stranger, "node1", WEB)) == "PERMISSION_DENIED"
    request = pb.PublishAddressesRequest(node_name="node1")
    assert await _code(stranger.PublishAddresses(request)) == "PERMISSION_DENIED"
    assert await _code(_allocate(stranger, "node2", WEB)) == "FAILED_PRECONDITION"


async def test_overlapping_pod_cidrs_are_refused_with_the_other_nodes_name(service: RunningIdentity) -> None:
    await service.register("node1", pod_cidrs=["10.1.7.0/24"])
    stub = service.stub("node/node2")
    node = pb.Node(name="node2", internal_ips=["198.18.1.102"], pod_cidrs=["10.1.0.0/20"])
    with pytest.raises(grpc.aio.AioRpcError, match="node1"):
        await stub.RegisterNode(pb.RegisterNodeRequest(node=node))


async def test_addresses_are_published_streamed_and_withdrawn(
    service: RunningIdentity, store: EtcdStore
) -> None:
    stub = await service.register("node1")
    number = (await _allocate(stub, "node1", WEB)).identity.identity
    async with _subscribed(service, "node2") as updates:
        await eventually(lambda: updates)
        published = await stub.PublishAddresses(
            pb.PublishAddressesRequest(
                node_name="node1",
                addresses=[
                    pb.Address(ip="10.1.0.7", identity=number, namespace="default", pod_name="web"),
                    pb.Address(ip="fd00:10:1:0::7", identity=number),
                ],
            )
        )
        assert published.acknowledged
        prefixes = {entry.prefix: entry for update in updates for entry in update.upserts}
        assert prefixes["10.1.0.7/32"].identity == number
        assert prefixes["10.1.0.7/32"].tunnel_endpoint == "198.18.1.101"
        assert "fd00:10:1::7/128" in prefixes
        assert any(item.identity == number for update in updates for item in update.identity_upserts)
        row = await store.get(layout.ip_key("10.1.0.7"))
        assert row is not None
        assert json.loads(row.value) == {
            "IP": "10.1.0.7", "Mask": None, "HostIP": "198.18.1.101", "ID": number, "Key": 0,
            "Metadata": "", "K8sNamespace": "default", "K8sPodName": "web",
        }  # fmt: skip
        listed = await service.stub("user/reader/ann").ListAddresses(pb.ListAddressesRequest())
        assert [(a.ip, a.node_name) for a in listed.addresses] == [
            ("10.1.0.7", "node1"),
            ("fd00:10:1::7", "node1"),
        ]
        await stub.PublishAddresses(pb.PublishAddressesRequest(node_name="node1", complete=True))
        await eventually(
            lambda: (
                {p for update in updates for p in update.removed_prefixes}
                == {"10.1.0.7/32", "fd00:10:1::7/128"}
            )
        )


async def test_an_address_outside_the_node_is_refused(service: RunningIdentity) -> None:
    stub = await service.register("node1")
    number = (await _allocate(stub, "node1", WEB)).identity.identity
    request = pb.PublishAddressesRequest(
        node_name="node1", addresses=[pb.Address(ip="10.1.9.7", identity=number)]
    )
    assert await _code(stub.PublishAddresses(request)) == "FAILED_PRECONDITION"


async def test_watching_identities_gives_snapshot_bookmark_and_changes(service: RunningIdentity) -> None:
    stub = await service.register("node1")
    first = (await _allocate(stub, "node1", WEB)).identity.identity
    call = service.stub("user/reader/ann").WatchIdentities(pb.WatchIdentitiesRequest())
    assert (await call.read()).put.identity == first
    bookmark = await call.read()
    assert bookmark.bookmark
    second = (await _allocate(stub, "node1", ["k8s:app=db"])).identity.identity
    assert (await call.read()).put.identity == second
    call.cancel()
    resumed = service.stub("user/reader/ann").WatchIdentities(
        pb.WatchIdentitiesRequest(revision=bookmark.revision)
    )
    assert (await resumed.read()).put.identity == second
    resumed.cancel()


@contextlib.asynccontextmanager
async def _subscribed(service: RunningIdentity, name: str) -> AsyncIterator[list[Any]]:
    """A node that acknowledges everything it is sent."""
    call = service.stub(f"node/{name}").SubscribeIpcache()
    updates: list[Any] = []

    async def receive() -> None:
        await call.write(pb.SubscribeIpcacheRequest(hello=intent_pb2.Hello(node_name=name)))
        while (update := await call.read()) is not grpc.aio.EOF:
            updates.append(update)
            ack = intent_pb2.Ack(nonce=update.header.nonce, revision=update.header.revision)
            await call.write(pb.SubscribeIpcacheRequest(ack=ack))

    task = asyncio.ensure_future(receive())
    try:
        yield updates
    finally:
        call.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
