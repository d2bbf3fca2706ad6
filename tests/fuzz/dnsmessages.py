"""DNS messages of every kind that a proxy may meet, from a number: the same ones in every run.

Whole ones of each record type, odd ones, and each of them cut, spoilt and counted wrongly. The judges are the
tests that read them; nothing here knows what a reader should say.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

TYPES = (*range(1, 66), 99, *range(100, 110), *range(249, 260), 32768, 32769, 65280, 65535)
LABELS = (
    b"a",
    b"www",
    b"WwW",
    b"example",
    b"x" * 63,
    b"_sip",
    b"xn--bcher-kva",
    b"*",
    b"a.b",
    b"\x00",
    b"\xff",
    b"0",
)
OPTIONS = (3, 5, 8, 9, 10, 11, 12, 13, 15, 17, 65001)
_QUERY = struct.Struct(">HHHHHH")


def name(rng: random.Random, depth: int = 5) -> bytes:
    """A name in wire form, at most 255 bytes."""
    made = b""
    for _ in range(rng.randint(0, depth)):
        label = rng.choice(LABELS)
        if len(made) + len(label) + 2 <= 255:
            made += bytes((len(label),)) + label
    return made + b"\x00"


def header(rng: random.Random, flags: int, *counts: int) -> bytes:
    """A header with a random id."""
    return _QUERY.pack(rng.randrange(65536), flags, *counts)


def pointer(offset: int) -> bytes:
    """A pointer to an offset, or to the last one that a pointer can name."""
    return (0xC000 | min(offset, 0x3FFF)).to_bytes(2, "big")


def record(owner: bytes, rrtype: int, ttl: int, data: bytes, rrclass: int = 1) -> bytes:
    """A record with its length right."""
    return owner + struct.pack(">HHIH", rrtype, rrclass, ttl, len(data)) + data


def edns(rng: random.Random) -> bytes:
    """An OPT record with some options."""
    data = b""
    for _ in range(rng.randint(0, 4)):
        text = rng.randbytes(rng.randint(0, 24))
        data += struct.pack(">HH", rng.choice(OPTIONS), len(text)) + text
    ttl = rng.choice((0, 0x8000, 0x01000000, 0x00010000))
    return record(b"\x00", 41, ttl, data, rng.choice((0, 512, 1232, 4096, 65535)))


def question(rng: random.Random) -> bytes:
    """The question section."""
    return name(rng) + struct.pack(">HH", rng.choice(TYPES), rng.choice((1, 1, 1, 3, 4, 254, 255)))


def query(rng: random.Random) -> bytes:
    """What a client may send."""
    extra = edns(rng) if rng.random() < 0.5 else b""
    flags = rng.choice((0x0100, 0x0000, 0x0110, 0x0120))
    return header(rng, flags, 1, 0, 0, 1 if extra else 0) + question(rng) + extra


def answer(rng: random.Random) -> bytes:
    """An answer with a chain, addresses and records of other types, compressed in part."""
    asked, body, count = question(rng), b"", 0
    owner, at = b"\xc0\x0c", 12 + len(asked)
    for _ in range(rng.choice((0, 0, 1, 2))):
        target = rng.choice((name(rng), b"\x05alias\xc0\x0c", b"\xc0\x0c"))
        one = record(owner, 5, rng.randrange(1 << 32), target)
        owner = struct.pack(">H", 0xC000 | at + len(body) + len(owner) + 10)
        body, count = body + one, count + 1
    common = rng.random() < 0.5
    for _ in range(rng.randint(0, 6)):
        rrtype = rng.choice((1, 28) if common else TYPES)
        size = {1: 4, 28: 16}.get(rrtype, rng.randint(0, 40))
        whose = owner if common else rng.choice((owner, owner, owner, name(rng)))
        ttl = rng.choice((0, 5, 60, 1 << 31, rng.randrange(1 << 32)))
        body += record(whose, rrtype, ttl, rng.randbytes(size))
        count += 1
    flags = rng.choice((0x8180, 0x8180, 0x8380, 0x8183, 0x8182, 0x8580))
    return header(rng, flags, 1, count, 0, 1) + asked + body + edns(rng)


def loops(rng: random.Random) -> bytes:
    """Pointers to themselves, to each other, forward, into the header, in long chains."""
    asked = b"\x01a\x00\x00\x01\x00\x01"
    at = 12 + len(asked)
    chain = b"".join(
        struct.pack(">H", 0xC000 | (at + 10 + 2 * max(0, n - 1))) for n in range(rng.randint(1, 2000))
    )
    owner = struct.pack(
        ">H", 0xC000 | rng.choice((at, at + 1, at + 2, 0, 11, 12, 0x3FFF, rng.randrange(0x4000)))
    )
    first = record(rng.choice((b"\x00", owner)), 16, 1, chain)
    end = struct.pack(">H", 0xC000 | min(0x3FFF, at + len(first) - 2))
    return (
        header(rng, 0x8180, 1, 3, 0, 0)
        + asked
        + first
        + record(end, 1, 1, bytes(4))
        + record(owner, 5, 1, end)
    )


def cut(rng: random.Random, whole: bytes) -> bytes:
    """The beginning of a message."""
    return whole[: rng.randrange(len(whole) + 1)]


def miscounted(rng: random.Random, whole: bytes) -> bytes:
    """Counts that the sections do not keep."""
    counts = (rng.choice((0, 1, 2, 4000, 4001, 65535)) for _ in range(4))
    return whole[:4] + struct.pack(">HHHH", *counts) + whole[12:]


def spoilt(rng: random.Random, whole: bytes) -> bytes:
    """Some bytes changed."""
    bytes_ = bytearray(whole)
    for _ in range(rng.randint(1, 6)):
        bytes_[rng.randrange(len(bytes_))] = rng.choice(
            (0, 1, 63, 64, 127, 128, 192, 193, 255, rng.randrange(256))
        )
    return bytes(bytes_)


def lengthened(rng: random.Random, whole: bytes) -> bytes:
    """Bytes after the end."""
    return whole + rng.randbytes(rng.randint(1, 64))


MAKERS: tuple[Callable[[random.Random], bytes], ...] = (query, answer, answer, loops)
SPOILERS: tuple[Callable[[random.Random, bytes], bytes], ...] = (cut, miscounted, spoilt, spoilt, lengthened)


def messages(count: int, seed: int = 5) -> Iterator[bytes]:
    """`count` different messages; every second one is spoilt. First come those of `largest` and `cuts`."""
    rng = random.Random(seed)
    seen = dict.fromkeys((*largest(), *cuts(rng)))
    yield from seen
    while len(seen) < count:
        made = rng.choice(MAKERS)(rng)
        for message in (made, rng.choice(SPOILERS)(rng, made)):
            if message not in seen:
                seen[message] = None
                yield message


def cuts(rng: random.Random) -> Iterator[bytes]:
    """Some queries and answers, cut at every byte."""
    for whole in (query(rng), query(rng), *(answer(rng) for _ in range(10))):
        yield from (whole[:size] for size in range(len(whole)))


def largest() -> Iterator[bytes]:
    """Messages that cost the most: 4,000 records of every kind of owner, 64 KiB of labels and pointers."""
    asked = b"\x01a\x00\x00\x01\x00\x01"
    at = 12 + len(asked)
    rng = random.Random(1)
    start = header(rng, 0x8180, 1, 4000, 0, 0) + asked
    yield start + record(b"\xc0\x0c", 1, 1, bytes(4)) * 4000
    yield start + b"".join(record(b"\xc0\x0c", 1, 1, struct.pack(">I", n)) for n in range(4000))
    yield start + b"".join(record(b"\x01A\x00", 1, 1, struct.pack(">I", n)) for n in range(3800))
    # A chain of names, each a label before the one before it, and all owners different ones.
    owner, body = b"\xc0\x0c", b""
    for _ in range(3900):
        target = b"\x01b" + owner
        body += record(owner, 5, 1, target)
        owner = (
            struct.pack(">H", 0xC000 | (at + len(body) - len(target)))
            if at + len(body) < 0x3FFF
            else b"\xc0\x0c"
        )
    yield start + body
    # Labels of one byte up to the limit, entered at every place.
    steps = b"\x01\x01" * 120 + b"\x00"
    ladder = record(b"\xc0\x0c", 16, 1, steps * 30)
    names = b"".join(
        record(struct.pack(">H", 0xC000 | (at + 12 + place % 7000)), rrtype, 1, bytes(4))
        for place, rrtype in zip(range(0, 3_600 * 3, 3), [46, 1] * 1_800, strict=False)
    )
    yield header(rng, 0x8180, 1, 3_601, 0, 0) + asked + ladder + names
    yield start + (b"\x3f" + b"x" * 63) * 1020
    yield start + b"\x01x" * 32_000
    yield start + b"".join(struct.pack(">H", 0xC000 | (at + 2 * n)) for n in range(8000))
    yield bytes(65_535)
    yield b"\xff" * 65_535
    yield b"\xc0\x0c" * 32_767
    yield header(rng, 0x0100, 1, 0, 0, 65535) + asked + record(b"\x00", 10, 0, b"") * 5900
