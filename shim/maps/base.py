"""What all layouts of maps share: fixed-size records, addresses of 16 bytes (IPv4 as ::ffff:a.b.c.d)."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self, TypeAlias

from axoneme.lib.bpf.kinds import MapKind, MapSpec

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAPPED: Final = bytes(10) + b"\xff\xff"
MAPPED_BITS: Final = 96
NO_ADDRESS: Final = bytes(16)
U32: Final = 4
ADDRESS: Final = 16


def address_bytes(address: Address | str) -> bytes:
    """The 16 bytes of an address; IPv4 is mapped."""
    parsed = ipaddress.ip_address(address)
    return parsed.packed if parsed.version == 6 else MAPPED + parsed.packed


def address_from_bytes(raw: bytes) -> Address:
    """The address of 16 bytes, IPv4 when it is a mapped one."""
    if raw.startswith(MAPPED):
        return ipaddress.IPv4Address(raw[12:])
    return ipaddress.IPv6Address(raw)


def mac_bytes(text: str) -> bytes:
    """The 6 bytes of `0a:00:00:00:00:01`; zeros of an empty text."""
    return bytes.fromhex(text.replace(":", "")) or bytes(6)


def is_host_route(network: Network) -> bool:
    """Whether the prefix is one address and so belongs in `axoneme_ipexact` rather than in the trie."""
    return network.prefixlen == network.max_prefixlen


class Record:
    """A fixed-size struct; `FORMAT` follows the dataclass fields in order and names the padding."""

    __slots__: tuple[str, ...] = ()
    FORMAT: ClassVar[struct.Struct]

    def pack(self) -> bytes:
        # Not astuple, which copies deeply: maps are written by the hundred thousand.
        return self.FORMAT.pack(*[getattr(self, name) for name in self.__slots__])

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        return cls(*cls.FORMAT.unpack(raw))


@dataclass(frozen=True, slots=True)
class IpcacheKey(Record):
    """Key of `axoneme_ipcache`; IPv4 prefixes are 96 bits longer."""

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=I16s")
    prefix_length: int
    address: bytes

    @classmethod
    def of(cls, network: Network | str) -> IpcacheKey:
        parsed = ipaddress.ip_network(network)
        extra = MAPPED_BITS if parsed.version == 4 else 0
        return cls(parsed.prefixlen + extra, address_bytes(parsed.network_address))

    def network(self) -> Network:
        if self.address.startswith(MAPPED) and self.prefix_length >= MAPPED_BITS:
            return ipaddress.IPv4Network((self.address[12:], self.prefix_length - MAPPED_BITS))
        return ipaddress.IPv6Network((self.address, self.prefix_length))


def spec(name: str, kind: MapKind, key: int, value: int, size: int, flags: int = 0) -> MapSpec:
    """A map's specification; sizes in bytes."""
    return MapSpec(name=name, kind=kind, key_size=key, value_size=value, max_entries=size, flags=flags)


def number_key(number: int) -> bytes:
    """Key of a map by set or backend number."""
    return struct.pack("=I", number)
