"""Own values between them and the messages of the API."""

from __future__ import annotations

import ipaddress
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from axoneme.api.fqdn.v1 import fqdn_pb2 as pb
from axoneme.lib.dns.wire import text_of
from axoneme.lib.intent import Change, Request, Update
from axoneme.lib.intentstream import envelope
from axoneme.lib.policycodec import encode_subject
from axoneme.lib.policycodec.wirefields import field_of
from services.fqdn.cache import CachedAddress, CachedName, NameCache
from services.fqdn.lookups import Seen
from services.fqdn.model import NXDOMAIN, REFUSED, Verdict
from services.fqdn.redirects import Applied, Ready, Told

MAX_NAMES_OF_ADDRESS: Final = 100
_header: Final = field_of(pb.SubscribeNamesResponse, "header")
_upsert: Final = field_of(pb.SubscribeNamesResponse, "upserts")
_removed: Final = field_of(pb.SubscribeNamesResponse, "removed")


def address_text(address: bytes) -> str:
    """An address of 4 or 16 bytes as people write it."""
    return str(ipaddress.ip_address(address))


def timestamp(nanoseconds: int) -> Timestamp:
    """A time of the wall clock."""
    seconds, rest = divmod(max(nanoseconds, 0), 1_000_000_000)
    return Timestamp(seconds=seconds, nanos=rest)


def cache_entry(
    cache: NameCache, endpoint_id: int, known: CachedName, *, boot_to_wall_ns: int
) -> pb.CacheEntry:
    """A name of the cache; `boot_to_wall_ns`: what makes a time of the wall clock of an expiry."""
    entry = pb.CacheEntry(
        endpoint_id=endpoint_id,
        name=text_of(known.name),
        source=pb.LookupSource.ValueType(known.source),
        looked_up=timestamp(int(known.looked_up * 1e9)),
    )
    entry.ttl.FromSeconds(known.ttl)
    for address, expiry_ns in known.addresses.items():
        one = cache.address(endpoint_id, address)
        entry.addresses.add(
            address=address_text(address),
            expires=timestamp(expiry_ns + boot_to_wall_ns),
            identity=one.number if one is not None else 0,
        )
    return entry


def event(seen: Seen) -> pb.LookupEvent:
    """A message as the proxy saw it."""
    flow, answer = seen.flow, seen.answer
    found = pb.LookupEvent(
        time=timestamp(seen.time_ns),
        endpoint_id=seen.ruling.endpoint_id,
        response=answer is not None,
        protocol=flow.protocol,
        client=address_text(flow.client),
        client_port=flow.client_port,
        server=address_text(flow.server),
        server_port=flow.server_port,
        server_identity=seen.ruling.server_identity,
        query=text_of(seen.question.name),
        qtype=seen.question.qtype,
        verdict=pb.LookupVerdict.ValueType(seen.verdict),
        error=seen.error,
    )
    if answer is not None:
        found.rcode, found.ttl = answer.rcode, answer.ttl
        found.ips.extend(map(address_text, answer.addresses))
        found.cnames.extend(map(text_of, answer.cnames))
        found.rrtypes.extend(answer.rrtypes)
        found.latency.FromNanoseconds(seen.latency_ns)
    return found


def denied_event(seen: Seen, deny_rcode: int) -> pb.LookupEvent:
    """The same, with the code that a refused query was answered with."""
    found = event(seen)
    if seen.answer is None and seen.verdict is Verdict.DENIED:
        found.rcode = deny_rcode if deny_rcode in (REFUSED, NXDOMAIN) else REFUSED
    return found


def told_message(told: Told) -> pb.SyncRedirectsResponse:
    """What the shim is told."""
    if isinstance(told, Ready):
        ready = pb.RulesReady(complete=told.complete, proxy_port=told.proxy_port)
        for subject, digest in told.digests.items():
            ready.subjects.add(subject=encode_subject(subject), rules_digest=digest)
        return pb.SyncRedirectsResponse(ready=ready)
    if isinstance(told, Applied):
        return pb.SyncRedirectsResponse(identities_applied=pb.IdentitiesApplied(revision=told.revision))
    prefix, names = told.key
    return pb.SyncRedirectsResponse(identity_wanted=pb.IdentityWanted(prefix=prefix, selectors=sorted(names)))


def stream_key(endpoint_id: int, address: bytes) -> str:
    """Key of an address in the stream of names."""
    return f"{endpoint_id}/{address.hex()}"


def learned_name(one: CachedAddress) -> bytes:
    """What the stream says of an address, serialised."""
    names = [text_of(name) for name, _ in zip(one.names, range(MAX_NAMES_OF_ADDRESS), strict=False)]
    return pb.LearnedName(
        endpoint_id=one.endpoint_id,
        address=address_text(one.address),
        names=sorted(names),
        identity=one.number,
    ).SerializeToString()


class NamesCodec:
    """Publisher's codec of SubscribeNames; its responses are serialised already."""

    def decode(self, request: pb.SubscribeNamesRequest) -> Request:
        """A message of a shim. Raises ValueError when no kind is set."""
        match request.WhichOneof("kind"):
            case "hello":
                return envelope.hello_from_message(request.hello)
            case "ack":
                return envelope.ack_from_message(request.ack)
            case "resync":
                return envelope.resync_from_message(request.resync)
        raise ValueError("kind: one of hello, ack, resync must be set")

    def encode(self, update: Update[bytes]) -> pb.SubscribeNamesResponse:
        """A SubscribeNamesResponse."""
        parts = [_header(envelope.header_to_message(update.header).SerializeToString())]
        for key, value, _ in update.changes:
            parts.append(_upsert(value) if value is not None else _removed(_gone(key)))
        return pb.SubscribeNamesResponse.FromString(b"".join(parts))

    def weight(self, change: Change[bytes]) -> int:
        """About the bytes of a change."""
        return len(change.key) + len(change.value or b"")


def _gone(key: str) -> bytes:
    endpoint_id, _, raw = key.partition("/")
    address = address_text(bytes.fromhex(raw))
    return pb.LearnedAddress(endpoint_id=int(endpoint_id), address=address).SerializeToString()
