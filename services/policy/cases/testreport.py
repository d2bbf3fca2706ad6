"""Results of test files as lines for people and as JSON for programs.

A failed case is printed with each expectation that did not hold: the flow, what was expected, what the
policies say and which rule says so. Pure; `testcli` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.policy.cases.testrun import CaseResult, Failure
from services.policy.reading.document import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class FileResult:
    """What came of a file. `seconds` is the time that its cases took."""

    name: str
    cases: tuple[CaseResult, ...]
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """How many cases failed."""
        return sum(not case.passed for case in self.cases)


def report_lines(files: Sequence[FileResult], *, quiet: bool = False) -> Iterator[str]:
    """The report; a quiet one leaves out what passed."""
    for file in files:
        for case in file.cases:
            if case.passed:
                if not quiet:
                    yield f"PASS {file.name}: {case.name} ({_count(case.flows, 'flow')})"
                continue
            yield f"FAIL {_place(file.name, case.line)}: {case.name}"
            for failure in case.failures:
                yield from _failure_lines(file.name, failure)
    yield summary(files)


def summary(files: Sequence[FileResult]) -> str:
    """One line about everything."""
    cases = sum(len(file.cases) for file in files)
    failed = sum(file.failed for file in files)
    flows = sum(case.flows for file in files for case in file.cases)
    seconds = sum(file.seconds for file in files)
    outcome = f"{failed} of {_count(cases, 'case')} failed" if failed else f"{_count(cases, 'case')} passed"
    return f"{outcome}, {_count(flows, 'flow')}, {seconds:.1f} s"


def _failure_lines(file_name: str, failure: Failure) -> Iterator[str]:
    where = f"{failure.flow}, " if failure.flow else ""
    yield f"  {where}{failure.what}: expected {failure.expected}, got {failure.actual}"
    if failure.because:
        yield f"    {failure.because}"
    if failure.line > 1:
        yield f"    at {_place(file_name, failure.line)}"


def _place(name: str, line: int) -> str:
    # Data read as JSON has no lines of its own.
    return f"{name}:{line}" if line > 1 else name


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def as_json(files: Sequence[FileResult]) -> Json:
    """The results as plain data."""
    return {
        "passed": sum(len(file.cases) - file.failed for file in files),
        "failed": sum(file.failed for file in files),
        "seconds": round(sum(file.seconds for file in files), 3),
        "files": [
            {
                "name": file.name,
                "seconds": round(file.seconds, 3),
                "cases": [_case(one) for one in file.cases],
            }
            for file in files
        ],
    }


def _case(case: CaseResult) -> Json:
    failures: list[Json] = [
        {
            "flow": one.flow,
            "what": one.what,
            "expected": one.expected,
            "actual": one.actual,
            "because": one.because,
            "line": one.line,
        }
        for one in case.failures
    ]
    return {"name": case.name, "line": case.line, "flows": case.flows, "failures": failures}
