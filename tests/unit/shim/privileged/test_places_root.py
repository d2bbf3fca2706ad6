"""Where programs are attached: by tcx links or tc filters, in their order, replaced without a loss."""

from __future__ import annotations

import json
import sys

import pytest

from axoneme.lib.bpf.links import Hook, TcxLink
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from tests.unit.shim.nodelab import NodeLab, ip
from tests.unit.shim.privileged.conftest import UPLINK_IPS, add_endpoint
from tests.unit.shim.privileged.flood import connect, flood

pytestmark = pytest.mark.root

CLSACT = protocol.LoadPrograms(attach="clsact")


FOREIGN = """
from pyroute2 import IPRoute
from axoneme.lib.bpf.object import BpfObject
from shim.bpf.manifest import object_path
with BpfObject(object_path("overlay.o")) as opened, IPRoute() as netlink:
    opened.load()
    fd = opened.programs()["axoneme_to_overlay"].fd
    index = netlink.link_lookup(ifname="up0")[0]
    netlink.tc("add", "clsact", index)
    place = {"parent": "ffff:fff2", "prio": 99, "protocol": 3}
    netlink.tc("add-filter", "bpf", index, 1, fd=fd, name="foreign", direct_action=True, **place)
"""


def filters(lab: NodeLab, device: str, side: str) -> list[str]:
    """Names of the BPF filters of a device in the order in which they run."""
    command = ("tc", "-j", "filter", "show", "dev", device, side)
    found = json.loads(lab.exec(f"/run/netns/{lab.name}", *command).stdout or "[]")
    named = [one for one in found if "bpf_name" in one.get("options", {})]
    return [one["options"]["bpf_name"] for one in sorted(named, key=lambda one: one["pref"])]


def order(lab: NodeLab, place: str, device: str, hook: Hook) -> list[str]:
    """Names of our programs on a hook in the order in which they run."""
    names = {}
    for path in (lab.pins / "links").glob(f"{place}-*"):
        link = TcxLink.open(path)
        names[link.state().link_id] = path.name.partition("-")[2]
        link.close()
    code = (
        "import sys; from axoneme.lib.bpf.links import Hook, attached;"
        "print([one.link_id for one in attached(int(sys.argv[1]), Hook(int(sys.argv[2])))])"
    )
    index = json.loads(ip("-j", "link", "show", device, netns=lab.name))[0]["ifindex"]
    run = lab.exec(f"/run/netns/{lab.name}", sys.executable, "-c", code, str(index), str(int(hook)))
    return [names[number] for number in json.loads(run.stdout)]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("attach", ["tcx", "clsact"])
def test_replacing_programs_loses_nothing(
    lab: NodeLab, helper: HelperClient, attach: str, family: int
) -> None:
    helper.call(protocol.LoadPrograms(attach=attach))
    _, pod = connect(lab, helper)
    with flood(lab, pod, family) as count:
        for _ in range(20):
            helper.call(protocol.LoadPrograms(attach=attach))
    assert count.sent > 100
    assert count.lost == 0


@pytest.mark.parametrize("family", [4, 6])
def test_changing_the_kind_of_attachment_keeps_the_connection(
    lab: NodeLab, helper: HelperClient, family: int
) -> None:
    helper.call(protocol.LoadPrograms())
    _, pod = connect(lab, helper)
    attach = protocol.AttachEndpoint(
        endpoint_id=7,
        ips=("10.91.0.7", "fd00:91::7"),
        mac=json.loads(ip("-j", "link", "show", "eth0", netns=pod))[0]["address"],
    )
    with flood(lab, pod, family) as count:
        for _ in range(3):
            helper.call(CLSACT)
            helper.call(attach)
            assert filters(lab, "axo7", "ingress") == ["axoneme_from_ep"]
            assert list((lab.pins / "links").iterdir()) == []
            helper.call(protocol.LoadPrograms(attach="tcx"))
            helper.call(attach)
            assert filters(lab, "axo7", "ingress") == []
            assert order(lab, "7", "axo7", Hook.TCX_EGRESS) == ["axoneme_to_ep"]
    assert count.sent > 50
    assert count.lost <= 6, "at most one packet for each of the six changes"


