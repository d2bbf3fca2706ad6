"""A scene of the policy engine in the kernel: its endpoints get addresses, its flows become packets."""

from __future__ import annotations

from axoneme.lib.policy.model import Direction
from services.policy.cases.testcase import OUTSIDE, Flow
from services.policy.cases.testscene import Scene, sides_of
from tests.bpf import packets as p
from tests.bpf.harness import Datapath
from tests.bpf.questions import Question, address_of

WIDEST = {4: "0.0.0.0/0", 6: "::/0"}


def introduce(datapath: Datapath, scene: Scene) -> None:
    """The address of every endpoint; those outside keep their own, others get one of each family."""
    for name, endpoint in scene.case.endpoints.items():
        number = scene.numbers[name]
        if endpoint.kind in OUTSIDE:
            bits = 128 if ":" in endpoint.address else 32
            datapath.identity(f"{endpoint.address}/{bits}", number)
            continue
        for v, bits in ((4, 32), (6, 128)):
            datapath.identity(f"{address_of(number, v)}/{bits}", number)


def question_of(scene: Scene, flow: Flow, side: Direction, v: int) -> Question:
    """The packet of a flow; `v` is the family where the flow leaves it open."""
    peer = sides_of(flow, side)[1]
    endpoint = scene.case.endpoints[peer]
    address = endpoint.address if endpoint.kind in OUTSIDE else ""
    if address:
        v = 6 if ":" in address else 4
    elif flow.protocol in (p.ICMP, p.ICMP6):
        v = 4 if flow.protocol == p.ICMP else 6
    return Question(side, scene.numbers[peer], flow.protocol, flow.port, v, address)
