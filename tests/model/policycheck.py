"""Asks the oracle and the engine the same questions about a case, and says where they disagree.

case ──> Oracle (plain dictionaries)                                     ──┐
     └─> readers, engine, finish, look-up (Scene) and the judge of packets ┴─> disagreements
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from axoneme.lib.policy.judge import judge
from axoneme.lib.policy.model import (
    ANY_IDENTITY,
    AnyPeer,
    AuthMode,
    Contribution,
    Direction,
    NamedPort,
    one_port,
)
from services.policy.cases.testcase import Flow
from services.policy.cases.testflows import read_flow_case
from services.policy.cases.testscene import Scene, sides_of
from services.policy.cases.verdicts import AUDIT, ERROR, NOT_ENFORCED, Verdict
from services.policy.reading.document import from_plain
from services.policy.reading.faults import Fault
from services.policy.reading.fields import Fields
from tests.model.oracle import Answer, Oracle

AUTH = {
    None: "",
    AuthMode.REQUIRED: "spire",
    AuthMode.DISABLED: "disabled",
    AuthMode.ALWAYS_FAIL: "test-always-fail",
}

BUILT_IN = "allow-localhost"


def scene_of(case: Mapping[str, Any]) -> Scene:
    """A case brought to life by the engine; every policy of it must be accepted."""
    faults: list[Fault] = []
    read = read_flow_case(from_plain(dict(case)), "case", Fields(faults))
    assert read is not None, faults
    scene = Scene(read)
    assert not scene.rejected, scene.rejected
    return scene


def text_of(answer: Answer) -> str:
    """A verdict of the oracle in the words of test files."""
    return "audit" if answer.audit else answer.verdict


def disagreements(case: Mapping[str, Any]) -> Iterator[str]:
    """Every verdict and mode of authentication that the engine's maps give and the oracle does not."""
    scene, oracle = scene_of(case), Oracle(case)
    for flow, plain in zip(scene.case.flows, case["flows"], strict=True):
        for side in Direction:
            answer = ask(oracle, plain, side)
            found = scene.verdict(flow, side)
            where = f"{case.get('id', 'case')}: {flow} {side.name.lower()}"
            if found.text != text_of(answer):
                yield f"{where}: the oracle says {text_of(answer)}, the map {found.text} ({found.entry})"
            elif not answer.audit and AUTH[found.auth] != answer.auth:
                yield f"{where}: authentication {answer.auth!r}, in the map {AUTH[found.auth]!r}"
            else:
                yield from _origins(scene, flow, side, answer, where)
            yield from _judged(scene, flow, side, found, where)


def ask(oracle: Oracle, flow: Mapping[str, Any], side: Direction) -> Answer:
    """The oracle's answer about one side of a flow."""
    ends = (flow["from"], flow["to"]) if side is Direction.EGRESS else (flow["to"], flow["from"])
    return oracle.verdict(side.name.lower(), *ends, flow["proto"], flow["port"])


def _origins(scene: Scene, flow: Flow, side: Direction, answer: Answer, where: str) -> Iterator[str]:
    """The policies that an entry names are among those that decide."""
    entry = scene.verdict(flow, side).entry
    if entry is None or not entry.origins:
        return
    view = scene.view(flow.source if side is Direction.EGRESS else flow.target)
    assert view is not None
    named = {view.policy.origins[number].name for number in entry.origins} - {BUILT_IN}
    if not named <= answer.strongest:
        yield f"{where}: the entry names {sorted(named)}, decisive are {sorted(answer.strongest)}"


def _judged(scene: Scene, flow: Flow, side: Direction, found: Verdict, where: str) -> Iterator[str]:
    """What the judge of single packets says is what the map says."""
    subject, peer = sides_of(flow, side)
    view = scene.view(subject) if found.text not in (NOT_ENFORCED, ERROR) else None
    if view is None:
        return
    judged = judge(
        view.policy,
        side,
        scene.numbers[peer],
        flow.protocol,
        flow.port,
        local_identities=view.local_identities,
        named_ports=view.named_ports,
    )
    redirect = found.entry.redirect if found.entry is not None else None
    audit = found.text == AUDIT
    auth = None if audit else found.auth
    got = (judged.forwarded, judged.audit, judged.redirect, None if audit else judged.auth)
    if got != (found.forwarded, audit, redirect, auth):
        yield f"{where}: the judge says {judged}, the map {found.text} ({found.entry})"
    yield from _unnamed(judged.winners, view.named_ports, found, where)


def _unnamed(
    winners: Iterable[Contribution], named_ports: Mapping[tuple[int, str], int], found: Verdict, where: str
) -> Iterator[str]:
    """The entry names every deciding rule that is about the very peer and ports of the entry."""
    if found.key is None or found.entry is None:
        return
    for one in winners:
        ports = one.ports
        if isinstance(ports, NamedPort):
            ports = one_port(ports.protocol, named_ports[ports.protocol, ports.name])
        of_everyone = isinstance(one.peer, AnyPeer)
        alike = ports == found.key.ports and of_everyone == (found.key.identity == ANY_IDENTITY)
        if alike and not one.origins <= found.entry.origins:
            yield f"{where}: the entry {found.entry} does not name {one}"