def test_filters_are_missed_and_put_back(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(CLSACT)
    add_endpoint(lab, helper)
    assert helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]
    lab.exec(f"/run/netns/{lab.name}", "tc", "filter", "del", "dev", "axo7", "egress")
    assert not helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]
    helper.call(protocol.DeleteInterface(endpoint_id=7))
    assert helper.call(protocol.ListInterfaces())["interfaces"] == {}


def test_foreign_filters_are_left_alone(lab: NodeLab, helper: HelperClient) -> None:
    node = f"/run/netns/{lab.name}"
    done = lab.exec(node, sys.executable, "-c", FOREIGN)
    assert done.returncode == 0, done.stderr
    helper.call(CLSACT)
    request = protocol.SetUpNetwork(internal_ips=UPLINK_IPS, services=True)
    assert helper.call(request)["missing"] == {}
    assert filters(lab, "up0", "ingress") == ["axoneme_from_netdev", "foreign"]
    assert helper.call(request)["repaired"] == []
    helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))
    assert filters(lab, "up0", "ingress") == ["foreign"]


FIREWALL = protocol.SetUpNetwork(
    internal_ips=UPLINK_IPS, services=True, routing_mode="tunnel", host_firewall=True
)
PAIRS = (("uplink", "up0", "netdev"), ("overlay", "axo_vxlan", "overlay"), ("7", "axo7", "ep"))


def test_the_hosts_programs_stand_on_the_right_side(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(protocol.LoadPrograms())
    add_endpoint(lab, helper)
    facts = helper.call(FIREWALL)
    assert facts["missing"] == {}
    assert facts["attached"] == ["7", "overlay", "uplink"]
    for place, device, name in PAIRS:
        assert order(lab, place, device, Hook.TCX_INGRESS) == [f"axoneme_from_{name}", "axoneme_host_in"]
        assert order(lab, place, device, Hook.TCX_EGRESS) == ["axoneme_host_out", f"axoneme_to_{name}"]
        for pin in (f"{place}-axoneme_from_{name}", f"{place}-axoneme_to_{name}"):
            (lab.pins / "links" / pin).unlink()
    helper.call(FIREWALL)
    assert not helper.call(protocol.ListInterfaces())["interfaces"]["7"]["attached"]
    helper.call(protocol.AttachEndpoint(endpoint_id=7, ips=(), mac="02:00:00:00:00:01"))
    for place, device, name in PAIRS:
        assert order(lab, place, device, Hook.TCX_INGRESS) == [f"axoneme_from_{name}", "axoneme_host_in"]
        assert order(lab, place, device, Hook.TCX_EGRESS) == ["axoneme_host_out", f"axoneme_to_{name}"]
    add_endpoint(lab, helper, 8)
    assert order(lab, "8", "axo8", Hook.TCX_INGRESS) == ["axoneme_from_ep", "axoneme_host_in"]
    helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))
    assert order(lab, "8", "axo8", Hook.TCX_INGRESS) == ["axoneme_from_ep"]
    assert helper.call(protocol.ListInterfaces())["interfaces"]["8"]["attached"]


def test_the_same_by_filters(lab: NodeLab, helper: HelperClient) -> None:
    helper.call(CLSACT)
    add_endpoint(lab, helper)
    assert helper.call(FIREWALL)["missing"] == {}
    for _, device, name in PAIRS:
        assert filters(lab, device, "ingress") == [f"axoneme_from_{name}", "axoneme_host_in"]
        assert filters(lab, device, "egress") == ["axoneme_host_out", f"axoneme_to_{name}"]
    helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS))
    assert filters(lab, "axo7", "egress") == ["axoneme_to_ep"]
    assert filters(lab, "up0", "ingress") == []
