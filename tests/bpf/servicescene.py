"""Services in the maps of an endpoint's datapath, written as the shim writes them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from shim.maps import base, lb, node
from tests.bpf.harness import Datapath

FRONTEND = {4: "10.96.0.10", 6: "fd00:96::10"}
OTHER_FRONTEND = {4: "10.96.0.11", 6: "fd00:96::11"}
LOOPBACK_ADDRESS = {4: "169.254.42.1", 6: "fd00:a9fe::1"}
SET, FRONTEND_PORT = 5, 80


@dataclass
class Services:
    """The services of one datapath; backends have numbers in the order of their addition."""

    datapath: Datapath
    numbers: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def backend(self, address: str, port: int, protocol: int, flags: int = 0) -> int:
        """Adds or changes a backend; returns its number."""
        number = self.numbers.setdefault((address, port, protocol), len(self.numbers) + 1)
        value = lb.LbBackend(base.address_bytes(address), port.to_bytes(2, "big"), protocol, flags)
        self.datapath.maps["axoneme_lb_backends"].update(base.number_key(number), value.pack())
        return number

    def remove_backend(self, number: int) -> None:
        self.datapath.maps["axoneme_lb_backends"].delete(base.number_key(number))

    def slots(self, numbers: Sequence[int], set_id: int = SET) -> None:
        for slot, number in enumerate(numbers):
            key = lb.LbSlotKey(set_id, slot).pack()
            self.datapath.maps["axoneme_lb_slots"].update(key, base.number_key(number))

    def frontend(
        self,
        address: str,
        protocol: int,
        *,
        slots: int,
        port: int = FRONTEND_PORT,
        set_id: int = SET,
        scope: int = lb.LB_INSIDE,
        flags: int = 0,
        affinity_seconds: int = 0,
    ) -> None:
        key = lb.LbKey(base.address_bytes(address), port.to_bytes(2, "big"), protocol, scope)
        value = lb.LbService(set_id, slots, flags, affinity_seconds)
        self.datapath.maps["axoneme_lb"].update(key.pack(), value.pack())

    def add(
        self, address: str, protocol: int, backends: Sequence[tuple[str, int]], *, set_id: int = SET
    ) -> list[int]:
        """A frontend with these backends; returns their numbers."""
        numbers = [self.backend(one, port, protocol) for one, port in backends]
        self.slots(numbers, set_id)
        self.frontend(address, protocol, slots=len(numbers), set_id=set_id)
        return numbers

    def node(self, *, flags: int = 0, uplink_ifindex: int = 0) -> None:
        """Describes the node, with the loopback addresses of hairpin connections."""
        config = node.NodeConfig(
            loopback4=base.address_bytes(LOOPBACK_ADDRESS[4]),
            loopback6=base.address_bytes(LOOPBACK_ADDRESS[6]),
            flags=flags,
            uplink_ifindex=uplink_ifindex,
        )
        self.datapath.maps["axoneme_node"].update(base.number_key(0), config.pack())

    def translations(self) -> dict[lb.NatKey, lb.NatEntry]:
        found = self.datapath.maps["axoneme_nat"].items()
        return {lb.NatKey.unpack(key): lb.NatEntry.unpack(value) for key, value in found}


def text(address: bytes) -> str:
    """An address of 16 bytes as text."""
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)
