"""Which (protocol, port) the redirects of policy maps stand for; shim.proxiedports tells the programs.

A port is told before a policy map with its redirect is switched to, and taken back after the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from axoneme.lib.policy.model import PortBlock
from shim.maps.proxied import TCP, UDP, ProxiedPort

_PORT_BITS: Final = 16


class PortTable(Protocol):
    """The kernel's side (shim.proxiedports.ProxiedPorts)."""

    def replace(self, ports: Iterable[ProxiedPort]) -> None:
        """Makes these all there are. Raises Unavailable."""


def ports_of(blocks: Iterable[PortBlock]) -> frozenset[ProxiedPort]:
    """Every port of redirect entries that a proxy can take: only TCP and UDP are redirected."""
    return frozenset(one for block in blocks for one in _each(block))


def _each(block: PortBlock) -> Iterator[ProxiedPort]:
    count = 1 << (_PORT_BITS - block.prefix_length)
    for protocol in (TCP, UDP):
        if block.protocol in (0, protocol):
            for port in range(max(block.port, 1), block.port + count):
                yield ProxiedPort(protocol, port)
