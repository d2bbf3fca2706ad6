"""What requests of the API mean: checked values out of messages. Pure; every check names its field."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from axoneme.api.fqdn.v1 import fqdn_pb2 as pb
from axoneme.lib.dns.index import NameIndex
from axoneme.lib.dns.wire import Answer, Malformed, Question, wire_of
from axoneme.lib.errors import FieldViolation, InvalidArgument
from axoneme.lib.policy.model import FqdnDefinition
from services.fqdn.cache import CachedName
from services.fqdn.learner import MAX_TTL

MAX_LOOKUPS: Final = 1_000
MAX_ADDRESSES: Final = 1_000
_PATTERN: Final = re.compile(r"[-a-zA-Z0-9_*.]{1,255}")
_STARS: Final = re.compile(r"\*+\.?")
_A, _AAAA = 1, 28

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Reported(NamedTuple):
    """A lookup that somebody else saw."""

    endpoint_id: int
    question: Question
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFilter:
    """Which entries of the cache are meant."""

    endpoint_id: int = 0
    names: Callable[[bytes], bool] | None = None
    inside: Network | None = None
    source: int = 0

    def holds(self, known: CachedName) -> bool:
        """Whether a name, with what it resolved to, is meant."""
        if self.source not in (0, known.source):
            return False
        if self.names is not None and not self.names(known.name):
            return False
        return self.inside is None or any(_inside(address, self.inside) for address in known.addresses)


def cache_filter(request: pb.ListCacheRequest) -> CacheFilter:
    """What ListCache asks for. Raises InvalidArgument."""
    if request.source not in pb.LookupSource.values():
        raise InvalidArgument.of_field("source", f"{request.source} is not known")
    return CacheFilter(
        endpoint_id=request.endpoint_id,
        names=pattern(request.match_pattern),
        inside=_network(request.cidr),
        source=request.source,
    )


def pattern(text: str) -> Callable[[bytes], bool] | None:
    """A matcher of names, as in matchPattern; None for an empty text. Raises InvalidArgument."""
    if not text:
        return None
    canonical = text.strip().lower()
    if not _PATTERN.fullmatch(canonical):
        raise InvalidArgument.of_field(
            "match_pattern", "may have letters, digits, '-', '_', '.' and '*', at most 255 of them"
        )
    canonical = "*" if _STARS.fullmatch(canonical) else canonical.removesuffix(".")
    return NameIndex([FqdnDefinition(canonical, pattern=True)]).matches


def lookups(messages: Collection[pb.Lookup], endpoints: Collection[int]) -> list[Reported]:
    """Lookups to take over. Raises InvalidArgument that names every wrong field of every item."""
    if len(messages) > MAX_LOOKUPS:
        raise InvalidArgument.of_field("lookups", f"has {len(messages)} items; at most {MAX_LOOKUPS}")
    faults: list[FieldViolation] = []
    found = [
        one
        for number, message in enumerate(messages)
        for one in _lookup(message, f"lookups[{number}].", endpoints, faults)
    ]
    if faults:
        text = "; ".join(f"{fault.field}: {fault.description}" for fault in faults[:8])
        raise InvalidArgument(text, violations=faults)
    return found


def _lookup(
    message: pb.Lookup, place: str, endpoints: Collection[int], faults: list[FieldViolation]
) -> Iterable[Reported]:
    """One answer for each family."""

    def fault(field: str, text: str) -> None:
        faults.append(FieldViolation(f"{place}{field}", text))

    if message.endpoint_id not in endpoints:
        fault("endpoint_id", f"this node has no endpoint {message.endpoint_id}")
    name = b""
    try:
        name = wire_of(message.name) if message.name else b""
    except Malformed as error:
        fault("name", str(error))
    if not message.name:
        fault("name", "is empty")
    if not 1 <= len(message.addresses) <= MAX_ADDRESSES:
        fault("addresses", f"has {len(message.addresses)} items; must have 1 to {MAX_ADDRESSES}")
    ttl = message.ttl.seconds
    if not 0 <= ttl <= MAX_TTL or message.ttl.nanos < 0:
        fault("ttl", f"must be from 0 to {MAX_TTL} seconds")
    packed = []
    for text in message.addresses:
        try:
            packed.append(ipaddress.ip_address(text).packed)
        except ValueError:
            fault("addresses", f"{text[:64]!r} is not an address")
    return _by_family(message.endpoint_id, name, dict.fromkeys(packed), ttl)


def _by_family(endpoint_id: int, name: bytes, packed: Iterable[bytes], ttl: int) -> list[Reported]:
    found = []
    for size, qtype in ((4, _A), (16, _AAAA)):
        addresses = tuple(one for one in packed if len(one) == size)
        if addresses:
            question = Question(name, qtype, 1, 0)
            answer = Answer(
                rcode=0,
                truncated=False,
                addresses=addresses,
                ttl=ttl,
                cnames=(),
                rrtypes=(qtype,),
                usable=True,
            )
            found.append(Reported(endpoint_id, question, answer))
    return found


def _network(text: str) -> Network | None:
    if not text:
        return None
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument.of_field("cidr", str(error)) from error


def _inside(address: bytes, network: Network) -> bool:
    return ipaddress.ip_address(address) in network
