"""DNS messages as raw bytes: what the proxy reads of a query and of an answer, and the answer of a refusal.

Names are in wire form and lower case (`b"\\x03www\\x01x\\x00"`). A length is below 64 and a capital letter is
not, so `bytes.lower` leaves lengths alone. Nothing is read beyond what a decision needs: of a query the
question, of an answer the answer section. Every length, pointer and count is checked before it is followed;
whatever the bytes are, only `Malformed` is raised. Formats: RFC 1035 §4, RFC 6891, RFC 2181 §8.

    offset  0   id            2 bytes
            2   QR|opcode|AA|TC|RD   RA|Z|AD|CD|rcode
            4   QDCOUNT  ANCOUNT  NSCOUNT  ARCOUNT   2 bytes each
           12   question: name, type, class; then records: name, type, class, TTL, length, data
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from axoneme.lib.dns.names import Malformed, read_name, skip_name, text_of, wire_of
from axoneme.lib.dns.plain import addresses_only

__all__ = [
    "Answer",
    "Malformed",
    "Question",
    "answers_question",
    "read_answer",
    "read_question",
    "read_records",
    "refusal",
    "text_of",
    "wire_of",
]

A, CNAME, AAAA, DNAME, OPT, RRSIG = 1, 5, 28, 39, 41, 46
IN: Final = 1
MAX_MESSAGE: Final = 65_535
MAX_RECORDS: Final = 4_000
MAX_CNAMES: Final = 64  # of a chain; resolvers stop at 8 to 17

_QUESTION: Final = 12  # offset
_TO_QUESTION: Final = 0xC000 | _QUESTION
_NOWHERE: Final = -1
_TOP_BIT: Final = 1 << 31
_MAX_SEARCHED: Final = 16  # records of a query that are looked at for EDNS
_OPT_START: Final = b"\x00\x00\x29"
# Owner root, type OPT, 1,232 bytes of payload, no extended code, version 0, no flags, no options.
_OPT_ANSWER: Final = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
_NO_RECORDS: Final = bytes(6)
_ONLY_QUESTION: Final = b"\x00\x01\x00\x00\x00\x00\x00\x00"
_QUESTION_AND_OPT: Final = b"\x00\x01\x00\x00\x00\x00\x00\x01"
_TRUNCATED: Final = 0x0200
_ONE: Final = b"\x00\x01"
_type_and_class = struct.Struct(">HH").unpack_from
_flags_and_counts = struct.Struct(">HHH").unpack_from  # flags, questions, answers
_compressed_record = struct.Struct(">HHHIH").unpack_from
_record = struct.Struct(">HHIH").unpack_from
_counts = struct.Struct(">HHH").unpack_from


class Question(NamedTuple):
    """What a query asks; `end` is the offset after it."""

    name: bytes
    qtype: int
    qclass: int
    end: int


class Answer(NamedTuple):
    """What an answer says.

    `rcode` is that of the header (4 bits). `addresses` (4 or 16 bytes) are in order and differ, `ttl` in
    seconds is the least of the records, `rrtypes` has one number per record of the answer section.
    `usable`: rcode 0, at least one address, and every record belongs to the chain that starts with the
    question; only then may addresses be learned.
    """

    rcode: int
    truncated: bool
    addresses: tuple[bytes, ...]
    ttl: int
    cnames: tuple[bytes, ...]
    rrtypes: tuple[int, ...]
    usable: bool


# As `_make`, in half the time.
question_of: Callable[[tuple[bytes, int, int, int]], Question] = partial(tuple.__new__, Question)
_answer: Callable[[tuple[Any, ...]], Answer] = partial(tuple.__new__, Answer)


def read_question(message: bytes) -> Question:
    """The question of a query: QR 0, opcode 0, exactly one question without compression. Raises Malformed."""
    try:
        if message[2] & 0xF8 or message[4:6] != _ONE:
            raise Malformed("not a query with one question")
        at = _QUESTION
        while length := message[at]:
            if length > 63:
                raise Malformed("a label longer than 63 bytes, or a pointer, in a question")
            at += length + 1
        if at > _QUESTION + 254:
            raise Malformed("a name longer than 255 bytes")
        at += 1
        qtype, qclass = _type_and_class(message, at)
        return question_of((message[_QUESTION:at].lower(), qtype, qclass, at + 4))
    except (IndexError, struct.error):
        raise Malformed("a query that ends early") from None


def answers_question(query: bytes, answer: bytes, end: int) -> bool:
    """Whether a message is an answer to a query whose question ends at `end`: QR 1, opcode 0, that question.

    The case of letters may differ: some servers answer in lower case what a client asked in mixed case
    (0x20); the client compares for itself. The id is not looked at.
    """
    if len(answer) < end or answer[2] & 0xF8 != 0x80 or answer[4:6] != b"\x00\x01":
        return False
    asked, answered = query[_QUESTION:end], answer[_QUESTION:end]
    # Type and class are no letters: 65 and 97 differ.
    return asked == answered or (asked[-4:] == answered[-4:] and asked.lower() == answered.lower())


def read_answer(message: bytes, question: Question) -> Answer:
    """What an answer to this question says. Raises Malformed, also for the answer to another question.

    Of the records after one with an unexpected owner (facts A2) only the types are read. A truncated answer
    that ends inside a record is not malformed, but not usable.
    """
    name, qtype, _, end = question
    asked = message[_QUESTION : end - 4]
    if (asked != name and asked.lower() != name) or len(message) > MAX_MESSAGE:
        raise Malformed("more than 65,535 bytes, or the answer to another question")
    plain = addresses_only(message, qtype, end)
    return _answer(plain) if plain is not None else read_records(message, question)


def read_records(message: bytes, question: Question) -> Answer:
    """`read_answer` of any message that begins with the question."""
    name, _, _, at = question
    flags, _, count = _flags_and_counts(message, 2)
    if count > MAX_RECORDS:
        raise Malformed("more than 4,000 records")
    addresses: list[bytes] = []
    cnames: list[bytes] = []
    types: list[int] = []
    memo: dict[int, bytes] = {}
    here, owner, least, usable, length = _TO_QUESTION, name, _TOP_BIT, True, len(message)
    padded = message + b"\x00"  # a record without data may be a byte shorter than one with a pointer
    # One loop almost without calls: it runs for every answer, and a call costs as much as a record.
    try:
        for _ in range(count):
            to, rrtype, rrclass, ttl, size = _compressed_record(padded, at)
            if to == here:
                start, expected = at + 12, usable
            else:
                if usable:
                    owner, at = read_name(message, at, memo)
                else:
                    at = skip_name(message, at)
                rrtype, rrclass, ttl, size = _record(message, at)
                start, expected = at + 10, usable and owner == name
            at = start + size
            if at > length:
                raise IndexError
            types.append(rrtype)
            if ttl < least:
                least = ttl
            elif ttl >= _TOP_BIT:
                least = 0
            if not expected:
                usable = usable and _follows(rrtype, owner, name, (question.name, *cnames))
            elif rrclass != IN:
                usable = False
            elif (rrtype == A and size == 4) or (rrtype == AAAA and size == 16):
                addresses.append(message[start:at])
            elif rrtype == CNAME and len(cnames) < MAX_CNAMES:
                name, end = read_name(message, start, memo)
                if end != at:
                    raise Malformed("a CNAME with bytes after its name")
                cnames.append(name)
                # What lies beyond the reach of pointers is compared as a name.
                here = 0xC000 | start if start < 0x4000 else _NOWHERE
            elif rrtype in (A, AAAA, CNAME):
                usable = False
    except (IndexError, struct.error):
        if not flags & _TRUNCATED:
            raise Malformed("an answer that ends early") from None
        usable = False
    return _answer(
        (
            flags & 0x0F,
            flags & _TRUNCATED != 0,
            tuple(addresses) if len(addresses) < 2 else tuple(dict.fromkeys(addresses)),
            least if types else 0,
            tuple(cnames),
            tuple(types),
            usable and not flags & 0x0F and bool(addresses),
        )
    )


def _follows(rrtype: int, owner: bytes, name: bytes, chain: tuple[bytes, ...]) -> bool:
    """Whether a record may stand in the chain without being of the current name: it moves and adds nothing.

    That is the signature of an earlier CNAME, and the DNAME that the next CNAME is made from.
    """
    if rrtype == RRSIG:
        return owner in chain
    if rrtype != DNAME:
        return False
    while length := name[0]:
        name = name[length + 1 :]
        if name == owner:
            return True
    return False


def refusal(query: bytes, end: int, rcode: int) -> bytes:
    """The answer of somebody who will not look: id, RD, CD and question of the query, RA, no records.

    `query` is one that `read_question` read, `end` what it returned. With EDNS when the query had it.
    """
    flags = bytes((0x80 | query[2] & 0x01, 0x80 | query[3] & 0x10 | rcode))
    if query[6:12] == _NO_RECORDS or not _has_edns(query, end):
        return query[:2] + flags + _ONLY_QUESTION + query[_QUESTION:end]
    return query[:2] + flags + _QUESTION_AND_OPT + query[_QUESTION:end] + _OPT_ANSWER


def _has_edns(query: bytes, at: int) -> bool:
    """Whether one of the first records after the question is OPT; whatever is broken there is none."""
    if query[at : at + 3] == _OPT_START:
        return True
    try:
        for _ in range(min(sum(_counts(query, 6)), _MAX_SEARCHED)):
            at = skip_name(query, at)
            rrtype, _, _, size = _record(query, at)
            if rrtype == OPT:
                return True
            at += 10 + size
    except (Malformed, IndexError, struct.error):
        return False
    return False
