"""When probes are due, and what becomes of their results."""

from __future__ import annotations

import datetime as dt
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.health.report import HealthReport
from shim.health.table import ENDPOINT, HTTP, ICMP, NODE, HealthTable, Outcome, Target, targets_of
from shim.routes import NodeEntry
from tests.waiting import FakeClock

NOW = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
INTERVAL = 10.0
ADDRESS = {4: "192.0.2.2", 6: "2001:db8::2"}
HEALTH = {4: "10.2.0.9", 6: "fd00:10:2::9"}


def target(number: int = 2) -> Target:
    return Target(f"east/n{number}", NODE, ADDRESS[4], HTTP)


def table(clock: FakeClock) -> HealthTable:
    return HealthTable(INTERVAL, clock=clock, rng=random.Random(3))


@pytest.mark.parametrize("family", [4, 6])
def test_every_address_is_asked_both_ways(family: int) -> None:
    node = NodeEntry(
        cluster="east", name="n2", internal_ips=(ADDRESS[family],) * 2, health_ips=(HEALTH[family],)
    )
    assert targets_of([node]) == [
        Target("east/n2", NODE, ADDRESS[family], ICMP),
        Target("east/n2", NODE, ADDRESS[family], HTTP),
        Target("east/n2", ENDPOINT, HEALTH[family], ICMP),
        Target("east/n2", ENDPOINT, HEALTH[family], HTTP),
    ]


def test_first_probes_are_spread_and_the_next_come_after_the_interval() -> None:
    clock = FakeClock()
    found = table(clock)
    found.replace([target(number) for number in range(1000)])
    early = 0
    for _ in range(10):
        early += len(found.take_due())
        clock.advance(INTERVAL / 10)
    assert 850 < early < 1000
    found.replace([target()])
    assert found.next_due() is None, "it is running"
    found.finish(target(), Outcome(seconds=0.1), NOW)
    due = found.next_due()
    assert due is not None
    assert 0.9 * INTERVAL <= due - clock() <= 1.1 * INTERVAL


def test_what_is_running_is_not_due_again_and_what_is_gone_leaves_nothing() -> None:
    clock = FakeClock()
    found = table(clock)
    found.replace([target()])
    clock.advance(INTERVAL)
    assert found.take_due() == [target()]
    assert found.take_due() == []
    found.replace([])
    found.finish(target(), Outcome(error="refused"), NOW)
    assert not found.results
    assert found.next_due() is None
    found.replace([target()])
    clock.advance(INTERVAL)
    assert found.take_due() == [target()]
    found.replace([])
    found.replace([target()])
    found.finish(target(), Outcome(), NOW)
    clock.advance(1.1 * INTERVAL)
    assert found.take_due() == [target()]


class Model:
    """The same rules over plain tables."""

    def __init__(self) -> None:
        self.running: set[Target] = set()
        self.targets: set[Target] = set()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("replace"), st.sets(st.integers(1, 4))),
        st.tuples(st.just("advance"), st.floats(0.1, 30)),
        st.tuples(st.just("finish"), st.integers(1, 4)),
    ),
    max_size=30,
)


@given(STEPS)
def test_no_target_is_lost_or_probed_twice_at_once(steps: list[tuple[str, object]]) -> None:
    clock = FakeClock()
    found, model = table(clock), Model()
    for kind, value in steps:
        if kind == "replace":
            assert isinstance(value, set)
            model.targets = {target(number) for number in value}
            found.replace(model.targets)
        elif kind == "advance":
            assert isinstance(value, float)
            clock.advance(value)
            taken = found.take_due()
            assert len(taken) == len(set(taken))
            assert not set(taken) & model.running
            model.running |= set(taken)
        else:
            assert isinstance(value, int)
            if target(value) in model.running:
                model.running.discard(target(value))
                found.finish(target(value), Outcome(), NOW)
        assert set(found.targets) == model.targets
        assert set(found.results) <= model.targets
    for one in model.running:
        found.finish(one, Outcome(), NOW)
    clock.advance(1.1 * INTERVAL)
    assert set(found.take_due()) == model.targets


async def test_the_report_shows_the_own_node_first_and_what_is_not_known() -> None:
    clock = FakeClock()
    found = table(clock)
    found.replace([target(1), target(2)])
    found.finish(target(1), Outcome(seconds=0.25), NOW)
    answer = await HealthReport("east/n2", found, None, idle="switched off").answer(probe=True)
    assert [node.node for node in answer.nodes] == ["east/n2", "east/n1"]
    own, other = answer.nodes[0].paths[0], answer.nodes[1].paths[0]
    assert (own.reachable, own.error) == (False, "switched off")
    assert (other.reachable, other.seconds, other.error) == (True, 0.25, "")
    assert other.time.ToDatetime(dt.UTC) == NOW
    assert (other.address, other.target, other.kind) == (ADDRESS[4], "node", "http")
