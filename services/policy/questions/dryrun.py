"""Questions about a change of the policies that is not made: which verdicts, which recorded flows differ.

    state ─(event loop)─> copy of the engine ─(thread)─> resolved with the change ─> differences

Only making the copy takes time of the event loop; everything after it happens in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.lib import identities
from axoneme.lib.errors import AxonemeError, InvalidArgument
from axoneme.lib.policy.groups import GroupedContributions
from axoneme.lib.policy.model import Action, Direction, MapEntry, NamedPort, SubjectPolicy
from services.policy.questions.analysiswire import change_message, origin_message, verdict_number
from services.policy.questions.asked import (
    Deciding,
    deciding,
    enforced_here,
    imagine,
    parties_of,
    question_of,
)
from services.policy.questions.changeset import Candidate, Change, refuse_conflicts
from services.policy.questions.diff import VerdictChange, changes_of
from services.policy.questions.explain import Question
from services.policy.questions.parties import Parties, Party
from services.policy.questions.replay import FlowVerdict, replay
from services.policy.reading.objects import ParsedObject
from services.policy.records.addressbook import AddressBook
from services.policy.resolution.engine import PolicyEngine
from services.policy.resolution.rulesets import Subject
from services.policy.rules import ParsedPolicy, PolicyKey
from services.policy.state import PolicyState
from services.policy.warnings import traps_of

MAX_FLOWS: Final = 5_000
DEFAULT_LIMIT: Final = 1_000
MAX_LIMIT: Final = 100_000
STEP: Final = 200
"""Flows that are looked up before other tasks have their turn."""
MAX_COUNTED: Final = 1_000_000
"""A policy for everybody may change each verdict between 50,000 identities: nobody needs the exact number."""
Ports: TypeAlias = Mapping[tuple[int, str], int]


def change_of(objects: Sequence[ParsedObject], message: pb.PolicyChangeSet) -> Change:
    """The change that a request describes."""
    deleted = [PolicyKey(one.kind, one.namespace, one.name) for one in message.deleted]
    return Change(objects=objects, deleted=deleted, replace_all=message.replace_all)


def warnings_of(change: Change, engine: PolicyEngine) -> list[list[str]]:
    """The traps in each policy that comes."""
    return [traps_of(one, engine) for one in change.policies]


# --- diff


@dataclass(frozen=True, slots=True)
class _Subjects:
    """Subjects that had and will have the same policy, and whose endpoints have the same named ports."""

    before: SubjectPolicy
    after: SubjectPolicy
    ports: Ports
    subjects: list[Subject]


async def diff_policies(
    state: PolicyState, change: Change, wanted: int
) -> AsyncIterator[pb.DiffPoliciesResponse]:
    """Changed verdicts, then the totals. Raises NotFound, InvalidArgument."""
    if wanted > MAX_LIMIT:
        raise InvalidArgument.of_field("limit", f"is {wanted}; at most {MAX_LIMIT}")
    limit = wanted or DEFAULT_LIMIT
    refuse_conflicts(state.engine, change)
    totals = pb.DiffTotals(revision=state.revision, warnings=_warning_lines(change, state.engine))
    diff = _Diff(change, state)
    changed: set[Subject] = set()
    for subjects in diff.grouped(await asyncio.to_thread(diff.resolve), state.addresses):
        found = await asyncio.to_thread(diff.changes, subjects)
        changed.update(subjects.subjects if found else ())
        for subject in subjects.subjects:
            for one in found[: max(0, limit - totals.changes)]:
                yield pb.DiffPoliciesResponse(change=diff.message(one, subject, subjects))
            totals.changes += len(found)
        if totals.changes > MAX_COUNTED:
            totals.incomplete = True
            break
    totals.subjects = len(changed)
    yield pb.DiffPoliciesResponse(totals=totals)


def _warning_lines(change: Change, engine: PolicyEngine) -> list[str]:
    found = []
    for policy, texts in zip(change.policies, warnings_of(change, engine), strict=True):
        present = engine.policies.get(policy.key)
        if present is not None and _requests(present) != _requests(policy):
            texts.append("its rules for requests (L7) change; only connections are compared here")
        found += [f"{policy.key}: {text}" for text in texts]
    return found


def _requests(policy: ParsedPolicy) -> list[object]:
    ports = [port for rule in policy.rules for entry in rule.entries for port in entry.ports]
    return [(port.ports, port.l7) for port in ports if port.l7 is not None]


class _Diff:
    """One comparison: what it needs of the live engine is copied at the start."""

    def __init__(self, change: Change, state: PolicyState) -> None:
        engine = state.engine
        self._revision = state.revision
        self._candidate = Candidate(engine, change)
        self._before = dict(engine.resolved)
        self._settings = engine.settings
        self._labels, self._nodes = dict(engine.identities), dict(engine.nodes)
        self._peers = [party.labels for party in parties_of(state).nodes_with_numbers()]

    def resolve(self) -> list[tuple[Subject, SubjectPolicy, SubjectPolicy]]:
        """Make the change; subjects with their policies before and after, where these differ."""
        self._candidate.resolve(self._revision)
        after = self._candidate.engine.resolved
        pairs = ((one, self._before.get(one), after[one]) for one in sorted(after, key=_place))
        return [
            (one, before, now)
            for one, before, now in pairs
            if before is not None and before is not now and self._counts(one)
        ]

    def _counts(self, subject: Subject) -> bool:
        if isinstance(subject, str):
            return True
        labels = self._labels.get(subject)
        return labels is not None and enforced_here(subject, labels, self._settings)

    def grouped(
        self, pairs: list[tuple[Subject, SubjectPolicy, SubjectPolicy]], book: AddressBook
    ) -> list[_Subjects]:
        """The subjects that have everything in common; those whose endpoints' ports differ are in several."""
        found: dict[tuple[int, int, frozenset[object]], _Subjects] = {}
        names: dict[int, bool] = {}
        for subject, before, after in pairs:
            for one in (before, after):
                if id(one) not in names:
                    names[id(one)] = _uses_names(one)
            named = isinstance(subject, int) and (names[id(before)] or names[id(after)])
            each: Iterable[Ports] = book.each_ports_of(subject) if named and isinstance(subject, int) else ()
            for ports in each or ({},):
                place = (id(before), id(after), frozenset(ports.items()))
                found.setdefault(place, _Subjects(before, after, ports, [])).subjects.append(subject)
        return list(found.values())

    def changes(self, subjects: _Subjects) -> list[VerdictChange]:
        """The verdicts that differ for some subjects."""
        return list(
            changes_of(
                subjects.before,
                subjects.after,
                self._labels,
                families=self._settings.families,
                nodes=self._peers,
                named_ports=subjects.ports,
            )
        )

    def message(self, one: VerdictChange, subject: Subject, subjects: _Subjects) -> pb.VerdictChange:
        """A changed verdict of one subject."""
        if isinstance(subject, str):
            number, labels = identities.HOST, self._nodes[subject]
        else:
            number, labels = subject, self._labels[subject]
        rules = [*rules_of(one.after, subjects.after, one.direction)]
        rules = rules or [*rules_of(one.before, subjects.before, one.direction)]
        return change_message(one, number, labels, rules)


