"""The demo's story: what it claims is checked, and what it shows exists."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from axoneme.lab import demo
from axoneme.lab.stories import Act, dns_chapter, policy_chapter


def done(status: int, output: str) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], status, stdout=output)


@pytest.mark.parametrize(
    ("output", "fault"),
    [
        ("batch to backend DROPPED\n", None),
        ("BATCH to backend dropped\n", None),
        (
            "batch to backend FORWARDED\nfrontend to backend DROPPED\n",
            "printed no line with DROPPED and batch",
        ),
        ("", "printed no line with DROPPED and batch"),
    ],
)
def test_words_of_a_claim_must_stand_on_one_line(output: str, fault: str | None) -> None:
    act = Act(words=("axoneme",), texts=(("DROPPED", "batch"),))
    assert demo._fault(act, done(0, output)) == fault


def test_another_exit_status_is_a_fault() -> None:
    act = Act(words=("axoneme",), exit_status=28)
    assert demo._fault(act, done(0, "hello")) == "ended with status 0, not 28"
    assert demo._fault(act, done(28, "")) is None


def test_every_file_of_the_story_exists() -> None:
    words = [word for scene in demo._scenes("all") for act in scene.acts for word in act.words]
    files = [Path(word) for word in words if word.endswith(".yaml")]
    assert files
    assert all(file.exists() for file in files)


def test_the_story_ends_with_what_it_began_with_but_the_first_policy() -> None:
    changes = [act.words for scene in policy_chapter() for act in scene.acts if act.changes_policy_of]
    assert [words[2] for words in changes] == ["apply", "apply", "delete"]
    assert changes[1][-1] == changes[2][-1]


def test_the_story_of_names_takes_its_policy_away_again() -> None:
    changes = [act.words for scene in dns_chapter() for act in scene.acts if act.changes_policy_of]
    assert [words[2] for words in changes] == ["apply", "delete"]
    assert changes[0][-1] == changes[1][-1]
