"""Plans as bytes of maps: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from shim.lb import maglev
from shim.lb.model import Frontend, Target
from shim.lb.plan import Answer, BackendSet
from shim.maps.base import number_key
from shim.maps.lb import LbBackend, LbKey, LbService, LbSlotKey, LbSourceKey


def frontend_key(frontend: Frontend) -> bytes:
    """Key of `axoneme_lb`."""
    port = frontend.port.to_bytes(2, "big")
    return LbKey.FORMAT.pack(frontend.address, port, frontend.protocol, frontend.scope)


def frontend_from_key(key: bytes) -> Frontend:
    """Inverse of `frontend_key`."""
    parsed = LbKey.unpack(key)
    return Frontend(parsed.address, int.from_bytes(parsed.port_be, "big"), parsed.protocol, parsed.scope)


def frontend_value(answer: Answer, set_id: int) -> bytes:
    """Value of `axoneme_lb`; an empty list has no number."""
    backends = answer.backends
    return LbService.FORMAT.pack(
        set_id, len(backends.targets), answer.flags, answer.affinity_seconds, backends.table_size
    )


def backend_value(target: Target, flags: int) -> bytes:
    """Value of `axoneme_lb_backends`."""
    return LbBackend.FORMAT.pack(target.address, target.port.to_bytes(2, "big"), target.protocol, flags)


def target_from_value(raw: bytes) -> Target:
    """The backend of a value of `axoneme_lb_backends`."""
    parsed = LbBackend.unpack(raw)
    return Target(parsed.address, int.from_bytes(parsed.port_be, "big"), parsed.protocol)


def slot_keys(set_id: int, count: int) -> list[bytes]:
    """Keys of all slots of a set."""
    return [LbSlotKey.FORMAT.pack(set_id, slot) for slot in range(count)]


def slot_entries(backends: BackendSet, set_id: int, numbers: Mapping[Target, int]) -> dict[bytes, bytes]:
    """All slots of a set."""
    keys = slot_keys(set_id, len(backends.targets))
    return {key: number_key(numbers[target]) for key, target in zip(keys, backends.targets, strict=True)}


def range_keys(backends: BackendSet, set_id: int) -> list[bytes]:
    """Keys of `axoneme_lb_source`."""
    return [LbSourceKey.of(set_id, network).pack() for network in backends.ranges]


def table_entries(backends: BackendSet, numbers: Mapping[Target, int]) -> Iterator[tuple[bytes, bytes]]:
    """The elements of a set's Maglev table."""
    elements = maglev.table([target.name for target in backends.targets], backends.table_size)
    values = [number_key(numbers[target]) for target in backends.targets]
    return zip(_indexes(backends.table_size), [values[index] for index in elements], strict=True)


@lru_cache(maxsize=len(maglev.SIZES))
def _indexes(size: int) -> Sequence[bytes]:
    return [number_key(index) for index in range(size)]
