"""The health endpoint's namespace and its listeners, and interfaces of other makers."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from axoneme.lib.errors import FailedPrecondition, NotFound
from axoneme.lib.nodenames import health_namespace
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from tests.unit.shim.nodelab import NodeLab, ip
from tests.unit.shim.privileged.conftest import UPLINK_IPS
from tests.unit.shim.privileged.flood import allow_all

pytestmark = pytest.mark.root

HEALTH_IPS = ("10.91.0.40", "fd00:91::40")
WITH_HEALTH = protocol.SetUpNetwork(internal_ips=UPLINK_IPS, health=True)


def descriptors(helper: HelperClient) -> int:
    return len(list(Path(f"/proc/{helper.call(protocol.Ping())['pid']}/fd").iterdir()))


def test_listeners_are_made_inside_and_given_away(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    with pytest.raises(FailedPrecondition, match="not set up"):
        helper.call(protocol.HealthListener(ips=HEALTH_IPS, port=4240))
    facts = helper.call(WITH_HEALTH)
    name = facts["health_netns"].rpartition("/")[2]
    assert name == health_namespace(lab.pins.parent)
    assert len(name) <= 15
    assert helper.call(WITH_HEALTH)["health_netns"] == facts["health_netns"]
    before = descriptors(helper)
    _, fds = helper.call_with_fds(protocol.HealthListener(ips=HEALTH_IPS, port=4240))
    assert descriptors(helper) == before, "the helper keeps none"
    listeners = [socket.socket(fileno=fd) for fd in fds]
    assert [one.getsockname()[:2] for one in listeners] == [(text, 4240) for text in HEALTH_IPS]
    made = helper.call(
        protocol.CreateInterface(
            endpoint_id=40, netns=facts["health_netns"], interface_name="eth0", ips=HEALTH_IPS
        )
    )
    allow_all(lab.pins, made["ifindex"], 40)
    helper.call(protocol.AttachEndpoint(endpoint_id=40, ips=HEALTH_IPS, mac=made["mac"]))
    for text, listener in zip(HEALTH_IPS, listeners, strict=True):
        code = f"import socket; socket.create_connection(('{text}', 4240), 5).close(); print('connected')"
        listener.settimeout(10)
        # The programs know no reason to let the node in: inside, the listener is asked by its own.
        asked = lab.exec(facts["health_netns"], "python3", "-c", code)
        assert asked.stdout == "connected\n", asked.stderr
        listener.accept()[0].close()
        listener.close()
    assert helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))["health_netns"] == ""
    assert not Path(facts["health_netns"]).exists()


def test_a_leftover_file_is_no_namespace(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    path = Path("/run/netns") / health_namespace(lab.pins.parent)
    path.write_text("")
    assert helper.call(WITH_HEALTH)["missing"] == {}
    assert helper.call_with_fds(protocol.HealthListener(ips=HEALTH_IPS[:1], port=4240))[1]


@pytest.fixture
def chained(lab: NodeLab) -> str:
    """A workload whose interface another plugin made; returns its namespace's path."""
    netns = lab.add_workload()
    pod = netns.rpartition("/")[2]
    ip("link", "add", "cali1", "type", "veth", "peer", "name", "eth0", "netns", pod, netns=lab.name)
    for address, mask in (("10.91.0.7", "32"), ("fd00:91::7", "128")):
        ip("addr", "add", f"{address}/{mask}", "dev", "eth0", netns=pod)
    ip("link", "set", "eth0", "up", netns=pod)
    ip("link", "set", "cali1", "up", netns=lab.name)
    return netns


def adopt(netns: str, endpoint_id: int = 7) -> protocol.AdoptInterface:
    return protocol.AdoptInterface(endpoint_id=endpoint_id, netns=netns, interface_name="eth0")


def described(lab: NodeLab, pod: str) -> list[str]:
    """Everything of the interface that is its maker's."""
    link = json.loads(ip("-j", "link", "show", "cali1", netns=lab.name))[0]
    kept = {key: link[key] for key in ("ifindex", "ifname", "flags", "mtu", "address")}
    shown = [ip(*words, netns=netns) for netns in (lab.name, pod) for words in (("route",), ("-6", "route"))]
    found = json.loads(ip("-j", "addr", "show", "eth0", netns=pod))[0]["addr_info"]
    return [str(kept), str([one["local"] for one in found]), *shown]


def test_an_adopted_interface_gets_programs_and_nothing_else(
    lab: NodeLab, helper: HelperClient, chained: str
) -> None:
    helper.call(protocol.LoadPrograms())
    pod = chained.rpartition("/")[2]
    before = described(lab, pod)
    made = helper.call(adopt(chained))
    assert made["interface_name"] == "cali1"
    assert helper.call(adopt(chained)) == made
    listed = helper.call(protocol.ListInterfaces())["interfaces"]
    assert listed == {"7": {"ifindex": made["ifindex"], "attached": False}}
    helper.call(protocol.AttachEndpoint(endpoint_id=7, ips=("10.91.0.7", "fd00:91::7"), mac=made["mac"]))
    assert helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]
    helper.call(protocol.DetachEndpoint(endpoint_id=7))
    assert described(lab, pod) == before
    lab.processes[-1].kill()
    lab.processes[-1].wait()
    again = lab.start_helper()
    assert again.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"], "it is remembered"
    again.call(protocol.DeleteInterface(endpoint_id=7))
    again.call(protocol.DeleteInterface(endpoint_id=7))
    assert again.call(protocol.ListInterfaces())["interfaces"] == {}
    assert described(lab, pod) == before
    assert list((lab.pins / "links").iterdir()) == []
    again.close()


def test_what_cannot_be_adopted_is_refused(lab: NodeLab, helper: HelperClient, chained: str) -> None:
    helper.call(protocol.LoadPrograms())
    helper.call(adopt(chained))
    with pytest.raises(FailedPrecondition, match="belongs to endpoint 7"):
        helper.call(adopt(chained, endpoint_id=8))
    with pytest.raises(NotFound, match="eth0 does not exist"):
        helper.call(adopt(lab.add_workload(), endpoint_id=8))
    elsewhere = lab.add_workload()
    pod = elsewhere.rpartition("/")[2]
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "other", netns=pod)
    with pytest.raises(NotFound, match="no veth interface of this node"):
        helper.call(adopt(elsewhere, endpoint_id=8))
    own = lab.add_workload()
    create = protocol.CreateInterface(endpoint_id=9, netns=own, interface_name="eth0", ips=("10.91.0.9",))
    helper.call(create)
    with pytest.raises(FailedPrecondition, match="belongs to endpoint 9"):
        helper.call(adopt(own, endpoint_id=8))
