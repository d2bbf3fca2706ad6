"""Which number a port name means for each identity (R-36), for rules of egress that name ports.

    (identity, address) -> names of one pod's ports ──> name -> {identity: number}

A name counts for an identity only when all of its pods that have the name agree on one number; otherwise it
means nothing there. Ingress does not come here: names travel to the node and mean the endpoint's own ports.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

PortName: TypeAlias = tuple[int, str]
"""Protocol number and name."""
_NOBODY: Final[Mapping[int, int]] = MappingProxyType({})


class NamedPorts:
    """The ports of all pods by name."""

    def __init__(self) -> None:
        self._ports: dict[int, dict[str, Mapping[PortName, int]]] = {}
        self._numbers: dict[PortName, dict[int, int]] = {}

    def numbers(self, name: PortName) -> Mapping[int, int]:
        """Identity -> the one number that the name means for it."""
        return self._numbers.get(name, _NOBODY)

    def names_of(self, identity: int) -> frozenset[PortName]:
        """Every name that a pod of the identity has, clear or not."""
        return frozenset(name for ports in self._ports.get(identity, {}).values() for name in ports)

    def put(self, identity: int, address: str, ports: Mapping[PortName, int]) -> set[PortName]:
        """Set the ports of the pod at an address. Returns the names that changed their meaning."""
        if not ports:
            return self.remove(identity, address)
        before = self._ports.get(identity, {}).get(address, {})
        self._ports.setdefault(identity, {})[address] = dict(ports)
        return self._recompute(identity, {*before, *ports})

    def remove(self, identity: int, address: str) -> set[PortName]:
        """Forget the pod at an address. Returns the names that changed their meaning."""
        pods = self._ports.get(identity, {})
        before = pods.pop(address, {})
        if not pods:
            self._ports.pop(identity, None)
        return self._recompute(identity, set(before))

    def copy(self) -> NamedPorts:
        """Names of its own with the same content."""
        twin = NamedPorts()
        twin._ports = {identity: pods.copy() for identity, pods in self._ports.items()}
        twin._numbers = {name: numbers.copy() for name, numbers in self._numbers.items()}
        return twin

    def _recompute(self, identity: int, names: set[PortName]) -> set[PortName]:
        return {name for name in names if self._set(name, identity, self._agreed(identity, name))}

    def _agreed(self, identity: int, name: PortName) -> int | None:
        pods = self._ports.get(identity, {}).values()
        found = {ports[name] for ports in pods if name in ports}
        return found.pop() if len(found) == 1 else None

    def _set(self, name: PortName, identity: int, number: int | None) -> bool:
        present = self._numbers.get(name, _NOBODY).get(identity)
        if present == number:
            return False
        if number is not None:
            self._numbers.setdefault(name, {})[identity] = number
            return True
        del self._numbers[name][identity]
        if not self._numbers[name]:
            del self._numbers[name]
        return True
