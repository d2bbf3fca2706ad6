"""Example policies: ours are accepted; those of others load or are refused for a stated reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import parse_object, parse_objects

REPOSITORY = Path(__file__).parents[4]
OURS = sorted((REPOSITORY / "examples" / "policies").glob("*.yaml"))
# One for each example of cilium/cilium under examples/policies, in our own words; the second line of each
# says what becomes of it.
KNOWN = sorted((REPOSITORY / "tests" / "data" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_examples_are_accepted(path: Path) -> None:
    """Each is an object named like its file, begins with what it is for, and reads the same when stored."""
    text = path.read_text()
    assert text.startswith("# ")
    (one,) = parse_objects(text)
    assert one.key.name == path.stem
    assert parse_object(one.document) == one


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.stem)
def test_known_examples_load_or_are_refused(path: Path) -> None:
    """For the reason that the file states, and no other."""
    text = path.read_text()
    expected = text.splitlines()[1].removeprefix("# ")
    if expected == "loads":
        for one in parse_objects(text):
            assert one.key.name == path.stem
            assert parse_object(one.document) == one
        return
    with pytest.raises(InvalidPolicy) as caught:
        parse_objects(text)
    (fault,) = caught.value.faults
    assert expected.removeprefix("refused: ") in fault.reason
    assert fault.fix


def test_the_known_examples_are_complete() -> None:
    """As many as there are, so that none is lost unseen."""
    assert len(KNOWN) == 86
