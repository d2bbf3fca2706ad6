"""The index of services against its twin that looks at everything each time; the allocator against a list.

Random sequences of services, identities, addresses and nodes: after each step every service has exactly the
backends that brute force finds, and whatever changed was reported as changed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.errors import PoolExhausted
from services.clustermesh.allocation import Allocation
from services.clustermesh.backends import Backends, backends_of
from services.clustermesh.claims import claims_of
from services.clustermesh.index import WorkloadIndex, selects
from services.clustermesh.model import (
    Backend,
    Port,
    Protocol,
    Service,
    ServiceKey,
    ServiceType,
    address_order,
    family,
)
from services.clustermesh.pools import Pools
from services.clustermesh.workloads import Workload
from tests.conftest import scaled
from tests.unit.services.clustermesh.making import made

NAMESPACES = ("a", "b")
LABELS = [{"app": app, "tier": tier} for app in ("x", "y") for tier in ("1", "2")]
SELECTORS = (None, (("app", "x"),), (("tier", "1"),), (("app", "x"), ("tier", "2")), (("zone", "z"),))
IPS = ("10.0.0.1", "10.0.0.2", "10.0.0.10", "fd00::1", "fd00::2")
HOSTS = ("", "198.18.1.1", "2001:db8::1")
CLUSTER_IPS = (("10.96.0.1",), ("fd00:96::1",), ("10.96.0.1", "fd00:96::1"))
HTTP = Port(name="http", port=80, target_port_name="http")
PLAIN = Port(name="plain", port=81, target_port=81)
PORTS = ((HTTP,), (PLAIN,), (HTTP, PLAIN))
NAMED = ((), ((Protocol.TCP, "http", 8080),), ((Protocol.TCP, "http", 1), (Protocol.TCP, "http", 2)))


@dataclass
class Twin:
    """Everything there is, without an index."""

    services: dict[ServiceKey, Service] = field(default_factory=dict)
    labels: dict[int, dict[str, str]] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    nodes: dict[str, frozenset[str]] = field(default_factory=dict)

    def backends(self, service: Service) -> Backends:
        """By looking at every address."""
        found, unnamed = [], 0
        for ip in sorted(self.workloads, key=address_order):
            workload = self.workloads[ip]
            chosen = selects(service, self.labels.get(workload.identity, {}))
            if not chosen or family(ip) not in service.families:
                continue
            named = [port for port in service.ports if port.target_port_name]
            numbers = {port.name: _number(workload, port) for port in named}
            numbers = {name: number for name, number in numbers.items() if number}
            unnamed += len(numbers) < len(named)
            if numbers or len(named) < len(service.ports):
                ports = tuple(sorted(numbers.items()))
                found.append(Backend(ip=ip, node_name=self._node(workload), ports=ports))
        if service.selector is None:
            return Backends(tuple(map(self._listed, self._listed_of(service))))
        return Backends(tuple(found), unnamed)

    def _listed_of(self, service: Service) -> list[Backend]:
        return [one for one in service.addresses or () if family(one.ip) in service.families]

    def _listed(self, backend: Backend) -> Backend:
        workload = self.workloads.get(backend.ip)
        return Backend(ip=backend.ip, node_name=self._node(workload) if workload else "")

    def _node(self, workload: Workload) -> str:
        names = [name for name, hosts in self.nodes.items() if workload.host_ip in hosts]
        return names[0] if len(names) == 1 else ""


def _number(workload: Workload, port: Port) -> int:
    numbers = [number for _, name, number in workload.named_ports if name == port.target_port_name]
    return numbers[0] if len(numbers) == 1 else 0


def change(rng: random.Random, twin: Twin, index: WorkloadIndex) -> None:
    """One random step, in both."""
    kind = rng.choice(("service", "service", "identity", "workload", "workload", "node"))
    gone = rng.random() < 0.3
    if kind == "service":
        _change_service(rng, twin, index, gone)
    elif kind == "identity":
        number = rng.randint(300, 303)
        twin.labels.pop(number, None)
        if gone:
            index.remove_identity(number)
            return
        labels = {**rng.choice(LABELS), "io.kubernetes.pod.namespace": rng.choice(NAMESPACES)}
        twin.labels[number] = labels
        index.put_identity(number, labels)
    elif kind == "workload":
        ip = rng.choice(IPS)
        twin.workloads.pop(ip, None)
        if gone:
            index.remove_workload(ip)
            return
        workload = Workload(ip, rng.randint(300, 303), rng.choice(HOSTS), rng.choice(NAMED))
        twin.workloads[ip] = workload
        index.put_workload(workload)
    else:
        _change_node(rng, twin, index, gone)


def _change_service(rng: random.Random, twin: Twin, index: WorkloadIndex, gone: bool) -> None:
    key = ServiceKey(rng.choice(NAMESPACES), rng.choice(("s1", "s2", "s3")))
    twin.services.pop(key, None)
    if gone:
        index.remove_service(key)
        return
    selector = rng.choice(SELECTORS)
    listed = tuple(Backend(ip=ip) for ip in IPS if rng.random() < 0.5) if selector is None else None
    ips, ports = rng.choice(CLUSTER_IPS), rng.choice(PORTS) if selector else (PLAIN,)
    service = made(str(key), *ports, cluster_ips=ips, selector=selector, addresses=listed)
    twin.services[key] = service
    index.put_service(service)


def _change_node(rng: random.Random, twin: Twin, index: WorkloadIndex, gone: bool) -> None:
    name = rng.choice(("n1", "n2"))
    twin.nodes.pop(name, None)
    if gone:
        index.remove_node(name)
        return
    hosts = frozenset(host for host in HOSTS if host and rng.random() < 0.5)
    twin.nodes[name] = hosts
    index.put_node(name, hosts)


@pytest.mark.parametrize("seed", range(scaled(30, 1_000)))
def test_the_index_finds_what_brute_force_finds(seed: int) -> None:
    rng = random.Random(seed)
    twin, index = Twin(), WorkloadIndex()
    shown: dict[ServiceKey, Backends] = {}
    for step in range(200):
        change(rng, twin, index)
        if rng.random() < 0.3:
            continue  # several changes at once
        for key in index.drain():
            shown.pop(key, None)
            if key in twin.services:
                shown[key] = backends_of(twin.services[key], index)
        wanted = {key: twin.backends(service) for key, service in twin.services.items()}
        assert shown == wanted, f"seed {seed}, step {step}"


@given(st.randoms(use_true_random=False))
def test_a_preview_finds_the_same(rng: random.Random) -> None:
    twin, index = Twin(), WorkloadIndex()
    for _ in range(40):
        change(rng, twin, index)
    for selector in SELECTORS[1:]:
        service = made("a/new", cluster_ips=CLUSTER_IPS[2], selector=selector)
        assert backends_of(service, index) == twin.backends(service)


POOL = Pools.parse(("10.96.0.0/28", "fd00:96::/124"), "30000-30009")


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(1, 3)), max_size=60),
    st.randoms(use_true_random=False),
)
def test_the_allocator_gives_nothing_twice(steps: list[tuple[int, bool, int]], rng: random.Random) -> None:
    """Against a plain list of what is taken: what it gives is free, and it fails only when nothing is."""
    services: dict[int, Service] = {}
    for name, gone, count in steps:
        if gone:
            services.pop(name, None)
            continue
        others = [one for key, one in services.items() if key != name]
        ips = {ip for one in others for ip in one.cluster_ips}
        ports = {(port.protocol, port.node_port) for one in others for port in one.ports}
        wanted = made(
            f"a/s{name}",
            *(Port(name=f"p{n}", port=n, target_port=n) for n in range(1, count + 1)),
            type=ServiceType.NODE_PORT,
        )
        before = services.get(name)
        allocation = Allocation(POOL, rng.randrange, ips, ports)
        try:
            completed = allocation.complete(wanted, before)
        except PoolExhausted:
            assert len(ips) == 2 * 14 or len(ports) + count > 10
            continue
        service = completed.service
        taken = {claim for one in others for claim in claims_of(one)}
        assert not claims_of(service) & taken
        assert len(service.cluster_ips) == 2
        assert len({port.node_port for port in service.ports}) == count
        if before is not None:
            assert service.cluster_ips == before.cluster_ips
            kept = {port.port: port.node_port for port in before.ports}
            assert all(kept.get(port.port, port.node_port) == port.node_port for port in service.ports)
        services[name] = service


@given(st.sets(st.integers(0, 15)), st.integers(0, 1_000))
def test_a_nearly_full_pool_finds_the_last_address(taken: set[int], start: int) -> None:
    for network in POOL.networks:
        used = {str(network[offset]) for offset in taken}
        last = 15 if network.version == 4 else 16
        free = {str(network[offset]) for offset in range(1, last)} - used
        if not free:
            continue
        # A draw that always hits the same address: only the search behind it can find another.
        assert POOL.choose_cluster_ip(network, used, lambda size: start % size) in free


def test_what_was_refused_is_not_tried_again() -> None:
    allocation = Allocation(Pools.parse(("10.96.0.0/30",), "30000-30001"), lambda size: 0, (), ())
    wanted = made("a/s", type=ServiceType.NODE_PORT)
    first = allocation.complete(wanted, None)
    allocation.refused.update(first.chosen)
    second = allocation.complete(wanted, None)
    assert not claims_of(first.service) & claims_of(second.service)
    allocation.refused.update(second.chosen)
    with pytest.raises(PoolExhausted):
        allocation.complete(wanted, None)
