"""The clustermesh service end to end: mTLS gRPC over real etcd and over the store in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.port import Store
from axoneme.lib.rpcerrors import error_from_rpc
from axoneme.lib.tls import TlsFiles
from services.clustermesh import server, state
from services.policy.records.services import decode_service
from tests.clustermeshservice import (
    ADMIN,
    READER,
    NodeStream,
    RunningMesh,
    listing,
    put_identity,
    put_node,
    put_workload,
    running_mesh,
    selecting,
    service,
)

pytestmark = pytest.mark.etcd

NODE_PORT = pb.SERVICE_TYPE_NODE_PORT
WEB = 70_000


@pytest.fixture
def store(policy_store: Store) -> Store:
    """Each store in turn."""
    return policy_store


@pytest.fixture
async def mesh(store: Store, tls_files: Callable[[str], TlsFiles]) -> AsyncIterator[RunningMesh]:
    async with running_mesh(store, tls_files) as running:
        yield running


async def error_of(call: Any) -> Any:
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def keys(store: Store) -> set[str]:
    """Everything that services have in the store."""
    found = set()
    for prefix in (layout.SERVICES, layout.CLUSTER_IPS, layout.FRONTENDS):
        rows, _ = await store.list(prefix)
        found |= {row.key for row in rows}
    return found


async def test_a_service_gets_addresses_and_frees_them(mesh: RunningMesh, store: Store) -> None:
    answer = await mesh.apply(service("shop/web", type=NODE_PORT, source=selecting(app="web")))
    made = answer.service
    four, six = made.cluster_ips
    assert answer.created
    assert four.startswith("10.96.")
    assert six.startswith("fd00:96::")
    (port,) = made.ports
    assert port.target_port == 80
    assert 30_000 <= port.node_port <= 32_767
    assert await keys(store) == {
        "axoneme/state/services/v1/shop/web",
        f"axoneme/state/clusterips/v1/{four}",
        f"axoneme/state/clusterips/v1/{six}",
        f"axoneme/state/frontends/v1/node/tcp/{port.node_port}",
    }
    deleted = await mesh.stub().DeleteService(pb.DeleteServiceRequest(namespace="shop", name="web"))
    assert deleted.revision > made.revision
    assert not await keys(store)
    assert (await error_of(mesh.get("shop/web"))).reason == "SERVICE_NOT_FOUND"


async def test_applying_again_keeps_what_was_allocated(mesh: RunningMesh) -> None:
    wanted = service("shop/web", type=NODE_PORT, source=listing("10.0.0.1", "fd00::1"))
    first = (await mesh.apply(wanted)).service
    again = await mesh.apply(wanted)
    assert again.service == first
    assert not again.created
    wanted.ports.add(name="b", port=81)
    wanted.ports[0].name = "a"
    wider = (await mesh.apply(wanted)).service
    assert wider.cluster_ips == first.cluster_ips
    assert wider.ports[0].node_port == first.ports[0].node_port
    assert wider.revision > first.revision
    wanted.type = pb.SERVICE_TYPE_CLUSTER_IP
    plain = (await mesh.apply(wanted)).service
    assert not any(port.node_port for port in plain.ports)
    taken = service("shop/other", pb.ServicePort(port=80, node_port=first.ports[0].node_port), type=NODE_PORT)
    assert (await mesh.apply(taken)).created


@pytest.mark.parametrize("ip", ["198.51.100.7", "2001:db8::7"])
async def test_a_frontend_belongs_to_one_service(mesh: RunningMesh, ip: str) -> None:
    await mesh.apply(service("shop/web", external_ips=[ip]))
    same = service("shop/other", external_ips=[ip])
    error = await error_of(mesh.apply(same))
    assert (error.code, error.reason) == ("ALREADY_EXISTS", "FRONTEND_IN_USE")
    assert f"{ip} port 80/TCP belongs to service shop/web" in error.message
    assert (await error_of(mesh.apply(same, validate_only=True))).reason == "FRONTEND_IN_USE"
    same.ports[0].port = 81
    assert (await mesh.apply(same)).created
    udp = service("shop/udp", pb.ServicePort(port=80, protocol=pb.PROTOCOL_UDP), external_ips=[ip])
    assert (await mesh.apply(udp)).created


@pytest.mark.parametrize("ip", ["10.96.7.7", "fd00:96::7"])
async def test_a_cluster_ip_belongs_to_one_service(mesh: RunningMesh, ip: str) -> None:
    await mesh.apply(service("shop/web", cluster_ips=[ip]))
    other = service("shop/other", pb.ServicePort(port=99), cluster_ips=[ip])
    error = await error_of(mesh.apply(other))
    assert error.reason == "FRONTEND_IN_USE"
    assert error.metadata["service"] == "shop/web"
    moved = await mesh.apply(service("shop/web"))
    assert list(moved.service.cluster_ips) == [ip]


async def test_every_fault_is_named_with_its_field(mesh: RunningMesh) -> None:
    bad = service(
        "Shop/web",
        pb.ServicePort(port=0),
        pb.ServicePort(port=70_000, protocol=4),
        cluster_ips=["192.0.2.1"],
        external_ips=["127.0.0.1", "fe80::1", "ff02::1", "224.0.0.1", "10.96.0.9", "x"],
        external_traffic_policy=9,
        source=pb.BackendSource(selector=pb.LabelMatch()),
    )
    error = await error_of(mesh.apply(bad))
    assert error.code == "INVALID_ARGUMENT"
    fields = {violation.field for violation in error.violations}
    assert fields >= {
        "service.namespace", "service.ports[0].port", "service.ports[0].name", "service.ports[1].port",
        "service.ports[1].protocol", "service.cluster_ips[0]", "service.external_traffic_policy",
        "service.source.selector.match_labels", *(f"service.external_ips[{at}]" for at in range(6)),
    }  # fmt: skip


async def test_revisions_are_conditions(mesh: RunningMesh) -> None:
    made = (await mesh.apply(service("shop/web"), expected_revision=-1)).service
    for expected in (-1, made.revision + 1):
        error = await error_of(mesh.apply(service("shop/web"), expected_revision=expected))
        assert error.reason == "STALE_REVISION"
    changed = service("shop/web", pb.ServicePort(port=81))
    assert (await mesh.apply(changed, expected_revision=made.revision)).service.revision > made.revision
    delete = pb.DeleteServiceRequest(namespace="shop", name="web", expected_revision=made.revision)
    assert (await error_of(mesh.stub().DeleteService(delete))).reason == "STALE_REVISION"
    gone = pb.DeleteServiceRequest(namespace="shop", name="none")
    assert (await error_of(mesh.stub().DeleteService(gone))).reason == "SERVICE_NOT_FOUND"
    wrong = pb.DeleteServiceRequest(namespace="", name="a/b")
    assert len((await error_of(mesh.stub().DeleteService(wrong))).violations) == 2


async def test_checking_stores_nothing(mesh: RunningMesh, store: Store) -> None:
    await put_identity(store, WEB, app="web")
    await put_workload(store, "10.0.0.1", WEB)
    await mesh.caught_up()
    seen = await mesh.apply(service("shop/web", source=selecting(app="web")), validate_only=True)
    assert seen.created
    assert len(seen.service.cluster_ips) == 2
    assert [one.ip for one in seen.service.backends] == ["10.0.0.1"]
    assert not await keys(store)
    await mesh.apply(service("shop/web"))
    request = pb.DeleteServiceRequest(namespace="shop", name="web", validate_only=True)
    await mesh.stub().DeleteService(request)
    assert (await mesh.get("shop/web")).name == "web"


async def test_a_repeated_request_gets_the_same_answer(mesh: RunningMesh) -> None:
    first = await mesh.apply(service("shop/web"), request_id="r1")
    assert await mesh.apply(service("shop/web"), request_id="r1") == first
    error = await error_of(mesh.apply(service("shop/other"), request_id="r1"))
    assert error.violations[0].field == "request_id"


async def test_pools_end(store: Store, tls_files: Callable[[str], TlsFiles]) -> None:
    changes = {"service_cidrs": ("10.96.0.0/30",), "node_port_range": "30000-30000"}
    async with running_mesh(store, tls_files, **changes) as mesh:
        await mesh.apply(service("shop/a", type=NODE_PORT))
        error = await error_of(mesh.apply(service("shop/b", type=NODE_PORT)))
        assert (error.code, error.reason) == ("RESOURCE_EXHAUSTED", "SERVICE_POOL_EXHAUSTED")
        await mesh.apply(service("shop/c"))
        error = await error_of(mesh.apply(service("shop/d")))
        assert error.reason == "SERVICE_POOL_EXHAUSTED"
        await mesh.stub().DeleteService(pb.DeleteServiceRequest(namespace="shop", name="a"))
        assert (await mesh.apply(service("shop/b", type=NODE_PORT))).service.ports[0].node_port == 30_000
    async with running_mesh(store, tls_files, service_cidrs=()) as mesh:
        assert "service_cidrs" in (await error_of(mesh.apply(service("shop/e")))).message


async def test_replicas_never_give_out_one_thing_twice(
    store: Store, tls_files: Callable[[str], TlsFiles]
) -> None:
    """Two replicas that draw the same candidates: what one takes first, the other gives up."""
    changes = {"service_cidrs": ("10.96.0.0/24", "fd00:96::/120"), "node_port_range": "30000-30063"}
    async with (
        running_mesh(store, tls_files, **changes) as one,
        running_mesh(store, tls_files, **changes) as two,
    ):
        calls = [
            mesh.apply(service(f"shop/s{number}-{at}", type=NODE_PORT))
            for number in range(20)
            for at, mesh in enumerate((one, two))
        ]
        answers = [answer.service for answer in await asyncio.gather(*calls)]
    addresses = [ip for made in answers for ip in made.cluster_ips]
    ports = [made.ports[0].node_port for made in answers]
    assert len(set(addresses)) == len(addresses) == 80
    assert len(set(ports)) == len(ports) == 40


async def test_only_one_of_two_replicas_gives_a_wanted_port(
    store: Store, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with running_mesh(store, tls_files) as one, running_mesh(store, tls_files) as two:
        calls = [
            mesh.apply(service(f"shop/s{at}", pb.ServicePort(port=80, node_port=30_100), type=NODE_PORT))
            for at, mesh in enumerate((one, two) * 5)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        made = [one for one in answers if not isinstance(one, BaseException)]
        errors = [error_from_rpc(one) for one in answers if isinstance(one, grpc.aio.AioRpcError)]
    assert len(made) == 1
    assert {error.reason for error in errors} == {"FRONTEND_IN_USE"}


async def test_one_service_written_by_many_is_written_once(
    store: Store, tls_files: Callable[[str], TlsFiles]
) -> None:
    async with running_mesh(store, tls_files) as one, running_mesh(store, tls_files) as two:
        calls = [mesh.apply(service("shop/web", type=NODE_PORT)) for mesh in (one, two) * 5]
        answers = await asyncio.gather(*calls)
    assert len({(tuple(a.service.cluster_ips), a.service.ports[0].node_port) for a in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert len(await keys(store)) == 4


async def test_claims_without_a_service_are_free(mesh: RunningMesh, store: Store) -> None:
    """What somebody left behind who deleted a record by hand."""
    await mesh.apply(service("shop/web", cluster_ips=["10.96.0.5"], external_ips=["198.51.100.7"]))
    await store.delete(f"{layout.SERVICES}shop/web")
    await mesh.caught_up()
    wanted = service("shop/other", cluster_ips=["10.96.0.5"], external_ips=["198.51.100.7"])
    await mesh.apply(wanted)
    row = await store.get(f"{layout.CLUSTER_IPS}10.96.0.5")
    assert row is not None
    assert row.value == b"shop/other"


async def test_backends_follow_workloads(mesh: RunningMesh, store: Store) -> None:
    await mesh.apply(service("shop/web", source=selecting(app="web")))
    await put_node(store, "node1", "198.18.1.101")
    await put_identity(store, WEB, app="web", tier="front")
    await put_identity(store, WEB + 1, app="api")
    await put_identity(store, WEB + 2, "other", app="web")
    for ip in ("10.0.0.2", "10.0.0.1", "fd00::1"):
        await put_workload(store, ip, WEB, host="198.18.1.101")
    await put_workload(store, "10.0.0.3", WEB + 1)
    await put_workload(store, "10.0.0.4", WEB + 2)
    await mesh.caught_up()
    found = await mesh.get("shop/web")
    assert [(one.ip, one.node_name, one.cluster, one.state) for one in found.backends] == [
        ("10.0.0.1", "node1", "east", pb.BACKEND_STATE_ACTIVE),
        ("10.0.0.2", "node1", "east", pb.BACKEND_STATE_ACTIVE),
        ("fd00::1", "node1", "east", pb.BACKEND_STATE_ACTIVE),
    ]
    await store.delete(layout.ip_key("10.0.0.1"))
    await put_identity(store, WEB + 1, app="web")
    await mesh.caught_up()
    assert [one.ip for one in (await mesh.get("shop/web")).backends] == ["10.0.0.2", "10.0.0.3", "fd00::1"]


async def test_an_expired_address_stays_until_its_node_was_heard(mesh: RunningMesh, store: Store) -> None:
    """An outage of the control plane empties no service (docs/adr/0012)."""
    record = layout.record_key("east", "node1")
    lease = await store.grant(3_600)
    await store.put(record, json.dumps({"leases": [lease], "declared": True}).encode())
    await put_identity(store, WEB, app="web")
    await put_workload(store, "10.0.0.1", WEB, lease=lease)
    await mesh.apply(service("shop/web", source=selecting(app="web")))
    await store.revoke(lease)
    await mesh.caught_up()
    assert [one.ip for one in (await mesh.get("shop/web")).backends] == ["10.0.0.1"]
    await store.put(record, json.dumps({"leases": [lease], "expired": True}).encode())
    await mesh.caught_up()
    assert not (await mesh.get("shop/web")).backends


async def test_a_feature_that_a_node_lacks_is_refused(mesh: RunningMesh, store: Store) -> None:
    await put_node(store, "old", "198.18.1.102", features={"map_of_maps": "no", "dsr": "yes"})
    await put_node(store, "silent", "2001:db8::103")
    await mesh.caught_up()
    error = await error_of(mesh.apply(service("shop/web", algorithm=pb.ALGORITHM_MAGLEV)))
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "FEATURE_MISSING")
    assert "old (no)" in error.message
    assert (await mesh.apply(service("shop/web", forwarding_mode=pb.FORWARDING_MODE_DSR))).created
    await store.delete(layout.node_key("east", "old"))
    await mesh.caught_up()
    assert await mesh.apply(service("shop/web", algorithm=pb.ALGORITHM_MAGLEV))


async def test_named_ports_are_each_workloads_own(mesh: RunningMesh, store: Store) -> None:
    port = pb.ServicePort(port=80, target_port_name="http")
    await put_identity(store, WEB, app="web")
    await put_workload(store, "10.0.0.1", WEB, ports={"http": 8080})
    await put_workload(store, "10.0.0.2", WEB, ports={"http": 9090})
    await put_workload(store, "10.0.0.3", WEB)
    await mesh.caught_up()
    answer = await mesh.apply(service("shop/web", port, source=selecting(app="web")))
    assert [(one.ip, dict(one.ports)) for one in answer.service.backends] == [
        ("10.0.0.1", {"": 8080}),
        ("10.0.0.2", {"": 9090}),
    ]
    assert answer.warnings == ["1 workload has no port of a name that the service asks for"]


async def test_lists_come_in_pages(mesh: RunningMesh) -> None:
    for name in ("shop/b", "shop/a", "other/c"):
        await mesh.apply(service(name))
    stub = mesh.stub(READER)
    first = await stub.ListServices(pb.ListServicesRequest(page_size=2))
    rest = await stub.ListServices(pb.ListServicesRequest(page_size=2, page_token=first.next_page_token))
    assert [one.name for one in (*first.services, *rest.services)] == ["c", "a", "b"]
    assert not rest.next_page_token
    some = await stub.ListServices(pb.ListServicesRequest(filter="shop/"))
    assert [one.name for one in some.services] == ["a", "b"]
    assert (
        await error_of(stub.ListServices(pb.ListServicesRequest(page_token="x")))
    ).code == "INVALID_ARGUMENT"


async def test_large_services_neither_break_lists_nor_streams(
    mesh: RunningMesh, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are cut by bytes; what no message can carry stays away from the nodes, and says so."""
    monkeypatch.setattr(server, "MAX_BYTES", 20_000)
    monkeypatch.setattr(state, "MAX_BYTES", 20_000)
    many = [f"10.0.0.{n}" for n in range(1, 101)] + [f"fd00::{n:x}" for n in range(1, 101)]
    for name in "abcdefgh":
        await mesh.apply(service(f"shop/{name}", source=listing(*many)))
    stub, pages, token = mesh.stub(READER), [], ""
    while token or not pages:
        answer = await stub.ListServices(pb.ListServicesRequest(page_token=token))
        pages.append([one.name for one in answer.services])
        token = answer.next_page_token
    assert [name for page in pages for name in page] == list("abcdefgh")
    assert len(pages) > 1
    node = NodeStream(mesh.stub("node/node1"), "node1")
    await node.start()
    await node.until(lambda known: len(known) == 8)
    await put_identity(store, WEB, app="web")
    names = [f"{'p' * 10}{n}" for n in range(20)]
    ports = [pb.ServicePort(name=one, port=n + 1, target_port_name=one) for n, one in enumerate(names)]
    await mesh.apply(service("shop/huge", *ports, source=selecting(app="web")))
    numbers = {one: 65_000 + n for n, one in enumerate(names)}
    for ip in many:
        await put_workload(store, ip, WEB, ports=numbers)
    await mesh.caught_up()
    await mesh.apply(service("shop/small"))
    await node.until(lambda known: "shop/small" in known)
    assert len(node.services["shop/huge"].backends) < len(many)
    assert len((await mesh.get("shop/huge")).backends) == len(many)
    assert mesh.registry.get_sample_value("axoneme_clustermesh_oversized_services") == 1
    await store.delete(layout.master_key(WEB))
    await mesh.caught_up()
    assert mesh.registry.get_sample_value("axoneme_clustermesh_oversized_services") == 0
    node.cancel()


