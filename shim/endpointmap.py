"""`axoneme_ep`: which endpoint is behind an interface, and under which policy generation it is judged."""

from __future__ import annotations

from collections.abc import Callable

from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.errors import Unavailable
from shim.endpoints import Endpoint
from shim.maps import base, layout
from shim.reconciler import Reconciler
from shim.tables import MapTable


class EndpointMap:
    """`axoneme_ep`: which endpoint is behind an interface. `audit` switches auditing on for all of them."""

    def __init__(self, bpf_map: BpfMap, *, clock: Callable[[], float], audit: bool = False) -> None:
        self.audit = audit
        self.reconciler = Reconciler(layout.EP.name, MapTable(bpf_map), clock=clock)

    def write(self, endpoint: Endpoint) -> None:
        """Writes the entry of an interface that exists. Raises Unavailable when the kernel refuses."""
        if not endpoint.ifindex:
            return
        key = layout.endpoint_key(endpoint.ifindex)
        self.reconciler.put({key: encode_endpoint(endpoint, audit=self.audit or endpoint.audit)})
        self.reconciler.flush()
        fault = self.reconciler.faults().get(key)
        if fault is not None:
            raise Unavailable(fault.message, reason="MAP_WRITE_FAILED")

    def remove(self, endpoint: Endpoint) -> None:
        """Forgets the interface."""
        self.reconciler.discard([layout.endpoint_key(endpoint.ifindex)])
        self.reconciler.flush()

    def generation_of(self, endpoint: Endpoint) -> int:
        """The policy generation that the kernel has for an endpoint; 0 when it has none."""
        entry = self._entry_of(endpoint)
        return entry.policy_generation if entry else 0

    def learns(self, endpoint: Endpoint) -> bool:
        """Whether programs look for addresses that the endpoint learned."""
        entry = self._entry_of(endpoint)
        return entry is not None and bool(entry.flags & layout.ENDPOINT_LEARNED)

    def _entry_of(self, endpoint: Endpoint) -> layout.EndpointEntry | None:
        raw = self.reconciler.actual.get(layout.endpoint_key(endpoint.ifindex))
        entry = layout.EndpointEntry.unpack(raw) if raw else None
        return entry if entry and entry.endpoint_id == endpoint.endpoint_id else None


def encode_endpoint(endpoint: Endpoint, *, audit: bool = False) -> bytes:
    """Value of `axoneme_ep`."""
    raw = [base.address_bytes(ip) for ip in endpoint.ips]
    ipv4 = next((one[12:] for one, ip in zip(raw, endpoint.ips, strict=True) if ":" not in ip), bytes(4))
    ipv6 = next((one for one, ip in zip(raw, endpoint.ips, strict=True) if ":" in ip), bytes(16))
    return layout.EndpointEntry(
        endpoint_id=endpoint.endpoint_id,
        flags=(layout.ENDPOINT_AUDIT if audit else 0)
        | (layout.ENDPOINT_LEARNED if endpoint.learns else 0)
        | endpoint.aggregation << layout.ENDPOINT_AGGREGATION_SHIFT,
        identity=endpoint.identity,
        policy_generation=endpoint.policy_generation,
        ipv4=ipv4,
        ipv6=ipv6,
        mac=_mac(endpoint.mac),
        host_mac=_mac(endpoint.host_mac),
    ).pack()


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", "")) if text else bytes(6)
