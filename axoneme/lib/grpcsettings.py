"""Settings of gRPC that must be the same everywhere: environment of the C core, arguments of both sides.

Import this module before `grpc`. The environment is read once per process: a TLS 1.2 cipher list that no
certificate can use leaves TLS 1.3 alone (there is no direct option), and the level keeps one log line per
failed handshake away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

TLS12_DEAD_END = "ECDHE-PSK-AES128-CBC-SHA"
"""Needs a pre-shared key, which nobody has; so TLS 1.2 handshakes fail while TLS 1.3 is not affected."""

MIB = 1024 * 1024
RECEIVE_BYTES = MIB
SNAPSHOT_BYTES = 4 * MIB
METADATA_BYTES = 8 * 1024
HARD_METADATA_BYTES = 16 * 1024

ENVIRONMENT = {"GRPC_SSL_CIPHER_SUITES": TLS12_DEAD_END, "GRPC_VERBOSITY": "ERROR"}


def prepare_environment() -> None:
    """Sets what the C core reads at its start; an explicit setting of the operator for verbosity wins."""
    os.environ["GRPC_SSL_CIPHER_SUITES"] = TLS12_DEAD_END
    os.environ.setdefault("GRPC_VERBOSITY", ENVIRONMENT["GRPC_VERBOSITY"])


in_time = "grpc" not in sys.modules or os.environ.get("GRPC_SSL_CIPHER_SUITES") == TLS12_DEAD_END
"""False when grpc was there first: then TLS 1.2 is refused per call, not at the handshake."""

prepare_environment()

ArgumentValue = int | str
Arguments = list[tuple[str, ArgumentValue]]

# No max_connection_age: it would cut every follow and intent stream; streams are re-checked instead.
SERVER_ARGUMENTS: Mapping[str, ArgumentValue] = {
    "grpc.max_receive_message_length": RECEIVE_BYTES,
    "grpc.max_send_message_length": SNAPSHOT_BYTES,
    "grpc.max_metadata_size": METADATA_BYTES,
    "grpc.absolute_max_metadata_size": HARD_METADATA_BYTES,
    "grpc.max_concurrent_streams": 100,
    # A silent TCP connection would else hold its handshake for two minutes.
    "grpc.server_handshake_timeout_ms": 5_000,
    # 5 s and 2 s: a hung peer is noticed within 10 s.
    "grpc.keepalive_time_ms": 5_000,
    "grpc.keepalive_timeout_ms": 2_000,
    # Without this a hung peer is noticed after a minute whatever the keepalive says.
    "grpc.http2.ping_timeout_ms": 2_000,
    "grpc.http2.min_ping_interval_without_data_ms": 4_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.so_reuseport": 0,
    # Identity only: compressed intake is refused, and with it decompression bombs.
    "grpc.compression_enabled_algorithms_bitset": 1,
}

CHANNEL_ARGUMENTS: Mapping[str, ArgumentValue] = {
    "grpc.max_receive_message_length": SNAPSHOT_BYTES,
    "grpc.max_send_message_length": SNAPSHOT_BYTES,
    "grpc.max_metadata_size": METADATA_BYTES,
    "grpc.absolute_max_metadata_size": HARD_METADATA_BYTES,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 3_000,
    "grpc.http2.ping_timeout_ms": 3_000,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 1_000,
    "grpc.max_reconnect_backoff_ms": 5_000,
    # A rebuilt channel must make a new connection, with the new certificate.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.enable_retries": 0,
    "grpc.enable_http_proxy": 0,
}


def arguments(
    base: Mapping[str, ArgumentValue], overrides: Mapping[str, ArgumentValue] | None = None
) -> Arguments:
    """The list that gRPC takes. Raises ValueError for an unlimited size, which nothing here may have."""
    merged = {**base, **(overrides or {})}
    for name in ("grpc.max_receive_message_length", "grpc.max_metadata_size"):
        value = merged.get(name, 0)
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{name} must have a limit")
    return list(merged.items())
