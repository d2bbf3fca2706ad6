"""A node's network: made, told, looked after; a failure keeps nothing else from working."""

from __future__ import annotations

from dataclasses import replace

from axoneme.lib.errors import Unavailable
from shim.datapath import MemoryDatapath
from shim.network import NetworkFacts, NetworkSettings
from shim.nodenetwork import NodeNetwork

FACTS = NetworkFacts(uplink="eth0", uplink_ifindex=7, repaired=("uplink: axoneme_from_netdev",))


class Datapath(MemoryDatapath):
    """Answers what a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[NetworkFacts | Unavailable] = []

    async def set_up_network(self, settings: NetworkSettings) -> NetworkFacts:
        answer = self.answers.pop(0)
        if isinstance(answer, Unavailable):
            raise answer
        return answer


def network(*answers: NetworkFacts | Unavailable) -> tuple[NodeNetwork, list[NetworkFacts]]:
    datapath, told = Datapath(), list[NetworkFacts]()
    datapath.answers = list(answers)
    return NodeNetwork(datapath, NetworkSettings(), told.append), told


async def test_a_failure_is_a_problem_until_it_works() -> None:
    made, told = network(Unavailable("the helper is away"), FACTS)
    await made.bring_up()
    assert "the helper is away" in made.problems()[0]
    await made.retry()
    assert made.problems() == []
    assert told == [FACTS]
    await made.retry()


async def test_what_was_asked_for_and_is_not_there_is_told() -> None:
    made, _ = network(replace(FACTS, missing={"xdp": "the driver cannot"}))
    await made.bring_up()
    assert made.problems() == ["xdp is switched on, but is not there: the driver cannot"]


async def test_the_audit_finds_what_somebody_took_away() -> None:
    again = replace(FACTS, repaired=(), attached=("1", "uplink"))
    moved = replace(again, overlay_ifindex=9, repaired=("overlay: axoneme_to_overlay",))
    made, told = network(FACTS, again, moved, replace(moved, repaired=()))
    await made.bring_up()
    assert await made.audit() == [], "the first time nothing was repaired"
    assert await made.audit() == [
        "network: overlay: axoneme_to_overlay: missing, attached again",
        "network: overlay_ifindex: was 0, is 9",
    ]
    assert await made.audit() == []
    assert told == [FACTS, again, moved]
