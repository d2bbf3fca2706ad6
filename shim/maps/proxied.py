"""The words of `axoneme_proxied`: a bit for each protocol and port to which an endpoint is redirected.

word = (TCP: 1024) + port / 64, bit = port mod 64        as shim/bpf/proxy.h reads it
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from shim.maps.base import number_key

TCP, UDP = 6, 17
WORDS: Final = 2048
_TCP_WORDS: Final = 1024
_BITS: Final = 64
_WORD: Final = struct.Struct("=Q")
NO_PORTS, ALL_PORTS = _WORD.pack(0), _WORD.pack(2**64 - 1)


class ProxiedPort(NamedTuple):
    """What a redirect names: an IP protocol, TCP or UDP, and a port of servers."""

    protocol: int
    port: int


def words_of(ports: Iterable[ProxiedPort]) -> dict[bytes, bytes]:
    """Keys and values of the words that are not zero. Raises ValueError for what has no bit."""
    words: dict[int, int] = {}
    for one in ports:
        if one.protocol not in (TCP, UDP) or not 0 < one.port <= 0xFFFF:
            raise ValueError(f"{one} is no port of TCP or UDP")
        index = (_TCP_WORDS if one.protocol == TCP else 0) + one.port // _BITS
        words[index] = words.get(index, 0) | 1 << one.port % _BITS
    return {number_key(index): _WORD.pack(word) for index, word in words.items()}


def ports_of(words: Iterable[tuple[bytes, bytes]]) -> frozenset[ProxiedPort]:
    """Inverse of `words_of`; words of zeros are fine."""
    return frozenset(
        ProxiedPort(TCP if index >= _TCP_WORDS else UDP, index % _TCP_WORDS * _BITS + bit)
        for index, word in ((struct.unpack("=I", key)[0], _WORD.unpack(value)[0]) for key, value in words)
        for bit in range(_BITS)
        if word >> bit & 1
    )
