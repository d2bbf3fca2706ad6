"""The kernel datapath against a helper that forgets: its settings are told again, once."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from axoneme.lib.errors import FailedPrecondition
from shim.kerneldatapath import KernelDatapath
from shim.maps import base, lb
from shim.memorydatapath import MemoryDatapath
from shim.network import NetworkFacts, NetworkSettings
from shim.privileged import protocol
from shim.privileged.client import HelperClient

FACTS: dict[str, Any] = {
    "uplink": "eth0",
    "uplink_ifindex": 2,
    "uplink_mac": "02:00:00:00:00:01",
    "uplink_mtu": 1500,
    "overlay_ifindex": 0,
    "endpoint_mtu": 1450,
    "health_netns": "",
    "attached": ["uplink"],
    "repaired": ["uplink: axoneme_from_netdev"],
    "missing": {"xdp": "EBUSY"},
}


class ForgetfulHelper:
    """Knows programs only after a load; a restart takes them away."""

    def __init__(self) -> None:
        self.loaded = self.broken = False
        self.asked: list[str] = []

    def call_with_fds(self, request: protocol.Request) -> tuple[dict[str, Any], list[int]]:
        self.asked.append(request.op)
        if isinstance(request, protocol.LoadPrograms):
            if self.broken:
                raise FailedPrecondition("endpoint.o is missing", reason="BPF_OBJECTS_MISSING")
            self.loaded = True
        elif not self.loaded:
            raise FailedPrecondition("no programs are loaded yet", reason="BPF_OBJECTS_MISSING")
        if isinstance(request, protocol.SetUpNetwork):
            return {**FACTS}, []
        if isinstance(request, protocol.HealthListener):
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            return {}, [made.detach()]
        return {"interfaces": {}}, [os.open("/dev/null", os.O_RDONLY)]

    def call(self, request: protocol.Request) -> dict[str, Any]:
        return self.call_with_fds(request)[0]


@pytest.fixture
def helper() -> ForgetfulHelper:
    return ForgetfulHelper()


@pytest.fixture
def datapath(helper: ForgetfulHelper, tmp_path: Path) -> KernelDatapath:
    settings = NetworkSettings(map_sizes={"axoneme_ct": 4096})
    return KernelDatapath(tmp_path, cast("HelperClient", helper), settings)


async def test_a_new_helper_is_told_everything_again(
    datapath: KernelDatapath, helper: ForgetfulHelper
) -> None:
    facts = await datapath.set_up_network(NetworkSettings(services=True))
    assert helper.asked == ["set_up_network", "load_programs", "set_up_network"]
    assert facts == NetworkFacts(**{**FACTS, "attached": ("uplink",), "repaired": ()})
    assert facts.repaired == ("uplink: axoneme_from_netdev",)
    helper.loaded = False
    helper.asked.clear()
    assert await datapath.interfaces() == {}
    assert helper.asked == ["list_interfaces", "load_programs", "set_up_network", "list_interfaces"]
    listeners = await datapath.health_listener(("10.0.0.9",), 4240)
    assert len(listeners) == 1
    listeners[0].close()


async def test_objects_that_are_missing_are_not_asked_for_forever(
    datapath: KernelDatapath, helper: ForgetfulHelper
) -> None:
    helper.broken = True
    with pytest.raises(FailedPrecondition, match=r"endpoint\.o"):
        await datapath.interfaces()
    assert helper.asked == ["list_interfaces", "load_programs"]


async def test_memory_tables_are_found_by_their_set() -> None:
    datapath = MemoryDatapath()
    table = await datapath.new_maglev_table(251)
    assert table.max_entries == 251
    assert await datapath.open_maglev_table(3) is None
    datapath.maps[lb.MAGLEV.name].set_inner(base.number_key(3), table)
    assert await datapath.open_maglev_table(3) is table
    assert await datapath.health_listener(("10.0.0.9",), 4240) == []
    assert (await datapath.set_up_network(NetworkSettings(mtu=1400))).endpoint_mtu == 1400
