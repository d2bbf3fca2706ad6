"""A cluster of one IP family: pods, policy, services and strangers work without the other one.

Each family has a laboratory of its own, after the common one has gone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from axoneme.client.context import SYSTEM_LAB_DIRECTORY
from axoneme.lab import laboratory, topology
from axoneme.lab.progress import Progress
from tests.e2e import policies, running
from tests.e2e.running import Running
from tests.e2e.services import BACKEND_PORT, address, ask, eventually_answers, mirrors, service, stopped, who

pytestmark = [pytest.mark.root, pytest.mark.etcd]

POOLS = {4: "10.1.0.0/16/24", 6: "fd00:10:1::/48/64"}
SERVICES = {4: "172.20.1.0/24", 6: "fd00:20:1::/112"}


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def alone(family: int) -> Iterator[Running]:
    nodes = [
        {"name": "node1", "pods": ["frontend", "batch"]},
        {"name": "node2", "pods": ["backend"]},
    ]
    settings = {
        "identity": {"pod_cidr_pools": [POOLS[family]]},
        "clustermesh": {"service_cidrs": [SERVICES[family]]},
    }
    document = {"clusters": [{"name": "east", "settings": settings, "nodes": nodes}]}
    wanted = topology.from_document(document, where="tests")
    state = laboratory.up(wanted, SYSTEM_LAB_DIRECTORY, Progress(quiet=True))
    view = running.opened(state)
    try:
        yield view
    finally:
        view.client.close()
        laboratory.down(SYSTEM_LAB_DIRECTORY, Progress(quiet=True))


def test_one_family_is_enough(alone: Running, family: int) -> None:
    lab = alone
    assert {":" in ip for ips in lab.state.ips_by_pod.values() for ip in ips} == {family == 6}
    lab.becomes_reachable("frontend", "backend", family)
    with mirrors(lab, "backend"), service(lab, "web", selector={"app": "backend"}) as web:
        vip = address(web, family)
        assert len(web.cluster_ips) == 1
        for sockets in (True, False):
            eventually_answers(lab, "frontend", vip, sockets=sockets)
        lab.in_force(policies.allow("backend", "frontend", BACKEND_PORT))
        for sockets in (True, False):
            assert who(ask(lab, "frontend", vip, sockets=sockets, count=3)) == {"backend"}
            assert stopped(lab, "batch", vip, sockets=sockets)
