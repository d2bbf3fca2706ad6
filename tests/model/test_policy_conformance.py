"""Verdicts of an existing policy engine for concrete flows and for matrices over all pods.

For every flow four answers agree: the recorded one, the compact look-up of test files, the kernel's look-up
in the finished map, and the brute-force judgement of the contributions. Sets that can be said with IPv6
addresses throughout have the same verdicts then.
"""

from __future__ import annotations

import ipaddress
import json
import re
from functools import cache
from pathlib import Path

import pytest

from axoneme.lib.policy.lookup import lookup
from axoneme.lib.policy.model import Direction
from services.policy.cases.testcase import Case
from services.policy.cases.testfile import read_cases
from services.policy.cases.testrun import run_case
from services.policy.cases.testscene import Scene, sides_of
from services.policy.cases.verdicts import word_of
from tests.conftest import scaled

DATA = Path(__file__).parents[1] / "data" / "conformance"
CHUNKS = 13
# Judging by brute force is slow on purpose; of the many cells of matrices every so-and-so-many-th is judged.
MATRIX_STRIDE = scaled(41, 1)
COUNTS = {"cilium_policies": 403, "k8s_networkpolicy": 203}
chunks = pytest.mark.parametrize("chunk", range(CHUNKS))
files = pytest.mark.parametrize("name", sorted(COUNTS))


@cache
def text_of(name: str) -> str:
    """A data file."""
    return (DATA / f"{name}.json").read_text()


@cache
def cases_of(name: str) -> tuple[Case, ...]:
    """The cases of a data file."""
    return tuple(read_cases(text_of(name)))


@files
def test_no_set_is_missing(name: str) -> None:
    """Both files are whole, and every set has flows."""
    cases = cases_of(name)
    assert len({case.name for case in cases}) == COUNTS[name]
    assert all(case.flows for case in cases)


@files
@chunks
def test_recorded_verdicts(name: str, chunk: int) -> None:
    """What was recorded of verdicts, authentication and the policies behind them holds."""
    failures = {case.name: run_case(case).failures for case in cases_of(name)[chunk::CHUNKS]}
    assert {case: found for case, found in failures.items() if found} == {}


@files
@chunks
def test_map_and_judgement_agree(name: str, chunk: int) -> None:
    """The finished map, read as the kernel reads it, and the contributions themselves say the same."""
    stride = MATRIX_STRIDE if name == "k8s_networkpolicy" else 1
    for case in cases_of(name)[chunk::CHUNKS]:
        compare(case, stride)


def compare(case: Case, stride: int) -> None:
    """Compare all ways to a verdict for the flows of a case."""
    scene = Scene(case)
    for flow in case.flows[::stride]:
        for side in Direction:
            subject, peer = sides_of(flow, side)
            view = scene.view(subject)
            if view is None:
                continue
            question = (side, scene.numbers[peer], flow.protocol, flow.port)
            verdict, judged = view.verdict(*question), view.judgement(*question)
            found = lookup(view.entries, *question)
            where = f"{case.name}: {flow} {side.name.lower()}"
            assert (verdict.key, verdict.entry) == (found.key, found.entry), where
            assert (verdict.text, verdict.forwarded) == (word_of(judged), judged.forwarded), where
            assert (verdict.auth, found.forwarded) == (judged.auth, judged.forwarded), where
            assert verdict.auth is flow.auth.get(side), where
            if found.entry is not None and judged.winners:
                behind = {number for one in judged.winners for number in one.origins}
                assert found.entry.origins <= behind, where
                assert found.entry.redirect == judged.redirect, where


_SIX = int(ipaddress.IPv6Address("64:ff9b::"))
_FOUR = re.compile(r'"(\d+\.\d+\.\d+\.\d+)(?:/(\d+))?"')
_BOUND_TO_A_FAMILY = re.compile(r'0\.0\.0\.0/0|::/0|world-ipv[46]|"ipv[46]":|"2001:')


def in_six(text: str) -> str:
    """A case with every IPv4 address and prefix moved to 64:ff9b::/96."""

    def moved(found: re.Match[str]) -> str:
        address = ipaddress.IPv6Address(_SIX + int(ipaddress.IPv4Address(found[1])))
        return f'"{address}/{96 + int(found[2])}"' if found[2] else f'"{address}"'

    return _FOUR.sub(moved, text)


@cache
def twins_of(name: str) -> tuple[Case, ...]:
    """Those cases that say nothing about a family, in IPv6."""
    raw = [json.dumps(case) for case in json.loads(text_of(name))["cases"]]
    told = [in_six(text) for text in raw if _FOUR.search(text) and not _BOUND_TO_A_FAMILY.search(text)]
    return tuple(read_cases(f"[{','.join(told)}]"))


@files
def test_the_same_verdicts_in_ipv6(name: str) -> None:
    """The family of addresses changes nothing."""
    twins = twins_of(name)
    assert len(twins) >= 90
    failures = {case.name: run_case(case).failures for case in twins}
    assert {case: found for case, found in failures.items() if found} == {}
