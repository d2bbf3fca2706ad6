"""Maps kept up to date against maps made anew: named states in every order that tends to go wrong, and
random sequences.

Each expander turns a list of states into a sequence of steps; whatever the way, after each step the entries
are those that `finish` makes of the last policy and the last identities, and the changes are exact.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.groups import Group, GroupedContributions
from axoneme.lib.policy.mapstate import MapChanges, MapstateBuilder
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    AuthMode,
    CidrDefinition,
    Direction,
    Enforcement,
    IdentityPeer,
    MapEntry,
    MapKey,
    NamedPort,
    Part,
    Peer,
    PortBlock,
    Redirect,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import Tier, precedence
from tests.conftest import scaled
from tests.model import mapstatecases as cases

TCP = PortBlock(6, 0, 0)
WEB = one_port(6, 80)
FOUR = {number: labels for number, labels in cases.LOCAL.items() if "ipv4" in labels.key}
SIX = {number: labels for number, labels in cases.LOCAL.items() if "ipv6" in labels.key}


def part(
    ports: PortBlock | NamedPort = WEB,
    action: Action = Action.ALLOW,
    *,
    origin: int = 1,
    tier: int = Tier.NORMAL,
    listener: str = "",
    audit: bool = False,
    auth: AuthMode | None = None,
) -> Part:
    """An ingress part."""
    redirect = Redirect("crd", listener, 126) if action is Action.REDIRECT else None
    return Part(
        direction=Direction.INGRESS,
        ports=ports,
        action=action,
        redirect=redirect,
        precedence=precedence(tier=tier, action=action),
        origins=frozenset({origin}),
        audit=audit,
        auth=auth,
    )


@dataclass(frozen=True)
class State:
    """What a subject's map is made of."""

    name: str
    groups: tuple[Group, ...] = ()
    local: Mapping[int, LabelSet] = field(default_factory=lambda: cases.LOCAL)
    selectors: Mapping[str, SelectorDefinition] = field(default_factory=lambda: cases.SELECTORS)
    ingress: Enforcement = Enforcement.DEFAULT_DENY
    audit_ingress: Enforcement | None = None
    plain: bool = False

    @property
    def policy(self) -> SubjectPolicy:
        """The policy of the state."""
        grouped = GroupedContributions(self.groups)
        return SubjectPolicy(
            ingress=self.ingress,
            egress=Enforcement.DEFAULT_ALLOW,
            audit_ingress=self.audit_ingress,
            contributions=frozenset(grouped) if self.plain else grouped,
            selectors=self.selectors,
        )

    def but(self, name: str, **changes: object) -> State:
        """A state that differs from this one."""
        return dataclasses.replace(self, name=name, **changes)  # type: ignore[arg-type]


def group(*parts: Part, fixed: Sequence[Peer] = (), numbers: Sequence[int] = ()) -> Group:
    return Group(parts, tuple(fixed), frozenset(numbers))


LOCKED = State("locked")
OPEN = LOCKED.but("open", ingress=Enforcement.DEFAULT_ALLOW)
PODS = LOCKED.but("pods may use the web", groups=(group(part(), part(TCP, origin=2), numbers=(300, 301)),))
POD_LESS = PODS.but("one of them went", groups=(group(part(), part(TCP, origin=2), numbers=(300,)),))
DENIED = PODS.but(
    "a deny for everyone came", groups=(*PODS.groups, group(part(TCP, Action.DENY), fixed=(AnyPeer(),)))
)
NARROW = LOCKED.but(
    "a prefix is denied beside a narrower allow",
    groups=(
        group(part(), fixed=(SelectorPeer("all-ipv6"), SelectorPeer("ten"))),
        group(part(TCP, Action.DENY), fixed=(SelectorPeer("documentation"),)),
    ),
)
OTHER_PREFIX = NARROW.but(
    "the prefix moved",
    selectors={**cases.SELECTORS, "documentation": CidrDefinition(include=("2001:db8:1::/48",))},
)
PASSED = PODS.but(
    "the web of a pod is passed on",
    groups=(
        *PODS.groups,
        group(part(WEB, Action.PASS, tier=Tier.ADMIN), fixed=(IdentityPeer(300),)),
        group(part(TCP, Action.DENY, tier=Tier.ADMIN), fixed=(AnyPeer(),)),
    ),
)
TRIED = PODS.but(
    "a deny is tried out",
    groups=(*PODS.groups, group(part(WEB, Action.DENY, origin=9, audit=True), fixed=(AnyPeer(),))),
)
TRIED_LOCK = OPEN.but("a lock is tried out", audit_ingress=Enforcement.DEFAULT_DENY)
PROVEN = PODS.but(
    "authentication is asked of TCP",
    groups=(*PODS.groups, group(part(TCP, auth=AuthMode.REQUIRED, origin=7), numbers=(300,))),
)
LISTENERS = LOCKED.but(
    "two listeners are equally strong",
    groups=(
        group(part(TCP, Action.REDIRECT, listener="one"), fixed=(AnyPeer(),)),
        group(part(ANY_PORT, Action.REDIRECT, listener="two", origin=2), numbers=(300,)),
    ),
)
NAMED = LOCKED.but("by name", groups=(group(part(NamedPort(6, "web")), fixed=(SelectorPeer("world"),)),))
TWICE = PODS.but(
    "the same group twice over", groups=(*PODS.groups, group(*PODS.groups[0].parts, numbers=(301, 5)))
)
STATES = (
    LOCKED, OPEN, PODS, POD_LESS, DENIED, NARROW, OTHER_PREFIX, PASSED, TRIED, TRIED_LOCK, PROVEN, LISTENERS,
    NAMED, TWICE,
    NARROW.but("only IPv4 is outside", local=FOUR), NARROW.but("only IPv6 is outside", local=SIX),
    NARROW.but("nothing outside", local={}), PODS.but("pods, as a plain set", plain=True),
    DENIED.but("denied, as a plain set", plain=True),
)  # fmt: skip

