"""Allocation by several services on one etcd: one number for a label set, one label set for a number."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest

from axoneme.lib.kvstore import layout
from axoneme.lib.kvstore.etcd import EtcdStore
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.kvstore.port import absent
from axoneme.lib.labels import LabelSet
from axoneme.lib.tasks import TaskScope
from services.identity.allocation import Allocator
from services.identity.mirror import Mirror
from services.identity.state import ClusterState
from services.identity.upkeep import Collector
from tests.etcdserver import running_etcd
from tests.waiting import eventually


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.etcd)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with running_etcd(unix_socket=True) as server:
        async with EtcdStore.connect(server.endpoints, None) as opened:
            yield opened


@contextlib.asynccontextmanager
async def replicas(store: Any, count: int) -> AsyncIterator[list[tuple[Mirror, Allocator]]]:
    """Several services on one store, each with a mirror of its own."""
    async with TaskScope("test") as scope:
        made = []
        for number in range(count):
            state = ClusterState("east", 1)
            mirror = Mirror(store, state, lambda: 1)
            scope.start(f"mirror {number}", mirror.run())
            made.append((mirror, Allocator(store, state, rng=random.Random(number))))
        for mirror, _ in made:
            await mirror.synced.wait()
        yield made


def _labels(number: int) -> LabelSet:
    return LabelSet.parse([f"k8s:app=a{number}", "k8s:io.cilium.k8s.policy.cluster=east"])


async def _check(store: Any, label_sets: int, references: int) -> None:
    masters, _ = await store.list(layout.MASTERS)
    slaves, _ = await store.list(layout.SLAVES)
    numbers_by_labels: defaultdict[str, set[str]] = defaultdict(set)
    for row in masters:
        numbers_by_labels[row.value.decode()].add(row.key.removeprefix(layout.MASTERS))
    assert len(numbers_by_labels) == label_sets
    assert all(len(numbers) == 1 for numbers in numbers_by_labels.values())
    assert len(slaves) == references
    for row in slaves:
        assert numbers_by_labels[layout.split_slave(row.key)[0]] == {row.value.decode()}


async def test_no_duplicates_under_contention(store: Any) -> None:
    async with replicas(store, 4) as made:
        leases = [await store.grant(600) for _ in made]
        wanted = [(replica, number) for replica in range(4) for number in range(40)]
        random.Random(3).shuffle(wanted)

        async def one(replica: int, number: int) -> tuple[int, int, bool]:
            found = await made[replica][1].allocate(_labels(number), f"node{replica}", leases[replica])
            return number, found.number, found.allocated

        answers = await asyncio.gather(*(one(*job) for job in wanted))
    numbers: defaultdict[int, set[int]] = defaultdict(set)
    for label_set, number, _ in answers:
        numbers[label_set].add(number)
    assert all(len(found) == 1 for found in numbers.values())
    assert sum(allocated for _, _, allocated in answers) == 40
    await _check(store, 40, 160)


async def test_a_full_block_is_said_and_a_clash_is_survived(store: Any) -> None:
    async with replicas(store, 2) as made:
        lease = await store.grant(600)
        for mirror, _ in made:
            mirror.state.block = range(65536, 65540)
        answers = await asyncio.gather(
            *(made[n % 2][1].allocate(_labels(n), "node1", lease) for n in range(4)),
        )
        assert {answer.number for answer in answers} == set(range(65536, 65540))


async def test_a_lock_of_another_allocator_is_waited_for(store: Any) -> None:
    async with replicas(store, 1) as made:
        labels, lease = _labels(1), await store.grant(600)
        lock = layout.lock_prefix(labels.key) + "abc"
        await store.put(lock, b"")
        call = asyncio.ensure_future(made[0][1].allocate(labels, "node1", lease))
        for _ in range(3):
            await store.transaction([absent("none")], [])
        assert not call.done()
        await store.delete(lock)
        assert (await call).allocated


async def test_a_stale_number_is_taken_over_and_changed(store: Any) -> None:
    labels = _labels(1)
    old = await store.put(layout.master_key(70_000), labels.key.encode())
    async with replicas(store, 1) as made:
        found = await made[0][1].allocate(labels, "node1", await store.grant(600))
        assert (found.number, found.allocated) == (70_000, False)
        assert (await store.get(layout.master_key(70_000))).mod_revision > old


async def test_a_lost_master_is_written_again(store: Any) -> None:
    labels = _labels(1)
    await store.put(layout.slave_key(labels.key, "node9"), b"70000")
    async with replicas(store, 1) as made:
        found = await made[0][1].allocate(labels, "node1", await store.grant(600))
        assert found.number == 70_000
        assert (await store.get(layout.master_key(70_000))).value == labels.key.encode()


async def test_unused_numbers_are_collected_in_the_second_round_and_buried(store: Any) -> None:
    async with replicas(store, 1) as made:
        mirror, allocator = made[0]
        lease = await store.grant(600)
        kept = await allocator.allocate(_labels(1), "node1", lease)
        dropped = await allocator.allocate(_labels(2), "node1", lease)
        await mirror.reached(dropped.revision)
        await allocator.release(dropped.number, "node1")
        collector = Collector(store, mirror)
        assert await collector.round() == 0
        assert await collector.round() == 1
        await mirror.catch_up()
        await eventually(lambda: dropped.number in mirror.state.tombstones)
        assert set(mirror.state.identities) == {kept.number}
        mirror.state.block = range(dropped.number, dropped.number + 2)
        again = await allocator.allocate(_labels(2), "node1", lease)
        assert again.number == dropped.number + 1
