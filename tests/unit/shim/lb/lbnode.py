"""A load balancer on maps in memory that look at themselves after every single write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from axoneme.lib.bpf.kinds import MapSpec
from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.intent import Failure
from axoneme.lib.labels import LabelSet
from shim.endpoints import Endpoint, EndpointTable, HostPort
from shim.lb.balancer import LoadBalancer
from shim.lb.model import Backend, NodeView, Port, Service, State
from shim.lb.records import frontend_from_key, target_from_value
from shim.maps import lb
from shim.maps.base import address_bytes, number_key
from shim.memorydatapath import MemoryDatapath
from tests.waiting import FakeClock

NODE = ("192.0.2.1", "2001:db8::1")
PODS = {4: "10.0.1.{}", 6: "fd00:10::{}"}
CLUSTER = {4: "10.96.0.{}", 6: "fd00:96::{}"}
EXTERNAL = {4: "198.51.100.{}", 6: "2001:db8:1::{}"}


class Shown(NamedTuple):
    """What a frontend leads to, without the numbers of this node."""

    backends: tuple[str, ...]
    flags: int
    affinity_seconds: int
    table_size: int


class WatchedMap(MemoryMap):
    """Tells after each write."""

    def __init__(self, spec: MapSpec, told: Callable[[], None]) -> None:
        super().__init__(spec)
        self._told = told

    def update(self, key: bytes, value: bytes) -> None:
        super().update(key, value)
        self._told()

    def delete(self, key: bytes) -> bool:
        found = super().delete(key)
        self._told()
        return found

    def set_inner(self, key: bytes, inner: BpfMap) -> None:
        super().set_inner(key, inner)
        self._told()


class LbNode:
    """Everything around a LoadBalancer; `sizes` are entries of maps that are smaller than usual."""

    def __init__(self, *, watched: bool = True, sizes: dict[str, int] | None = None, **view: Any) -> None:
        self.datapath = MemoryDatapath()
        self.writes = 0
        for spec in lb.SPECS:
            small = replace(spec, max_entries=(sizes or {}).get(spec.name, spec.max_entries))
            made = WatchedMap(small, self._on_write) if watched else MemoryMap(small)
            self.datapath.memory_maps[spec.name] = made
        self.clock = FakeClock()
        self.view = NodeView(node_name="node1", addresses=tuple(map(address_bytes, NODE)), **view)
        self.start()

    def start(self) -> None:
        """A life of the shim; the maps stay."""
        self.endpoints = EndpointTable()
        self.balancer = LoadBalancer(
            self.datapath, node=self.view, endpoints=self.endpoints, clock=self.clock
        )

    def map(self, spec: MapSpec) -> MemoryMap:
        return self.datapath.memory_maps[spec.name]

    async def put(self, *services: Service, removed: tuple[str, ...] = ()) -> dict[str, Failure]:
        """One update of the stream."""
        upserts = {one.key: one for one in services}
        return dict(await self.balancer.apply(upserts, removed, complete=False))

    async def complete(self, *services: Service) -> dict[str, Failure]:
        """A snapshot."""
        upserts = {one.key: one for one in services}
        return dict(await self.balancer.apply(upserts, (), complete=True))

    async def settle(self) -> None:
        """Lets every grace and every delay pass."""
        await self.balancer.retry()
        self.clock.now += 61.0
        await self.balancer.retry()

    def add_endpoint(self, number: int, *ips: str, host_ports: tuple[HostPort, ...] = ()) -> None:
        self.endpoints.put(
            Endpoint(
                endpoint_id=number,
                namespace="default",
                pod_name=f"pod{number}",
                labels=LabelSet.parse(["k8s:app=web"]),
                identity=70_000,
                ips=ips,
                netns="/run/netns/none",
                host_ports=host_ports,
            )
        )

    def shown(self) -> dict[tuple[str, str], Shown]:
        """Frontends by name and scope. Raises AssertionError for one that leads to half a set."""
        numbers = {key: target_from_value(raw).name for key, raw in self.map(lb.LB_BACKENDS).items()}
        slots = dict(self.map(lb.LB_SLOTS).items())
        found = {}
        for key, raw in self.map(lb.LB).items():
            service, frontend = lb.LbService.unpack(raw), frontend_from_key(key)
            backends = []
            for slot in range(service.slots):
                number = slots.get(lb.LbSlotKey(service.set_id, slot).pack())
                assert number is not None, f"{frontend.name}: slot {slot} of {service.slots} is missing"
                assert number in numbers, f"{frontend.name}: slot {slot} names no backend"
                backends.append(numbers[number])
            if service.maglev_size:
                table = self.map(lb.MAGLEV).inner(number_key(service.set_id))
                assert table is not None, f"{frontend.name}: no table"
                assert table.max_entries == service.maglev_size
                elements = {numbers[value] for _, value in table.items()}
                assert elements == set(backends), f"{frontend.name}: the table is another set's"
            scope = "outside" if frontend.scope == lb.LB_OUTSIDE else "inside"
            found[frontend.name, scope] = Shown(
                tuple(backends), service.flags, service.affinity_seconds, service.maglev_size
            )
        return found

    def backends(self) -> dict[str, int]:
        """Backends by name, with their flags."""
        return {
            target_from_value(raw).name: lb.LbBackend.unpack(raw).flags
            for _, raw in self.map(lb.LB_BACKENDS).items()
        }

    def sizes(self) -> dict[str, int]:
        """Entries of each map."""
        names = (lb.LB, lb.LB_SLOTS, lb.LB_BACKENDS, lb.LB_SOURCE, lb.MAGLEV)
        return {spec.name: len(self.map(spec).items()) for spec in names}

    def _on_write(self) -> None:
        self.writes += 1
        self.shown()


def backend(text: str, state: State = State.ACTIVE, node: str = "node2", **ports: int) -> Backend:
    return Backend(
        address=address_bytes(text), state=state, node_name=node, ports=tuple(sorted(ports.items()))
    )


def service(
    name: str = "web",
    *backends: Backend,
    ports: tuple[Port, ...] = (Port(protocol=6, port=80, target_port=8080, name="http"),),
    cluster_ips: tuple[str, ...] = (),
    external_ips: tuple[str, ...] = (),
    load_balancer_ips: tuple[str, ...] = (),
    **fields: Any,
) -> Service:
    return Service(
        namespace="default",
        name=name,
        ports=ports,
        cluster_ips=tuple(map(address_bytes, cluster_ips)),
        external_ips=tuple(map(address_bytes, external_ips)),
        load_balancer_ips=tuple(map(address_bytes, load_balancer_ips)),
        backends=backends,
        **fields,
    )