Steps = Iterator[State]


def forwards(states: Sequence[State]) -> Steps:
    return iter(states)


def backwards(states: Sequence[State]) -> Steps:
    return reversed(states)


def through_nothing(states: Sequence[State]) -> Steps:
    return itertools.chain.from_iterable((one, LOCKED) for one in states)


def through_a_restart(states: Sequence[State]) -> Steps:
    """The identities go before the policy and come back after it."""
    for one in states:
        yield one.but("without identities", local={})
        yield one


def with_new_objects(states: Sequence[State]) -> Steps:
    """Equal groups that are other objects change nothing."""
    for one in states:
        yield one
        yield one.but("again", groups=tuple(Group(g.parts, g.fixed, g.numbers) for g in one.groups))


def every_pair(states: Sequence[State]) -> Steps:
    for one, other in itertools.permutations(states, 2):
        yield one
        yield other


EXPANDERS: tuple[Callable[[Sequence[State]], Steps], ...] = (
    forwards, backwards, through_nothing, through_a_restart, with_new_objects, every_pair,
)  # fmt: skip


class Twin:
    """A map kept up to date, checked after each step."""

    def __init__(self) -> None:
        self.builder = MapstateBuilder({}, cases.NAMED_PORTS)
        self.local: Mapping[int, LabelSet] = {}
        self.policy: SubjectPolicy | None = None

    def step(self, policy: SubjectPolicy, local: Mapping[int, LabelSet]) -> None:
        """Go on to a policy and identities; whichever differ, in this order."""
        if local != self.local:
            self.local = local
            self._check(self.builder.set_local, local)
        self.policy = policy
        changes = self._check(self.builder.update, policy)
        assert not self.builder.update(policy), changes

    def _check(self, do: Callable[..., MapChanges], argument: object) -> MapChanges:
        before: dict[MapKey, MapEntry] = dict(self.builder.entries)
        changes = do(argument)
        assert not changes.removals & changes.upserts.keys()
        assert changes.removals <= before.keys()
        assert all(before.get(key) != entry for key, entry in changes.upserts.items())
        after = {key: entry for key, entry in before.items() if key not in changes.removals}
        assert after | changes.upserts == self.builder.entries == self._anew()
        return changes

    def _anew(self) -> dict[MapKey, MapEntry]:
        if self.policy is None:
            return {}
        return finish(self.policy, local_identities=self.local, named_ports=cases.NAMED_PORTS)


@pytest.mark.parametrize("expand", EXPANDERS, ids=lambda one: one.__name__)
def test_named_states(expand: Callable[[Sequence[State]], Steps]) -> None:
    """The outcome depends on the state, not on the way to it."""
    twin = Twin()
    for state in expand(STATES):
        twin.step(state.policy, state.local)


