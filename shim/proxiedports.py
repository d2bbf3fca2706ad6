"""Which servers' ports the programs look out for: answers from there may be for the DNS proxy, not for a pod.

    add:     bits, then the node's flag         the first redirect finds its answers at once
    remove:  the flag when none is left, then bits

What an earlier life left stays in force until `replace` says what is wanted: its redirects are in force too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import Unavailable
from shim.maps.node import PROXIED
from shim.maps.proxied import ALL_PORTS, NO_PORTS, TCP, ProxiedPort, ports_of, words_of
from shim.nodemaps import NodeMaps
from shim.reconciler import Reconciler
from shim.tables import MapTable


class ProxiedPorts:
    """`axoneme_proxied`, and the flag NODE_PROXY of the node's description."""

    def __init__(self, bpf_map: BpfMap, node_maps: NodeMaps, *, clock: Callable[[], float]) -> None:
        self.ports: frozenset[ProxiedPort] = frozenset()
        """What the programs look out for."""
        self._node_maps = node_maps
        self._words: Reconciler[bytes, bytes] = Reconciler(PROXIED.name, MapTable(bpf_map), clock=clock)

    def load(self) -> None:
        """Reads what an earlier life left."""
        self._words.load()
        found = {key: word for key, word in self._words.actual.items() if word != NO_PORTS}
        self._words.put(found)
        self.ports = ports_of(found.items())

    def add(self, ports: Iterable[ProxiedPort]) -> None:
        """Call it before a redirect to any of these is in force. Raises as `replace`."""
        self.replace(self.ports | frozenset(ports))

    def remove(self, ports: Iterable[ProxiedPort]) -> None:
        """Call it when no endpoint is redirected there any more. Raises as `replace`."""
        self.replace(self.ports - frozenset(ports))

    def replace(self, ports: Iterable[ProxiedPort]) -> None:
        """Exactly these. Raises Unavailable when the kernel refuses; it is tried again by `flush`."""
        self.ports = frozenset(ports)
        wanted = words_of(self.ports)
        cleared = {key: NO_PORTS for key in self._words.desired if key not in wanted}
        if not wanted:
            self._node_maps.set_proxied(on=False)
        self._words.put({**wanted, **cleared})
        self._words.flush()
        if wanted:
            self._node_maps.set_proxied(on=True)
        fault = next(iter(self._words.faults().values()), None)
        if fault is not None:
            raise Unavailable(fault.message, reason="MAP_WRITE_FAILED")

    def next_due(self) -> float | None:
        """Time of the next try, by the injected clock."""
        return self._words.next_due()

    def flush(self) -> None:
        """Tries again what is due."""
        self._words.flush()

    async def audit(self) -> list[str]:
        """Compares and repairs; returns what differed."""
        self._words.load()
        unknown = [
            key
            for key, word in self._words.actual.items()
            if word != NO_PORTS and key not in self._words.desired
        ]
        self._words.desired.update(dict.fromkeys(unknown, NO_PORTS))
        return [f"{PROXIED.name}: {_range(key)}: {what}" for key, what in self._words.audit(prune=False)]


def _range(key: bytes) -> str:
    protocol, first = min(ports_of([(key, ALL_PORTS)]))
    return f"{'TCP' if protocol == TCP else 'UDP'} {first} to {first + 63}"
