"""Small values for tests of the proxy: names, answers, maps in memory, clocks that stand still."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from axoneme.lib.bpf.errors import MapFullError
from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.dns.wire import Answer, Question, wire_of
from axoneme.lib.policy.model import FqdnDefinition
from services.fqdn.cache import CachedName
from services.fqdn.learner import LearnerSettings, NameLearner
from services.fqdn.model import Ruling
from services.fqdn.pins import ENDPOINT, IPCACHE, IPCACHE_KEY, LOCAL, LearnedWrite, NodeMaps, long_address
from services.fqdn.tables import IdentityTable
from shim.maps import layout, node

SECOND = 1_000_000_000


def raw(address: str) -> bytes:
    """4 or 16 bytes."""
    return ipaddress.ip_address(address).packed


def question(name: str, qtype: int = 1) -> Question:
    return Question(wire_of(name), qtype, 1, 0)


def answer(*addresses: str, ttl: int = 60) -> Answer:
    return Answer(
        rcode=0,
        truncated=False,
        addresses=tuple(map(raw, addresses)),
        ttl=ttl,
        cnames=(),
        rrtypes=(1,),
        usable=True,
    )


def ruling(endpoint_id: int = 7) -> Ruling:
    return Ruling(True, endpoint_id, 5_000)


def table(
    sets: Mapping[int, tuple[str, Iterable[str]]],
    selectors: Iterable[str] = (),
    prefixes: Iterable[str] = (),
    revision: int = 1,
) -> IdentityTable:
    """Selectors with a star are patterns; those of the sets are there without being named."""
    texts = {*selectors, *(text for _, names in sets.values() for text in names)}
    return IdentityTable(
        revision,
        [FqdnDefinition(text, "*" in text) for text in texts],
        list(prefixes),
        {number: (prefix, frozenset(names)) for number, (prefix, names) in sets.items()},
    )


@dataclass
class Maps:
    """`LearnedMaps` that counts."""

    known: dict[bytes, int] = field(default_factory=dict)
    learned: dict[tuple[int, bytes], tuple[int, int]] = field(default_factory=dict)
    room: int = 1 << 30
    writes: int = 0

    def identity_of(self, address: bytes) -> int:
        return self.known.get(address, 9 if len(address) == 4 else 10)

    def write_learned(self, writes: list[LearnedWrite]) -> None:
        for endpoint_id, address, identity, expiry_ns in writes:
            key = endpoint_id, address
            if key not in self.learned and len(self.learned) >= self.room:
                raise MapFullError(7, "update", "axoneme_learned")
            self.learned[key] = identity, expiry_ns
            self.writes += 1

    def delete_learned(self, keys: list[tuple[int, bytes]]) -> int:
        return sum(self.learned.pop(key, None) is not None for key in keys)


class NoJournal:
    """Forgets everything at once."""

    failures = 0

    def learned(
        self, endpoint_id: int, known: CachedName, addresses: Iterable[bytes], expiry_ns: int
    ) -> None: ...
    def forgot(self, endpoint_id: int, name: bytes) -> None: ...


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = 1_000.0

    def ns(self) -> int:
        return int(self.now * SECOND)

    def seconds(self) -> float:
        return self.now


def learner(maps: Maps | None = None, clock: Clock | None = None, **settings: object) -> NameLearner:
    clock = clock or Clock()
    return NameLearner(
        maps or Maps(),
        LearnerSettings(**settings),  # type: ignore[arg-type]
        NoJournal(),
        clock_ns=clock.ns,
        wall=clock.seconds,
        monotonic=clock.seconds,
    )


def node_maps(clock: Clock | None = None) -> NodeMaps:
    """The node's maps in memory, with the shim's own layout."""
    specs = {**layout.MAPS, node.LOCAL.name: node.LOCAL}
    names = ("axoneme_local", "axoneme_ep", "axoneme_ipexact", "axoneme_ipcache", "axoneme_learned")
    return NodeMaps({name: MemoryMap(specs[name]) for name in names}, (clock or Clock()).ns)


def add_endpoint(maps: NodeMaps, address: str, *, ifindex: int, endpoint_id: int, identity: int) -> None:
    key = long_address(raw(address))
    maps.maps["axoneme_local"].update(key, LOCAL.pack(ifindex, endpoint_id, bytes(6), bytes(6)))
    ipv4 = raw(address) if "." in address else bytes(4)
    maps.maps["axoneme_ep"].update(
        layout.endpoint_key(ifindex),
        ENDPOINT.pack(endpoint_id, 0, identity, 1, ipv4, bytes(16), bytes(6), bytes(6)),
    )


def add_prefix(maps: NodeMaps, prefix: str, identity: int) -> None:
    network = ipaddress.ip_network(prefix)
    value = IPCACHE.pack(identity, 0, bytes(16), 0)
    address = long_address(network.network_address.packed)
    if network.prefixlen == network.max_prefixlen:
        maps.maps["axoneme_ipexact"].update(address, value)
    else:
        bits = network.prefixlen + (96 if network.version == 4 else 0)
        maps.maps["axoneme_ipcache"].update(IPCACHE_KEY.pack(bits, address), value)
