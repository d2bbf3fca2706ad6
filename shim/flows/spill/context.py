"""Names of flows of an earlier life, as their blocks stated them. Times are wall times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from shim.flows.context import Address, PolicyOrigin, WorkloadInfo, mapped
from shim.flows.history import History
from shim.flows.spill import names as said
from shim.flows.spill.blocks import Statement

MAX_ENDED: Final = 1 << 20


class RestoredNames:
    """A FlowContext made of statements."""

    def __init__(self, *, node_name: str, cluster_name: str) -> None:
        self.node_name, self.cluster_name = node_name, cluster_name
        self._told: dict[str, History[Any, Any]] = {
            kind: History[Any, Any](MAX_ENDED)
            for kind in (
                said.ENDPOINT,
                said.ADDRESS,
                said.LABELS,
                said.NAMES,
                said.INTERFACE,
                said.ORIGINS,
                said.DENIALS,
            )
        }

    def learn(self, statements: Iterable[Statement]) -> None:
        """Take the statements of the next block. Raises ValueError, KeyError or TypeError for other ones."""
        for kind, key, since_ns, value in statements:
            history = self._told[kind]
            known = _key(kind, key)
            if value:
                history.put(known, _value(kind, value), since_ns)
            else:
                history.end(known, since_ns)

    @property
    def revision(self) -> int:
        """Grows while statements are learned."""
        return sum(self._told[kind].revision for kind in (said.ENDPOINT, said.ADDRESS, said.LABELS))

    def endpoint(self, endpoint_id: int, time_ns: int | None) -> WorkloadInfo | None:
        """An endpoint of that time."""
        found: WorkloadInfo | None = self._told[said.ENDPOINT].at(endpoint_id, time_ns)
        return found

    def workload_at(self, address: Address, time_ns: int | None) -> WorkloadInfo | None:
        """The owner of an address at that time."""
        found: WorkloadInfo | None = self._told[said.ADDRESS].at(mapped(address.packed), time_ns)
        return found

    def identity_labels(self, identity: int, time_ns: int | None) -> Sequence[str]:
        """Labels of an identity at that time."""
        return self._told[said.LABELS].at(identity, time_ns) or ()

    def known_addresses(self) -> Mapping[bytes, bool]:
        """Addresses that had an owner, and whether an endpoint of this node had them."""
        known = dict.fromkeys(self._told[said.ADDRESS], False)
        endpoints = self._told[said.ENDPOINT]
        for number in endpoints:
            for info in endpoints.values(number):
                known.update((mapped(address.packed), True) for address in info.addresses)
        return known

    def change_times(
        self, identity: int, address: Address | None, endpoint_id: int, after_ns: int
    ) -> Iterable[int]:
        """When a name of such an end may have changed."""
        times = self._told[said.LABELS].times(identity, after_ns)
        times += self._told[said.ENDPOINT].times(endpoint_id, after_ns)
        if address is not None:
            key = mapped(address.packed)
            times += self._told[said.ADDRESS].times(key, after_ns)
            for owner in self._told[said.ADDRESS].values(key):
                times += self._told[said.LABELS].times(owner.identity, after_ns)
        return times

    @property
    def names_revision(self) -> int:
        """Grows while DNS names are learned."""
        return self._told[said.NAMES].revision

    def named_addresses(self) -> Iterable[bytes]:
        """Addresses that had a DNS name."""
        return {address for _, address in self._told[said.NAMES]}

    def has_names(self, endpoint_id: int, address: bytes) -> bool:
        """Whether that endpoint knew a name of an address."""
        return (endpoint_id, address) in self._told[said.NAMES]

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> Sequence[str]:
        """Names that it knew at that time."""
        return self._told[said.NAMES].at((endpoint_id, mapped(address.packed)), time_ns) or ()

    def name_times(self, endpoint_id: int, address: Address, after_ns: int) -> Iterable[int]:
        """When they may have changed."""
        return self._told[said.NAMES].times((endpoint_id, mapped(address.packed)), after_ns)

    def origins(self, cookie: int) -> Sequence[PolicyOrigin]:
        """Policies behind a cookie, as last stated."""
        return self._told[said.ORIGINS].at(cookie, None) or ()

    def default_deny_origins(
        self, endpoint_id: int, direction: int, generation: int, time_ns: int
    ) -> Sequence[PolicyOrigin]:
        """Policies behind a default deny at that time."""
        return self._told[said.DENIALS].at((endpoint_id, direction, generation), time_ns) or ()

    def interface_name(self, ifindex: int, time_ns: int | None) -> str:
        """An interface of that time."""
        return self._told[said.INTERFACE].at(ifindex, time_ns) or ""


def _key(kind: str, key: Any) -> Any:
    if kind == said.ADDRESS:
        return bytes.fromhex(key)
    if kind == said.NAMES:
        return key[0], bytes.fromhex(key[1])
    return tuple(key) if kind == said.DENIALS else key


def _value(kind: str, value: Any) -> Any:
    if kind in (said.ENDPOINT, said.ADDRESS):
        return said.info_of(value)
    if kind in (said.ORIGINS, said.DENIALS):
        return tuple(map(said.origin_of, value))
    return value if kind == said.INTERFACE else tuple(value)
