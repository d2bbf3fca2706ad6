"""What is wrong with policy files, and which traps they hold, as far as it shows without a cluster.

    texts ──> every fault of each ──> traps in what was read ──> references, repetitions, conflicts among all

An error is what `axoneme policy apply` would refuse; a warning refuses nothing. Every finding has its file,
line and path. Pure; `testcli` reads the files and prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

from axoneme.lib.labels import LabelSet
from axoneme.lib.selectors import LabelSelector
from services.policy.cases.places import Places
from services.policy.cases.witness import witness
from services.policy.inputs import CidrGroup, CloudGroup
from services.policy.reading.document import Json
from services.policy.reading.faults import InvalidPolicy
from services.policy.reading.objects import parse_objects
from services.policy.resolution.bind import BindContext, BoundRule, bind
from services.policy.resolution.bindpeers import unresolved
from services.policy.resolution.conflicts import Conflict, conflicts_among
from services.policy.rules import ParsedPolicy, PolicyKey
from services.policy.warnings import of_policy

MAX_COMPARED_RULES: Final = 200
"""Rules with L7 or authentication beyond this number are compared with equal subjects only."""
_PATH: Final = re.compile(r"specs?(\[\d+\])?(\.[A-Za-z]+(\[\d+\])?)*")
_OUTSIDE_FILES: Final = "service"


class Text(NamedTuple):
    """A file by name."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault (`error`) or warning, and where it is. `path` and `fix` may be empty."""

    file: str
    line: int
    error: bool
    reason: str
    path: str = ""
    policy: str = ""
    fix: str = ""

    def __str__(self) -> str:
        word = "error" if self.error else "warning"
        parts = [f"{self.file}:{self.line}", word, self.policy, self.path]
        fix = f"; {self.fix}" if self.fix else ""
        return ": ".join(part for part in parts if part) + f": {self.reason}{fix}"


class _Read(NamedTuple):
    """An object that was read, and where it stands."""

    object: ParsedPolicy | CidrGroup | CloudGroup
    file: str
    position: int
    places: Places

    def finding(self, reason: str, *, path: str = "", error: bool = False, fix: str = "") -> Finding:
        return Finding(
            file=self.file,
            line=self.places.line(self.position, path),
            error=error,
            reason=reason,
            path=path,
            policy=str(self.object.key),
            fix=fix,
        )


def validate(texts: Iterable[Text], default_namespace: str = "default") -> list[Finding]:
    """Everything that is to be said about files, in their order."""
    found: list[Finding] = []
    read: list[_Read] = []
    order: dict[str, int] = {}
    for one in texts:
        order.setdefault(one.name, len(order))
        try:
            objects = parse_objects(one.text, default_namespace)
        except InvalidPolicy as error:
            found += _errors(one.name, error)
            continue
        places = Places(one.text)
        read += [_Read(parsed, one.name, index, places) for index, parsed in enumerate(objects)]
    found += [*_traps(read), *_repetitions(read), *_references(read), *_conflicts(read)]
    return sorted(found, key=lambda one: (order[one.file], one.line, not one.error, one.path, one.reason))


def _errors(file: str, error: InvalidPolicy) -> list[Finding]:
    return [
        Finding(file=file, line=one.line, error=True, reason=one.reason, path=one.path, fix=one.fix)
        for one in error.faults
    ]


def _policies(read: Iterable[_Read]) -> Iterator[tuple[_Read, ParsedPolicy]]:
    for one in read:
        if isinstance(one.object, ParsedPolicy):
            yield one, one.object


def _traps(read: Sequence[_Read]) -> Iterator[Finding]:
    for one, policy in _policies(read):
        for text in of_policy(policy):
            start = _PATH.match(text)
            path = start[0] if start else ""
            yield one.finding(text.removeprefix(path).lstrip(), path=path)


def _repetitions(read: Sequence[_Read]) -> Iterator[Finding]:
    first: dict[PolicyKey, _Read] = {}
    for one in read:
        known = first.setdefault(one.object.key, one)
        if known is not one:
            where = f"{known.file}:{known.places.line(known.position)}"
            yield one.finding(f"is also in {where}; the one that is applied last replaces the other")


def _context(read: Sequence[_Read]) -> BindContext:
    return BindContext(
        cidr_groups={one.object.key: one.object for one in read if isinstance(one.object, CidrGroup)},
        cloud_groups={one.object.key: one.object for one in read if isinstance(one.object, CloudGroup)},
    )


def _references(read: Sequence[_Read]) -> Iterator[Finding]:
    """Groups that are not among the files. Services never are, so nothing can be said about them."""
    context = _context(read)
    for one, policy in _policies(read):
        for entry in (entry for rule in policy.rules for entry in rule.entries):
            for text in unresolved(entry.peers, context):
                if not text.startswith(_OUTSIDE_FILES):
                    reason = f"refers to {text}, of which these files have no address: it may select nobody"
                    yield one.finding(reason, path=entry.path)


def _conflicts(read: Sequence[_Read]) -> Iterator[Finding]:
    """Rules that contradict each other for some subject that both select (R-48)."""
    context = _context(read)
    read_by_key = {policy.key: one for one, policy in _policies(read)}
    rules = [rule for _, policy in _policies(read) for rule in bind(policy, context)]
    for conflict in sorted(_among(rules)):
        origin = conflict.second
        one = read_by_key[PolicyKey(origin.kind, origin.namespace, origin.name)]
        yield one.finding(str(conflict), path=origin.rule, error=True)


def _among(rules: Sequence[BoundRule]) -> set[Conflict]:
    claiming = [rule for rule in rules if any(entry.claims for entry in rule.entries)]
    return {
        conflict
        for subject in _subjects(claiming)
        for conflict in conflicts_among(
            entry
            for rule in rules
            if rule.rule.of_nodes == subject.of_nodes and rule.rule.subject.matches(subject.labels)
            for entry in rule.entries
        )
    }


class _Subject(NamedTuple):
    of_nodes: bool
    labels: LabelSet


def _subjects(claiming: Sequence[BoundRule]) -> set[_Subject]:
    """Subjects that one or two of the rules select."""
    groups: list[tuple[bool, tuple[LabelSelector, ...]]] = [
        (rule.rule.of_nodes, (rule.rule.subject,)) for rule in claiming
    ]
    groups += [
        (one.rule.of_nodes, (one.rule.subject, other.rule.subject))
        for one, other in combinations(claiming[:MAX_COMPARED_RULES], 2)
        if one.rule.of_nodes == other.rule.of_nodes
    ]
    return {
        _Subject(of_nodes, labels)
        for of_nodes, selectors in dict.fromkeys(groups)
        if (labels := witness(selectors)) is not None
    }


def findings_json(findings: Sequence[Finding]) -> Json:
    """The findings as plain data."""
    plain: list[Json] = [
        {
            "file": one.file,
            "line": one.line,
            "severity": "error" if one.error else "warning",
            "policy": one.policy,
            "path": one.path,
            "reason": one.reason,
            "fix": one.fix,
        }
        for one in findings
    ]
    errors = sum(one.error for one in findings)
    return {"errors": errors, "warnings": len(findings) - errors, "findings": plain}
