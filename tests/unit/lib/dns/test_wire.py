"""Reading of queries and answers, by tables and against dnspython."""

from __future__ import annotations

import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axoneme.lib.dns import wire
from axoneme.lib.dns.names import read_name
from axoneme.lib.dns.wire import Malformed
from tests.conftest import scaled
from tests.fuzz.dnsmessages import messages, pointer, record

NAME = b"\x03www\x01x\x03com\x00"
ASKED = NAME + b"\x00\x01\x00\x01"
QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + ASKED
QUESTION = wire.read_question(QUERY)
HERE, FIRST = b"\xc0\x0c", len(QUERY)
V4, OTHER_V4, V6 = b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02", bytes(15) + b"\x01"


def answer(*records: bytes, flags: int = 0x8180, count: int | None = None) -> bytes:
    """An answer to QUERY."""
    number = len(records) if count is None else count
    return struct.pack(">HHHHHH", 1, flags, 1, number, 0, 0) + ASKED + b"".join(records)


def read(*records: bytes, flags: int = 0x8180) -> wire.Answer:
    """What is read of it."""
    return wire.read_answer(answer(*records, flags=flags), QUESTION)


@pytest.mark.parametrize(
    "change",
    [
        (2, b"\x81"),  # an answer
        (2, b"\x29"),  # opcode 5
        (4, b"\x00\x00"),
        (4, b"\x00\x02"),
        (4, b"\x01\x01"),
        (12, b"\x40"),
        (12, b"\xc0\x0c"),
        (12, b"\x3f"),
    ],
)
def test_no_query(change: tuple[int, bytes]) -> None:
    """Anything but one plain question."""
    at, new = change
    with pytest.raises(Malformed):
        wire.read_question(QUERY[:at] + new + QUERY[at + len(new) :])


@pytest.mark.parametrize("size", range(len(QUERY)))
def test_short_queries(size: int) -> None:
    """Cut at every byte."""
    with pytest.raises(Malformed):
        wire.read_question(QUERY[:size])


def test_longest_names() -> None:
    """255 bytes are a name, 256 are none."""
    head, tail = QUERY[:12], b"\x00\x00\x01\x00\x01"
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61
    assert len(wire.read_question(head + longest + tail).name) == 255
    with pytest.raises(Malformed):
        wire.read_question(head + (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + tail)


def test_question() -> None:
    """Lower case, and where it ends."""
    mixed = QUERY.replace(b"www", b"wWw").replace(b"com", b"COM")
    assert wire.read_question(mixed + b"rest") == (NAME, 1, 1, FIRST)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda one: one, True),
        (lambda one: one.replace(b"www", b"WwW"), True),
        (lambda one: one.replace(b"www", b"wwx"), False),
        (lambda one: one.replace(ASKED, NAME + b"\x00\x41\x00\x01"), False),
        (lambda one: one.replace(ASKED, NAME + b"\x00\x01\x00\x03"), False),
        (lambda one: one[:2] + b"\x01" + one[3:], False),
        (lambda one: one[:2] + b"\x89" + one[3:], False),
        (lambda one: one[:5] + b"\x02" + one[6:], False),
        (lambda one: one[: FIRST - 1], False),
        (lambda one: b"", False),
    ],
)
def test_answers_question(change: object, expected: bool) -> None:
    """The question again, in any case, of an answer."""
    assert callable(change)
    assert wire.answers_question(QUERY, change(answer()), FIRST) is expected


def test_types_are_no_letters() -> None:
    """Type 65 (HTTPS) and 97 differ although `A` and `a` do not."""
    query = QUERY[:-4] + b"\x00\x41\x00\x01"
    other = b"\x00\x00\x81\x80" + query[4:-4] + b"\x00\x61\x00\x01"
    assert not wire.answers_question(query, other, FIRST)


def test_addresses() -> None:
    """Both families, in order, once each, with the least TTL."""
    found = read(
        record(HERE, 1, 60, OTHER_V4),
        record(HERE, 28, 30, V6),
        record(NAME, 1, 90, V4),
        record(HERE, 1, 9, V4),
    )
    assert found == (0, False, (OTHER_V4, V6, V4), 9, (), (1, 28, 1, 1), True)


