"""`axoneme_local`: which endpoint of this node has an address.

Follows the endpoint table: an address is there before the endpoint's traffic opens (an interface exists, but
nothing is attached yet) and goes first when the endpoint is being removed. A write that fails is tried again
and told as a problem of the node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from axoneme.lib.bpf.maps import BpfMap
from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.maps import base
from shim.maps.node import LOCAL, LocalEntry
from shim.reconciler import Reconciler
from shim.tables import MapTable


class LocalEndpoints:
    """The addresses of this node's endpoints in the kernel."""

    def __init__(self, bpf_map: BpfMap, endpoints: EndpointTable, *, clock: Callable[[], float]) -> None:
        self.reconciler = Reconciler(LOCAL.name, MapTable(bpf_map), clock=clock)
        self.complete = False
        self._keys_by_id: dict[int, frozenset[bytes]] = {}
        for endpoint in endpoints:
            self._on_endpoint(endpoint.endpoint_id, endpoint)
        endpoints.listen(self._on_endpoint)

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
        return [f"{LOCAL.name}: {base.address_from_bytes(key)}: {what}" for key, what in found]

    def problems(self) -> list[str]:
        """Addresses of endpoints that are not in the kernel, in words."""
        return [
            f"address {base.address_from_bytes(key)} of an endpoint is not in {LOCAL.name}: {fault.message}; "
            "it is tried again"
            for key, fault in list(self.reconciler.faults().items())[:3]
        ]

    def _on_endpoint(self, endpoint_id: int, endpoint: Endpoint | None) -> None:
        wanted = local_entries([endpoint] if endpoint is not None else ())
        before = self._keys_by_id.pop(endpoint_id, frozenset())
        if wanted:
            self._keys_by_id[endpoint_id] = frozenset(wanted)
        self.reconciler.put({k: v for k, v in wanted.items() if self.reconciler.desired.get(k) != v})
        self.reconciler.discard(key for key in before - wanted.keys() if self._unowned(key))
        self.reconciler.flush()

    def _unowned(self, key: bytes) -> bool:
        return not any(key in keys for keys in self._keys_by_id.values())


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
        if endpoint.ifindex and endpoint.state is not EndpointState.TERMINATING
        for ip in endpoint.ips
    }
