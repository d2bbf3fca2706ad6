"""Ports as a policy map knows them: aligned blocks of one protocol, and names that stand for a port.

Pure; ports are in host order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

PORT_BITS: Final = 16


@dataclass(frozen=True, slots=True, order=True)
class PortBlock:
    """An aligned block of ports of one protocol; (0, 0, 0) is every protocol and port.

    `prefix_length` counts the significant bits of `port`: 16 is one port, 0 every port of the protocol.
    For ICMP and ICMPv6 the port is the type.
    """

    protocol: int
    port: int
    prefix_length: int

    def __post_init__(self) -> None:
        if not (0 <= self.protocol <= 255 and 0 <= self.port <= 0xFFFF):
            raise ValueError(f"protocol {self.protocol} or port {self.port} is out of range")
        if not 0 <= self.prefix_length <= PORT_BITS:
            raise ValueError(f"prefix length {self.prefix_length} of a port block is not within 0..16")
        if self.port & ((1 << (PORT_BITS - self.prefix_length)) - 1):
            raise ValueError(f"port {self.port} is not aligned to {self.prefix_length} bits")
        if self.protocol == 0 and self.prefix_length != 0:
            raise ValueError("every protocol implies every port")

    @property
    def specificity(self) -> int:
        """Significant bits of protocol and port: 0 for any, 8 for a protocol, up to 24 for one port."""
        return 0 if self.protocol == 0 else 8 + self.prefix_length

    def covers(self, other: PortBlock) -> bool:
        """Whether each port of `other` is one of this block."""
        if self.protocol == 0:
            return True
        shift = PORT_BITS - self.prefix_length
        return (
            self.protocol == other.protocol
            and self.prefix_length <= other.prefix_length
            and self.port >> shift == other.port >> shift
        )

    def ancestors(self) -> Iterator[PortBlock]:
        """All wider blocks that cover this one, the narrowest first."""
        if self.protocol == 0:
            return
        for length in range(self.prefix_length - 1, -1, -1):
            yield PortBlock(self.protocol, self.port & _mask(length), length)
        yield ANY_PORT


ANY_PORT: Final = PortBlock(0, 0, 0)


def _mask(prefix_length: int) -> int:
    return 0xFFFF << (PORT_BITS - prefix_length) & 0xFFFF


def one_port(protocol: int, port: int) -> PortBlock:
    """The block that holds exactly this port (0 too, which is an ordinary number here)."""
    return PortBlock(protocol, port, PORT_BITS)


def blocks_of_range(protocol: int, first: int, last: int) -> tuple[PortBlock, ...]:
    """Split an inclusive range into maximal aligned blocks, at most 30 of them."""
    blocks = []
    while first <= last:
        bits = PORT_BITS if first == 0 else (first & -first).bit_length() - 1
        while first + (1 << bits) - 1 > last:
            bits -= 1
        blocks.append(PortBlock(protocol, first, PORT_BITS - bits))
        first += 1 << bits
    return tuple(blocks)


@dataclass(frozen=True, slots=True, order=True)
class NamedPort:
    """A port of the subject by name, resolved for each endpoint (ingress only)."""

    protocol: int
    name: str
