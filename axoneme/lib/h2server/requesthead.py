"""The head of a call: its header fields, checked by RFC 9113 section 8 and gRPC's own rules. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from axoneme.lib.h2server.faults import CallFault, ErrorCode, HttpFault, StreamFault

CONTENT_TYPE = b"application/grpc"
UNIT_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
TIMEOUT_DIGITS = 8
FIELD_OVERHEAD = 32
"""What RFC 9113 section 6.5.2 adds to each field for the size of a list."""

PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
CONNECTION_FIELDS = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
TRANSPORT_FIELDS = frozenset({b"te", b"content-type", b"host"})

Fields = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """Method path, metadata as handlers see it, seconds until the deadline (None: no deadline)."""

    path: str
    metadata: tuple[tuple[str, str | bytes], ...]
    timeout_seconds: float | None


def read_head(fields: Fields, metadata_bytes: int) -> RequestHead:
    """Raises StreamFault (malformed), HttpFault (no gRPC) or CallFault (gRPC that is not served)."""
    pseudo, plain = _split(fields)
    named = dict(plain)
    if named.get(b"te", b"trailers") != b"trailers":
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "te is not trailers")
    if pseudo[b":method"] != b"POST":
        raise HttpFault(405, "only POST is served")
    if not _is_grpc(named.get(b"content-type", b"")):
        raise HttpFault(415, "only application/grpc is served")
    if sum(len(name) + len(value) + FIELD_OVERHEAD for name, value in fields) > metadata_bytes:
        raise CallFault("RESOURCE_EXHAUSTED", f"metadata of the call is larger than {metadata_bytes} bytes")
    if b"te" not in named:
        raise CallFault("INTERNAL", "te: trailers is missing; something between here and the client took it")
    encoding = named.get(b"grpc-encoding", b"identity")
    if encoding != b"identity":
        raise CallFault("UNIMPLEMENTED", f"compression {encoding[:32].decode('latin-1')} is not served")
    return RequestHead(
        path=pseudo[b":path"].decode("latin-1"),
        metadata=tuple(_metadata(plain)),
        timeout_seconds=read_timeout(named[b"grpc-timeout"]) if b"grpc-timeout" in named else None,
    )


def _split(fields: Fields) -> tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]]:
    pseudo: dict[bytes, bytes] = {}
    plain: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if name.startswith(b":"):
            if plain or name in pseudo or name not in PSEUDO:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR, "misplaced pseudo field")
            pseudo[name] = value
            continue
        if not name or name != name.lower() or name in CONNECTION_FIELDS or b"\n" in value or b"\0" in value:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "malformed field")
        plain.append((name, value))
    if not {b":method", b":scheme", b":path"} <= pseudo.keys():
        raise StreamFault(ErrorCode.PROTOCOL_ERROR, "missing pseudo field")
    return pseudo, plain


def _is_grpc(content_type: bytes) -> bool:
    """application/grpc, alone or with a suffix; grpc-web is another protocol."""
    rest = content_type.removeprefix(CONTENT_TYPE)
    return content_type.startswith(CONTENT_TYPE) and (not rest or rest[:1] in (b"+", b";"))


def _metadata(plain: Fields) -> list[tuple[str, str | bytes]]:
    found: list[tuple[str, str | bytes]] = []
    for name, value in plain:
        if name in TRANSPORT_FIELDS or name.startswith(b"grpc-"):
            continue
        if name.endswith(b"-bin"):
            found += [(name.decode("latin-1"), _binary(part)) for part in value.split(b",")]
        else:
            found.append((name.decode("latin-1"), value.decode("latin-1")))
    return found


def _binary(value: bytes) -> bytes:
    """Base64 with or without its padding."""
    value = value.strip()
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise CallFault("INTERNAL", "metadata that ends in -bin is not base64") from error


def read_timeout(value: bytes) -> float:
    """Seconds of a grpc-timeout: at most eight digits and a unit. Raises CallFault."""
    digits, unit = value[:-1], value[-1:]
    if unit not in UNIT_SECONDS or not digits.isdigit() or len(digits) > TIMEOUT_DIGITS:
        raise CallFault("INTERNAL", "grpc-timeout is not a number with a unit")
    return int(digits) * UNIT_SECONDS[unit]
