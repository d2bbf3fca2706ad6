"""What decides a plugin's count, as numbers for whole columns at once.

Records with equal words are counted alike, so one of them is decoded for all. A word holds only what a plugin
looks at: a port that nobody counts would make every connection a case of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axoneme.api.fqdn.v1 import fqdn_pb2
from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.rule import Side
from shim.flows import record
from shim.flows.decode import ICMP, ICMPV6, FlowDecoder
from shim.flows.keytable import KeyTable, Words
from shim.flows.lookupstore import LookupStore
from shim.flows.store import FlowStore
from shim.hubble.metrics.context import Needs
from shim.hubble.metrics.plugin import Columns

Numbers = npt.NDArray[np.int64]
_HOST: Final = 1
_REPLY_FLAGS: Final = record.FLAG_REPLY_KNOWN | record.FLAG_REPLY
_MAPPED_WORD: Final = np.frombuffer(b"\0" * 8 + b"\0\0\xff\xff" + b"\0" * 4, dtype="<u8")
_MAPPED_MASK: Final = np.frombuffer(b"\0" * 8 + b"\xff\xff\xff\xff" + b"\0" * 4, dtype="<u8")
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_SPOOFED: Final = 1 << 16


class Numbering:
    """Numbers pairs of words in the order in which they are met, from 0."""

    def __init__(self) -> None:
        self._table = KeyTable()

    def __len__(self) -> int:
        return len(self._table)

    def numbers(self, first: Words, second: Words) -> npt.NDArray[np.int32]:
        """The number of each pair; new ones get theirs."""
        found = self._table.find(first, second)
        missing = np.flatnonzero(found < 0)
        while len(missing):
            _, some = np.unique(first[missing] * _MIX + second[missing], return_index=True)
            fresh = missing[some]
            self._table.add(first[fresh], second[fresh])
            found[missing] = self._table.find(first[missing], second[missing])
            missing = missing[found[missing] < 0]  # of those whose mix is the same
        return found


def packet_words(store: FlowStore, numbers: Numbers, columns: Columns) -> list[Words]:
    """What the columns of packets say, in two words."""
    take = _taker(store, numbers)
    first = np.zeros(len(numbers), dtype=np.uint64)
    if columns.kind or columns.match:
        first |= take("event_type")
        first |= take("sub_type") << np.uint64(8)
    if columns.verdict:
        first |= take("verdict") << np.uint64(16)
    if columns.reason:
        first |= take("drop_reason") << np.uint64(24)
    if columns.reply:
        first |= (take("flags") & np.uint64(_REPLY_FLAGS)) << np.uint64(32)
    if columns.direction:
        first |= take("direction") << np.uint64(40)
    if columns.match:
        first |= take("match_type") << np.uint64(48)
    if columns.protocol:
        first |= take("protocol") << np.uint64(56)
    return [first, _second_word(store, numbers, columns, take)]


def _second_word(store: FlowStore, numbers: Numbers, columns: Columns, take: Callable[[str], Words]) -> Words:
    second = np.zeros(len(numbers), dtype=np.uint64)
    if columns.icmp or columns.port or columns.passed_port:
        protocol = take("protocol")
        is_icmp = (protocol == ICMP) | (protocol == ICMPV6)
        wanted = is_icmp if columns.icmp else np.zeros(len(numbers), dtype=np.bool_)
        if columns.port or columns.passed_port:
            wanted = wanted | ~is_icmp & _has_port(take, passed=not columns.port)
        second |= take("destination_port") * wanted
        second |= (take("tcp_flags") * (wanted & is_icmp)) << np.uint64(16)
    if columns.flags:
        second |= (take("tcp_flags") * (take("protocol") == 6)) << np.uint64(16)
    if columns.family:
        words = store.words("source_ip", numbers)
        ipv4 = (words[:, 0] == _MAPPED_WORD[0]) & (words[:, 1] & _MAPPED_MASK[1] == _MAPPED_WORD[1])
        second |= ipv4.astype(np.uint64) << np.uint64(24)
    if columns.host:
        second |= (take("source_identity") == _HOST).astype(np.uint64) << np.uint64(25)
    return second


def _has_port(take: Callable[[str], Words], *, passed: bool) -> npt.NDArray[np.bool_]:
    """Whether a plugin may count the port: that of a reply is the client's, each time another one."""
    is_reply, verdict = (take("flags") & np.uint64(record.FLAG_REPLY)) != 0, take("verdict")
    found: npt.NDArray[np.bool_] = ~is_reply | (verdict == flow_pb2.DROPPED)
    if passed:
        found = ~is_reply & ((verdict == flow_pb2.FORWARDED) | (verdict == flow_pb2.REDIRECTED))
    return found


def _taker(store: FlowStore, numbers: Numbers) -> Callable[[str], Words]:
    def take(name: str) -> Words:
        return store.column(name, numbers).astype(np.uint64)

    return take


class EndWords:
    """What the names of the ends depend on, in words; they hold until the names' revision changes."""

    def __init__(self, names: FlowDecoder, needs: Needs) -> None:
        self._addresses = names.addresses
        self._needs = needs
        self._numbering = Numbering()

    def __len__(self) -> int:
        return len(self._numbering)

    def words(self, store: FlowStore, numbers: Numbers) -> list[Words]:
        """Words of both sides, as far as anybody looks at them."""
        sides: tuple[Side, Side] = ("source", "destination")
        return [word for side in sides for word in self._side(side, store, numbers)]

    def _side(self, side: Side, store: FlowStore, numbers: Numbers) -> list[Words]:
        needs = self._needs
        named, dns = side in needs.ends, side in needs.dns
        if not named and not dns and side not in needs.addresses:
            return []
        raw = store.words(f"{side}_ip", numbers)
        if dns or side in needs.addresses:
            # The address in full: the numbers of the known ones would make all others equal.
            address = self._numbering.numbers(raw[:, 0].astype(np.uint64), raw[:, 1].astype(np.uint64))
        else:
            address = self._addresses.numbers(raw)
        first = address.view(np.uint32).astype(np.uint64)
        if named:
            first |= store.column(f"{side}_identity", numbers).astype(np.uint64) << np.uint64(32)
        return [first, self._endpoints(side, store, numbers, raw, dns=dns)]

    def _endpoints(self, side: Side, store: FlowStore, numbers: Numbers, raw: Words, *, dns: bool) -> Words:
        """The endpoint that saw a record, where names depend on it; and whether it sent a spoofed source."""
        second = store.column("endpoint_id", numbers).astype(np.uint64)
        matters = self._addresses.is_local(self._addresses.numbers(raw))
        if side == "source":
            spoofed = store.column("drop_reason", numbers) == record.INVALID_SOURCE_IP
            matters = matters | spoofed
            second |= spoofed.astype(np.uint64) * np.uint64(_SPOOFED)
        return second if dns else second * matters


class MessageWords:
    """What DNS messages say, as numbers."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._numbers: dict[tuple[Any, ...], int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def words(self, store: FlowStore, numbers: Numbers) -> list[Words]:
        """One word for each message; none where nobody looks at messages."""
        if not self._columns.message or not isinstance(store, LookupStore):
            return []
        found = [self._number(one[1].event if one[1] else b"") for one in store.events(numbers)]
        return [np.array(found, dtype=np.uint64)]

    def _number(self, event: bytes) -> int:
        said = fqdn_pb2.LookupEvent.FromString(event)
        key = (
            said.response,
            said.qtype,
            said.rcode,
            len(said.ips),
            tuple(said.rrtypes),
            said.query if self._columns.query else "",
        )
        return self._numbers.setdefault(key, len(self._numbers))
