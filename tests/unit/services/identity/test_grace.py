"""When a node that stopped renewing counts as gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.identity.grace import Grace

SECONDS = 60.0


def test_a_lone_expiry_is_given_up_after_the_grace() -> None:
    grace = Grace(SECONDS, 0)
    for now in range(0, 300, 5):
        grace.heard(now)
        due = grace.due({"a"} if now >= 100 else set(), now)
        assert due == (["a"] if now >= 160 else [])


def test_nobody_is_given_up_in_silence_and_all_have_the_full_grace_after_it() -> None:
    grace = Grace(SECONDS, 0)
    grace.heard(0)
    for now in range(10, 5_000, 10):
        assert grace.due({"a", "b"}, now) == []
    for now in range(5_000, 5_060, 5):
        grace.heard(now)
        assert grace.due({"a", "b"}, now) == []
    grace.heard(5_060)
    assert grace.due({"a", "b"}, 5_060) == ["a", "b"]


def test_an_interruption_starts_everybody_over() -> None:
    grace = Grace(SECONDS, 0)
    for now in range(0, 60, 5):
        grace.heard(now)
        assert grace.due({"a"}, now) == []
    grace.interrupted(59)
    for now in range(60, 119):
        grace.heard(now)
        assert grace.due({"a"}, now) == []
    assert grace.due({"a"}, 119) == ["a"]


def test_coming_back_forgets_the_old_clock() -> None:
    grace = Grace(SECONDS, 0)
    for now in range(0, 200, 5):
        grace.heard(now)
        unsettled = set() if now == 50 else {"a"}
        due = grace.due(unsettled, now)
        assert due == (["a"] if now >= 115 else [])


@given(st.lists(st.tuples(st.sampled_from(["heard", "down", "tick"]), st.integers(1, 40)), max_size=60))
def test_due_as_by_looking_back(steps: list[tuple[str, int]]) -> None:
    """The slow definition: the whole grace lies behind, all of it with nodes heard and the store there."""
    grace, now, start = Grace(SECONDS, 0), 0, 0
    contact: int | None = None
    since: int | None = None
    for step, pause in steps:
        now += pause
        if step == "heard":
            if contact is None or now - contact >= SECONDS:
                start = now
            contact = now
            grace.heard(now)
        elif step == "down":
            start = now
            grace.interrupted(now)
        since = now if since is None else since
        silent = contact is None or now - contact >= SECONDS
        expected = not silent and now - since >= SECONDS and now - start >= SECONDS
        assert grace.due({"a"}, now) == (["a"] if expected else [])
