"""The bounded merge against a list that is sorted anew each time, and the collection of node errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.hubble_relay.merge import TimeOrder, buffer_capacity
from services.hubble_relay.nodeerrors import NodeErrors


class SlowOrder:
    """The same by brute force: a list, sorted whenever something leaves."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held: list[tuple[int, int, str]] = []
        self.count = 0

    def push(self, time_ns: int, item: str) -> list[str]:
        self.count += 1
        self.held = sorted([*self.held, (time_ns, self.count, item)])
        return [] if len(self.held) <= self.capacity else [self.held.pop(0)[2]]

    def pop_until(self, time_ns: int) -> list[str]:
        due = [entry for entry in self.held if entry[0] <= time_ns]
        self.held = [entry for entry in self.held if entry[0] > time_ns]
        return [entry[2] for entry in due]

    def drain(self) -> list[str]:
        return self.pop_until(2**64)


steps = st.lists(
    st.tuples(st.sampled_from(("push", "push", "push", "pop_until")), st.integers(0, 30)), max_size=60
)


@given(capacity=st.integers(1, 8), steps=steps)
def test_merge_equals_brute_force(capacity: int, steps: list[tuple[str, int]]) -> None:
    fast: TimeOrder[str] = TimeOrder(capacity)
    slow = SlowOrder(capacity)
    for number, (step, time_ns) in enumerate(steps):
        if step == "push":
            assert fast.push(time_ns, str(number)) == slow.push(time_ns, str(number))
        else:
            assert fast.pop_until(time_ns) == slow.pop_until(time_ns)
        assert len(fast) == len(slow.held) <= capacity
    assert fast.drain() == slow.drain()
    assert len(fast) == 0


@given(st.lists(st.lists(st.integers(0, 1000)), min_size=1, max_size=4))
def test_merge_is_exact_while_the_buffer_holds_all(nodes: list[list[int]]) -> None:
    order: TimeOrder[int] = TimeOrder(max(1, sum(map(len, nodes))))
    assert [popped for node in nodes for time_ns in node for popped in order.push(time_ns, time_ns)] == []
    assert order.drain() == sorted(time_ns for node in nodes for time_ns in node)


@pytest.mark.parametrize(
    ("number", "peers", "capacity"),
    [(0, 3, 100), (20, 3, 60), (20, 30, 100), (2**64 - 1, 3, 100), (1, 0, 1)],
)
def test_buffer_capacity(number: int, peers: int, capacity: int) -> None:
    assert buffer_capacity(number, peers) == capacity


def test_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        TimeOrder(0)


def test_same_error_of_several_nodes_is_one_event() -> None:
    errors = NodeErrors(10.0)
    errors.add("east/node1", "bad filter", 0.0)
    errors.add("east/node2", "bad filter", 3.0)
    errors.add("east/node3", "no route", 4.0)
    errors.add("east/node1", "bad filter", 5.0)
    assert errors.due(9.9) == []
    assert errors.due(10.0) == [("bad filter", ["east/node1", "east/node2"])]
    assert errors.drain() == [("no route", ["east/node3"])]
    assert errors.drain() == []
