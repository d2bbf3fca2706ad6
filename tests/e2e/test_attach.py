"""RC-ATTACH (CVE-2023-27595): nothing denied passes, nothing allowed is lost while programs change.

Two floods of UDP run all the time, one allowed and one denied, over IPv4 and IPv6.
"""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from shim.privileged import protocol
from shim.privileged.client import HelperClient
from tests.conftest import scaled
from tests.e2e.policies import ALLOW_FRONTEND
from tests.e2e.running import Running
from tests.e2e.test_faults import ask, ready
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.root, pytest.mark.etcd]

FLOOD_PER_SECOND = 2_000
NODES = ("node2", "node1")


def replace_programs(lab: Running, node: str) -> None:
    """Loads every program anew and puts it in the place of the one that is attached."""
    helper = HelperClient(lab.state.files(lab.cluster).node(node) / "helper.sock")
    try:
        helper.call(protocol.LoadPrograms(replace=True))
    finally:
        helper.close()


@pytest.mark.parametrize("version", [4, 6])
def test_floods_see_no_gap(lab: Running, version: int) -> None:
    lab.apply(ALLOW_FRONTEND)
    backend, frontend = lab.ip("backend", version), lab.ip("frontend", version)
    rate = str(FLOOD_PER_SECOND)
    with ready(lab.python("backend", "udp-sink", "9001")) as sink, ExitStack() as floods:
        allowed = floods.enter_context(ready(lab.python("frontend", "udp-flood", backend, "9001", rate)))
        denied = floods.enter_context(ready(lab.python("batch", "udp-flood", backend, "9001", rate)))
        for swap in range(scaled(20, 200)):
            replace_programs(lab, NODES[swap % 2])
        for kill in range(scaled(3, 20)):
            lab.kill_shim(NODES[kill % 2])
        sent, kept = int(ask(allowed)), int(ask(denied))
        assert sent > FLOOD_PER_SECOND
        assert kept > FLOOD_PER_SECOND
        eventually_sync(
            lambda: json.loads(ask(sink)) == {frontend: sent}, message=f"exactly {sent} packets arrive"
        )