def _place(subject: Subject) -> tuple[int, str]:
    return (identities.HOST, subject) if isinstance(subject, str) else (subject, "")


def _uses_names(policy: SubjectPolicy) -> bool:
    """Whether a policy names ports of its subject."""
    contributions = policy.contributions
    if not isinstance(contributions, GroupedContributions):
        return any(isinstance(one.ports, NamedPort) for one in contributions)
    return any(isinstance(part.ports, NamedPort) for group in contributions.groups for part in group.parts)


def rules_of(
    entry: MapEntry | None, policy: SubjectPolicy, direction: Direction
) -> Iterator[pb.RuleReference]:
    """The rules behind an entry; behind the default deny, those that switch it on."""
    default = entry is None or (entry.action is Action.DENY and not entry.origins)
    numbers = policy.default_deny(direction) if default or entry is None else entry.origins
    action = Action.DENY if entry is None else entry.action
    for number in sorted(numbers):
        if number in policy.origins:
            yield origin_message(policy.origins[number], action)


# --- replay


async def replay_flows(
    state: PolicyState, change: Change, flows: Sequence[pb.RecordedFlow]
) -> pb.ReplayFlowsResponse:
    """Verdicts on recorded flows, now and after the change. Raises NotFound, InvalidArgument."""
    if len(flows) > MAX_FLOWS:
        raise InvalidArgument.of_field("flows", f"holds {len(flows)}; at most {MAX_FLOWS} go at once")
    engine, revision, parties = state.engine, state.revision, parties_of(state)
    refuse_conflicts(engine, change)
    asked = []
    for number, flow in enumerate(flows, start=1):
        asked.append(_question(flow, parties, state))
        if not number % STEP:
            await asyncio.sleep(0)
    questions = [one for one in asked if isinstance(one, Question)]
    before = Candidate(engine) if parties.imagined else None
    sides = _sides(engine, questions)
    after = Candidate(engine, change)
    verdicts = await asyncio.to_thread(
        _replay_both, questions, sides, before, after, parties.imagined, revision
    )
    outcomes = iter(verdicts)
    answers = [
        pb.ReplayedFlow(problem=one) if isinstance(one, str) else _replayed(*next(outcomes)) for one in asked
    ]
    return pb.ReplayFlowsResponse(flows=answers, revision=revision)


def _question(flow: pb.RecordedFlow, parties: Parties, state: PolicyState) -> Question | str:
    """The flow as a question, or why it is none."""
    try:
        return question_of(flow, parties, state)
    except AxonemeError as error:
        return error.message


def _sides(engine: PolicyEngine, questions: Sequence[Question]) -> dict[int, Deciding]:
    """What decides for each party, by the party's id (questions keep them alive)."""
    parties = {id(party): party for one in questions for party in (one.source, one.destination)}
    return {number: deciding(engine, party) for number, party in parties.items()}


def _replay_both(
    questions: Sequence[Question],
    sides: Mapping[int, Deciding],
    before: Candidate | None,
    after: Candidate,
    imagined: Mapping[int, Party],
    revision: int,
) -> list[tuple[FlowVerdict, FlowVerdict]]:
    for candidate in (before, after):
        if candidate is not None:
            imagine(candidate.engine, imagined)
            candidate.resolve(revision)
    now = sides if before is None else _sides(before.engine, questions)
    then = _sides(after.engine, questions)
    old = replay(questions, lambda party: now[id(party)])
    new = replay(questions, lambda party: then[id(party)])
    return list(zip(old, new, strict=True))


def _replayed(old: FlowVerdict, new: FlowVerdict) -> pb.ReplayedFlow:
    found = pb.ReplayedFlow(before=verdict_number(old.verdict), after=verdict_number(new.verdict))
    if old.verdict is not new.verdict:
        for was, now in zip(old.sides, new.sides, strict=True):
            if was.verdict is not now.verdict:
                rules = [*rules_of(now.entry, now.policy, now.direction)] if now.policy else []
                if not rules and was.policy:
                    rules = [*rules_of(was.entry, was.policy, was.direction)]
                found.rules.extend(rules)
    return found