async def test_a_service_too_large_for_the_store_is_refused(mesh: RunningMesh) -> None:
    names = [f"p{n}" for n in range(100)]
    backends = [pb.Backend(ip=f"fd00::{n:x}", ports=dict.fromkeys(names, 65_000)) for n in range(1, 920)]
    ports = [pb.ServicePort(name=one, port=n + 1) for n, one in enumerate(names)]
    source = pb.BackendSource(addresses=pb.BackendList(backends=backends))
    error = await error_of(mesh.apply(service("shop/web", *ports, source=source)))
    assert "split it" in error.message
    assert error.violations[0].field == "service"


async def test_strangers_records_are_read_and_broken_ones_skipped(
    store: Store, tls_files: Callable[[str], TlsFiles]
) -> None:
    old = {"labels": {"a": "b"}, "selector": None, "backends": ["10.0.0.1", "fd00::1"], "more": 1}
    await store.put(f"{layout.SERVICES}shop/old", json.dumps(old).encode())
    await store.put(f"{layout.SERVICES}shop/broken", b'{"spec": {"type": "Nonsense"}}')
    await store.put(f"{layout.SERVICES}shop/deep/er", b"{}")
    await store.put(layout.ip_key("10.0.0.9"), b"not json")
    async with running_mesh(store, tls_files) as mesh:
        found = await mesh.stub(READER).ListServices(pb.ListServicesRequest())
        assert [one.name for one in found.services] == ["old"]
        made = found.services[0]
        assert made.headless
        assert [one.ip for one in made.backends] == ["10.0.0.1", "fd00::1"]
        assert mesh.registry.get_sample_value("axoneme_clustermesh_malformed_values") == 2
        await mesh.apply(service("shop/good"))
        await store.put(f"{layout.SERVICES}shop/good", b"junk")
        await mesh.caught_up()
        assert (await mesh.get("shop/good")).ports[0].port == 80
        mended = await mesh.apply(service("shop/broken"))
        assert not mended.created


