"""The two programs of an endpoint in test runs: state goes in through maps, packets by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from axoneme.lib.bpf import BpfError
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.maps import KernelMap, split_cpus
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.policy.model import Action, Direction, MapEntry, MapKey, PortBlock
from shim.bpf.manifest import object_path
from shim.flows.ring import RingReader
from shim.maps import base, layout, node
from shim.maps.epoch import watch

LOOPBACK = 1  # test runs happen on lo unless told otherwise
PASSED, DROPPED, REDIRECTED = 0xFFFFFFFF, 2, 7  # TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT
POD_ID, POD_IDENTITY = 77, 5001
POD = {4: "10.1.0.5", 6: "fd00:10:1::5"}
PEER = {4: "10.1.9.9", 6: "fd00:10:1:9::9"}
PEER_IDENTITY = 6001
ANY = PortBlock(0, 0, 0)
CLEARED = (
    *(
        "axoneme_ep",
        "axoneme_policy",
        "axoneme_learned",
        "axoneme_ipexact",
        "axoneme_ipcache",
        "axoneme_epdrops",
    ),
    *("axoneme_lb", "axoneme_lb_slots", "axoneme_lb_backends", "axoneme_maglev", "axoneme_affinity"),
    *("axoneme_local", "axoneme_nodeips", "axoneme_lb_source"),
)
"""Maps that a reset empties, besides those of connections."""


@dataclass(frozen=True)
class Outcome:
    """What became of a packet. `events` are records of EVENT_DTYPE; `frame` is the packet afterwards."""

    passed: bool
    events: list[Any]
    redirected: bool = False
    frame: bytes = b""
    mark: int = 0

    @property
    def drop_reason(self) -> int | None:
        return next((int(e["drop_reason"]) for e in self.events if e["event_type"] == 1), None)

    def event(self, event_type: int) -> Any:
        found = [e for e in self.events if e["event_type"] == event_type]
        assert len(found) == 1, f"{len(found)} events of type {event_type}"
        return found[0]

    def types(self) -> list[int]:
        return [int(e["event_type"]) for e in self.events]


def allow(direction: Direction, identity: int, ports: PortBlock = ANY) -> dict[MapKey, MapEntry]:
    return {MapKey(direction, identity, ports): MapEntry(action=Action.ALLOW, precedence=0xFEFFFF01)}


def deny(direction: Direction, identity: int, ports: PortBlock = ANY) -> dict[MapKey, MapEntry]:
    return {MapKey(direction, identity, ports): MapEntry(action=Action.DENY, precedence=0xFEFFFFFF)}


class Datapath:
    """One loaded object with one endpoint on lo; `reset` brings it back to nothing."""

    def __init__(self, **constants: int) -> None:
        with BpfObject(object_path()) as loaded:
            loaded.set_constants(**constants)
            loaded.load(
                max_entries={"axoneme_ct": 16384, "axoneme_ipexact": 70_000, "axoneme_ipcache": 70_000}
            )
            self.maps = {name: loaded.map(name) for name in loaded.map_specs()}
            watch(self.maps)
            self.programs = loaded.programs()
        self.ring = RingReader.from_fd(self.maps["axoneme_events"].fd)
        self.generation = 1
        self.has_learned = False
        self.reset()

    def close(self) -> None:
        for one in self.maps.values():
            one.close()
        for program in self.programs.values():
            program.close()

    def reset(self) -> None:
        for name in CLEARED:
            self.clear(name)
        self.maps["axoneme_node"].update(base.number_key(0), node.NodeConfig().pack())
        self.forget_connections()
        self.drain()
        self.has_learned = False
        self.endpoint()

    def clear(self, name: str) -> None:
        self.maps[name].delete_batch([key for key, _ in self.maps[name].items()])

    def forget_connections(self) -> None:
        self.clear("axoneme_ct")
        self.clear("axoneme_frag")
        self.clear("axoneme_nat")

    def drain(self) -> list[Any]:
        found: list[Any] = []
        while len(records := self.ring.read()):
            found.extend(records)
        return found

    def endpoint(
        self,
        *,
        endpoint_id: int = POD_ID,
        identity: int = POD_IDENTITY,
        flags: int = 0,
        ipv4: str = POD[4],
        ipv6: str = POD[6],
        ifindex: int = LOOPBACK,
    ) -> None:
        learned = layout.ENDPOINT_LEARNED if self.has_learned else 0
        entry = layout.EndpointEntry(
            endpoint_id,
            flags | learned,
            identity,
            self.generation,
            ipaddress.ip_address(ipv4).packed,
            ipaddress.ip_address(ipv6).packed,
        )
        self.maps["axoneme_ep"].update(layout.endpoint_key(ifindex), entry.pack())

    def policy(
        self,
        entries: Mapping[MapKey, MapEntry],
        *,
        endpoint_id: int = POD_ID,
        cookies: Mapping[MapKey, int] | None = None,
    ) -> None:
        """Switches the policy map of an endpoint as the shim does: inner map first, then the generation."""
        inner = create_map(layout.POLICY_INNER)
        self.fill(inner, entries, cookies or {})
        self.maps["axoneme_policy"].set_inner(layout.policy_outer_key(endpoint_id), inner)
        inner.close()

    def fill(
        self, inner: KernelMap, entries: Mapping[MapKey, MapEntry], cookies: Mapping[MapKey, int]
    ) -> None:
        inner.update_batch(
            [
                (layout.policy_key(key), layout.policy_entry(key, entry, cookie=cookies.get(key, 0)))
                for key, entry in entries.items()
            ]
        )

    def change_policy(self, entries: Mapping[MapKey, MapEntry], **endpoint: Any) -> None:
        self.policy(entries)
        self.generation += 1
        self.endpoint(**endpoint)

    def lock(self) -> None:
        """A switch as any other: the map goes first, then the generation rises."""
        self.maps["axoneme_policy"].delete(layout.policy_outer_key(POD_ID))
        self.generation += 1
        self.endpoint()

    def identity(self, prefix: str, number: int) -> None:
        network = ipaddress.ip_network(prefix)
        value = layout.IpcacheEntry(number).pack()
        if base.is_host_route(network):
            self.maps["axoneme_ipexact"].update(base.address_bytes(network.network_address), value)
        else:
            self.maps["axoneme_ipcache"].update(base.IpcacheKey.of(network).pack(), value)

    def learn(self, address: str, number: int, *, expiry_ns: int) -> None:
        key = layout.LearnedKey(POD_ID, base.address_bytes(address)).pack()
        self.maps["axoneme_learned"].update(key, layout.LearnedEntry(number, expiry_ns).pack())
        self.has_learned = True
        self.endpoint()

    def connections(self) -> dict[layout.CtKey, layout.CtEntry]:
        return {
            layout.CtKey.unpack(key): layout.CtEntry.unpack(value)
            for key, value in self.maps["axoneme_ct"].items()
        }

    def metric(self, key: bytes) -> tuple[int, int]:
        value = self.maps["axoneme_metrics"].lookup(key)
        assert value is not None
        slots = [
            layout.MetricEntry.unpack(slot) for slot in split_cpus(value, layout.MetricEntry.FORMAT.size)
        ]
        return sum(s.packets for s in slots), sum(s.octets for s in slots)

    def send(self, packet: bytes) -> Outcome:
        """A packet from the endpoint."""
        return self._run("axoneme_from_ep", packet)

    def receive(self, packet: bytes, *, mark: int = 0) -> Outcome:
        """A packet to the endpoint."""
        return self._run("axoneme_to_ep", packet, mark)

    def verdict(self, direction: Direction, packet: bytes) -> bool:
        """Only whether it passes, without reading events."""
        name = "axoneme_to_ep" if direction is Direction.INGRESS else "axoneme_from_ep"
        return self.programs[name].test_run(packet).return_value == PASSED

    def _run(self, name: str, packet: bytes, mark: int = 0) -> Outcome:
        self.drain()
        try:
            run = self.programs[name].test_run(packet, mark=mark)
        except BpfError:
            # Kernels from 6.17 on refuse to build an skb from a frame shorter than its IP header.
            return Outcome(passed=False, events=[])
        assert run.return_value in (PASSED, DROPPED, REDIRECTED)
        return Outcome(
            passed=run.return_value == PASSED,
            events=self.drain(),
            redirected=run.return_value == REDIRECTED,
            frame=run.data,
            mark=run.mark,
        )