@st.composite
def _sequences(draw: st.DrawFn) -> list[tuple[SubjectPolicy, dict[int, LabelSet]]]:
    """Steps that share groups, as a service that recomputes little sends them."""
    flavour = draw(st.sampled_from(cases.FLAVOURS))
    pool = [draw(cases.groups(flavour, 10 * index + 1)) for index in range(5)]
    steps = []
    for _ in range(draw(st.integers(1, 6))):
        chosen = [one for one in pool if draw(st.booleans())]
        renumbered = [
            Group(one.parts, one.fixed, draw(st.frozensets(st.sampled_from(cases.POD_NUMBERS))))
            if draw(st.integers(0, 2)) == 0
            else one
            for one in chosen
        ]
        policy = cases.policy_of(draw, flavour, renumbered)
        moved = dict(cases.SELECTORS)
        if draw(st.booleans()):
            key = draw(st.sampled_from(sorted(moved)))
            moved[key] = moved[draw(st.sampled_from(sorted(moved)))]
        policy = dataclasses.replace(policy, selectors=moved)
        local = {n: labels for n, labels in cases.LOCAL.items() if draw(st.integers(0, 3))}
        if 9 in local and draw(st.booleans()):
            local[9] = cases.LOCAL[10]
        steps.append((policy, local))
    return steps


@settings(max_examples=scaled(60, 3_000))
@given(steps=_sequences())
def test_random_sequences(steps: list[tuple[SubjectPolicy, dict[int, LabelSet]]]) -> None:
    """Policies and identities that change together or alone, in any order."""
    twin = Twin()
    for policy, local in steps:
        twin.step(policy, local)


def test_a_new_identity_is_one_change() -> None:
    """Only its own entries come, and they go with it."""
    builder = MapstateBuilder(cases.LOCAL, {})
    builder.update(POD_LESS.policy)
    came = builder.update(PODS.policy)
    assert {key.identity for key in came.upserts} == {301}
    assert not came.removals
    went = builder.update(POD_LESS.policy)
    assert went.removals == came.upserts.keys()
    assert not went.upserts


@pytest.mark.parametrize("number", [9, 10])
def test_a_new_local_identity_is_one_change(number: int) -> None:
    """An address outside of either family gets what the selectors that select it give."""
    builder = MapstateBuilder({}, cases.NAMED_PORTS)
    builder.update(NAMED.policy)
    came = builder.set_local({number: cases.LOCAL[number]})
    assert set(came.upserts) == {MapKey(Direction.INGRESS, number, one_port(6, 81))}
    assert builder.set_local({}).removals == set(came.upserts)


def test_an_unknown_reference_leaves_the_map() -> None:
    """It fails before anything changes, and the next policy is taken."""
    builder = MapstateBuilder(cases.LOCAL, {})
    builder.update(NARROW.policy)
    before = dict(builder.entries)
    with pytest.raises(KeyError):
        builder.update(
            dataclasses.replace(PODS.policy, contributions=NARROW.policy.contributions, selectors={})
        )
    assert builder.entries == before
    builder.update(DENIED.policy)
    assert builder.entries == finish(DENIED.policy, local_identities=cases.LOCAL, named_ports={})


def test_trees_that_are_no_longer_used_are_let_go() -> None:
    """A long life with ever new rules keeps a bounded number of worked-out trees."""
    builder = MapstateBuilder({}, {})
    for origin in range(3_000):
        state = LOCKED.but("turn", groups=(group(part(origin=origin + 1), numbers=(300,)),))
        builder.update(state.policy)
    held = [len(trees._tree_by_bundles) for trees in builder._directions.values()]
    assert max(held) < 1_100


@pytest.mark.parametrize(("was", "becomes"), [(10, 9), (9, 10)])
def test_labels_of_a_local_identity_change(was: int, becomes: int) -> None:
    """A number that stands for something else is selected anew, and nothing of the old choice stays."""
    state = LOCKED.but(
        "by family",
        groups=(
            group(part(), fixed=(SelectorPeer("all-ipv6"),)),
            group(part(TCP, origin=2), fixed=(SelectorPeer("ten"),)),
        ),
        selectors={**cases.SELECTORS, "ten": CidrDefinition(include=("0.0.0.0/0",))},
    )
    twin = Twin()
    for labels in (cases.LOCAL[was], cases.LOCAL[becomes], cases.LOCAL[was]):
        twin.step(state.policy, {77: labels})
        assert len(twin.builder.entries) == 2  # its own, and that egress is open


def test_selectors_that_are_no_longer_used_are_let_go() -> None:
    """Ever new names of selectors do not pile up."""
    builder = MapstateBuilder(cases.LOCAL, {})
    for state in (NARROW, NAMED, LOCKED):
        builder.update(state.policy)
    holders = builder._holders
    assert not holders._members
    assert not holders._by_selector
    assert not holders._bundle_by_parts
    assert not holders.bundles_by_identity
