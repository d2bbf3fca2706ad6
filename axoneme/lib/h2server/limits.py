"""Limits of one listener, each with the reason for its value. Bytes and seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from axoneme.lib.grpcsettings import HARD_METADATA_BYTES, METADATA_BYTES, RECEIVE_BYTES, SNAPSHOT_BYTES

FRAME_BYTES = 16_384
"""Largest frame that is taken in: the default of RFC 9113, which is not raised."""

DEFAULT_WINDOW = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one connection may use, and one listener."""

    streams: int = 100
    metadata_bytes: int = METADATA_BYTES
    hard_metadata_bytes: int = HARD_METADATA_BYTES
    receive_bytes: int = RECEIVE_BYTES
    send_bytes: int = SNAPSHOT_BYTES
    # A request of the largest size on each of 100 streams would be 100 MiB a connection.
    buffered_bytes: int = 8 * 1024 * 1024
    # Answers to PING and SETTINGS that nobody reads.
    control_bytes: int = 256 * 1024
    # A hundred flows: enough to fill a TLS record several times, little enough to be forgotten at a reset.
    stream_buffer_bytes: int = 64 * 1024
    # One turn of the event loop: other connections wait no longer than the encryption of this takes.
    flush_bytes: int = 256 * 1024
    connections: int = 1_024
    # Silent connections may not keep real clients out: the oldest of them leaves first.
    handshakes: int = 256
    calls: int = 10_000
    handshake_seconds: float = 5.0
    keepalive_seconds: float = 5.0
    keepalive_timeout_seconds: float = 2.0
    # A reader that takes less than half a stream buffer in this time is cut.
    stall_seconds: float = 60.0
    # A call whose one request never comes to its end, and that set no deadline.
    request_seconds: float = 30.0


def limits_of(options: Mapping[str, int | str] | None) -> Limits:
    """Limits with what the arguments of a grpc server override. Raises ValueError for an unlimited size."""
    names = {
        "grpc.max_receive_message_length": "receive_bytes",
        "grpc.max_send_message_length": "send_bytes",
        "grpc.max_concurrent_streams": "streams",
        "grpc.max_metadata_size": "metadata_bytes",
    }
    given = {names[key]: int(value) for key, value in (options or {}).items() if key in names}
    for name, value in given.items():
        if value < 0:
            raise ValueError(f"{name} must have a limit")
    return dataclasses.replace(Limits(), **given)
