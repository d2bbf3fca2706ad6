"""Example policies: ours are accepted; those of others load or are refused for a stated reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.policy.cases.testfile import read_cases
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import parse_object, parse_objects

REPOSITORY = Path(__file__).parents[4]
EXAMPLES = REPOSITORY / "examples"
OURS = sorted((EXAMPLES / "policies").glob("*.yaml"))
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


def test_the_tested_dns_policy_is_the_example() -> None:
    """What examples/policytests/dns.yaml shows holds for examples/policies/dns.yaml as it stands."""
    (case,) = read_cases((EXAMPLES / "policytests" / "dns.yaml").read_text())
    (node,) = case.policies
    (example,) = parse_objects((EXAMPLES / "policies" / "dns.yaml").read_text())
    assert parse_object(node.plain()) == example


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
