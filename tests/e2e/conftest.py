"""One laboratory for all end-to-end tests; each begins without policies and ends with everything running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from axoneme.client.context import SYSTEM_LAB_DIRECTORY
from axoneme.lab import laboratory, topology
from axoneme.lab.processes import alive
from axoneme.lab.progress import Progress
from tests.e2e import running
from tests.e2e.running import Running
from tests.waiting import eventually_sync

LEASE_SECONDS = 5
TOPOLOGY = {
    "clusters": [
        {
            "name": "east",
            "settings": {
                "identity": {
                    "node_lease_seconds": LEASE_SECONDS,
                    "redeclare_grace_seconds": 5,
                    "collect_seconds": 2,
                }
            },
            "nodes": [
                {"name": "node1", "pods": ["frontend", "batch", "backend-near", "dns-near"]},
                {"name": "node2", "pods": ["backend", "dns"]},
            ],
        }
    ]
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e" in item.path.as_posix():
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def laboratory_of_the_session() -> Iterator[Running]:
    wanted = topology.from_document(TOPOLOGY, where="tests")
    state = laboratory.up(wanted, SYSTEM_LAB_DIRECTORY, Progress(quiet=True))
    view = running.opened(state)
    try:
        yield view
    finally:
        view.client.close()
        laboratory.down(SYSTEM_LAB_DIRECTORY, Progress(quiet=True))


@pytest.fixture
def lab(laboratory_of_the_session: Running) -> Iterator[Running]:
    """The laboratory without policies. What a test killed is started again for the next one."""
    view = laboratory_of_the_session
    view.delete_all_policies()
    yield view
    for process in list(view.state.processes):
        if not alive(process):
            view.start(process.name)
    view.wait_ready()
    # A restarted etcd is found again by its clients only after a pause.
    eventually_sync(view.takes_changes, seconds=20, message="the policy service reaches its store")
