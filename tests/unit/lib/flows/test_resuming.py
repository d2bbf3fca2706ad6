"""Going on with a stream: nothing twice, nothing left out, however roughly it is sorted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.flows.resuming import Resumption

MARGIN = 5


def follow(items: list[tuple[int, int]], cuts: list[int], start: int, most: int = 1000) -> list[int]:
    """Follow a server that holds `items` and breaks off after each of the `cuts`."""
    memory, shown = Resumption(start, margin_ns=MARGIN, most=most), []
    position, since = 0, start
    ends = [*sorted({cut for cut in cuts if cut < len(items)}), len(items)]
    for end in ends:
        replayed = [item for item in items[:position] if item[0] >= since] if position else []
        for time_ns, key in [*replayed, *(item for item in items[position:end] if item[0] >= start)]:
            if memory.take(time_ns, key):
                shown.append(key)
        position, since = end, memory.restart()
    return shown


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(0, 2)), max_size=40),
    st.lists(st.integers(1, 40)),
    st.data(),
)
def test_every_item_once(steps: list[tuple[int, int]], cuts: list[int], data: st.DataObject) -> None:
    time_ns, items = 100, []
    for number, (step, late) in enumerate(steps):
        time_ns += step
        items.append((time_ns - late, number % 7))
    start = data.draw(st.sampled_from([1, 100]))
    assert follow(items, cuts, start) == [key for moment, key in items if moment >= start]


def test_before_anything_came_a_new_stream_begins_where_the_first_did() -> None:
    memory = Resumption(50, margin_ns=MARGIN)
    assert memory.restart() == 50
    memory.take(60, 1)
    assert memory.restart() == 55
    memory.take(40, 2)  # asked for by number, or from a slow clock
    assert memory.since_ns() == 55
    assert Resumption(50, margin_ns=MARGIN).since_ns() == 50


def test_it_never_asks_for_what_was_before_the_start() -> None:
    memory = Resumption(50, margin_ns=MARGIN)
    memory.take(52, 1)
    assert memory.restart() == 50


def test_a_full_memory_asks_for_less_instead_of_repeating() -> None:
    memory = Resumption(0, margin_ns=100, most=2)
    for time_ns in (10, 20, 30):
        memory.take(time_ns, time_ns)
    assert memory.restart() == 11
    assert [memory.take(time_ns, time_ns) for time_ns in (20, 30, 40)] == [False, False, True]
