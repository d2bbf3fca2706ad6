"""What a key meant at a time, against a list of everything that was said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shim.flows.history import EVER, History

steps = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.one_of(st.none(), st.integers(1, 3))), max_size=30
)
"""(time passed, key, value or None for its end)."""


def said_at(said: list[tuple[int, str, int | None]], key: str, time_ns: int) -> int | None:
    """Brute force: the last thing said about the key until then."""
    about = [value for since_ns, about, value in said if about == key and since_ns <= time_ns]
    return about[-1] if about else None


@given(steps)
def test_every_look_up_equals_brute_force(passed: list[tuple[int, str, int | None]]) -> None:
    history, said, now = History[str, int](1_000), list[tuple[int, str, int | None]](), 5
    for elapsed, key, value in passed:
        now += elapsed
        said.append((now, key, value))
        if value is None:
            history.end(key, now)
        else:
            history.put(key, value, now)
    for key in "abc":
        for time_ns in range(now + 3):
            assert history.at(key, time_ns) == said_at(said, key, time_ns)
        changes = {t for t in range(1, now + 1) if said_at(said, key, t) != said_at(said, key, t - 1)}
        for after_ns in (0, 7):
            assert {t for t in changes if t > after_ns} <= set(history.times(key, after_ns))


@given(steps, st.integers(0, 5))
def test_what_ended_is_bounded_and_the_newest_stays(
    passed: list[tuple[int, str, int | None]], bound: int
) -> None:
    whole, small, now = History[str, int](1_000), History[str, int](bound), 5
    for elapsed, key, value in passed:
        now += elapsed + 1
        for history in (whole, small):
            if value is None:
                history.end(key, now)
            else:
                history.put(key, value, now)
        assert len(small) <= bound + 2, "what is in force and what ended"
        for name in "ab":
            assert small.at(name, now) == whole.at(name, now)
    for key in "ab":
        for time_ns in range(now + 1):
            assert small.at(key, time_ns) in (None, whole.at(key, time_ns))


def test_the_last_value_and_what_holds_ever() -> None:
    history = History[str, int](10)
    history.put("a", 1, EVER)
    history.put("a", 1, 50)
    assert history.times("a", -1) == [0]
    history.end("a", 90)
    history.end("b", 90)
    assert (history.at("a", 0), history.at("a", 90), history.at("a", None)) == (1, None, 1)
    assert history.at("b", None) is None
    assert list(history.values("a")) == [1]
    assert "a" in history
    assert list(history) == ["a"]


def test_no_value_is_not_remembered_when_nothing_is() -> None:
    history = History[str, int](0)
    history.put("a", 1, 10)
    history.put("a", 2, 20)
    assert (history.at("a", 15), history.at("a", 20)) == (None, 2)
    history.end("a", 30)
    assert "a" not in history
