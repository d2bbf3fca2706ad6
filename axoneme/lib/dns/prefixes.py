"""Which of some prefixes is the longest around an address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

EVERY: Final = {4: "0.0.0.0/0", 16: "::/0"}  # by the bytes of an address


class PrefixFinder:
    """Named prefixes of both families; immutable. One look-up per prefix length that is in use."""

    __slots__ = ("_levels",)

    def __init__(self, prefixes: Iterable[str] = ()) -> None:
        """Canonical texts. Raises ValueError for one that is no prefix, or has host bits."""
        levels: dict[int, dict[int, dict[int, str]]] = {4: {}, 16: {}}
        for network in map(ipaddress.ip_network, prefixes):
            size = network.max_prefixlen // 8
            shift = network.max_prefixlen - network.prefixlen
            numbers = levels[size].setdefault(shift, {})
            numbers[int(network.network_address) >> shift] = str(network)
        self._levels = {size: sorted(found.items()) for size, found in levels.items()}

    def find(self, address: bytes) -> str:
        """The longest prefix around an address of 4 or 16 bytes, or /0. Raises KeyError for other sizes."""
        number = int.from_bytes(address, "big")
        for shift, numbers in self._levels[len(address)]:
            prefix = numbers.get(number >> shift)
            if prefix is not None:
                return prefix
        return EVERY[len(address)]
