"""Programs of the node's devices in test runs: several objects that share maps through a folder of pins."""

from __future__ import annotations

import ipaddress
import itertools
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from axoneme.lib.bpf import KernelMap
from axoneme.lib.bpf.create import create_map
from axoneme.lib.bpf.features import is_bpffs
from axoneme.lib.bpf.object import BpfObject
from axoneme.lib.bpf.program import BpfProgram
from axoneme.lib.policy.model import MapEntry, MapKey
from shim.bpf.manifest import object_path
from shim.flows.ring import RingReader
from shim.maps import base, layout, lb, node
from shim.maps.epoch import watch

BPFFS: Final = Path("/sys/fs/bpf")
PASSED, DROPPED, REDIRECTED = 0xFFFF_FFFF, 2, 7
"""TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT as a test run answers them."""
MARK_IDENTITY = 0xA100_0000
SIZES: Final = {
    "axoneme_ct": 8192,
    "axoneme_nat": 8192,
    "axoneme_sockets": 1024,
    "axoneme_affinity": 1024,
    "axoneme_events": 1 << 20,
}
STATE: Final = (
    *("axoneme_policy", "axoneme_ipexact", "axoneme_ipcache", "axoneme_ct", "axoneme_frag", "axoneme_lb"),
    *("axoneme_lb_slots", "axoneme_lb_backends", "axoneme_lb_source", "axoneme_nat", "axoneme_local"),
    *("axoneme_nodeips", "axoneme_nomasq", "axoneme_ep"),
)


@dataclass(frozen=True)
class Ran:
    """What became of a packet; `data` is the frame afterwards, `events` are records of EVENT_DTYPE."""

    answer: int
    data: bytes
    mark: int
    events: list[Any]

    @property
    def passed(self) -> bool:
        return self.answer == PASSED

    @property
    def redirected(self) -> bool:
        return self.answer == REDIRECTED

    @property
    def drop_reason(self) -> int | None:
        """Of the one drop event, which a dropped packet must have."""
        assert (self.answer == DROPPED) == any(e["event_type"] == 1 for e in self.events)
        return next((int(e["drop_reason"]) for e in self.events if e["event_type"] == 1), None)


@dataclass(frozen=True)
class Backend:
    """A backend of a frontend; `local` sets BACKEND_LOCAL."""

    address: str
    port: int
    local: bool = False


