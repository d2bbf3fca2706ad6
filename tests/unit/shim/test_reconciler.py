"""The reconciler against a table that refuses writes and fills up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from shim.reconciler import LAST_RETRY_SECONDS, Reconciler, WriteFault
from tests.waiting import FakeClock


class FlakyTable:
    """A dictionary with a size, that refuses keys on request and writes down what was asked of it."""

    def __init__(self, size: int = 100) -> None:
        self.rows: dict[str, int] = {}
        self.size = size
        self.refused: set[str] = set()
        self.calls: list[tuple[str, list[str]]] = []

    def items(self) -> Iterable[tuple[str, int]]:
        return list(self.rows.items())

    def upsert(self, pairs: Sequence[tuple[str, int]]) -> Mapping[str, WriteFault]:
        self.calls.append(("upsert", [key for key, _ in pairs]))
        faults = {}
        for key, value in pairs:
            if key in self.refused:
                faults[key] = WriteFault("refused")
            elif key not in self.rows and len(self.rows) >= self.size:
                faults[key] = WriteFault("full", full=True)
            else:
                self.rows[key] = value
        return faults

    def remove(self, keys: Sequence[str]) -> Mapping[str, WriteFault]:
        self.calls.append(("remove", list(keys)))
        faults = {key: WriteFault("refused") for key in keys if key in self.refused}
        for key in keys:
            if key not in faults:
                self.rows.pop(key, None)
        return faults


def made(size: int = 100) -> tuple[Reconciler[str, int], FlakyTable, FakeClock]:
    table, clock = FlakyTable(size), FakeClock()
    return Reconciler("test", table, clock=clock), table, clock


def test_upserts_go_before_removals() -> None:
    reconciler, table, _ = made()
    reconciler.put({"a": 1})
    reconciler.flush()
    reconciler.put({"b": 2})
    reconciler.discard(["a"])
    reconciler.flush()
    assert [kind for kind, _ in table.calls] == ["upsert", "upsert", "remove"]
    assert table.rows == {"b": 2}


def test_a_full_table_gets_room_first() -> None:
    reconciler, table, _ = made(size=1)
    reconciler.put({"a": 1})
    reconciler.flush()
    reconciler.put({"b": 2})
    reconciler.discard(["a"])
    reconciler.flush()
    assert table.rows == {"b": 2}
    assert reconciler.faults() == {}


def test_equal_entries_of_an_earlier_life_cause_no_write() -> None:
    reconciler, table, _ = made()
    table.rows = {"a": 1, "old": 9}
    reconciler.load()
    reconciler.put({"a": 1})
    reconciler.flush()
    assert table.calls == []
    assert table.rows == {"a": 1, "old": 9}, "nothing goes before prune"
    assert reconciler.prune() == 1
    reconciler.flush()
    assert table.rows == {"a": 1}


def test_failures_are_retried_with_doubling_delay_and_heal() -> None:
    reconciler, table, clock = made()
    table.refused = {"a"}
    reconciler.put({"a": 1})
    reconciler.flush()
    delays = []
    for _ in range(12):
        due = reconciler.next_due()
        assert due is not None
        delays.append(round(due - clock(), 3))
        clock.advance(due - clock())
        reconciler.flush()
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == LAST_RETRY_SECONDS
    table.refused = set()
    clock.advance(LAST_RETRY_SECONDS)
    reconciler.flush()
    assert table.rows == {"a": 1}
    assert reconciler.next_due() is None


def test_audit_repairs_drift_but_not_known_failures() -> None:
    reconciler, table, _ = made()
    table.refused = {"bad"}
    reconciler.put({"a": 1, "b": 2, "bad": 3})
    reconciler.flush()
    table.rows = {"b": 7, "alien": 1}
    assert dict(reconciler.audit(prune=False)) == {
        "a": "missing, written again",
        "b": "changed, written again",
    }
    assert table.rows == {"a": 1, "b": 2, "alien": 1}
    assert dict(reconciler.audit(prune=True)) == {"alien": "unknown, removed"}
    assert table.rows == {"a": 1, "b": 2}
    assert reconciler.audit(prune=True) == []


KEYS = st.sampled_from("abcde")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.integers(0, 3)),
        st.tuples(st.sampled_from(["discard", "refuse", "accept", "flush", "steal"]), KEYS, st.just(0)),
    ),
    max_size=40,
)


@given(STEPS, st.integers(2, 6))
def test_converges_once_writes_succeed(steps: list[tuple[str, str, int]], size: int) -> None:
    reconciler, table, clock = made(size)
    wanted: dict[str, int] = {}
    for step, key, value in steps:
        if step == "put":
            reconciler.put({key: value})
            wanted[key] = value
        elif step == "discard":
            reconciler.discard([key])
            wanted.pop(key, None)
        elif step == "refuse":
            table.refused.add(key)
        elif step == "accept":
            table.refused.discard(key)
        elif step == "steal":
            table.rows.pop(key, None)
        else:
            clock.advance(0.3)
            reconciler.flush()
    table.refused, table.size = set(), 10
    reconciler.audit(prune=True)
    for _ in range(3):
        clock.advance(LAST_RETRY_SECONDS)
        reconciler.flush()
    assert table.rows == wanted
    assert reconciler.faults() == {}
