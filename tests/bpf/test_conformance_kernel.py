"""2,000 recorded verdicts, drawn at random, decided by the kernel itself.

    conformance case -> readers, engine, finish -> policy map in the kernel -> BPF_PROG_TEST_RUN -> verdict

A recorded redirect is a drop with a reason of its own as long as the node has no proxy.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from axoneme.lib.policy.model import Direction
from services.policy.cases.testcase import Flow
from services.policy.cases.testscene import Scene, sides_of
from tests.bpf.harness import Datapath
from tests.bpf.questions import DROP_OF, ask_kernel, decision_on, expected_of
from tests.bpf.scenequestions import introduce, question_of
from tests.conftest import scaled
from tests.model.policycheck import scene_of
from tests.model.test_policy_oracle_conformance import pods_of, wanted

pytestmark = [pytest.mark.root, pytest.mark.slow]

FOLDER = Path(__file__).parents[1] / "data" / "conformance"
SEED = 20_260_101
REDIRECT_WITHOUT_PROXY = 180
FLOWS, MATRIX_CELLS = 1_500, 500


class Recorded(NamedTuple):
    """One verdict of a case."""

    flow: dict[str, Any]
    side: str
    expected: str


def recorded_flows() -> Iterator[tuple[dict[str, Any], Recorded]]:
    """Every enforced side of every recorded flow, with its case."""
    for case in json.loads((FOLDER / "cilium_policies.json").read_text())["cases"]:
        for flow in case["flows"]:
            for side in ("ingress", "egress"):
                if flow["expect"][side] != "none":
                    yield case, Recorded(flow, side, flow["expect"][side])


def recorded_cells() -> Iterator[tuple[dict[str, Any], Recorded]]:
    """Every cell of every reachability matrix, by direction."""
    for case in json.loads((FOLDER / "k8s_networkpolicy.json").read_text())["cases"]:
        pods = pods_of(case)
        world = {"id": case["id"], "config": {}, "endpoints": pods, "policies": case["policies"]}
        for where, rows in wanted(case).items():
            proto, port = where.split("/")
            for side in ("ingress", "egress"):
                for source, row in zip(pods, rows[side], strict=True):
                    for target, cell in zip(pods, row, strict=True):
                        flow = {"from": source, "to": target, "proto": proto, "port": int(port)}
                        yield world, Recorded(flow, side, "allow" if cell == "1" else "deny")


def drawn(
    found: Iterator[tuple[dict[str, Any], Recorded]], count: int
) -> list[tuple[dict[str, Any], list[Recorded]]]:
    """Some of the verdicts, by their cases."""
    chosen = random.Random(SEED).sample(list(found), count)
    by_case: dict[str, tuple[dict[str, Any], list[Recorded]]] = {}
    for case, one in chosen:
        by_case.setdefault(case["id"], (case, []))[1].append(one)
    return list(by_case.values())


def check(datapath: Datapath, case: dict[str, Any], asked: list[Recorded], rng: random.Random) -> None:
    """Load each subject's map in turn and send its packets."""
    scene = scene_of({**case, "flows": [one.flow for one in asked]})
    datapath.reset()
    introduce(datapath, scene)
    loaded = ""
    order = sorted(zip(scene.case.flows, asked, strict=True), key=lambda pair: subject_of(*pair))
    for flow, one in order:
        subject = subject_of(flow, one)
        view = scene.view(subject)
        assert view is not None
        if subject != loaded:
            datapath.forget_connections()
            datapath.policy(view.entries)
            loaded = subject
        ask(datapath, scene, flow, one, rng)


def subject_of(flow: Flow, one: Recorded) -> str:
    """The endpoint whose policy is asked."""
    return sides_of(flow, Direction[one.side.upper()])[0]


def ask(datapath: Datapath, scene: Scene, flow: Flow, one: Recorded, rng: random.Random) -> None:
    """One packet, once for each family that it may have."""
    side = Direction[one.side.upper()]
    view = scene.view(subject_of(flow, one))
    assert view is not None
    question = question_of(scene, flow, side, rng.choice((4, 6)))
    decision = decision_on(view.entries, question)
    passed = ask_kernel(datapath, question, decision)
    where = (scene.case.name, one)
    if one.expected.startswith("redirect:"):
        assert not passed, where
        assert DROP_OF[decision.action] == REDIRECT_WITHOUT_PROXY, where
        redirect = decision.entry.redirect if decision.entry is not None else None
        assert redirect is not None, where
        assert one.expected == f"redirect:{redirect.parser}", where
    else:
        assert passed == (one.expected == "allow"), where
    assert passed == expected_of(decision), where


@pytest.mark.parametrize("part", range(4))
def test_recorded_flows_of_all_policies(loaded_datapath: Datapath, part: int) -> None:
    """1,500 of the verdicts of CNP, CCNP, NetworkPolicy and ClusterNetworkPolicy sets."""
    rng = random.Random(SEED + part)
    for case, asked in drawn(recorded_flows(), scaled(FLOWS, 5 * FLOWS))[part::4]:
        check(loaded_datapath, case, asked, rng)


def test_recorded_cells_of_network_policies(loaded_datapath: Datapath) -> None:
    """500 of the cells of the reachability matrices."""
    rng = random.Random(SEED)
    for case, asked in drawn(recorded_cells(), scaled(MATRIX_CELLS, 20 * MATRIX_CELLS)):
        check(loaded_datapath, case, asked, rng)