async def test_what_policies_read_stays_as_it_is(mesh: RunningMesh, store: Store) -> None:
    await mesh.apply(service("shop/a", labels={"x": "y"}, source=listing("fd00::1", "10.0.0.1")))
    await mesh.apply(service("shop/b", source=selecting(app="web")))
    rows, _ = await store.list(layout.SERVICES)
    policies = [decode_service(row) for row in rows]
    assert [(one.backends, one.selector) for one in policies if one] == [
        (("10.0.0.1", "fd00::1"), None),
        ((), {"app": "web"}),
    ]
    first, second = (json.loads(row.value) for row in rows)
    assert (first["labels"], first["selector"]) == ({"x": "y"}, None)
    assert first["backends"] == ["10.0.0.1", "fd00::1"]
    assert (second["selector"], second["backends"]) == ({"app": "web"}, [])


async def test_a_restart_knows_everything(store: Store, tls_files: Callable[[str], TlsFiles]) -> None:
    async with running_mesh(store, tls_files) as mesh:
        made = (
            await mesh.apply(
                service(
                    "shop/web",
                    pb.ServicePort(name="a", port=80, target_port=8080),
                    pb.ServicePort(name="b", port=80, protocol=pb.PROTOCOL_UDP),
                    type=pb.SERVICE_TYPE_LOAD_BALANCER,
                    labels={"team": "x"},
                    external_ips=["198.51.100.7", "2001:db8::7"],
                    load_balancer_ips=["198.51.100.8"],
                    load_balancer_source_ranges=pb.SourceRanges(cidrs=["192.0.2.0/24", "2001:db8::/64"]),
                    source=pb.BackendSource(
                        addresses=pb.BackendList(
                            backends=[
                                pb.Backend(ip="10.0.0.1", state=pb.BACKEND_STATE_TERMINATING, ports={"a": 1}),
                                pb.Backend(ip="fd00::1", node_name="n1"),
                            ]
                        )
                    ),
                    external_traffic_policy=pb.TRAFFIC_POLICY_LOCAL,
                    internal_traffic_policy=pb.TRAFFIC_POLICY_LOCAL,
                    session_affinity=pb.SessionAffinity(timeout_seconds=60),
                    algorithm=pb.ALGORITHM_MAGLEV,
                    maglev_table_size=1021,
                    forwarding_mode=pb.FORWARDING_MODE_DSR,
                )
            )
        ).service
    async with running_mesh(store, tls_files) as mesh:
        assert await mesh.get("shop/web") == made


