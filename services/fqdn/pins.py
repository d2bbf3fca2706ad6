"""The node's maps as the DNS proxy sees them, by their pins: whose address is it, and what was learned.

    axoneme_local    address → ifindex, endpoint id      ─┐
    axoneme_ep       ifindex → endpoint id, identity     ─┴─► `Subject` of a client
    axoneme_ipexact, axoneme_ipcache  address → identity ───► servers, and addresses that are no name's
    axoneme_learned  {endpoint, address} → {identity, expiry}: written here, and by nobody else

The layouts repeat those of shim/maps (a service does not import the shim); tests hold them together. What was
read is remembered for LOOKUP_NS: long enough to spare most system calls of a busy node, and shorter than any
change of a workload takes to come into force, so nothing is judged by what could not have held just before.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from axoneme.lib import identities
from axoneme.lib.bpf.maps import BpfMap, KernelMap

SCHEMA_VERSION: Final = 2
LOOKUP_NS: Final = 5_000_000
_MAX_REMEMBERED: Final = 8_192

NAMES: Final = ("axoneme_local", "axoneme_ep", "axoneme_ipexact", "axoneme_ipcache", "axoneme_learned")
LOCAL: Final = struct.Struct("=IH6s6s2x")  # ifindex, endpoint id, MAC, host's MAC
ENDPOINT: Final = struct.Struct("=HBxII4s16s6s6s")  # id, flags, identity, generation, IPv4, IPv6, MAC, host's
IPCACHE_KEY: Final = struct.Struct("=I16s")  # bits, address
IPCACHE: Final = struct.Struct("=II16sB3x")  # identity, flags, tunnel endpoint, key
LEARNED_KEY: Final = struct.Struct("=I16s")  # endpoint id, address
LEARNED: Final = struct.Struct("=I4xQ")  # identity, expiry in ns of CLOCK_BOOTTIME
_NUMBER: Final = struct.Struct("=I")
_MAPPED: Final = bytes(10) + b"\xff\xff"

_OUTSIDE: Final = frozenset(
    {
        *(identities.UNKNOWN, identities.WORLD, identities.UNMANAGED),
        *(identities.WORLD_IPV4, identities.WORLD_IPV6),
    }
)


class Subject(NamedTuple):
    """An endpoint of this node: its number and its identity."""

    endpoint_id: int
    identity: int


@dataclass(frozen=True, slots=True)
class NodeEndpoint:
    """An endpoint as its map says; `place` differs when another workload has the number."""

    endpoint_id: int
    identity: int
    place: tuple[object, ...]


class LearnedWrite(NamedTuple):
    """An entry of `axoneme_learned`; the address has 4 or 16 bytes."""

    endpoint_id: int
    address: bytes
    identity: int
    expiry_ns: int


def long_address(address: bytes) -> bytes:
    """The 16 bytes of an address; IPv4 is mapped."""
    return _MAPPED + address if len(address) == 4 else address


def short_address(address: bytes) -> bytes:
    """The 4 bytes of a mapped address, else all 16."""
    return address[12:] if address.startswith(_MAPPED) else address


def may_be_learned(identity: int) -> bool:
    """Whether an address with this identity may be given another by its name: not one of a pod or node."""
    return identity in _OUTSIDE or identities.is_local(identity)


def world_of(address: bytes) -> int:
    """The world that an address of 4 or 16 bytes belongs to when nobody knows it."""
    return identities.WORLD_IPV4 if len(address) == 4 else identities.WORLD_IPV6


def open_maps(directory: Path) -> dict[str, BpfMap]:
    """The maps by name. Raises BpfError when one is not there (the helper makes them all)."""
    opened: dict[str, BpfMap] = {}
    try:
        for name in NAMES:
            opened[name] = KernelMap.open(directory / name)
    except BaseException:
        for one in opened.values():
            one.close()
        raise
    return opened


@dataclass(slots=True)
class NodeMaps:
    """Look-ups for the hot loop. Every method may raise BpfError."""

    maps: Mapping[str, BpfMap]
    clock_ns: Callable[[], int] = time.monotonic_ns
    _until: int = 0
    _subjects: dict[bytes, Subject | None] = field(default_factory=dict)
    _identities: dict[bytes, int] = field(default_factory=dict)

    def subject_of(self, address: bytes) -> Subject | None:
        """The endpoint with this address; None when this node has none."""
        self._refresh()
        if address not in self._subjects:
            self._subjects[address] = self._read_subject(address)
        return self._subjects[address]

    def identity_of(self, address: bytes) -> int:
        """The identity of an address by the ipcache; that of its family's world where it says nothing."""
        self._refresh()
        found = self._identities.get(address)
        if found is None:
            found = self._identities[address] = self._read_identity(address)
        return found

    def forget(self) -> None:
        """Has everything read again, such as after an endpoint went away."""
        self._until = 0

    def _refresh(self) -> None:
        now = self.clock_ns()
        if now >= self._until or len(self._identities) + len(self._subjects) > _MAX_REMEMBERED:
            self._until = now + LOOKUP_NS
            self._subjects.clear()
            self._identities.clear()

    def _read_subject(self, address: bytes) -> Subject | None:
        local = self.maps["axoneme_local"].lookup(long_address(address))
        if local is None:
            return None
        ifindex, endpoint_id, _, _ = LOCAL.unpack(local)
        endpoint = self.maps["axoneme_ep"].lookup(_NUMBER.pack(ifindex))
        if endpoint is None:
            return None
        found_id, _, identity, *_ = ENDPOINT.unpack(endpoint)
        return Subject(endpoint_id, identity) if found_id == endpoint_id else None

    def _read_identity(self, address: bytes) -> int:
        key = long_address(address)
        found = self.maps["axoneme_ipexact"].lookup(key)
        if found is None:
            found = self.maps["axoneme_ipcache"].lookup(IPCACHE_KEY.pack(128, key))
        identity = IPCACHE.unpack(found)[0] if found is not None else identities.UNKNOWN
        return int(identity) or world_of(address)

    def endpoints(self) -> dict[int, NodeEndpoint]:
        """All endpoints of this node by number."""
        found = {}
        for key, value in self.maps["axoneme_ep"].items():
            endpoint_id, _, identity, _, ipv4, ipv6, mac, _ = ENDPOINT.unpack(value)
            found[endpoint_id] = NodeEndpoint(endpoint_id, identity, (key, ipv4, ipv6, mac))
        return found

    def learned(self) -> list[LearnedWrite]:
        """Everything in `axoneme_learned`."""
        found = []
        for key, value in self.maps["axoneme_learned"].items():
            endpoint_id, address = LEARNED_KEY.unpack(key)
            found.append(LearnedWrite(endpoint_id, short_address(address), *LEARNED.unpack(value)))
        return found

    def write_learned(self, writes: Collection[LearnedWrite]) -> None:
        """Creates or replaces entries. Raises MapFullError; entries before the failed one are written."""
        pairs = [
            (LEARNED_KEY.pack(one.endpoint_id, long_address(one.address)), LEARNED.pack(one[2], one[3]))
            for one in writes
        ]
        table = self.maps["axoneme_learned"]
        if len(pairs) == 1:
            table.update(*pairs[0])
        else:
            table.update_batch(pairs)

    def delete_learned(self, keys: Collection[tuple[int, bytes]]) -> int:
        """Deletes entries by endpoint and address; how many there were."""
        return self.maps["axoneme_learned"].delete_batch(
            [LEARNED_KEY.pack(endpoint_id, long_address(address)) for endpoint_id, address in keys]
        )
