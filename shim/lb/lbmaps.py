"""The maps that frontends, sets and backends are in, as what they hold by number."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping

from axoneme.lib.bpf.maps import BpfMap
from shim.lb import records
from shim.lb.mirror import MirroredMap
from shim.lb.model import Target
from shim.lb.plan import BackendSet
from shim.maps import lb
from shim.maps.base import number_key


class LbMaps:
    """Five maps of one node. Only `Books` writes them."""

    def __init__(self, maps: Mapping[str, BpfMap]) -> None:
        self.frontends = MirroredMap(maps[lb.LB.name])
        self.slots = MirroredMap(maps[lb.LB_SLOTS.name])
        self.backends = MirroredMap(maps[lb.LB_BACKENDS.name])
        self.ranges = MirroredMap(maps[lb.LB_SOURCE.name])
        self.tables = MirroredMap(maps[lb.MAGLEV.name])
        self.in_order = (self.backends, self.slots, self.ranges, self.tables, self.frontends)
        """As they are written."""

    def load(self) -> None:
        """Reads what the kernel holds."""
        for one in self.in_order:
            one.load()

    def named_sets(self) -> set[int]:
        """Sets that frontends name."""
        return {lb.LbService.unpack(raw).set_id for raw in self.frontends.content.values()} - {0}

    def all_sets(self) -> set[int]:
        """Sets of which there is anything."""
        found = self.named_sets() | {lb.LbSlotKey.unpack(key).set_id for key in self.slots.content}
        found |= {lb.LbSourceKey.unpack(key).set_id for key in self.ranges.content}
        return found | {number_of(key) for key in self.tables.content}

    def is_whole(self, service: lb.LbService, backends: BackendSet, numbers: Mapping[Target, int]) -> bool:
        """Whether the set that a frontend names is this one, and all of it is there."""
        number, targets = service.set_id, backends.targets
        if (service.slots, service.maglev_size) != (len(targets), backends.table_size):
            return False
        if not all(target in numbers for target in targets):
            return False
        slots = records.slot_entries(backends, number, numbers)
        held = {key for key in self.ranges.content if lb.LbSourceKey.unpack(key).set_id == number}
        return (
            all(self.slots.content.get(key) == value for key, value in slots.items())
            and (not backends.table_size or number_key(number) in self.tables.content)
            and held == set(records.range_keys(backends, number))
        )

    def drop_set(self, number: int, backends: BackendSet) -> None:
        """Removes a set."""
        self.tables.drop([number_key(number)])
        self.ranges.drop(records.range_keys(backends, number))
        self.slots.drop(records.slot_keys(number, len(backends.targets)))

    def keep_sets(self, live: Collection[int]) -> bool:
        """Removes whatever belongs to other sets; whether there was something."""
        tables = [key for key in self.tables.content if number_of(key) not in live]
        ranges = [key for key in self.ranges.content if lb.LbSourceKey.unpack(key).set_id not in live]
        slots = [key for key in self.slots.content if lb.LbSlotKey.unpack(key).set_id not in live]
        for one, keys in ((self.tables, tables), (self.ranges, ranges), (self.slots, slots)):
            one.drop(keys)
        return bool(tables or ranges or slots)

    def audit(self, *, prune: bool) -> tuple[list[str], list[int]]:
        """Compares with the kernel and repairs; returns what differed, and sets without their table.

        What is inside a table is `Books.repair_table`'s.
        """
        found: list[str] = []
        missing: list[int] = []
        unknown: list[tuple[MirroredMap, list[bytes]]] = []
        for one in self.in_order:
            wrong, rest = one.audit(prune=prune, writable=one is not self.tables)
            if one is self.tables:
                missing = [number_of(key) for key in wrong]
            else:
                found += [f"{one.name}: {key.hex()}: missing or changed, written again" for key in wrong]
            found += [f"{one.name}: {key.hex()}: unknown, removed" for key in rest]
            unknown.append((one, rest))
        for one, rest in reversed(unknown):
            one.remove_unknown(rest)
        return found, missing


def number_of(raw: bytes) -> int:
    """Inverse of `number_key`."""
    return int.from_bytes(raw, sys.byteorder)