def test_chain() -> None:
    """Owners are compressed, spelled out or in other case; each CNAME moves the name."""
    first = record(HERE, 5, 300, b"\x01a" + pointer(16))
    second = record(pointer(FIRST + 12), 5, 5, b"\x03end\x00")
    found = read(first, second, record(b"\x03eNd\x00", 1, 60, V4))
    assert found.usable
    assert (found.cnames, found.ttl) == ((b"\x01a\x01x\x03com\x00", b"\x03end\x00"), 5)


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record(b"\x01y\x00", 1, 60, V4)],
        [record(HERE, 5, 60, b"\x01y\x00"), record(HERE, 1, 60, V4)],
        [record(HERE, 1, 60, V4), record(b"\x01y\x00", 16, 60, b"")],
        [record(HERE, 1, 60, V4 + b"\x00")],
        [record(HERE, 28, 60, V4)],
        [record(HERE, 1, 60, V4), record(HERE, 1, 60, b"")],
        [record(HERE, 1, 60, V4, 3)],
        [record(HERE, 5, 60, HERE)] * 65 + [record(HERE, 1, 60, V4)],
        [record(b"\x01y\x00", 46, 60, b""), record(HERE, 1, 60, V4)],
        [record(b"\x01y\x00", 39, 60, b""), record(HERE, 1, 60, V4)],
        [record(HERE, 16, 60, b"text")],
    ],
)
def test_unusable(records: list[bytes]) -> None:
    """Other owners, lengths, classes, endless chains: nothing is learned, and the answer may pass."""
    assert not read(*records).usable


def test_after_an_unexpected_owner_only_types_are_read() -> None:
    """Nothing that comes later is of the name."""
    found = read(
        record(HERE, 1, 60, V4), record(b"\x01y\x00", 1, 60, OTHER_V4), record(HERE, 1, 60, OTHER_V4)
    )
    assert (found.addresses, found.rrtypes) == ((V4,), (1, 1, 1))


def test_signed_and_redirected_answers() -> None:
    """Signatures of earlier names, and a DNAME above the name, stand in a chain without being of it."""
    found = read(
        record(b"\x01x\x03com\x00", 39, 60, b"\x03net\x00"),
        record(HERE, 46, 60, b"signature"),
        record(HERE, 5, 60, b"\x03www\x03net\x00"),
        record(NAME, 46, 60, b"signature"),
        record(b"\x03www\x03net\x00", 1, 60, V4),
    )
    assert found.usable
    assert found.addresses == (V4,)


def test_unknown_types_pass() -> None:
    """Of the name, but without addresses."""
    found = read(record(HERE, 65_280, 60, b"\xff" * 40), record(HERE, 28, 60, V6))
    assert found.usable
    assert found.rrtypes == (65_280, 28)


@pytest.mark.parametrize("rcode", range(1, 16))
def test_rcodes(rcode: int) -> None:
    """Only 0 is usable."""
    found = read(record(HERE, 1, 60, V4), flags=0x8180 | rcode)
    assert (found.rcode, found.usable) == (rcode, False)


def test_top_bit_of_a_ttl() -> None:
    """RFC 2181 §8: it counts as 0."""
    assert read(record(HERE, 1, 60, V4), record(HERE, 1, 1 << 31, V4)).ttl == 0
    assert read(record(HERE, 1, (1 << 31) - 1, V4)).ttl == (1 << 31) - 1
    assert read().ttl == 0


@pytest.mark.parametrize("size", range(FIRST, FIRST + 32))
def test_short_answers(size: int) -> None:
    """Cut in the records: malformed, but for truncated ones, which are not usable."""
    whole = answer(record(HERE, 1, 60, V4), record(HERE, 1, 60, OTHER_V4))
    with pytest.raises(Malformed):
        wire.read_answer(whole[:size], QUESTION)
    truncated = whole[:2] + b"\x83" + whole[3:]
    found = wire.read_answer(truncated[:size], QUESTION)
    assert (found.truncated, found.usable) == (True, False)
    assert wire.read_answer(truncated, QUESTION).usable


def test_answer_to_another_question() -> None:
    """Its first owner would be another name."""
    with pytest.raises(Malformed):
        wire.read_answer(answer(record(HERE, 1, 60, V4)).replace(b"www", b"wwx"), QUESTION)


def test_counts_and_sizes() -> None:
    """4,000 records and 64 KiB are the limit."""
    one = record(HERE, 1, 60, V4)
    assert len(wire.read_answer(answer(*[one] * 4_000), QUESTION).rrtypes) == 4_000
    for message in (
        answer(*[one] * 4_001),
        answer(one, count=4_001),
        answer(one, count=2),
        answer() + bytes(65_535),
    ):
        with pytest.raises(Malformed):
            wire.read_answer(message, QUESTION)


