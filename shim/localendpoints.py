"""What the programs know of this node's endpoints: `axoneme_local`, which endpoint has an address, and
`axoneme_netns`, which endpoint a network namespace belongs to.

Both follow the endpoint table: an entry is there before the endpoint's traffic opens (an interface exists,
but nothing is attached yet) and goes first when the endpoint is being removed. A write that fails is tried
again and told as a problem of the node.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from axoneme.lib.bpf.maps import BpfMap
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.maps import base
from shim.maps.node import LOCAL, LocalEntry
from shim.maps.sockets import NETNS, NetnsEntry, cookie_from_key, cookie_key
from shim.reconciler import Reconciler
from shim.tables import MapTable

MAX_NAMED = 3


class EndpointEntries(ABC):
    """A map whose entries are computed from each endpoint alone."""

    def __init__(
        self, name: str, bpf_map: BpfMap, endpoints: EndpointTable, *, clock: Callable[[], float]
    ) -> None:
        self.reconciler = Reconciler(name, MapTable(bpf_map), clock=clock)
        self.complete = False
        self._name = name
        self._by_id: dict[int, dict[bytes, bytes]] = {}
        for endpoint in endpoints:
            self._on_endpoint(endpoint.endpoint_id, endpoint)
        endpoints.listen(self._on_endpoint)

    @abstractmethod
    def entries(self, endpoints: Iterable[Endpoint]) -> dict[bytes, bytes]:
        """What the map holds for those of them that have an interface and are not being removed."""

    @abstractmethod
    def shown(self, key: bytes) -> str:
        """A key in words."""

    def load(self) -> None:
        """Reads what an earlier life left; it stays until `settle`."""
        self.reconciler.load()

    def settle(self) -> None:
        """Every endpoint of an earlier life was taken over: what nobody has goes away."""
        self.complete = True
        self.reconciler.prune()
        self.reconciler.flush()

    async def audit(self) -> list[str]:
        """Compares and repairs; returns what differed."""
        found = self.reconciler.audit(prune=self.complete)
        return [f"{self._name}: {self.shown(key)}: {what}" for key, what in found]

    def problems(self) -> list[str]:
        """Entries of endpoints that are not in the kernel, in words."""
        return [
            f"{self.shown(key)} of an endpoint is not in {self._name}: {fault.message}; it is tried again"
            for key, fault in list(self.reconciler.faults().items())[:MAX_NAMED]
        ]

    def _on_endpoint(self, endpoint_id: int, endpoint: Endpoint | None) -> None:
        wanted = self.entries([endpoint] if endpoint is not None else ())
        before = self._by_id.pop(endpoint_id, {})
        if wanted:
            self._by_id[endpoint_id] = wanted
        self.reconciler.put({k: v for k, v in wanted.items() if self.reconciler.desired.get(k) != v})
        for key in before.keys() - wanted.keys():
            self._leave(key)
        self.reconciler.flush()

    def _leave(self, key: bytes) -> None:
        """Another endpoint may have the same key: then it is his."""
        left = next((entries[key] for entries in self._by_id.values() if key in entries), None)
        if left is None:
            self.reconciler.discard([key])
        else:
            self.reconciler.put({key: left})


class LocalEndpoints(EndpointEntries):
    """The addresses of this node's endpoints in the kernel."""

    def __init__(self, bpf_map: BpfMap, endpoints: EndpointTable, *, clock: Callable[[], float]) -> None:
        super().__init__(LOCAL.name, bpf_map, endpoints, clock=clock)

    def entries(self, endpoints: Iterable[Endpoint]) -> dict[bytes, bytes]:
        """One for each address."""
        return local_entries(endpoints)

    def shown(self, key: bytes) -> str:
        """The address."""
        return str(base.address_from_bytes(key))


class EndpointNamespaces(EndpointEntries):
    """The network namespaces of this node's endpoints in the kernel."""

    def __init__(self, bpf_map: BpfMap, endpoints: EndpointTable, *, clock: Callable[[], float]) -> None:
        super().__init__(NETNS.name, bpf_map, endpoints, clock=clock)

    def entries(self, endpoints: Iterable[Endpoint]) -> dict[bytes, bytes]:
        """One for each namespace whose number the kernel told."""
        return {
            cookie_key(one.netns_cookie): NetnsEntry(one.ifindex, one.endpoint_id).pack()
            for one in endpoints
            if one.netns_cookie and _lives(one)
        }

    def shown(self, key: bytes) -> str:
        """The kernel's number."""
        return f"namespace {cookie_from_key(key)}"


def local_entries(endpoints: Iterable[Endpoint]) -> dict[bytes, bytes]:
    """The content of `axoneme_local`: endpoints that have an interface and are not being removed."""
    return {
        base.address_bytes(ip): LocalEntry(
            endpoint.ifindex,
            endpoint.endpoint_id,
            base.mac_bytes(endpoint.mac),
            base.mac_bytes(endpoint.host_mac),
        ).pack()
        for endpoint in endpoints
        if _lives(endpoint)
        for ip in endpoint.ips
    }


def _lives(endpoint: Endpoint) -> bool:
    """Has an interface and is not being removed."""
    return bool(endpoint.ifindex) and endpoint.state is not EndpointState.TERMINATING
