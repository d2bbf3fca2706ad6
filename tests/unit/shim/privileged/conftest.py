"""A node in a namespace of its own, with an uplink of both families."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.privileged import protocol
from shim.privileged.client import HelperClient
from tests.unit.shim.nodelab import NodeLab, ip

UPLINK_IPS = ("192.0.2.1", "2001:db8::1")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[NodeLab]:
    made = NodeLab(tmp_path, name=f"axt-f-{uuid.uuid4().hex[:8]}")
    try:
        add_uplink(made)
        yield made
    finally:
        made.close()


@pytest.fixture
def helper(lab: NodeLab) -> Iterator[HelperClient]:
    client = lab.start_helper()
    client.call(protocol.SetUpNode(router_ips=("10.91.0.1", "fd00:91::1")))
    yield client
    client.close()


def add_uplink(lab: NodeLab) -> None:
    """`up0`, with its other end `up1` beside it."""
    ip("link", "add", "up0", "type", "veth", "peer", "name", "up1", netns=lab.name)
    for name in ("up0", "up1"):
        ip("link", "set", name, "up", netns=lab.name)
    ip("addr", "add", f"{UPLINK_IPS[0]}/24", "dev", "up0", netns=lab.name)
    ip("addr", "add", f"{UPLINK_IPS[1]}/64", "dev", "up0", "nodad", netns=lab.name)


def add_endpoint(lab: NodeLab, helper: HelperClient, endpoint_id: int = 7) -> int:
    """An attached endpoint in a namespace of its own; returns its interface's index."""
    ips = (f"10.91.0.{endpoint_id}", f"fd00:91::{endpoint_id}")
    made = helper.call(
        protocol.CreateInterface(
            endpoint_id=endpoint_id, netns=lab.add_workload(), interface_name="eth0", ips=ips
        )
    )
    helper.call(protocol.AttachEndpoint(endpoint_id=endpoint_id, ips=ips, mac=made["mac"]))
    return int(made["ifindex"])
