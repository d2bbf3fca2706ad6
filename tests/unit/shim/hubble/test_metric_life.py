"""Series over time: bounded, dropped after their pod, and honest about what was not counted."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address

from axoneme.lib.tasks import TaskScope
from tests.unit.shim.flows.lookupscene import answer, lookup
from tests.unit.shim.flows.scene import API, event
from tests.unit.shim.hubble.hubblescene import MetricScene, values
from tests.waiting import FakeClock, eventually

SECOND = 1_000_000_000


def sources(scene: MetricScene) -> set[str]:
    return {labels[0] for _, labels in values(scene.counter)}


def counted(scene: MetricScene, number: int) -> bool:
    return sum(values(scene.counter).values()) == number


async def pass_seconds(scene: MetricScene, seconds: int) -> None:
    """Let time pass in steps shorter than those of the sweep."""
    for _ in range(seconds):
        scene.clock.now_ns += SECOND
        await scene.follower.step()


async def test_series_of_a_pod_are_dropped_a_minute_after_it() -> None:
    scene = MetricScene(["flows-per-pod:sourceContext=pod;destinationContext=pod"])
    scene.feed.append(event())
    await scene.follower.step()
    assert list(values(scene.counter)) == [
        ("flows_per_pod", ("shop/web-1", "shop/api-1", "TCP", "FORWARDED"))
    ]
    await pass_seconds(scene, 300)
    assert len(scene.counter.table) == 1  # it lives
    del scene.names.addresses[ip_address("10.1.1.12")]
    scene.names.revision += 1
    await pass_seconds(scene, 60)
    assert len(scene.counter.table) == 1
    await pass_seconds(scene, 11)
    assert len(scene.counter.table) == 0
    scene.feed.append(event())  # nobody's address now
    await scene.follower.step()
    assert list(values(scene.counter).values()) == [1]
    assert sources(scene) == {"shop/web-1"}


async def test_a_pod_that_comes_back_elsewhere_keeps_its_series() -> None:
    scene = MetricScene(["flows-per-pod:destinationContext=pod-name"])
    scene.feed.append(event())
    await scene.follower.step()
    del scene.names.addresses[ip_address("10.1.1.12")]
    scene.names.revision += 1
    await pass_seconds(scene, 30)
    scene.names.addresses[ip_address("10.1.1.99")] = API
    scene.names.revision += 1
    scene.feed.append(event(destination_ip="10.1.1.99"))
    await pass_seconds(scene, 120)
    assert values(scene.counter) == {("flows_per_pod", ("api-1", "TCP", "FORWARDED")): 2}


async def test_series_are_bounded_and_what_found_no_room_is_counted() -> None:
    scene = MetricScene(["port-distribution"], max_series=3, capacity=64)
    for port in range(1, 11):
        scene.feed.append(event(destination_port=port))
        scene.feed.append(event(destination_port=port))
    await scene.follower.step()
    assert len(scene.counter.table) == 3
    assert sum(values(scene.counter).values()) + scene.counter.table.overflow == 20
    scene.feed.append(event(destination_port=9))  # still none
    await scene.follower.step()
    assert sum(values(scene.counter).values()) + scene.counter.table.overflow == 21


async def test_room_of_dropped_series_is_used_again() -> None:
    scene = MetricScene(["flows-per-pod:destinationContext=pod-name"], max_series=1)
    scene.feed.append(event())
    await scene.follower.step()
    scene.names.addresses.clear()
    scene.names.revision += 1
    await pass_seconds(scene, 80)
    scene.feed.append(event())
    await scene.follower.step()
    assert values(scene.counter) == {("flows_per_pod", ("", "TCP", "FORWARDED")): 1}
    assert scene.counter.table.overflow == 0


async def test_what_was_overwritten_is_told() -> None:
    scene = MetricScene(["flow"], capacity=8)
    for _ in range(20):
        scene.feed.append(event())
    scene.feed.add_lost(5)
    scene.lookups.add([lookup()], 7)
    await scene.follower.step()
    assert sum(values(scene.counter).values()) == 9
    assert scene.follower.lost() == {
        "perf_event_ring_buffer": 5, "observer_events_queue": 7, "hubble_ring_buffer": 12,
    }  # fmt: skip


async def test_it_follows_until_it_is_stopped() -> None:
    scene, clock = MetricScene(["dns", "flow"]), FakeClock()
    async with TaskScope() as scope:
        scope.start("metrics", scene.follower.run(clock.sleep))
        for round_number in range(1, 4):
            scene.feed.append(event())
            scene.lookups.add([answer()], 0)
            await eventually(lambda: clock.sleepers == 1)
            clock.advance(1.0)
            await eventually(partial(counted, scene, 4 * round_number))


async def test_only_what_somebody_counts_is_looked_at() -> None:
    scene = MetricScene(["dns", "http"])
    scene.feed.append(event())
    steps = scene.follower._lanes[0].counter.count(0, 1)
    assert list(steps) == []
    assert not values(scene.counter)


def swept(scene: MetricScene, seconds: float, *, lives: bool) -> int:
    """Series after one look at all pods."""
    for _ in scene.counter.table.sweep(seconds, lambda *_: lives):
        pass
    return len(scene.counter.table)


async def test_a_pod_that_was_away_for_a_moment_has_its_minute_again() -> None:
    scene = MetricScene(["flows-per-pod:destinationContext=pod"])
    scene.feed.append(event())
    await scene.follower.step()
    assert swept(scene, 100, lives=False) == 1
    assert swept(scene, 130, lives=True) == 1
    assert swept(scene, 150, lives=False) == 1
    assert swept(scene, 209, lives=False) == 1
    assert swept(scene, 210, lives=False) == 0


async def test_after_series_were_dropped_counting_begins_anew() -> None:
    scene = MetricScene(["flows-per-pod:destinationContext=pod"])
    for expected in (1, 1):
        scene.feed.append(event())
        await scene.follower.step()
        assert list(values(scene.counter).values()) == [expected]
        swept(scene, 100, lives=False)
        assert swept(scene, 160, lives=False) == 0