async def test_watch_tells_everything_then_changes(mesh: RunningMesh, store: Store) -> None:
    await put_identity(store, WEB, app="web")
    await mesh.apply(service("shop/web", source=selecting(app="web")))
    call = mesh.stub(READER).WatchServices(pb.WatchServicesRequest())
    steps = [await call.read(), await call.read()]
    assert [step.WhichOneof("kind") for step in steps] == ["put", "bookmark"]
    await put_workload(store, "fd00::1", WEB)
    put = await call.read()
    assert [one.ip for one in put.put.backends] == ["fd00::1"]
    await mesh.stub().DeleteService(pb.DeleteServiceRequest(namespace="shop", name="web"))
    gone = await call.read()
    assert gone.deleted == "shop/web"
    resumed = mesh.stub(READER).WatchServices(pb.WatchServicesRequest(revision=steps[1].revision))
    assert (await resumed.read()).deleted == "shop/web"
    call.cancel()
    resumed.cancel()


async def test_watch_from_a_forgotten_revision(store: Store, tls_files: Callable[[str], TlsFiles]) -> None:
    async with running_mesh(store, tls_files) as mesh:
        old = (await mesh.apply(service("shop/web"))).service.revision
    await store.put("somewhere/else", b"")
    async with running_mesh(store, tls_files) as mesh:
        error = await error_of(mesh.stub(READER).WatchServices(pb.WatchServicesRequest(revision=old)).read())
        assert (error.code, error.reason) == ("OUT_OF_RANGE", "REVISION_COMPACTED")
        ahead = pb.WatchServicesRequest(revision=10**9)
        error = await error_of(mesh.stub(READER).WatchServices(ahead).read())
        assert (error.code, error.reason) == ("OUT_OF_RANGE", "OUT_OF_RANGE")