@pytest.mark.parametrize(
    "owner",
    [
        pointer(FIRST),
        pointer(FIRST + 1),
        pointer(0x3FFF),
        pointer(0),
        pointer(11),
        b"\x40a\x00",
        b"\x80a\x00",
    ],
)
def test_bad_pointers(owner: bytes) -> None:
    """To themselves, forward, into the header, of unknown kind."""
    with pytest.raises(Malformed):
        read(record(owner, 1, 60, V4))


def test_pointers_are_counted() -> None:
    """126 of them make up a name, 127 do not."""
    for count, fits in ((126, True), (127, False)):
        chain = b"\x00" * 12 + b"\x00" + b"".join(pointer(12 if n == 0 else 11 + 2 * n) for n in range(count))
        if fits:
            assert read_name(chain, len(chain) - 2, {})[0] == b"\x00"
        else:
            with pytest.raises(Malformed):
                read_name(chain, len(chain) - 2, {})


@pytest.mark.parametrize("rcode", [3, 5])
@pytest.mark.parametrize("edns", [False, True])
def test_refusal(rcode: int, edns: bool) -> None:
    """As dnspython reads it."""
    query = dns.message.make_query("WwW.x.com", "AAAA", use_edns=edns, payload=4_096)
    query.flags |= dns.flags.CD
    raw = query.to_wire()
    refused = dns.message.from_wire(wire.refusal(raw, wire.read_question(raw).end, rcode))
    assert query.is_response(refused)
    assert (refused.rcode(), refused.edns) == (rcode, 0 if edns else -1)
    assert refused.flags & 0xFFF0 == dns.flags.QR | dns.flags.RD | dns.flags.RA | dns.flags.CD
    assert not refused.answer + refused.authority + refused.additional


def test_edns_need_not_come_first() -> None:
    """Another additional record before it, and none at all."""
    other = record(b"\x01a\x00", 16, 0, b"\x00")
    for extra, count, size in (
        (other + record(b"\x00", 41, 0, b"", 1232), 2, 11),
        (other, 1, 0),
        (b"\x07", 9, 0),
    ):
        query = QUERY[:10] + struct.pack(">H", count) + QUERY[12:] + extra
        assert len(wire.refusal(query, FIRST, 5)) == FIRST + size


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"\x00", "."),
        (NAME, "www.x.com."),
        (b"\x03a.b\x01\\\x00", "a\\046b.\\092."),
        (b"\x02\xff \x02*_\x00", "\\255\\032.*_."),
    ],
)
def test_texts(name: bytes, text: str) -> None:
    """There and back."""
    assert wire.text_of(name) == text
    assert wire.wire_of(text) == name


@pytest.mark.parametrize(
    "text", ["", "a..b", ".a", "a" * 64, "a.", "\\256", "a\\", "é", "\\é", ".".join(["a" * 63] * 4), "a\\1"]
)
def test_texts_that_are_no_names(text: str) -> None:
    """Malformed, but for the final dot and an escaped digit, which are right."""
    if text == "a.":
        assert wire.wire_of(text) == b"\x01a\x00"
    else:
        with pytest.raises(Malformed):
            wire.wire_of(text)


@given(labels=st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_any_name_there_and_back(labels: list[bytes]) -> None:
    """Whatever bytes it has."""
    name = b"".join(bytes((len(label),)) + label.lower() for label in labels) + b"\x00"
    assert wire.wire_of(wire.text_of(name)) == name


@given(raw=st.binary(max_size=40))
def test_texts_of_any_bytes(raw: bytes) -> None:
    """A text or Malformed."""
    try:
        text = wire.text_of(raw)
    except Malformed:
        return
    assert wire.wire_of(text) == raw.lower()


def test_as_dnspython() -> None:
    """What both can read they read alike; what dnspython reads of answers is not malformed."""
    compared = 0
    for message in messages(scaled(6_000, 40_000)):
        try:
            theirs = dns.message.from_wire(message, ignore_trailing=True)
        except Exception:  # noqa: BLE001  it may raise many kinds of errors
            continue
        if len(theirs.question) != 1 or theirs.opcode() or not theirs.flags & dns.flags.QR:
            continue
        ours = wire.read_answer(message, wire.read_question(message[:2] + b"\x00" + message[3:]))
        assert ours.truncated == bool(theirs.flags & dns.flags.TC)
        assert ours.rcode == theirs.rcode() & 15
        assert set(ours.rrtypes) == {int(one.rdtype) for one in theirs.answer}
        if ours.usable:
            addresses = {one.address for rrset in theirs.answer for one in rrset if rrset.rdtype in (1, 28)}
            assert len(ours.addresses) == len(addresses)
        compared += 1
    assert compared > 500