class Node:
    """Loaded objects of one node; owns the folder of pins below /sys/fs/bpf."""

    def __init__(self, name: str, objects: Sequence[str], **constants: int) -> None:
        if not is_bpffs(BPFFS):
            subprocess.run(["mount", "-t", "bpf", "bpf", str(BPFFS)], check=True)
        self.pins = BPFFS / f"axt-d-{name}"
        self.programs: dict[str, BpfProgram] = {}
        for one in objects:
            self._load(one, constants)
        self.maps = {path.name: KernelMap.open(path) for path in self.pins.iterdir()}
        watch(self.maps)
        self.ring = RingReader.from_fd(self.maps["axoneme_events"].fd)
        self.config = node.NodeConfig()
        self._numbers = itertools.count(1)

    def _load(self, name: str, constants: Mapping[str, int]) -> None:
        with BpfObject(object_path(name)) as loaded:
            known = loaded.map_specs()
            loaded.set_constants(**constants)
            loaded.load(
                pins=self.pins, max_entries={key: size for key, size in SIZES.items() if key in known}
            )
            self.programs |= loaded.programs()

    def close(self) -> None:
        for program in self.programs.values():
            program.close()
        for one in self.maps.values():
            one.close()
        shutil.rmtree(self.pins, ignore_errors=True)

    def reset(self) -> None:
        for name in STATE:
            if name in self.maps:
                self.clear(name)
        self.drain()

    def clear(self, name: str) -> None:
        self.maps[name].delete_batch([key for key, _ in self.maps[name].items()])

    def drain(self) -> list[Any]:
        found: list[Any] = []
        while len(records := self.ring.read()):
            found.extend(records)
        return found

    def configure(self, **values: Any) -> None:
        """Fields of NodeConfig; addresses as text."""
        parsed: dict[str, Any] = {
            k: base.address_bytes(v) if isinstance(v, str) else v for k, v in values.items()
        }
        self.config = replace(self.config, **parsed)
        self.maps["axoneme_node"].update(base.number_key(0), self.config.pack())

    def node_ip(self, address: str, flags: int) -> None:
        self.maps["axoneme_nodeips"].update(base.address_bytes(address), node.NodeIp(flags).pack())

    def local(self, address: str, *, endpoint_id: int = 77, ifindex: int = 1) -> None:
        entry = node.LocalEntry(ifindex, endpoint_id, bytes(6), bytes(6))
        self.maps["axoneme_local"].update(base.address_bytes(address), entry.pack())

    def identity(self, prefix: str, number: int, *, tunnel: str | None = None) -> None:
        network = ipaddress.ip_network(prefix)
        endpoint = base.address_bytes(tunnel) if tunnel else base.NO_ADDRESS
        value = layout.IpcacheEntry(number, tunnel_endpoint=endpoint).pack()
        if base.is_host_route(network):
            self.maps["axoneme_ipexact"].update(base.address_bytes(network.network_address), value)
        else:
            self.maps["axoneme_ipcache"].update(base.IpcacheKey.of(network).pack(), value)

    def not_masqueraded(self, prefix: str) -> None:
        self.maps["axoneme_nomasq"].update(base.IpcacheKey.of(prefix).pack(), b"\1")

    def service(
        self,
        address: str,
        port: int,
        protocol: int,
        *backends: Backend,
        flags: int = 0,
        scope: int = lb.LB_OUTSIDE,
        source_ranges: Sequence[str] = (),
    ) -> int:
        """A frontend with its backends in slots. Returns the set's number."""
        set_id = next(self._numbers)
        for slot, one in enumerate(backends):
            number = next(self._numbers)
            entry = lb.LbBackend(
                base.address_bytes(one.address),
                one.port.to_bytes(2, "big"),
                protocol,
                lb.BACKEND_LOCAL if one.local else 0,
            )
            self.maps["axoneme_lb_backends"].update(base.number_key(number), entry.pack())
            self.maps["axoneme_lb_slots"].update(lb.LbSlotKey(set_id, slot).pack(), base.number_key(number))
        for prefix in source_ranges:
            key = lb.LbSourceKey.of(set_id, ipaddress.ip_network(prefix))
            self.maps["axoneme_lb_source"].update(key.pack(), b"\1")
        key_ = lb.LbKey(base.address_bytes(address), port.to_bytes(2, "big"), protocol, scope)
        flags |= lb.LB_SOURCE_RANGES if source_ranges else 0
        self.maps["axoneme_lb"].update(key_.pack(), lb.LbService(set_id, len(backends), flags).pack())
        return set_id

    def policy(self, entries: Mapping[MapKey, MapEntry], *, endpoint_id: int = 0) -> None:
        """Switches a policy map; the generation is the caller's business."""
        inner = create_map(layout.POLICY_INNER)
        inner.update_batch(
            [
                (layout.policy_key(key), layout.policy_entry(key, entry, cookie=0))
                for key, entry in entries.items()
            ]
        )
        self.maps["axoneme_policy"].set_inner(layout.policy_outer_key(endpoint_id), inner)
        inner.close()

    def translations(self) -> dict[lb.NatKey, lb.NatEntry]:
        pairs = self.maps["axoneme_nat"].items()
        return {lb.NatKey.unpack(key): lb.NatEntry.unpack(value) for key, value in pairs}

    def connections(self) -> dict[layout.CtKey, layout.CtEntry]:
        pairs = self.maps["axoneme_ct"].items()
        return {layout.CtKey.unpack(key): layout.CtEntry.unpack(value) for key, value in pairs}

    def run(self, program: str, packet: bytes, *, mark: int = 0) -> Ran:
        """Runs axoneme_`program`."""
        self.drain()
        found = self.programs[f"axoneme_{program}"].test_run(packet, mark=mark)
        return Ran(found.return_value, found.data, found.mark, self.drain())