async def test_a_node_is_told_services_with_backends(mesh: RunningMesh, store: Store) -> None:
    await put_identity(store, WEB, app="web")
    await mesh.apply(service("shop/web", source=selecting(app="web")))
    await mesh.apply(service("shop/none", headless=True, source=selecting(app="web")))
    node = NodeStream(mesh.stub("node/node1"), "node1")
    await node.start()
    first = await node.step()
    assert first.header.snapshot_last
    assert list(node.services) == ["shop/web"]
    await put_workload(store, "10.0.0.1", WEB)
    await node.until(lambda known: [one.ip for one in known["shop/web"].backends] == ["10.0.0.1"])
    assert node.services["shop/web"] == await mesh.get("shop/web")
    await mesh.apply(service("shop/web", headless=True, source=selecting(app="web")))
    await node.until(lambda known: not known)
    node.cancel()


async def test_churn_is_told_in_few_updates(mesh: RunningMesh, store: Store) -> None:
    await put_identity(store, WEB, app="web")
    await mesh.apply(service("shop/web", source=selecting(app="web")))
    node = NodeStream(mesh.stub("node/node1"), "node1")
    await node.start()
    await node.step()
    await asyncio.gather(*(put_workload(store, f"10.0.{n // 200}.{n % 200 + 1}", WEB) for n in range(400)))
    await node.until(lambda known: len(known["shop/web"].backends) == 400)
    assert len(node.updates) < 200
    node.cancel()


async def test_a_node_subscribes_for_itself_alone(mesh: RunningMesh) -> None:
    other = NodeStream(mesh.stub("node/node2"), "node1")
    await other.start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await other.step()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


CALLS = {
    "ApplyService": (pb.ApplyServiceRequest(service=service("shop/web")), {ADMIN}),
    "DeleteService": (pb.DeleteServiceRequest(namespace="shop", name="web"), {ADMIN}),
    "GetService": (pb.GetServiceRequest(namespace="shop", name="web"), {ADMIN, READER}),
    "ListServices": (pb.ListServicesRequest(), {ADMIN, READER}),
}


@pytest.mark.parametrize("method", CALLS)
async def test_who_may_call(mesh: RunningMesh, method: str) -> None:
    request, allowed = CALLS[method]
    for role in (ADMIN, READER, "node/node1", "svc/policy", "svc/identity", "svc/clustermesh", "peer/west"):
        try:
            await getattr(mesh.stub(role), method)(request)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        assert (code != "PERMISSION_DENIED") == (role in allowed), role
