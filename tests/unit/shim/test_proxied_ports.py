"""The ports whose answers may be the DNS proxy's: bits before the flag, the flag off before the bits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.errors import Unavailable
from shim.config import ShimConfig
from shim.maps import base, node, proxied
from shim.maps.proxied import TCP, UDP, ProxiedPort, ports_of, words_of
from shim.memorydatapath import MemoryDatapath
from shim.network import NetworkFacts
from shim.nodemaps import NodeMaps
from shim.proxiedports import ProxiedPorts
from tests.waiting import FakeClock

DNS = frozenset({ProxiedPort(UDP, 53), ProxiedPort(TCP, 53)})
OTHER = ProxiedPort(UDP, 5353)
ONLY_OTHER = frozenset({OTHER})
Ports = st.frozensets(
    st.builds(ProxiedPort, st.sampled_from((TCP, UDP)), st.integers(1, 0xFFFF)), max_size=40
)


class Scene:
    """The maps of a node, and the order in which they were written."""

    def __init__(self) -> None:
        self.datapath, self.clock = MemoryDatapath(), FakeClock()
        self.written: list[str] = []
        for name in (node.NODE.name, node.PROXIED.name):
            self._watch(name)
        self.start()

    def start(self) -> None:
        """A life of the shim."""
        cfg = ShimConfig(node_name="n1", internal_ips=("192.0.2.1",))
        self.node_maps = NodeMaps(cfg, self.datapath.maps, clock=self.clock)
        self.node_maps.load()
        self.ports = ProxiedPorts(self.datapath.maps[node.PROXIED.name], self.node_maps, clock=self.clock)
        self.ports.load()
        self.node_maps.set_network(NetworkFacts(uplink="eth0", uplink_ifindex=7))
        self.written.clear()

    def _watch(self, name: str) -> None:
        held = self.datapath.maps[name]
        update = held.update_batch

        def note(pairs: Sequence[tuple[bytes, bytes]]) -> None:
            self.written.append(name)
            update(pairs)

        setattr(held, "update_batch", note)  # noqa: B010  the name is in the way of the type

    @property
    def held(self) -> frozenset[ProxiedPort]:
        return ports_of(self.datapath.maps[node.PROXIED.name].items())

    @property
    def flag(self) -> bool:
        raw = self.datapath.maps[node.NODE.name].lookup(base.number_key(0))
        assert raw is not None
        return bool(node.NodeConfig.unpack(raw).flags & node.NODE_PROXY)


@given(ports=Ports)
def test_words_hold_one_bit_for_each_port(ports: frozenset[ProxiedPort]) -> None:
    words = words_of(ports)
    assert ports_of(words.items()) == ports
    bits = {
        (int.from_bytes(key, "little") * 64 + bit)
        for key, value in words.items()
        for bit in range(64)
        if int.from_bytes(value, "little") >> bit & 1
    }
    assert bits == {(65_536 if one.protocol == TCP else 0) + one.port for one in ports}


@pytest.mark.parametrize("wrong", [ProxiedPort(132, 53), ProxiedPort(UDP, 0), ProxiedPort(TCP, 65_536)])
def test_what_has_no_bit_is_refused(wrong: ProxiedPort) -> None:
    with pytest.raises(ValueError, match="no port"):
        words_of([wrong])


def test_bits_then_the_flag_and_the_other_way_round() -> None:
    scene = Scene()
    scene.ports.add(DNS)
    assert scene.written == [node.PROXIED.name, node.NODE.name]
    assert (scene.held, scene.flag) == (DNS, True)
    scene.written.clear()
    scene.ports.add({OTHER})
    scene.ports.add({OTHER})
    scene.ports.remove(DNS)
    assert scene.written == [node.PROXIED.name] * 2
    assert (scene.held, scene.flag) == (ONLY_OTHER, True)
    scene.written.clear()
    scene.ports.remove({OTHER})
    assert scene.written == [node.NODE.name, node.PROXIED.name]
    assert (scene.held, scene.flag) == (frozenset(), False)


def test_an_earlier_life_stays_in_force_until_replaced() -> None:
    scene = Scene()
    scene.ports.add(DNS)
    scene.start()
    assert (scene.ports.ports, scene.held, scene.flag) == (DNS, DNS, True)
    scene.ports.replace([OTHER])
    assert (scene.held, scene.flag) == (ONLY_OTHER, True)
    scene.start()
    scene.ports.replace(())
    assert (scene.held, scene.flag) == (frozenset(), False)


@given(steps=st.lists(Ports, max_size=8))
def test_the_kernel_follows(steps: list[frozenset[ProxiedPort]]) -> None:
    scene = Scene()
    for ports in steps:
        scene.ports.replace(ports)
        assert (scene.held, scene.flag) == (ports, bool(ports))


def test_a_write_that_fails_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    held = scene.datapath.maps[node.PROXIED.name]

    def refuse(*_: object) -> None:
        raise BpfError(12, "update", held.name)

    with monkeypatch.context() as patch:
        patch.setattr(held, "update_batch", refuse)
        patch.setattr(held, "update", refuse)
        with pytest.raises(Unavailable):
            scene.ports.add(DNS)
    assert scene.held == frozenset()
    due = scene.ports.next_due()
    assert due is not None
    scene.clock.advance(due - scene.clock())
    scene.ports.flush()
    assert scene.held == DNS


async def test_the_audit_mends_what_others_wrote() -> None:
    scene = Scene()
    scene.ports.add(DNS)
    held = scene.datapath.maps[node.PROXIED.name]
    (tcp,) = words_of([ProxiedPort(TCP, 53)])
    (foreign,) = words_of([ProxiedPort(UDP, 9999)])
    held.update(tcp, proxied.NO_PORTS)
    held.update(foreign, proxied.ALL_PORTS)
    assert sorted(await scene.ports.audit()) == [
        "axoneme_proxied: TCP 0 to 63: changed, written again",
        "axoneme_proxied: UDP 9984 to 10047: changed, written again",
    ]
    assert scene.held == DNS
    assert await scene.ports.audit() == []
