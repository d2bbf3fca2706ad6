"""The optional short cuts, switched on in a running laboratory: same packets, same verdicts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from axoneme.api.clustermesh.v1 import clustermesh_pb2 as pb
from tests.e2e import outside as machine
from tests.e2e import policies
from tests.e2e.outside import NETNS as OUTSIDE
from tests.e2e.running import Running
from tests.e2e.services import (
    BACKEND_PORT,
    ask,
    ask_from,
    connected,
    echoing,
    eventually_answers,
    mirrors,
    node_ip,
    node_port,
    service,
    stopped,
    who,
)
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

VERSIONS = pytest.mark.parametrize("version", [4, 6])
BOTH = ("backend", "backend-near")


@pytest.fixture(scope="module")
def accelerated(laboratory_of_the_session: Running) -> Iterator[Running]:
    """The laboratory with XDP at the uplinks and data passed between sockets; without again afterwards."""
    lab = laboratory_of_the_session
    lab.reconfigure_nodes(xdp="generic", sockmap=True)
    yield lab
    lab.reconfigure_nodes()


@pytest.fixture
def fast(accelerated: Running) -> Running:
    accelerated.delete_all_policies()
    return accelerated


def test_the_node_says_what_is_attached(fast: Running) -> None:
    for node in fast.cluster.nodes:
        assert not fast.problems(node.name)


@VERSIONS
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_strangers_are_served_through_the_driver(fast: Running, version: int, kind: str) -> None:
    lab = fast
    with (
        machine.outside(lab),
        mirrors(lab, *BOTH),
        service(lab, "web", pods=BOTH, type=pb.SERVICE_TYPE_NODE_PORT) as web,
    ):
        host, port = node_ip(lab, "node1", version), node_port(web, kind)
        eventually_sync(lambda: "none" not in who(ask_from(OUTSIDE, host, port, kind=kind, count=1)))
        assert who(ask_from(OUTSIDE, host, port, kind=kind, count=40)) == set(BOTH)


@VERSIONS
def test_a_policy_change_cuts_what_sockets_pass(fast: Running, version: int) -> None:
    """Two pods of one node: their data does not pass the programs that judge packets any more."""
    lab = fast
    place = lab.ip("backend-near", version)
    with echoing(lab, "backend-near"):
        eventually_answers(lab, "frontend", place, BACKEND_PORT, kind="echo")
        with connected(lab, "frontend", place, BACKEND_PORT) as count:
            before = count()
            eventually_sync(lambda: count() > before + 50, message="data flows")
        lab.in_force(policies.allow("backend-near", "batch", BACKEND_PORT))
        assert stopped(lab, "frontend", place, BACKEND_PORT, kind="echo")
        assert who(ask(lab, "batch", place, BACKEND_PORT, kind="echo", count=1)) == {"echo"}
