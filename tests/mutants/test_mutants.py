"""The runner of seeded mistakes itself: `make mutants` tries them all, this only that it would work."""

from __future__ import annotations

import pytest

from tests.mutants import runner
from tests.mutants.catalogue import MUTANTS, WATCHERS
from tests.mutants.mutant import Mutant

QUICK = ("tests/model/test_port_blocks.py",)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[one.name for one in MUTANTS])
def test_every_mistake_can_be_made(mutant: Mutant) -> None:
    """The text of each is still in the sources, once."""
    assert mutant.fault(runner.ROOT) == ""


def test_there_are_enough_mistakes_and_watchers() -> None:
    """At least 50, no two alike, and the tests that have to notice them are there."""
    assert len({(one.path, one.old, one.new) for one in MUTANTS}) == len(MUTANTS) >= 50
    assert len({one.name for one in MUTANTS}) == len(MUTANTS)
    assert all((runner.ROOT / one).exists() for one in WATCHERS)


def test_a_mistake_is_caught_and_undone(capsys: pytest.CaptureFixture[str]) -> None:
    """A run with one mistake ends well, and names the test that noticed it."""
    arguments = ["ranges-lose-their-last-block", "--workers", "1", "--watcher", QUICK[0]]
    assert runner.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "caught" in printed
    assert QUICK[0] in printed
    assert "1 of 1 mistakes caught" in printed


def test_a_mistake_that_nobody_notices_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Tests that look elsewhere let it live."""
    arguments = ["the-local-host-never-gets-in", "--workers", "1", "--watcher", QUICK[0]]
    assert runner.main(arguments) == 1
    assert "SURVIVED" in capsys.readouterr().out


def test_a_mistake_whose_text_is_gone_is_reported() -> None:
    """Sources that moved on are no reason to pass."""
    gone = Mutant("text that is not there", "services/policy/scope.py", "no such text", "other")
    assert "0 times" in gone.fault(runner.ROOT)
    assert "gone" in Mutant("file that is not there", "services/nowhere.py", "a", "b").fault(runner.ROOT)
