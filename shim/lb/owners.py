"""Services and host ports of one node as last told, and which of them must be planned anew."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from shim.endpoints import Endpoint, EndpointState, EndpointTable
from shim.lb import hostports
from shim.lb.model import HOST_PORT_OWNER, HostPorts, Owner, Service


class Owners:
    """`values` by key; `dirty` are keys of those that changed, or that something they depend on changed."""

    def __init__(self, endpoints: EndpointTable) -> None:
        self.values: dict[str, Owner] = {}
        self.dirty: set[str] = set()
        self.wake = asyncio.Event()
        """Set when something other than the stream made owners dirty."""
        self._by_address: dict[bytes, set[str]] = {}
        self._endpoint_addresses: dict[int, frozenset[bytes]] = {}
        endpoints.listen(self._on_endpoint)

    def services(self) -> Iterator[Service]:
        """Services of the stream, whether in effect or not."""
        return iter([one for one in self.values.values() if isinstance(one, Service)])

    def service(self, key: str) -> Service | None:
        """A service of the stream by its key."""
        found = self.values.get(key)
        return found if isinstance(found, Service) else None

    def take_dirty(self) -> set[str]:
        """Dirty owners, which are clean from now on."""
        dirty, self.dirty = self.dirty, set()
        return dirty

    def local_addresses(self) -> frozenset[bytes]:
        """Addresses of the endpoints of this node."""
        return frozenset(ip for ips in self._endpoint_addresses.values() for ip in ips)

    def put(self, key: str, value: Owner | None) -> None:
        """An owner has another value; None: it is gone."""
        for address in _backend_addresses(self.values.get(key)):
            self._by_address[address].discard(key)
            if not self._by_address[address]:
                del self._by_address[address]
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value
        for address in _backend_addresses(value):
            self._by_address.setdefault(address, set()).add(key)
        self.dirty.add(key)

    def _on_endpoint(self, endpoint_id: int, endpoint: Endpoint | None) -> None:
        """An endpoint came, changed or went: its host ports, and services whose backend became local."""
        before = self._endpoint_addresses.pop(endpoint_id, frozenset())
        after = frozenset(hostports.host_addresses(endpoint)) if endpoint else frozenset()
        if after:
            self._endpoint_addresses[endpoint_id] = after
        key = f"{HOST_PORT_OWNER}{endpoint_id}"
        value = _host_ports_of(endpoint)
        if value != self.values.get(key):
            self.put(key, value)
            self.soil([key])
        if before != after:
            self.soil(key for address in before ^ after for key in self._by_address.get(address, ()))

    def soil(self, keys: Iterable[str]) -> None:
        """What these owners come to may be something else now."""
        self.dirty.update(keys)
        if self.dirty:
            self.wake.set()


def _backend_addresses(value: Owner | None) -> set[bytes]:
    return {backend.address for backend in value.backends} if isinstance(value, Service) else set()


def _host_ports_of(endpoint: Endpoint | None) -> HostPorts | None:
    if endpoint is None or not endpoint.host_ports or endpoint.state is EndpointState.TERMINATING:
        return None
    return HostPorts(
        endpoint_id=endpoint.endpoint_id,
        addresses=hostports.host_addresses(endpoint),
        ports=endpoint.host_ports,
    )
