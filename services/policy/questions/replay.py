"""Verdicts on many flows: each subject's map is finished once, for all addresses outside that the flows name.

    flows ─by subject─> map finished with the flows' own outside peers ─> one look-up per flow and direction

Explain looks at one flow and all its rules; replay only says what would happen, thousands of times. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from axoneme.lib import identities
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, SubjectPolicy
from axoneme.lib.policy.outside import OutsideNames
from services.policy.questions.explain import Question, Verdict, narrowed
from services.policy.questions.parties import Party


class Decider(Protocol):
    """What decides for a party: its policy, and why that cannot be computed, if so."""

    @property
    def policy(self) -> SubjectPolicy | None:
        """The policy; None when there is none."""

    @property
    def fault(self) -> str:
        """Empty when the policy is what the rules say."""


DecidingFor: TypeAlias = Callable[[Party], Decider]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideVerdict:
    """What one side says, and because of which entry of its map. Without a policy it lets everything pass."""

    direction: Direction
    verdict: Verdict = Verdict.ALLOW
    policy: SubjectPolicy | None = None
    entry: MapEntry | None = None


@dataclass(frozen=True, slots=True)
class FlowVerdict:
    """What happens to a flow, and what both sides say."""

    verdict: Verdict
    sides: tuple[SideVerdict, ...]


@dataclass(slots=True)
class _Map:
    """A subject's map with the numbers that its outside peers got."""

    policy: SubjectPolicy
    named_ports: Mapping[tuple[int, str], int]
    names: OutsideNames
    numbers: dict[LabelSet, int] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)
    entries: Mapping[MapKey, MapEntry] = field(default_factory=dict)

    def number_of(self, labels: LabelSet) -> int:
        return self.numbers.setdefault(labels, identities.LOCAL_SCOPE + len(self.numbers))

    def finish(self) -> None:
        local = {number: labels for labels, number in self.numbers.items()}
        local |= {number: labels for number, (_, labels) in identities.RESERVED.items()}
        policy = narrowed(self.policy, self.asked)
        self.entries = finish(policy, local_identities=local, named_ports=self.named_ports)


_Maps: TypeAlias = dict[tuple[int, frozenset[tuple[tuple[int, str], int]]], _Map]
_Plan: TypeAlias = list[tuple[Direction, "_Map | None", int, bool]]


def replay(questions: Sequence[Question], deciding: DecidingFor) -> list[FlowVerdict]:
    """The verdict of both sides' policies on each flow, in order."""
    maps: _Maps = {}
    plans = [_plan(question, deciding, maps) for question in questions]
    for one in maps.values():
        one.finish()
    return [_judge(question, plan) for question, plan in zip(questions, plans, strict=True)]


def _plan(question: Question, deciding: DecidingFor, maps: _Maps) -> _Plan:
    found: _Plan = []
    for direction in Direction:
        subject = question.subject(direction)
        side = deciding(subject)
        if side.policy is None:
            found.append((direction, None, 0, bool(side.fault)))
            continue
        ports = subject.named_ports if direction is Direction.INGRESS else {}
        place = (id(side.policy), frozenset(ports.items()))
        known = maps.get(place)
        if known is None:
            known = maps[place] = _Map(side.policy, ports, OutsideNames(side.policy.selectors.values()))
        number, labels = question.peer(direction).seen_by(known.names, question.families)
        number = known.number_of(labels) if identities.is_local(number) else number
        known.asked.add(number)
        found.append((direction, known, number, False))
    return found


def _judge(question: Question, plan: _Plan) -> FlowVerdict:
    sides = []
    for direction, one, number, faulty in plan:
        if one is None:
            verdict = Verdict.ERROR if faulty else Verdict.ALLOW
            sides.append(SideVerdict(direction=direction, verdict=verdict))
            continue
        entry = lookup(one.entries, direction, number, question.protocol, question.port).entry
        sides.append(
            SideVerdict(direction=direction, verdict=_verdict(entry), policy=one.policy, entry=entry)
        )
    return FlowVerdict(combined(side.verdict for side in sides), tuple(sides))


def _verdict(entry: MapEntry | None) -> Verdict:
    if entry is None:
        return Verdict.DENY
    if entry.audit:
        return Verdict.AUDIT
    words = {Action.ALLOW: Verdict.ALLOW, Action.DENY: Verdict.DENY, Action.REDIRECT: Verdict.REDIRECT}
    return words[entry.action]


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """A flow passes only if both sides let it; what is reported or redirected on one side stays so."""
    present = set(verdicts)
    for verdict in (Verdict.ERROR, Verdict.DENY, Verdict.REDIRECT, Verdict.AUDIT):
        if verdict in present:
            return verdict
    return Verdict.ALLOW
