"""What a node makes of services, step by step: switches, limits, retries, drift, host ports, names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.kinds import MapSpec
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import AlreadyExists, Unavailable
from axoneme.lib.tasks import TaskScope
from shim.endpoints import HostPort
from shim.lb.model import Port, State
from shim.lb.naming import FrontendDirectory
from shim.lb.records import frontend_from_key
from shim.maps import base, lb
from tests.unit.shim.lb.lbnode import CLUSTER, EXTERNAL, NODE, PODS, LbNode, backend, service
from tests.waiting import eventually

pytestmark = pytest.mark.parametrize("family", [4, 6])


def pods(family: int, *numbers: int, **fields: Any) -> list[Any]:
    return [backend(PODS[family].format(number), **fields) for number in numbers]


def cluster_ip(family: int, number: int = 1) -> str:
    return CLUSTER[family].format(number)


def web(family: int, *numbers: int, **fields: Any) -> Any:
    return service("web", *pods(family, *numbers), cluster_ips=(cluster_ip(family),), **fields)


def number_of(node: LbNode) -> int:
    """The set of the one frontend."""
    ((_, raw),) = node.map(lb.LB).items()
    return lb.LbService.unpack(raw).set_id


async def started(**fields: Any) -> LbNode:
    node = LbNode(**fields)
    await node.balancer.restore()
    await node.complete()
    return node


async def test_another_list_is_another_set(family: int) -> None:
    node = await started()
    await node.put(web(family, 1, 2))
    before = number_of(node)
    await node.put(web(family, 1, 2, affinity_seconds=30))
    assert number_of(node) == before  # the list is the same
    await node.put(web(family, 1, 2, 3))
    assert number_of(node) == before + 1
    assert node.sizes()[lb.LB_SLOTS.name] == 5  # the old one stays for whoever looked it up just now
    await node.settle()
    assert node.sizes()[lb.LB_SLOTS.name] == 3


async def test_backends_keep_their_numbers_and_give_them_up_late(family: int) -> None:
    node = await started()
    await node.put(web(family, 1, 2))
    (one, two) = sorted(int.from_bytes(key, "little") for key, _ in node.map(lb.LB_BACKENDS).items())
    await node.put(web(family, 2))
    await node.settle()
    assert [key for key, _ in node.map(lb.LB_BACKENDS).items()] == [base.number_key(two)]
    await node.put(web(family, 1, 2))
    numbers = {int.from_bytes(key, "little") for key, _ in node.map(lb.LB_BACKENDS).items()}
    assert numbers == {two, two + 1}
    assert one not in numbers


async def test_a_full_map_keeps_the_old_state_whole(family: int) -> None:
    node = await started(sizes={lb.LB_SLOTS.name: 4})
    await node.put(web(family, 1, 2))
    before = node.shown()
    failures = await node.put(web(family, 1, 2, 3))
    # Old and new fit only after each other: the old frontend stays, nothing of the new one does.
    assert failures["service:default/web"].code == "RESOURCE_EXHAUSTED"
    assert failures["service:default/web"].reason == "MAP_FULL"
    assert node.shown() == before
    assert node.sizes()[lb.LB_SLOTS.name] == 2
    assert len(node.backends()) == 2
    await node.put(web(family, 1))
    await node.settle()
    assert node.balancer.failures() == {}
    assert [shown.backends for shown in node.shown().values()] == [(target(family, 1),)]


async def test_room_is_used_at_once(family: int) -> None:
    node = await started(sizes={lb.LB_SLOTS.name: 4})
    other = service("other", *pods(family, 1, 2, 3), cluster_ips=(cluster_ip(family, 2),))
    assert await node.put(other) == {}
    assert set(await node.put(web(family, 4, 5))) == {"service:default/web"}
    assert await node.put(web(family, 4, 5), removed=(other.key,)) == {}
    assert len(node.shown()) == 1


async def test_full_frontends_are_taken_back(family: int) -> None:
    node = await started(sizes={lb.LB.name: 1})
    two = web(family, 1, external_ips=(EXTERNAL[family].format(1),))
    assert set(await node.put(two)) == {"service:default/web"}
    assert set(node.sizes().values()) == {0}
    assert await node.put(web(family, 1)) == {}


async def test_after_a_restart_a_service_that_fails_keeps_what_it_had(family: int) -> None:
    node = await started(sizes={lb.LB_SLOTS.name: 4})
    await node.put(web(family, 1, 2, 3))
    before = node.shown()
    node.start()
    await node.balancer.restore()
    failures = await node.complete(web(family, 1, 2, 3, 4, 5))
    assert set(failures) == {"service:default/web"}
    await node.settle()
    assert node.shown() == before
    await node.put(web(family, 3))
    await node.settle()
    assert node.balancer.failures() == {}
    assert node.sizes() == {
        lb.LB.name: 1,
        lb.LB_SLOTS.name: 1,
        lb.LB_BACKENDS.name: 1,
        lb.LB_SOURCE.name: 0,
        lb.MAGLEV.name: 0,
    }


async def test_nothing_goes_before_the_snapshot(family: int) -> None:
    node = await started()
    await node.put(web(family, 1, 2, algorithm="maglev", maglev_table_size=251, source_ranges=()))
    before, sizes = node.shown(), node.sizes()
    node.start()
    await node.balancer.restore()
    await node.put(service("other", *pods(family, 3), cluster_ips=(cluster_ip(family, 2),)))
    assert before.items() <= node.shown().items()
    assert all(node.sizes()[name] >= size for name, size in sizes.items())
    await node.complete()
    await node.settle()
    assert len(node.shown()) == 1
    assert list(node.backends()) == [target(family, 3)]


async def test_a_node_without_services_forgets_them(family: int) -> None:
    node = await started()
    await node.put(web(family, 1))
    node.start()
    await node.balancer.restore()
    await node.balancer.without_services()
    await node.settle()
    assert set(node.sizes().values()) == {0}


async def test_two_services_want_one_frontend(family: int) -> None:
    node = await started()
    second = replace(web(family, 2), name="zweb")
    failures = await node.put(web(family, 1), second)
    assert failures == await node.put(second)
    assert set(failures) == {second.key}
    assert failures[second.key].reason == "FRONTEND_IN_USE"
    assert "service:default/web" in failures[second.key].message
    assert [shown.backends for shown in node.shown().values()] == [(target(family, 1),)]
    assert await node.put(removed=("service:default/web",)) == {}
    assert [shown.backends for shown in node.shown().values()] == [(target(family, 2),)]


async def test_too_many_backends(family: int) -> None:
    node = await started(watched=False)
    many = [backend(_far(family, number)) for number in range(65_536)]
    failures = await node.put(service("web", *many, cluster_ips=(cluster_ip(family),)))
    assert failures["service:default/web"].code == "RESOURCE_EXHAUSTED"
    assert "65536" in failures["service:default/web"].message
    assert set(node.sizes().values()) == {0}


def _far(family: int, number: int) -> str:
    return (
        f"10.{number // 62_500 + 2}.{number // 250 % 250}.{number % 250}"
        if family == 4
        else f"fd00::{number:x}"
    )


@pytest.mark.parametrize(
    ("error", "reason", "code"),
    [
        (BpfError(22, "create", "map"), "FEATURE_MISSING", "FAILED_PRECONDITION"),
        (Unavailable("nobody there", reason="HELPER_UNAVAILABLE"), "HELPER_UNAVAILABLE", "UNAVAILABLE"),
    ],
)
async def test_a_node_that_cannot_make_tables(
    family: int, error: Exception, reason: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await started()
    await node.put(web(family, 1, 2))
    before = node.shown()

    async def refuse(size: int) -> BpfMap:
        raise error

    monkeypatch.setattr(node.datapath, "new_maglev_table", refuse)
    failures = await node.put(web(family, 1, 2, 3, algorithm="maglev"))
    assert (failures["service:default/web"].code, failures["service:default/web"].reason) == (code, reason)
    assert node.shown() == before
    monkeypatch.undo()
    await node.settle()
    assert node.balancer.failures() == {}
    assert {shown.table_size for shown in node.shown().values()} == {16_381}


@pytest.mark.parametrize(
    ("feature", "fields"),
    [
        ("bpf_loop", {"forwarding": "dsr"}),
        ("map_of_maps", {"algorithm": "maglev"}),
        ("inner_array_sizes", {"algorithm": "maglev"}),
    ],
)
async def test_a_feature_that_the_node_lacks(family: int, feature: str, fields: dict[str, str]) -> None:
    node = await started()
    node.balancer.set_features({feature: "no such program"})
    failures = await node.put(web(family, 1, **fields))
    assert failures["service:default/web"].reason == "FEATURE_MISSING"
    assert f"{feature}, which this node lacks (no such program)" in failures["service:default/web"].message
    assert node.shown() == {}
    other = service("other", *pods(family, 2), cluster_ips=(cluster_ip(family, 2),))
    assert set(await node.put(other)) == {"service:default/web"}, "the others work"
    node.balancer.set_features({feature: "yes"})
    await node.settle()
    assert node.balancer.failures() == {}


async def test_a_default_that_the_node_lacks_gives_way(family: int) -> None:
    node = await started(algorithm="maglev", forwarding="dsr")
    node.balancer.set_features({"inner_array_sizes": "too old", "bpf_loop": "too old"})
    assert await node.put(web(family, 1, 2)) == {}
    assert {one.table_size for one in node.shown().values()} == {0}
    lacks = "which this node lacks (too old); services without a choice get"
    assert node.balancer.problems() == [
        f"lb_algorithm maglev needs inner_array_sizes, {lacks} random",
        f"lb_forwarding dsr needs bpf_loop, {lacks} snat",
    ]
    node.balancer.set_features({"inner_array_sizes": "yes", "bpf_loop": "yes"})
    await node.settle()
    assert {one.table_size for one in node.shown().values()} == {16_381}
    assert node.balancer.problems() == []


@pytest.mark.parametrize(("default", "own"), [("dsr", ""), ("snat", "dsr")], ids=["default", "service"])
@pytest.mark.parametrize("tunnel", [False, True], ids=["direct", "tunnel"])
async def test_a_tunnel_forwards_by_snat_and_says_so(
    family: int, default: str, own: str, tunnel: bool
) -> None:
    node = await started(forwarding=default, tunnel=tunnel)
    assert await node.put(web(family, 1, forwarding=own)) == {}
    text = "routing_mode tunnel: services with forwarding dsr are forwarded by snat on this node"
    assert node.balancer.problems() == ([text] if tunnel else [])
    await node.put(web(family, 1, forwarding="snat"))
    assert node.balancer.problems() == ([text] if tunnel and default == "dsr" else [])


@pytest.mark.parametrize("leaves", ["terminating", "gone", "elsewhere"])
async def test_datagram_sockets_keep_their_backend(family: int, leaves: str) -> None:
    """Also one that is on its way out; never one that only serves somebody else."""
    node = await started()
    ports = (Port(protocol=17, port=53),)
    await node.put(web(family, 1, 2, ports=ports))
    table, before = node.map(lb.SOCKETS), number_of(node)
    numbers = node.balancer.books.backends.numbers
    first, second = (
        next(n for t, n in numbers.items() if t.address == one.address) for one in pods(family, 1, 2)
    )
    key = {
        n: lb.SocketKey(n, base.address_bytes(cluster_ip(family)), b"\0\x35", 1).pack()
        for n in numbers.values()
    }
    for one in (first, second):
        table.update(key[one], lb.SocketEntry(bytes(16), b"\0\x35", before, one).pack())
    third = pods(family, 3)
    if leaves == "terminating":
        third += pods(family, 2, state=State.TERMINATING)
    elif leaves == "elsewhere":
        await node.put(service("other", *pods(family, 2), cluster_ips=(cluster_ip(family, 2),), ports=ports))
    await node.put(service("web", *pods(family, 1), *third, cluster_ips=(cluster_ip(family),), ports=ports))
    after = next(iter(node.balancer.books.applied["service:default/web"].sets.values()))
    assert after != before
    kept = {one: lb.SocketEntry.unpack(table.lookup(key[one]) or b"").set_id for one in (first, second)}
    assert kept == {first: after, second: after if leaves == "terminating" else before}


async def test_clients_keep_their_backend(family: int) -> None:
    node = await started()
    await node.put(web(family, 1, 2, affinity_seconds=600))
    table, before = node.map(lb.AFFINITY), number_of(node)
    client = base.address_bytes(PODS[family].format(99))
    one, two = sorted(int.from_bytes(key, "little") for key, _ in node.map(lb.LB_BACKENDS).items())
    table.update(lb.LbAffinityKey(client, before).pack(), lb.LbAffinity(5, one).pack())
    table.update(lb.LbAffinityKey(client, before, 1).pack(), lb.LbAffinity(5, two).pack())
    table.update(lb.LbAffinityKey(client, before + 100).pack(), lb.LbAffinity(5, 9).pack())
    other = service("other", *pods(family, 2), cluster_ips=(cluster_ip(family, 2),))
    await node.put(other, web(family, 1, 3, affinity_seconds=600))
    kept = {lb.LbAffinityKey.unpack(key).set_id: lb.LbAffinity.unpack(raw) for key, raw in table.items()}
    # The second client's backend is still there, for somebody else: it would not be right any more.
    mine = node.balancer.books.applied["service:default/web"].sets.values()
    assert kept == {next(iter(mine)): lb.LbAffinity(5, one), before + 100: lb.LbAffinity(5, 9)}


def lose(spec: MapSpec) -> Callable[[LbNode], None]:
    """Somebody deletes one entry."""

    def act(node: LbNode) -> None:
        (key, _), *_rest = node.map(spec).items()
        node.map(spec).delete(key)

    return act


def spoil(node: LbNode) -> None:
    (key, _), *_rest = node.map(lb.LB_SLOTS).items()
    node.map(lb.LB_SLOTS).update(key, bytes(4))


def intrude(node: LbNode) -> None:
    node.map(lb.LB_BACKENDS).update(base.number_key(77), bytes(24))


def spoil_table(node: LbNode) -> None:
    _table(node).update(base.number_key(7), bytes(4))


DAMAGE = [lose(spec) for spec in (lb.LB, lb.LB_SLOTS, lb.LB_BACKENDS, lb.LB_SOURCE, lb.MAGLEV)]
DAMAGE += [spoil, intrude, spoil_table]


def _table(node: LbNode) -> BpfMap:
    ((key, _),) = node.map(lb.MAGLEV).items()
    table = node.map(lb.MAGLEV).inner(key)
    assert table is not None
    return table


@pytest.mark.parametrize("damage", DAMAGE)
async def test_drift_is_found_and_repaired(family: int, damage: Callable[[LbNode], None]) -> None:
    node = await started(watched=False)
    ranges = ("203.0.113.0/24",) if family == 4 else ("2001:db8:5::/48",)
    one = web(
        family,
        1,
        2,
        algorithm="maglev",
        maglev_table_size=251,
        load_balancer_ips=(EXTERNAL[family].format(1),),
        source_ranges=ranges,
    )
    await node.put(one)
    before, sizes = node.shown(), node.sizes()
    assert await node.balancer.audit() == []
    damage(node)
    assert await node.balancer.audit()
    assert node.shown() == before
    assert node.sizes() == sizes
    assert await node.balancer.audit() == []


async def test_endpoints_wake_it(family: int) -> None:
    node = await started()
    await node.put(web(family, 1, 2, internal_local=True))
    assert [shown.backends for shown in node.shown().values()] == [()]
    async with TaskScope("test") as scope:
        task = scope.start("load balancing", node.balancer.keep())
        node.add_endpoint(7, PODS[family].format(1))
        await eventually(
            lambda: [shown.backends for shown in node.shown().values()] == [(target(family, 1),)]
        )
        node.endpoints.remove(7)
        await eventually(lambda: [shown.backends for shown in node.shown().values()] == [()])
        task.cancel()


async def test_host_ports_that_are_taken(family: int) -> None:
    node = await started()
    own = NODE[0] if family == 4 else NODE[1]
    port = Port(protocol=6, port=80, node_port=30_080)
    await node.put(web(family, 1, node_ports=True, ports=(port,), external_ips=(own,)))
    node.add_endpoint(7, PODS[family].format(7), host_ports=(HostPort(8443, 443, 6, ""),))
    check = node.balancer.check_host_ports
    check([HostPort(8443, 443, 17, ""), HostPort(8444, 443, 6, own)])
    check([HostPort(8443, 443, 6, "")], endpoint_id=7)
    for taken, who in (
        ([HostPort(8443, 1, 6, own)], "endpoint 7"),
        ([HostPort(30_080, 1, 6, "")], "service:default/web"),
        ([HostPort(80, 1, 6, own)], "service:default/web"),
        ([HostPort(9000, 1, 6, own), HostPort(9000, 2, 6, "")], "another host port"),
    ):
        with pytest.raises(AlreadyExists, match=who) as error:
            check(taken)
        assert error.value.reason == "FRONTEND_IN_USE"


async def test_a_host_port_that_loses_is_told_in_words(family: int) -> None:
    node = await started()
    node.add_endpoint(7, PODS[family].format(7), host_ports=(HostPort(30_080, 80, 6, ""),))
    await node.put()
    assert node.balancer.problems() == []
    port = Port(protocol=6, port=80, node_port=30_080)
    assert await node.put(web(family, 1, node_ports=True, ports=(port,))) == {}
    assert "endpoint 7" in node.balancer.problems()[0]
    assert "FRONTEND_IN_USE" in node.balancer.problems()[0]
    assert node.balancer.failing == 1


async def test_names_for_people(family: int) -> None:
    node = await started()
    external, balanced = EXTERNAL[family].format(1), EXTERNAL[family].format(2)
    leaving = backend(PODS[family].format(2), State.TERMINATING)
    await node.put(
        service(
            "web",
            *pods(family, 1),
            leaving,
            ports=(Port(protocol=6, port=80, target_port=8080, node_port=30_080),),
            cluster_ips=(cluster_ip(family),),
            external_ips=(external,),
            load_balancer_ips=(balanced,),
            node_ports=True,
        )
    )
    node.add_endpoint(7, PODS[family].format(7), host_ports=(HostPort(8443, 443, 6, ""),))
    await node.put()
    names = FrontendDirectory(node.balancer)
    kinds = {}
    for key in dict(node.map(lb.LB).items()):
        found = names.names_of(lb.LbKey.unpack(key))
        kinds[str(base.address_from_bytes(frontend_from_key(key).address))] = found.kind
        if found.kind == "HostPort":
            assert (found.service, found.terminating) == ("endpoint 7", ())
        elif (":" in str(base.address_from_bytes(key[:16]))) == (family == 6):
            assert found.service == "default/web"
            (number,) = found.terminating
            raw = node.map(lb.LB_BACKENDS).lookup(base.number_key(number))
            assert raw is not None
            assert lb.LbBackend.unpack(raw).flags == lb.BACKEND_TERMINATING
    assert kinds[cluster_ip(family)] == "ClusterIP"
    assert (kinds[external], kinds[balanced]) == ("ExternalIP", "LoadBalancer")
    assert names.names_of(lb.LbKey(bytes(16), bytes(2), 6, 0)).service == ""


async def test_what_raises_is_tried_again(family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    node = await started()
    slots: Any = node.map(lb.LB_SLOTS)
    monkeypatch.setattr(type(slots), "update_batch", _broken)
    monkeypatch.setattr(node.balancer.books, "apply", _broken)
    with pytest.raises(OSError, match="broken"):
        await node.put(web(family, 1))
    assert node.balancer.next_due() is not None
    monkeypatch.undo()
    await node.settle()
    assert len(node.shown()) == 1
    assert node.balancer.next_due() is None


def _broken(*_: object) -> None:
    raise OSError("broken")


def target(family: int, number: int, port: int = 8080) -> str:
    ip = PODS[family].format(number)
    return f"[{ip}]:{port}/tcp" if family == 6 else f"{ip}:{port}/tcp"
