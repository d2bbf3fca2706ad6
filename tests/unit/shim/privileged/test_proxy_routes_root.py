"""The rule, the table and the settings by which the DNS proxy's packets are delivered on the node."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from axoneme.lib.bpf.maps import KernelMap
from shim.maps import layout
from shim.maps.node import PROXIED
from shim.privileged import protocol
from shim.privileged.client import HelperClient
from tests.bpf.namespaces import inside, set_sysctl
from tests.unit.shim.nodelab import NodeLab, ip
from tests.unit.shim.privileged.conftest import UPLINK_IPS

pytestmark = pytest.mark.root

WANTED = protocol.SetUpNetwork(internal_ips=UPLINK_IPS, dns_proxy=True)
WITHOUT = protocol.SetUpNetwork(internal_ips=UPLINK_IPS)
LOOPBACK = "net/ipv4/conf/lo"
EVERYTHING = [
    *(f"dns_proxy: IPv{version} {what}" for version in (4, 6) for what in ("route", "rule")),
    *(f"dns_proxy: {name}" for name in ("accept_local", "rp_filter")),
]


def rules(lab: NodeLab, family: str) -> list[str]:
    shown = ip(family, "rule", netns=lab.name).splitlines()
    return [line.replace("\t", " ") for line in shown if "2904" in line]


def routes(lab: NodeLab, family: str) -> list[tuple[str, str, str]]:
    shown = ip(family, "-j", "route", "show", "table", "2904", netns=lab.name)
    return [(one["type"], one["dst"], one["dev"]) for one in json.loads(shown or "[]")]


def setting(lab: NodeLab, name: str) -> str:
    return inside(lab.name, lambda: Path("/proc/sys", LOOPBACK, name).read_text().strip())


@pytest.fixture
def strict(lab: NodeLab, helper: HelperClient) -> HelperClient:
    """Reverse-path checks as many distributions set them."""
    set_sysctl(lab.name, "net/ipv4/conf/all/rp_filter", "1")
    set_sysctl(lab.name, f"{LOOPBACK}/rp_filter", "0")
    helper.call(protocol.LoadPrograms())
    return helper


def test_made_once_and_taken_back(lab: NodeLab, strict: HelperClient) -> None:
    facts = strict.call(WANTED)
    assert facts["missing"] == {}
    assert [one for one in facts["repaired"] if "dns_proxy" in one] == EVERYTHING
    assert "dns_proxy" in facts["attached"]
    for family in ("-4", "-6"):
        assert rules(lab, family) == ["29: from all fwmark 0xa3000000/0xff000000 lookup 2904 proto 173"], (
            "before those of other networks"
        )
        assert routes(lab, family) == [("local", "default", "lo")]
    assert (setting(lab, "accept_local"), setting(lab, "rp_filter")) == ("1", "2")
    assert strict.call(WANTED)["repaired"] == []
    strict.call(WITHOUT)
    for family in ("-4", "-6"):
        assert rules(lab, family) == []
        assert routes(lab, family) == []
    assert (setting(lab, "accept_local"), setting(lab, "rp_filter")) == ("0", "0")
    assert strict.call(WITHOUT)["repaired"] == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (("-4", "rule", "del", "pref", "29"), "IPv4 rule"),
        (("-6", "rule", "del", "pref", "29"), "IPv6 rule"),
        (("-4", "route", "flush", "table", "2904"), "IPv4 route"),
        (("-6", "route", "flush", "table", "2904"), "IPv6 route"),
    ],
)
def test_what_somebody_took_comes_back(
    lab: NodeLab, strict: HelperClient, damage: tuple[str, ...], found: str
) -> None:
    strict.call(WANTED)
    ip(*damage, netns=lab.name)
    assert strict.call(WANTED)["repaired"] == [f"dns_proxy: {found}"]
    assert strict.call(WANTED)["repaired"] == []


def test_a_helper_that_is_new_restores_what_was_there(lab: NodeLab, strict: HelperClient) -> None:
    set_sysctl(lab.name, f"{LOOPBACK}/accept_local", "0")
    strict.call(WANTED)
    lab.processes[-1].kill()
    lab.processes[-1].wait()
    with contextlib.closing(lab.start_helper()) as again:
        again.call(protocol.LoadPrograms())
        assert again.call(WANTED)["repaired"] == []
        again.call(WITHOUT)
    assert (setting(lab, "accept_local"), setting(lab, "rp_filter")) == ("0", "0")


def test_reverse_path_checks_that_are_off_stay_off(lab: NodeLab, helper: HelperClient) -> None:
    for name in ("all", "lo"):
        set_sysctl(lab.name, f"net/ipv4/conf/{name}/rp_filter", "0")
    helper.call(protocol.LoadPrograms())
    assert "dns_proxy: rp_filter" not in helper.call(WANTED)["repaired"]
    assert setting(lab, "rp_filter") == "0"


def test_a_node_without_ipv6(lab: NodeLab, helper: HelperClient) -> None:
    set_sysctl(lab.name, "net/ipv6/conf/lo/disable_ipv6", "1")
    helper.call(protocol.LoadPrograms())
    facts = helper.call(protocol.SetUpNetwork(internal_ips=UPLINK_IPS[:1], dns_proxy=True))
    assert facts["missing"] == {}
    assert rules(lab, "-6") == []
    assert routes(lab, "-4") == [("local", "default", "lo")]


def test_rules_of_others_stay(lab: NodeLab, strict: HelperClient) -> None:
    ip("rule", "add", "pref", "29", "fwmark", "0x1/0xff", "lookup", "2905", netns=lab.name)
    strict.call(WANTED)
    strict.call(WITHOUT)
    assert "lookup 2905" in ip("rule", netns=lab.name)


def test_a_node_of_this_schema_without_the_map_gets_it_in_place(lab: NodeLab, helper: HelperClient) -> None:
    """The map is new under a schema that is older: the others stay the same maps, with what is in them."""
    helper.call(protocol.LoadPrograms())

    def ids() -> dict[str, int]:
        found = {}
        for name in layout.MAPS:
            one = KernelMap.open(lab.pins / name)
            found[name] = one.map_id
            one.close()
        return found

    before = ids()
    (lab.pins / PROXIED.name).unlink()
    helper.call(protocol.LoadPrograms(replace=False))
    after = ids()
    assert {name for name, number in after.items() if number != before[name]} == {PROXIED.name}
