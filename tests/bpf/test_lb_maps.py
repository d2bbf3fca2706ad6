"""Load balancing in maps of the kernel: the same steps as in memory, Maglev tables included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.kinds import MapSpec
from axoneme.lib.bpf.maps import BpfMap, KernelMap
from shim.endpoints import EndpointTable
from shim.lb import maglev
from shim.lb.balancer import LoadBalancer
from shim.lb.model import Backend, NodeView, Port, Service
from shim.lb.records import target_from_value
from shim.maps import base, lb
from tests.waiting import FakeClock

pytestmark = pytest.mark.root

POD = {4: "10.0.1.{}", 6: "fd00:10::{:x}"}
CLUSTER_IP = {4: "10.96.0.1", 6: "fd00:96::1"}
BALANCER_IP = {4: "198.51.100.1", 6: "2001:db8:1::1"}
RANGE = {4: "203.0.113.0/24", 6: "2001:db8:5::/48"}
INSIDE, OUTSIDE = {4: "203.0.113.9", 6: "2001:db8:5::9"}, {4: "203.0.114.9", 6: "2001:db8:6::9"}
families = pytest.mark.parametrize("family", [4, 6])


class KernelMaps:
    """The maps of load balancing, not pinned."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.maps: dict[str, BpfMap] = {}
        for spec in lb.SPECS:
            self.maps[spec.name] = create_map(replace(spec, max_entries=sizes.get(spec.name, 4096)))

    def __getitem__(self, spec: MapSpec) -> BpfMap:
        return self.maps[spec.name]

    async def new_maglev_table(self, size: int) -> BpfMap:
        return create_map(replace(lb.MAGLEV_INNER, max_entries=size))

    async def open_maglev_table(self, set_id: int) -> BpfMap | None:
        map_id = self[lb.MAGLEV].inner_id(base.number_key(set_id))
        return None if map_id is None else KernelMap.by_id(map_id)

    def close(self) -> None:
        for one in self.maps.values():
            one.close()


class World:
    """A balancer on maps of the kernel."""

    def __init__(self, sizes: Mapping[str, int] | None = None) -> None:
        self.maps, self.clock = KernelMaps(sizes or {}), FakeClock()
        self.start()

    def start(self) -> None:
        view = NodeView(
            node_name="node1", addresses=tuple(map(base.address_bytes, ("192.0.2.1", "2001:db8::1")))
        )
        self.balancer = LoadBalancer(self.maps, node=view, endpoints=EndpointTable(), clock=self.clock)

    async def put(self, *services: Service, complete: bool = False) -> set[str]:
        upserts = {one.key: one for one in services}
        return set(await self.balancer.apply(upserts, (), complete=complete))

    async def settle(self) -> None:
        self.clock.now += 61.0
        await self.balancer.retry()

    def entry(self, address: str, scope: int) -> lb.LbService:
        key = lb.LbKey(base.address_bytes(address), (80).to_bytes(2, "big"), 6, scope).pack()
        raw = self.maps[lb.LB].lookup(key)
        assert raw is not None
        return lb.LbService.unpack(raw)

    def slots(self, service: lb.LbService) -> list[str]:
        """Backends of a set by name, in the order of slots."""
        return [
            self.name(self.maps[lb.LB_SLOTS].lookup(lb.LbSlotKey(service.set_id, n).pack()))
            for n in range(service.slots)
        ]

    def name(self, number: bytes | None) -> str:
        assert number is not None
        raw = self.maps[lb.LB_BACKENDS].lookup(number)
        assert raw is not None
        return target_from_value(raw).name

    async def table(self, service: lb.LbService) -> list[str]:
        """Elements of a Maglev table by name, read through the kernel's map of maps."""
        table = await self.maps.open_maglev_table(service.set_id)
        assert table is not None
        try:
            assert table.max_entries == service.maglev_size
            rows = sorted(table.items(), key=lambda row: int.from_bytes(row[0], "little"))
            return [self.name(value) for _, value in rows]
        finally:
            table.close()


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    made: list[World] = []
    yield made
    for one in made:
        one.maps.close()


def web(family: int, *numbers: int, size: int = 251, name: str = "web") -> Service:
    return Service(
        namespace="default",
        name=name,
        ports=(Port(protocol=6, port=80, target_port=8080),),
        cluster_ips=(base.address_bytes(CLUSTER_IP[family]),),
        load_balancer_ips=(base.address_bytes(BALANCER_IP[family]),),
        source_ranges=(RANGE[family],),
        backends=tuple(
            Backend(address=base.address_bytes(POD[family].format(number)), node_name="node2")
            for number in numbers
        ),
        algorithm="maglev",
        maglev_table_size=size,
    )


def names(family: int, *numbers: int) -> list[str]:
    pods = [POD[family].format(number) for number in numbers]
    return sorted(f"[{pod}]:8080/tcp" if family == 6 else f"{pod}:8080/tcp" for pod in pods)


