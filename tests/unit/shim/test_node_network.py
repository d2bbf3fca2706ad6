"""A node's network: made, told, looked after; a failure keeps nothing else from working."""

from __future__ import annotations

from dataclasses import replace

import pytest

from axoneme.lib.errors import Unavailable
from shim.memorydatapath import MemoryDatapath
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


EVERYTHING = NetworkSettings(
    routing_mode="tunnel",
    services=True,
    masquerade=True,
    host_routing=True,
    socket_lb=True,
    sockmap=True,
    xdp="native",
    dns_proxy=True,
)


@pytest.mark.parametrize(
    ("feature", "option", "part"),
    [
        ("vxlan", "routing_mode tunnel", "overlay"),
        ("cgroup_connect6", "socket_lb", "sock"),
        ("cgroup_recvmsg4", "socket_lb", "sock"),
        ("sockmap", "sockmap", "sockmap"),
        ("xdp_native", "xdp native", "xdp"),
        ("bpf_loop", "masquerade", "netdev"),
        ("redirect_peer", "host_routing", ""),
        ("sk_assign", "dns_proxy", ""),
        ("skc_lookup_tcp", "dns_proxy", ""),
    ],
)
async def test_a_missing_feature_is_told_by_the_option_that_needs_it(
    feature: str, option: str, part: str
) -> None:
    datapath = Datapath()
    missing = {part: "Invalid argument"} if part else {}
    datapath.answers = [replace(FACTS, missing=missing)]
    made = NodeNetwork(datapath, EVERYTHING, lambda _: None)
    made.set_features({feature: "Linux 9.9", "tcx": "yes"})
    await made.bring_up()
    told = f"{option} needs {feature}, which this node lacks (Linux 9.9); the node works without"
    assert made.problems() == [told]


async def test_without_cgroups_two_options_are_told() -> None:
    made = NodeNetwork(MemoryDatapath(), EVERYTHING, lambda _: None)
    made.set_features({"cgroup2": "no cgroup v2 is mounted"})
    await made.bring_up()
    assert [text.partition(" ")[0] for text in made.problems()] == ["socket_lb", "sockmap"]


async def test_what_is_attached_is_not_lacking() -> None:
    """Whether a driver runs XDP programs itself is a guess by its name."""
    datapath = Datapath()
    datapath.answers = [replace(FACTS, attached=("uplink", "xdp"))]
    made = NodeNetwork(datapath, EVERYTHING, lambda _: None)
    made.set_features({"xdp_native": "driver foo is not known", "bpf_loop": "no"})
    await made.bring_up()
    assert made.problems() == []


async def test_what_nobody_asked_for_is_not_lacking() -> None:
    made = NodeNetwork(MemoryDatapath(), NetworkSettings(xdp="native", socket_lb=True), lambda _: None)
    made.set_features(dict.fromkeys(("vxlan", "sockmap", "xdp_native", "cgroup2", "redirect_peer"), "no"))
    await made.bring_up()
    assert made.problems() == []


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
