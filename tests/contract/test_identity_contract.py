"""What the API contract asks of IdentityService: watches, dry runs, expected revisions, quotas."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from axoneme.api.identity.v1 import identity_pb2 as pb
from axoneme.lib.errors import AxonemeError
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.rpcerrors import error_from_rpc
from axoneme.lib.tls import TlsFiles
from services.identity.records import decode_record
from tests.etcdserver import running_etcd
from tests.identityservice import RunningIdentity, running_identity
from tests.waiting import eventually

WEB, DB = ["k8s:app=web"], ["k8s:app=db"]
PREFIXES = (layout.IDENTITIES, layout.IPS, layout.NODES, layout.NODE_RECORDS, layout.TOMBSTONES)
NODE1: dict[str, Any] = {"name": "node1", "internal_ips": ["198.18.1.101"]}


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.etcd)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with running_etcd(unix_socket=True) as server:
        async with EtcdStore.connect(server.endpoints, None) as opened:
            yield opened


@pytest.fixture
async def service(store: Any, tls_files: Callable[[str], TlsFiles]) -> AsyncIterator[RunningIdentity]:
    # Rows from before the service started lie before what its change logs know.
    await store.put(layout.NODES + "other/x", b"")
    await store.put(layout.PROGRESS + "x", b"")
    async with running_identity(
        store, tls_files, max_identities_per_node=2, max_addresses_per_node=3
    ) as running:
        await eventually(lambda: _ready(running))
        yield running


async def _ready(running: RunningIdentity) -> bool:
    try:
        await running.stub("user/reader/ann").ListNodes(pb.ListNodesRequest())
    except grpc.aio.AioRpcError:
        return False
    return True


async def _error(call: Any) -> AxonemeError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def _reason(call: Any) -> tuple[str, str]:
    error = await _error(call)
    return error.code, error.reason


async def _allocate(stub: Any, labels: list[str], node: str = "node1", **fields: Any) -> Any:
    return await stub.AllocateIdentity(pb.AllocateIdentityRequest(node_name=node, labels=labels, **fields))


async def _publish(stub: Any, number: int, *ips: str, node: str = "node1", **fields: Any) -> Any:
    addresses = [pb.Address(ip=ip, identity=number) for ip in ips]
    return await stub.PublishAddresses(
        pb.PublishAddressesRequest(node_name=node, addresses=addresses, **fields)
    )


async def _rows(store: Any) -> list[Any]:
    return [row for prefix in PREFIXES for row in (await store.list(prefix))[0]]


async def _next(call: Any) -> tuple[str, Any]:
    """Kind and value of the next step."""
    step = await call.read()
    kind = step.WhichOneof("kind")
    return kind, getattr(step, kind)


# --- watches


async def test_watching_nodes(service: RunningIdentity) -> None:
    await service.register("node1")
    reader = service.stub("user/reader/ann")
    call = reader.WatchNodes(pb.WatchNodesRequest())
    kind, node = await _next(call)
    assert (kind, node.name, list(node.pod_cidrs)) == ("put", "node1", ["10.1.0.0/24", "fd00:10:1::/64"])
    bookmark = await call.read()
    assert bookmark.bookmark
    stub = await service.register("node2", 2)
    kind, node = await _next(call)
    assert (kind, node.name) == ("put", "node2")
    (listed,) = [n for n in (await reader.ListNodes(pb.ListNodesRequest())).nodes if n.name == "node2"]
    while node.revision != listed.revision:  # its declaration moved the record on
        kind, node = await _next(call)
        assert (kind, node.name) == ("put", "node2")
    await stub.DeleteNode(pb.DeleteNodeRequest(node_name="node2"))
    assert await _next(call) == ("deleted", "node2")
    call.cancel()
    resumed = reader.WatchNodes(pb.WatchNodesRequest(revision=bookmark.revision))
    assert await _next(resumed) == ("deleted", "node2")
    resumed.cancel()


async def test_watching_addresses(service: RunningIdentity) -> None:
    stub = await service.register("node1")
    number = (await _allocate(stub, WEB)).identity.identity
    await _publish(stub, number, "10.1.0.7")
    reader = service.stub("user/reader/ann")
    call = reader.WatchAddresses(pb.WatchAddressesRequest())
    kind, address = await _next(call)
    assert (kind, address.ip, address.identity, address.node_name) == ("put", "10.1.0.7", number, "node1")
    bookmark = await call.read()
    assert bookmark.bookmark
    await _publish(stub, number, "fd00:10:1::8")
    kind, address = await _next(call)
    assert (kind, address.ip) == ("put", "fd00:10:1::8")
    await stub.WithdrawAddresses(pb.WithdrawAddressesRequest(node_name="node1", ips=["10.1.0.7"]))
    assert await _next(call) == ("deleted", "10.1.0.7")
    call.cancel()
    resumed = reader.WatchAddresses(pb.WatchAddressesRequest(revision=bookmark.revision))
    steps = [await _next(resumed), await _next(resumed)]
    assert [(kind, getattr(value, "ip", value)) for kind, value in steps] == [
        ("deleted", "10.1.0.7"),
        ("put", "fd00:10:1::8"),
    ]
    resumed.cancel()


@pytest.mark.parametrize("resource", ["Identities", "Nodes", "Addresses"])
async def test_watching_from_too_long_ago_or_from_the_future(service: RunningIdentity, resource: str) -> None:
    reader = service.stub("user/reader/ann")
    request, method = getattr(pb, f"Watch{resource}Request"), getattr(reader, f"Watch{resource}")
    assert await _reason(method(request(revision=1)).read()) == ("OUT_OF_RANGE", "REVISION_COMPACTED")
    assert await _reason(method(request(revision=1 << 40)).read()) == ("OUT_OF_RANGE", "OUT_OF_RANGE")


async def test_watchers_hear_of_a_restored_backup(tls_files: Callable[[str], TlsFiles]) -> None:
    store = MemoryStore()
    async with running_identity(store, tls_files) as service:
        await eventually(lambda: _ready(service))
        await store.put(layout.PROGRESS + "x", b"")
        call = service.stub("user/reader/ann").WatchAddresses(pb.WatchAddressesRequest())
        assert (await call.read()).bookmark
        store.restore([], 1)
        await store.put(layout.PROGRESS + "y", b"")
        assert await _reason(call.read()) == ("OUT_OF_RANGE", "REVISION_COMPACTED")


# --- validate_only


async def test_a_dry_run_answers_as_if_and_changes_nothing(service: RunningIdentity, store: Any) -> None:
    stub = await service.register("node1")
    known = (await _allocate(stub, WEB)).identity.identity
    await _publish(stub, known, "10.1.0.7")
    before = await _rows(store)
    new = await _allocate(stub, DB, validate_only=True)
    assert (new.allocated, new.identity.identity) == (True, 0)
    assert "k8s:app=db" in new.identity.labels
    again = await _allocate(stub, WEB, validate_only=True)
    assert (again.allocated, again.identity.identity) == (False, known)
    await stub.ReleaseIdentity(
        pb.ReleaseIdentityRequest(node_name="node1", identity=known, validate_only=True)
    )
    published = await _publish(stub, known, "10.1.0.8", complete=True, validate_only=True)
    assert not published.acknowledged
    await stub.WithdrawAddresses(
        pb.WithdrawAddressesRequest(node_name="node1", ips=["10.1.0.7"], validate_only=True)
    )
    other = pb.Node(name="node2", internal_ips=["198.18.1.102"])
    planned = await service.stub("node/node2").RegisterNode(
        pb.RegisterNodeRequest(node=other, validate_only=True)
    )
    assert list(planned.node.pod_cidrs) == ["10.1.1.0/24", "fd00:10:1:1::/64"]
    assert planned.node.revision == 0
    await stub.DeleteNode(pb.DeleteNodeRequest(node_name="node1", validate_only=True))
    assert await _rows(store) == before


async def test_a_dry_run_finds_what_a_write_would(service: RunningIdentity) -> None:
    stub, reserved = await service.register("node1"), 5
    assert await _reason(_allocate(stub, ["cidr:10.0.0.0/8"], validate_only=True)) == (
        "INVALID_ARGUMENT",
        "INVALID_LABELS",
    )
    assert await _reason(_publish(stub, reserved, "10.9.0.7", validate_only=True)) == (
        "FAILED_PRECONDITION",
        "ADDRESS_OUTSIDE_NODE",
    )
    four = [f"10.1.0.{last}" for last in range(10, 14)]
    assert (await _reason(_publish(stub, reserved, *four, validate_only=True)))[1] == "NODE_QUOTA_EXCEEDED"
    ips = pb.WithdrawAddressesRequest(node_name="node1", ips=["x"], validate_only=True)
    assert (await _reason(stub.WithdrawAddresses(ips)))[0] == "INVALID_ARGUMENT"
    node = pb.Node(name="node2", internal_ips=["198.18.1.102"], pod_cidrs=["10.1.0.0/20"])
    second = service.stub("node/node2")
    overlap = pb.RegisterNodeRequest(node=node, validate_only=True)
    assert (await _reason(second.RegisterNode(overlap)))[1] == "POD_CIDR_OVERLAP"
    gone = pb.DeleteNodeRequest(node_name="node2", validate_only=True)
    assert (await _reason(second.DeleteNode(gone)))[0] == "NOT_FOUND"
    assert (await _reason(_allocate(second, WEB, node="node2", validate_only=True)))[1] == (
        "NODE_NOT_REGISTERED"
    )
    for labels in (WEB, DB):
        await _allocate(stub, labels)
    third = _allocate(stub, ["k8s:app=third"], validate_only=True)
    assert (await _reason(third))[1] == "NODE_QUOTA_EXCEEDED"


# --- expected_revision


async def test_registering_at_an_expected_revision(service: RunningIdentity, store: Any) -> None:
    stub = service.stub("node/node1")
    stale = ("ABORTED", "STALE_REVISION")

    def register(expected: int, **fields: Any) -> Any:
        node = pb.Node(**(NODE1 | fields))
        return stub.RegisterNode(pb.RegisterNodeRequest(node=node, expected_revision=expected))

    assert await _reason(register(7)) == stale
    first = (await register(0)).node.revision
    row = await store.get(layout.record_key("east", "node1"))
    assert first == row.mod_revision
    assert (await register(first, labels={"zone": "a"})).node.revision == first
    assert await _reason(register(first + 1, labels={"zone": "b"})) == stale
    await stub.PublishAddresses(pb.PublishAddressesRequest(node_name="node1", complete=True))
    assert await _reason(register(first, labels={"zone": "b"})) == stale
    (node,) = (await service.stub("user/reader/ann").ListNodes(pb.ListNodesRequest())).nodes
    assert dict(node.labels) == {"zone": "a"}
    dry = pb.RegisterNodeRequest(node=pb.Node(**NODE1), expected_revision=first, validate_only=True)
    assert await _reason(stub.RegisterNode(dry)) == stale
    assert (await register(node.revision, labels={"zone": "b"})).node.labels["zone"] == "b"


async def test_deleting_at_an_expected_revision(service: RunningIdentity, store: Any) -> None:
    stub = await service.register("node1")
    (node,) = (await service.stub("user/reader/ann").ListNodes(pb.ListNodesRequest())).nodes

    def delete(expected: int, **fields: Any) -> Any:
        return stub.DeleteNode(pb.DeleteNodeRequest(node_name="node1", expected_revision=expected, **fields))

    assert await _reason(delete(node.revision - 1)) == ("ABORTED", "STALE_REVISION")
    assert await _reason(delete(node.revision - 1, validate_only=True)) == ("ABORTED", "STALE_REVISION")
    assert await store.get(layout.record_key("east", "node1")) is not None
    await delete(node.revision)
    assert await store.get(layout.record_key("east", "node1")) is None
    assert (await _reason(delete(node.revision)))[0] == "NOT_FOUND"


# --- quotas


async def test_a_node_refers_to_so_many_identities(
    service: RunningIdentity, store: Any, tls_files: Callable[[str], TlsFiles]
) -> None:
    stub = await service.register("node1")
    numbers = [(await _allocate(stub, labels)).identity.identity for labels in (WEB, DB)]
    third = ["k8s:app=third"]
    error = await _error(_allocate(stub, third))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "NODE_QUOTA_EXCEEDED")
    assert error.retry_after_seconds
    assert all(word in error.message for word in ("node1", "2", "max_identities_per_node"))
    assert not (await _allocate(stub, WEB)).allocated
    await _allocate(stub, ["reserved:health"])
    # Publishing an address would make a reference too.
    other = await service.register("node2", 2)
    foreign = (await _allocate(other, third, node="node2")).identity.identity
    assert (await _reason(_publish(stub, foreign, "10.1.0.7")))[1] == "NODE_QUOTA_EXCEEDED"
    # A reference that another replica dropped makes room here.
    async with running_identity(store, tls_files) as replica:
        await eventually(lambda: _ready(replica))
        await replica.stub("node/node1").ReleaseIdentity(
            pb.ReleaseIdentityRequest(node_name="node1", identity=numbers[0])
        )
    assert (await _allocate(stub, third)).identity.identity == foreign


async def test_a_replica_counts_what_another_one_allocated(
    service: RunningIdentity, store: Any, tls_files: Callable[[str], TlsFiles]
) -> None:
    stub = await service.register("node1")
    for labels in (WEB, DB):
        await _allocate(stub, labels)
    async with running_identity(store, tls_files, max_identities_per_node=2) as replica:
        await eventually(lambda: _ready(replica))
        call = _allocate(replica.stub("node/node1"), ["k8s:app=third"])
        assert (await _reason(call))[1] == "NODE_QUOTA_EXCEEDED"


async def test_a_node_publishes_so_many_addresses(service: RunningIdentity) -> None:
    stub = await service.register("node1")
    number = (await _allocate(stub, WEB)).identity.identity
    await _publish(stub, number, "10.1.0.7", "10.1.0.8", "fd00:10:1::7")
    error = await _error(_publish(stub, number, "10.1.0.9"))
    assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "NODE_QUOTA_EXCEEDED")
    assert all(word in error.message for word in ("node1", "4", "3", "max_addresses_per_node"))
    await _publish(stub, number, "10.1.0.8", "fd00:10:1:0::7")
    await _publish(stub, number, "10.1.0.9", "10.1.0.8", complete=True)
    listed = (await stub.ListAddresses(pb.ListAddressesRequest())).addresses
    assert [address.ip for address in listed] == ["10.1.0.8", "10.1.0.9"]


async def test_a_full_node_declares_all_its_addresses_in_one_call(
    store: Any, tls_files: Callable[[str], TlsFiles]
) -> None:
    """The most addresses that can be configured, with the longest names: 2 MiB."""
    changes: dict[str, Any] = {"pod_cidr_pools": ("10.1.0.0/16/19",), "max_addresses_per_node": 4096}
    async with running_identity(store, tls_files, **changes) as service:
        await eventually(lambda: _ready(service))
        stub = service.stub("node/node1")
        await stub.RegisterNode(pb.RegisterNodeRequest(node=pb.Node(**NODE1)))
        number = (await _allocate(stub, WEB)).identity.identity
        addresses = [
            pb.Address(
                ip=f"10.1.{position // 250}.{position % 250 + 2}",
                identity=number,
                namespace="n" * 253,
                pod_name="p" * 253,
            )
            for position in range(4096)
        ]
        request = pb.PublishAddressesRequest(node_name="node1", addresses=addresses, complete=True)
        assert request.ByteSize() > 2 * 1024 * 1024
        await stub.PublishAddresses(request)
        row = await store.get(layout.record_key("east", "node1"))
        assert decode_record(row.value).declared
        assert len((await store.list(layout.IPS))[0]) == 4096
