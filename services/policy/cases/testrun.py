"""Runs test cases: what a case expects against what its policies say.

    Case ──Scene──> verdicts, reasons, policies behind them, outcomes of requests ──> CaseResult with failures

Pure; `testreport` and `junit` print results.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from axoneme.lib.labels import InvalidLabels
from axoneme.lib.policy.model import AuthMode, Direction, Origin
from services.policy.cases.l7 import Outcome
from services.policy.cases.testcase import Case, Flow, RequestCheck
from services.policy.cases.testscene import Scene, sides_of
from services.policy.cases.verdicts import ERROR, NOT_ENFORCED, every_match, names_policy, origin_text

_SIDES: Final = (Direction.EGRESS, Direction.INGRESS)
AUTH_WORDS: Final = {
    None: "none",
    AuthMode.REQUIRED: "spire",
    AuthMode.DISABLED: "disabled",
    AuthMode.ALWAYS_FAIL: "always-fail",
}


class Failure(NamedTuple):
    """One expectation that did not hold. `flow` is empty for one about the case as a whole."""

    flow: str
    what: str
    expected: str
    actual: str
    because: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """What came of a case."""

    name: str
    line: int
    flows: int
    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        """Whether every expectation held."""
        return not self.failures


def run_case(case: Case) -> CaseResult:
    """Check every expectation of a case."""
    try:
        scene = Scene(case)
    except InvalidLabels as error:
        failures = [Failure("", "endpoints", "usable", "not usable", str(error), case.line)]
    else:
        failures = [*_rejections(scene), *_all_flows(scene)]
    return CaseResult(name=case.name, line=case.line, flows=len(case.flows), failures=tuple(failures))


def _rejections(scene: Scene) -> Iterator[Failure]:
    """Policies that were refused although they should not be, or the other way round."""
    case = scene.case
    wanted = set(case.rejected)
    for name, reason in scene.rejected.items():
        if name not in wanted and not case.some_rejected:
            yield Failure("", f"policy {name}", "accepted", "rejected", reason, case.line)
    for name in sorted(wanted - scene.rejected.keys()):
        yield Failure("", f"policy {name}", "rejected", "accepted", "", case.line)
    if case.some_rejected and not scene.rejected:
        yield Failure("", "policies", "one rejected", "all accepted", "", case.line)


def _all_flows(scene: Scene) -> Iterator[Failure]:
    for flow in scene.case.flows:
        arrived = True
        for side in _SIDES:
            verdict, expected = scene.verdict(flow, side), flow.verdicts.get(side)
            arrived = arrived and verdict.forwarded
            if expected is not None and verdict.text != expected:
                why = reason(scene, flow, side)
                yield Failure(str(flow), _word(side), expected, verdict.text, why, flow.line)
        if flow.combined is not None and arrived != flow.combined:
            words = ("arrives", "is dropped")
            yield Failure(str(flow), "combined", *(words if flow.combined else words[::-1]), line=flow.line)
        if flow.auth or flow.matched or flow.requests:
            yield from _details(scene, flow)


def _details(scene: Scene, flow: Flow) -> Iterator[Failure]:
    for side, mode in flow.auth.items():
        verdict = scene.verdict(flow, side)
        if verdict.auth is not mode:
            words = AUTH_WORDS[mode], AUTH_WORDS[verdict.auth]
            yield Failure(str(flow), f"auth_{_word(side)}", *words, reason(scene, flow, side), flow.line)
    for side, names in flow.matched.items():
        yield from _unmatched(scene, flow, side, names)
    for check in flow.requests:
        actual = outcome(scene, flow, check)
        if actual is not check.expect:
            what = f"{_word(check.side) if check.side else 'both sides'}, {check.request}"
            yield Failure(str(flow), what, check.expect, actual, "", flow.line)


def _unmatched(scene: Scene, flow: Flow, side: Direction, names: tuple[str, ...]) -> Iterator[Failure]:
    """All names must have matched, and one of them must be among the winners."""
    view, judgement = scene.view(sides_of(flow, side)[0]), scene.judgement(flow, side)
    winners: tuple[Origin, ...] = ()
    every: tuple[Origin, ...] = ()
    if view is not None and judgement is not None:
        winners, every = view.origins(judgement.winners), view.origins(every_match(judgement))
    missing = [name for name in names if not any(names_policy(name, one) for one in every)]
    decided = any(names_policy(name, one) for name in names for one in winners)
    if missing or (names and not decided):
        actual = ", ".join(sorted({one.name for one in winners})) or "no policy"
        what, why = f"matched {_word(side)}", reason(scene, flow, side)
        yield Failure(str(flow), what, ", ".join(names), actual, why, flow.line)


def outcome(scene: Scene, flow: Flow, check: RequestCheck) -> Outcome:
    """What becomes of a request: the first side that stops it decides."""
    sides = (check.side,) if check.side is not None else _SIDES
    found = [scene.outcome(flow, side, check.request) for side in sides]
    return next((one for one in found if one is not Outcome.ALLOW), Outcome.ALLOW)


def reason(scene: Scene, flow: Flow, side: Direction) -> str:
    """Which rules decided at one side."""
    verdict, subject = scene.verdict(flow, side), sides_of(flow, side)[0]
    if verdict.text == NOT_ENFORCED:
        return f"{subject} is no endpoint that this cluster enforces policies for"
    if verdict.text == ERROR:
        return scene.fault(subject)
    view, judgement = scene.view(subject), scene.judgement(flow, side)
    if view is None or judgement is None:
        return ""
    if judgement.winners:
        return "by " + ", ".join(map(origin_text, view.origins(judgement.winners)))
    if verdict.forwarded:
        return f"no policy locks {_word(side)} of {subject}"
    return "default deny, switched on by " + ", ".join(map(origin_text, view.locked_by(side)))


def _word(side: Direction) -> str:
    return side.name.lower()
