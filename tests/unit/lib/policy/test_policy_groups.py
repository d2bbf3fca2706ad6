"""Grouped contributions against the plain set they stand for, and the parts that model values are made of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.model import (
    Action,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    Origin,
    Part,
    PortBlock,
    Redirect,
    SubjectPolicy,
    blocks_of_range,
    one_port,
)
from tests.model import mapstatecases as cases


@st.composite
def _groups(draw: st.DrawFn) -> list[Group]:
    return [draw(cases.groups(cases.PLAIN, 10 * index + 1)) for index in range(draw(st.integers(0, 4)))]


@given(groups=_groups(), others=_groups())
def test_groups_read_like_the_set(groups: list[Group], others: list[Group]) -> None:
    """Members, length, equality and operations, also against a plain set and other groups."""
    grouped, other = GroupedContributions(groups), GroupedContributions(others)
    plain = frozenset(grouped)
    assert len(grouped) == len(plain)
    assert grouped == plain
    assert hash(grouped) == hash(plain)
    assert all(one in grouped for one in plain)
    for one in other:
        assert (one in grouped) == (one in plain)
    assert (grouped == other) == (plain == frozenset(other))
    assert grouped - other == plain - frozenset(other)
    assert "a text" not in grouped  # type: ignore[comparison-overlap]
    assert grouped != "a text"
    assert grouped == GroupedContributions(reversed(groups))


def test_a_redirect_target_belongs_to_a_redirect() -> None:
    common: dict[str, Any] = {
        "direction": Direction.INGRESS,
        "ports": one_port(6, 80),
        "precedence": 1,
        "origins": frozenset({1}),
    }
    with pytest.raises(ValueError):
        Part(**common, action=Action.REDIRECT)
    with pytest.raises(ValueError):
        Contribution(**common, peer=IdentityPeer(3), action=Action.DENY, redirect=Redirect("http"))


def test_numbers_out_of_range() -> None:
    for number in (0, -1):
        with pytest.raises(ValueError):
            IdentityPeer(number)
    for block in ((256, 0, 0), (6, 65_536, 16), (6, 0, 17), (6, 81, 15), (0, 80, 16), (0, 0, 1)):
        with pytest.raises(ValueError):
            PortBlock(*block)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_is_split_into_few_blocks_that_cover_exactly_it(one: int, other: int) -> None:
    """Blocks are aligned, follow one another, and are at most 30."""
    first, last = min(one, other), max(one, other)
    blocks = blocks_of_range(6, first, last)
    assert len(blocks) <= 30
    position = first
    for block in blocks:
        assert block.port == position
        position += 1 << (16 - block.prefix_length)
    assert position == last + 1


def test_origins_are_numbered_by_all_they_say() -> None:
    """Equal ones have equal numbers; moving a character from one field to the next gives another."""
    fields: dict[str, Any] = {"kind": "K", "namespace": "n", "name": "ab", "rule": "c"}
    assert Origin.of(**fields) == Origin.of(**fields)
    others = [{**fields, "name": "a", "rule": "bc"}, {**fields, "namespace": "", "name": "nab"}]
    numbers = {Origin.of(**one).origin_id for one in (fields, *others)}
    assert len(numbers | {Origin.of(**fields, labels=("x=y",)).origin_id}) == 4


def test_defaults_of_a_direction() -> None:
    """Audited defaults are those in force unless something else is said."""
    policy = SubjectPolicy(
        ingress=Enforcement.DEFAULT_ALLOW,
        egress=Enforcement.DEFAULT_DENY,
        audit_ingress=Enforcement.DEFAULT_DENY,
        ingress_default_deny=frozenset({1}),
        egress_default_deny=frozenset({2}),
    )
    assert policy.enforcement(Direction.INGRESS) is Enforcement.DEFAULT_ALLOW
    assert policy.audited_enforcement(Direction.INGRESS) is Enforcement.DEFAULT_DENY
    assert policy.audited_enforcement(Direction.EGRESS) is Enforcement.DEFAULT_DENY
    assert [policy.default_deny(direction) for direction in Direction] == [{1}, {2}]
