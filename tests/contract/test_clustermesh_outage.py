"""The clustermesh service beside the real identity service, and what it survives: restarts and restores."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.api.identity.v1 import identity_pb2
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.tls import TlsFiles
from tests.clustermeshservice import (
    NodeStream,
    RunningMesh,
    listing,
    put_identity,
    put_workload,
    running_mesh,
    selecting,
    service,
)
from tests.etcdserver import EtcdServer, etcd_server  # noqa: F401
from tests.identityservice import RunningIdentity, running_identity
from tests.waiting import eventually

pytestmark = pytest.mark.etcd
WEB = 70_000


@pytest.fixture
async def store(etcd_server: EtcdServer) -> AsyncIterator[EtcdStore]:  # noqa: F811
    async with EtcdStore.connect(etcd_server.endpoints, None) as opened:
        yield opened


@pytest.fixture
async def mesh(store: EtcdStore, tls_files: Callable[[str], TlsFiles]) -> AsyncIterator[RunningMesh]:
    async with running_mesh(store, tls_files) as running:
        yield running


async def _answers(identity: RunningIdentity) -> bool:
    try:
        await identity.stub("user/reader/ann").ListNodes(identity_pb2.ListNodesRequest())
    except grpc.aio.AioRpcError:
        return False
    return True


async def backend_ips(mesh: RunningMesh, name: str) -> list[str]:
    return [one.ip for one in (await mesh.get(name)).backends]


@pytest.mark.parametrize("ip", ["10.1.0.7", "fd00:10:1::7"])
async def test_endpoints_of_the_identity_service_are_backends(
    store: EtcdStore, mesh: RunningMesh, tls_files: Callable[[str], TlsFiles], ip: str
) -> None:
    """What a shim publishes is what the service selects; what it withdraws goes at once, expiry does not."""
    async with running_identity(store, tls_files) as identity:
        await eventually(lambda: _answers(identity))
        shim = await identity.register("node1")
        labels = ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]
        request = identity_pb2.AllocateIdentityRequest(node_name="node1", labels=labels)
        number = (await shim.AllocateIdentity(request)).identity.identity
        port = identity_pb2.NamedPort(name="http", port=8080, protocol="TCP")
        address = identity_pb2.Address(ip=ip, identity=number, named_ports=[port])
        publish = identity_pb2.PublishAddressesRequest(node_name="node1", addresses=[address])
        await shim.PublishAddresses(publish)
        named = pb.ServicePort(port=80, target_port_name="http")
        await mesh.apply(service("shop/web", named, source=selecting(app="web")))
        await mesh.caught_up()
        (backend,) = (await mesh.get("shop/web")).backends
        assert (backend.ip, backend.node_name, dict(backend.ports)) == (ip, "node1", {"": 8080})
        row = await store.get(layout.ip_key(ip))
        assert row is not None
        await store.revoke(row.lease)
        await mesh.caught_up()
        assert await backend_ips(mesh, "shop/web") == [ip]
        assert (await mesh.get("shop/web")).backends[0].node_name == "node1"
        await identity.register("node1")
        await mesh.caught_up()
        assert await backend_ips(mesh, "shop/web") == []
        await shim.PublishAddresses(publish)
        await mesh.caught_up()
        assert await backend_ips(mesh, "shop/web") == [ip]
        await shim.WithdrawAddresses(identity_pb2.WithdrawAddressesRequest(node_name="node1", ips=[ip]))
        await mesh.caught_up()
        assert await backend_ips(mesh, "shop/web") == []


async def test_etcd_may_restart(store: EtcdStore, mesh: RunningMesh, etcd_server: EtcdServer) -> None:  # noqa: F811
    await put_identity(store, WEB, app="web")
    await mesh.apply(service("shop/web", source=selecting(app="web")))
    node = NodeStream(mesh.stub("node/node1"), "node1")
    await node.start()
    await node.step()
    etcd_server.stop(kill=True)
    assert (await mesh.get("shop/web")).name == "web"
    etcd_server.start()
    await put_workload(store, "fd00::1", WEB)
    await node.until(lambda known: [one.ip for one in known["shop/web"].backends] == ["fd00::1"])
    node.cancel()


async def test_a_restored_backup_starts_over(
    store: EtcdStore,
    mesh: RunningMesh,
    etcd_server: EtcdServer,  # noqa: F811
    tmp_path: Path,
) -> None:
    kept = (await mesh.apply(service("shop/kept", source=listing("10.0.0.1", "fd00::1")))).service
    etcd_server.stop()
    etcd_server.backup(tmp_path / "backup")
    etcd_server.start()
    lost = (await mesh.apply(service("shop/lost", type=pb.SERVICE_TYPE_NODE_PORT))).service
    for number in range(5):
        await mesh.apply(service("shop/kept", pb.ServicePort(port=81 + number)))
    node = NodeStream(mesh.stub("node/node1"), "node1")
    await node.start()
    await node.until(lambda known: len(known) == 2)
    watch = mesh.stub().WatchServices(pb.WatchServicesRequest(revision=mesh.state.revision))
    etcd_server.stop()
    etcd_server.restore(tmp_path / "backup")
    etcd_server.start()
    await node.until(lambda known: list(known) == ["shop/kept"])
    assert await mesh.get("shop/kept") == kept
    again = service("shop/new", pb.ServicePort(port=80, node_port=lost.ports[0].node_port), type=2)
    assert (await mesh.apply(again)).created
    with pytest.raises(Exception, match="restored"):
        await watch.read()
    node.cancel()


async def test_a_node_resumes_where_it_was(mesh: RunningMesh) -> None:
    await mesh.apply(service("shop/a"))
    await mesh.apply(service("shop/b"))
    node = NodeStream(mesh.stub("node/node1"), "node1")
    await node.start()
    first = (await node.step()).header
    node.cancel()
    await mesh.apply(service("shop/b", pb.ServicePort(port=81)))
    again = NodeStream(mesh.stub("node/node1"), "node1")
    await again.start(epoch=first.epoch, revision=first.revision, store_revision=first.store_revision)
    update = await again.step()
    assert [one.name for one in update.upserts] == ["b"]
    assert update.header.snapshot_part == 0
    again.cancel()


async def test_a_replica_that_is_behind_says_nothing_old(
    store: EtcdStore, mesh: RunningMesh, tls_files: Callable[[str], TlsFiles]
) -> None:
    """A node that saw a later revision at another replica gets nothing before this one has caught up."""
    await mesh.apply(service("shop/a"))
    ahead = await store.put("somewhere/else", b"")
    node = NodeStream(mesh.stub("node/node1"), "node1")
    await node.start(store_revision=ahead)
    await mesh.apply(service("shop/b"))
    update = await node.step()
    assert update.header.store_revision >= ahead
    assert len(node.services) == 2
    node.cancel()
