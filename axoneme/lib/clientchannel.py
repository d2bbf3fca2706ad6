"""Channels for threads to any gRPC server, also to those that are not ours: plaintext, TLS, mutual TLS.

Loads no cryptography and no asyncio channel, since commands must start quickly. Servers of our own clusters
are pinged as `channel` does; a foreign one may answer many pings with GOAWAY, so it is left alone.
"""

from __future__ import annotations

import socket
import ssl
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc

from axoneme.lib.errors import InvalidArgument, Unavailable

assert grpcsettings.ENVIRONMENT

LOOK_SECONDS: Final = 5.0
FOREIGN_ARGUMENTS: Final[Mapping[str, grpcsettings.ArgumentValue]] = {
    # Go servers allow one ping in five minutes, and none without a call, unless told otherwise.
    "grpc.keepalive_time_ms": 310_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.max_receive_message_length": 16 * grpcsettings.MIB,
}
SINGLE_THREADED: Final = ("SingleThreadedUnaryStream", 1)
"""Streams are read in the caller's thread: 43 us of CPU a message instead of 72."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How a server proves itself, and how we do. No CA file: the system's; no certificate: none is shown."""

    ca_files: tuple[Path, ...] = ()
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    verify: bool = True
    private_key_only: bool = False
    """Refuse a key that others may read."""


def open_client_channel(target: str, security: Security | None, *, own: bool = False) -> grpc.Channel:
    """A channel; `own` is for servers of our clusters. Raises InvalidArgument for files that cannot be used,
    Unavailable when the certificate of a server that need not be verified cannot be had."""
    arguments = grpcsettings.arguments(grpcsettings.CHANNEL_ARGUMENTS, None if own else FOREIGN_ARGUMENTS)
    arguments.append(SINGLE_THREADED)
    if security is None:
        return grpc.insecure_channel(target, options=arguments)
    roots, name = _roots(security), security.server_name
    if not security.verify:
        presented, presented_name = presented_certificate(target, name)
        roots, name = presented.encode(), presented_name or name
    key = _read(security.key_file, private=security.private_key_only) if security.key_file else None
    cert = _read(security.cert_file) if security.cert_file else None
    if name:
        arguments += [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(roots, key, cert), options=arguments)


def presented_certificate(target: str, server_name: str = "") -> tuple[str, str]:
    """The certificate that a server shows, as PEM, and a name in it: what TLS without verification trusts.

    gRPC verifies always, so the certificate of the moment is made its own authority.
    """
    host, port = split_target(target)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, port), LOOK_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=server_name or host) as secured,
        ):
            encoded = secured.getpeercert(binary_form=True) or b""
    except OSError as error:
        raise Unavailable(f"{target}: cannot look at its certificate: {error.strerror or error}") from error
    return ssl.DER_cert_to_PEM_cert(encoded), _name_of(encoded)


def split_target(target: str) -> tuple[str, int]:
    """Host and port of `host:port`, `dns:///host:port` or `[v6]:port`. Raises InvalidArgument."""
    text = target.rpartition("/")[2].removeprefix("dns:").removeprefix("ipv4:").removeprefix("ipv6:")
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise InvalidArgument(f"{target!r} is not host:port")
    return host.strip("[]"), int(port)


def _name_of(encoded: bytes) -> str:
    from cryptography import x509

    certificate = x509.load_der_x509_certificate(encoded)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    hosts = names.get_values_for_type(x509.DNSName)
    # A wildcard matches one label, whichever.
    return hosts[0].replace("*", "any") if hosts else ""


def _roots(security: Security) -> bytes | None:
    if security.ca_files:
        return b"\n".join(_read(path) for path in security.ca_files)
    system = ssl.get_default_verify_paths().cafile
    return Path(system).read_bytes() if system and Path(system).is_file() else None


def _read(path: Path, *, private: bool = False) -> bytes:
    try:
        if private and stat.S_IMODE(path.stat().st_mode) & 0o077:
            mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
            raise InvalidArgument(f"TLS key {path} has mode {mode}; make it 0600 (chmod 600 {path})")
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"TLS file {path}: {error.strerror}") from error