@families
@pytest.mark.parametrize("size", [251, 16_381, 131_071])
async def test_tables_of_the_kernel(worlds: list[World], family: int, size: int) -> None:
    worlds.append(world := World())
    assert await world.put(web(family, 1, 2, 3, size=size), complete=True) == set()
    entry, wanted = world.entry(CLUSTER_IP[family], lb.LB_INSIDE), names(family, 1, 2, 3)
    assert (entry.slots, entry.maglev_size, world.slots(entry)) == (3, size, wanted)
    assert await world.table(entry) == [wanted[index] for index in maglev.table(wanted, size)]
    assert world.entry(BALANCER_IP[family], lb.LB_OUTSIDE).set_id == entry.set_id
    assert await world.balancer.audit() == []


@families
async def test_one_more_backend_and_none(worlds: list[World], family: int) -> None:
    worlds.append(world := World())
    await world.put(web(family, 1, 2), complete=True)
    before = world.entry(CLUSTER_IP[family], lb.LB_INSIDE)
    await world.put(web(family, 1, 2, 3, size=509))
    entry = world.entry(CLUSTER_IP[family], lb.LB_INSIDE)
    assert entry.set_id != before.set_id
    assert set(await world.table(entry)) == set(names(family, 1, 2, 3))
    assert world.slots(before) == names(family, 1, 2)  # whole for as long as somebody may be in it
    await world.settle()
    assert await world.maps.open_maglev_table(before.set_id) is None
    await world.put(web(family))
    assert world.entry(CLUSTER_IP[family], lb.LB_INSIDE).slots == 0
    await world.settle()
    assert [
        len(world.maps[spec].items()) for spec in (lb.LB_SLOTS, lb.LB_BACKENDS, lb.LB_SOURCE, lb.MAGLEV)
    ] == [0] * 4


@families
async def test_source_ranges(worlds: list[World], family: int) -> None:
    worlds.append(world := World())
    await world.put(web(family, 1, 2), complete=True)
    entry = world.entry(BALANCER_IP[family], lb.LB_OUTSIDE)
    assert entry.flags & lb.LB_SOURCE_RANGES
    for client, found in ((INSIDE[family], True), (OUTSIDE[family], False)):
        key = lb.LbSourceKey(160, entry.set_id, base.address_bytes(client)).pack()
        assert (world.maps[lb.LB_SOURCE].lookup(key) is not None) is found


@families
async def test_numbers_survive_a_restart(worlds: list[World], family: int) -> None:
    worlds.append(world := World())
    await world.put(web(family, 1, 2, 3), complete=True)
    before = {name: one.items() for name, one in world.maps.maps.items()}
    world.start()
    await world.balancer.restore()
    assert await world.put(web(family, 1, 2, 3), complete=True) == set()
    await world.settle()
    assert {name: one.items() for name, one in world.maps.maps.items()} == before
    assert await world.balancer.audit() == []


@families
@pytest.mark.parametrize("spec", [lb.LB, lb.LB_SLOTS, lb.LB_BACKENDS, lb.LB_SOURCE], ids=lambda one: one.name)
async def test_a_full_map_of_the_kernel(worlds: list[World], family: int, spec: MapSpec) -> None:
    room = {lb.LB.name: 3, lb.LB_SLOTS.name: 2, lb.LB_BACKENDS.name: 2, lb.LB_SOURCE.name: 1}[spec.name]
    worlds.append(world := World({spec.name: room}))
    first = web(family, 1, 2)
    assert await world.put(first, complete=True) == set()
    before = {name: one.items() for name, one in world.maps.maps.items()}
    other = replace(
        web(family, 3, 4, name="other"),
        cluster_ips=(base.address_bytes("192.0.2.200" if family == 4 else "fd00::200"),),
    )
    assert await world.put(replace(other, load_balancer_ips=())) == {other.key}
    assert {name: one.items() for name, one in world.maps.maps.items()} == before


@families
async def test_drift_in_the_kernel(worlds: list[World], family: int) -> None:
    worlds.append(world := World())
    await world.put(web(family, 1, 2), complete=True)
    entry = world.entry(CLUSTER_IP[family], lb.LB_INSIDE)
    before = await world.table(entry)
    table = await world.maps.open_maglev_table(entry.set_id)
    assert table is not None
    table.update(base.number_key(3), base.number_key(99))
    table.close()
    assert len(await world.balancer.audit()) == 1
    assert await world.table(entry) == before
    world.maps[lb.MAGLEV].delete(base.number_key(entry.set_id))
    world.maps[lb.LB_SLOTS].delete(lb.LbSlotKey(entry.set_id, 0).pack())
    assert len(await world.balancer.audit()) == 2
    assert await world.table(entry) == before
    assert world.slots(entry) == names(family, 1, 2)
