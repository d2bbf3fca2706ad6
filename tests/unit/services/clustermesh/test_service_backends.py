"""Which backends a service has: families, named ports, nodes, listed addresses."""

from __future__ import annotations

import pytest

from services.clustermesh.backends import backends_of
from services.clustermesh.index import WorkloadIndex
from services.clustermesh.model import Backend, BackendState, Port, Protocol, Service
from services.clustermesh.workloads import Workload
from tests.unit.services.clustermesh.making import backends, changed, made

WEB = {"io.kubernetes.pod.namespace": "shop", "app": "web", "tier": "front"}
BOTH = ("10.96.0.1", "fd00:96::1")
SELECTOR = (("app", "web"),)


def index_of(service: Service, *workloads: Workload) -> WorkloadIndex:
    index = WorkloadIndex()
    index.put_identity(300, WEB)
    index.put_node("n1", frozenset({"198.18.1.101", "2001:db8::101"}))
    for workload in workloads:
        index.put_workload(workload)
    index.put_service(service)
    return index


def ips(service: Service, index: WorkloadIndex) -> list[str]:
    return [backend.ip for backend in backends_of(service, index).backends]


@pytest.mark.parametrize(
    ("cluster_ips", "expected"),
    [
        (BOTH, ["10.0.0.9", "10.0.0.10", "fd00::1"]),
        (("10.96.0.1",), ["10.0.0.9", "10.0.0.10"]),
        (("fd00:96::1",), ["fd00::1"]),
        ((), ["10.0.0.9", "10.0.0.10", "fd00::1"]),
    ],
)
def test_families_are_the_services(cluster_ips: tuple[str, ...], expected: list[str]) -> None:
    service = made(cluster_ips=cluster_ips, selector=SELECTOR, headless=not cluster_ips)
    workloads = [Workload(ip, 300) for ip in ("fd00::1", "10.0.0.10", "10.0.0.9")]
    assert ips(service, index_of(service, *workloads)) == expected
    listed = changed(service, selector=None, addresses=backends(*expected, "10.0.0.10", "fd00::1"))
    assert set(ips(listed, index_of(listed))) == set(expected)


@pytest.mark.parametrize(("ip", "host"), [("10.0.0.1", "198.18.1.101"), ("fd00::1", "2001:db8::101")])
def test_the_node_is_that_of_the_host_address(ip: str, host: str) -> None:
    service = made(cluster_ips=BOTH, selector=SELECTOR)
    index = index_of(service, Workload(ip, 300, host))
    assert backends_of(service, index).backends == (Backend(ip=ip, node_name="n1"),)
    index.drain()
    index.put_node("n1", frozenset())
    assert index.drain() == {service.key}
    assert backends_of(service, index).backends == (Backend(ip=ip),)
    index.put_node("n2", frozenset({host}))
    index.put_node("n3", frozenset({host}))
    assert backends_of(service, index).backends == (Backend(ip=ip),), "two nodes of one address are none"
    index.remove_node("n3")
    assert backends_of(service, index).backends == (Backend(ip=ip, node_name="n2"),)


@pytest.mark.parametrize("ip", ["10.0.0.1", "fd00::1"])
def test_listed_addresses_keep_what_was_said(ip: str) -> None:
    said = Backend(ip=ip, state=BackendState.TERMINATING, node_name="mine", ports=(("", 1),))
    service = made(cluster_ips=BOTH, addresses=(said,))
    index = index_of(service, Workload(ip, 300, "198.18.1.101"))
    assert backends_of(service, index).backends == (said,)
    silent = made(cluster_ips=BOTH, addresses=backends(ip))
    index.put_service(silent)
    index.drain()
    assert backends_of(silent, index).backends == (Backend(ip=ip, node_name="n1"),)
    index.remove_workload(ip)
    assert index.drain() == {silent.key}
    assert backends_of(silent, index).backends == (Backend(ip=ip),)


def test_a_workload_serves_the_ports_whose_names_it_has() -> None:
    http = Port(name="web", port=80, target_port_name="http")
    admin = Port(name="admin", port=81, target_port_name="admin")
    service = made("shop/web", http, admin, cluster_ips=BOTH, selector=SELECTOR)
    index = index_of(
        service,
        Workload("10.0.0.1", 300, "", ((Protocol.TCP, "http", 8080), (Protocol.TCP, "admin", 1))),
        Workload("10.0.0.2", 300, "", ((Protocol.TCP, "http", 9090),)),
        Workload("10.0.0.3", 300, "", ((Protocol.UDP, "http", 9090),)),
        Workload("fd00::1", 300),
    )
    found = backends_of(service, index)
    assert [(one.ip, dict(one.ports)) for one in found.backends] == [
        ("10.0.0.1", {"web": 8080, "admin": 1}),
        ("10.0.0.2", {"web": 9090}),
    ]
    assert found.unnamed == 3
    plain = made(
        "shop/web", http, Port(name="n", port=82, target_port=82), cluster_ips=BOTH, selector=SELECTOR
    )
    assert ips(plain, index) == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"]


def test_selectors_ask_for_namespace_and_every_label() -> None:
    service = made(cluster_ips=BOTH, selector=(("app", "web"), ("tier", "back")))
    index = index_of(service, Workload("10.0.0.1", 300), Workload("fd00::1", 301))
    assert not ips(service, index)
    index.put_identity(300, {**WEB, "tier": "back"})
    assert ips(service, index) == ["10.0.0.1"]
    index.put_identity(301, {**WEB, "tier": "back", "io.kubernetes.pod.namespace": "other"})
    assert ips(service, index) == ["10.0.0.1"]
    index.remove_identity(300)
    assert not ips(service, index)


def test_one_change_touches_the_services_concerned() -> None:
    index = WorkloadIndex()
    for number in range(100):
        index.put_identity(1_000 + number, {**WEB, "app": f"a{number}"})
        index.put_service(made(f"shop/s{number}", cluster_ips=BOTH, selector=(("app", f"a{number}"),)))
    assert len(index.drain()) == 100
    index.put_workload(Workload("fd00::7", 1_007))
    assert {str(key) for key in index.drain()} == {"shop/s7"}
    index.put_workload(Workload("fd00::7", 1_008))
    assert {str(key) for key in index.drain()} == {"shop/s7", "shop/s8"}
    index.put_workload(Workload("fd00::7", 1_008))
    index.put_node("n1", frozenset({"198.18.1.1"}))
    assert not index.drain()
