"""Says in words why a node cannot be reached: its name, its port, or its certificate.

gRPC reports all of these as "failed to connect". A short connection of our own, step by step, finds the
first step that fails. It also finds under which name a peer service's certificate goes when only its
address is configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator

from axoneme.lib import log
from axoneme.lib.tls import TlsFiles

STEP_SECONDS = 2.0
NODE_SUFFIX = ".hubble-grpc.cilium.io"


class UnreachableError(Exception):
    """Why an address cannot be reached; the text starts with DNS, port or TLS."""


def split_address(address: str, default_port: int = 4244) -> tuple[str, int]:
    """Returns host and port of `host`, `host:port`, `::1` or `[::1]:port`."""
    if address.startswith("["):
        host, _, rest = address[1:].partition("]")
        return host, int(rest[1:]) if rest.startswith(":") else default_port
    if address.count(":") == 1:
        host, _, port = address.partition(":")
        return host, int(port)
    return address, default_port


def grpc_target(address: str) -> str:
    """Returns an address of the peer API as a gRPC target; a missing port is 4244."""
    if address.startswith("unix:"):
        return address
    if address.startswith("/"):
        return f"unix:{address}"
    host, port = split_address(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def explain(address: str, server_name: str, tls: TlsFiles | None) -> str:
    """Returns the first step towards an address that fails, or that none does."""
    try:
        async with _connected(address, tls, server_name):
            return "the connection works, but the node does not answer gRPC"
    except UnreachableError as error:
        return str(error)


async def node_server_name(address: str, cluster_name: str, tls: TlsFiles) -> str:
    """Returns the name of the node behind an address, from its certificate, which must be of our CA and
    cluster.

    Raises UnreachableError. Whoever shows such a certificate is a node of this cluster, and any of them may
    tell us the peers.
    """
    suffix = f".{cluster_name.replace('.', '-')}{NODE_SUFFIX}"
    async with _connected(address, tls, "") as names:
        for name in names:
            if name.endswith(suffix):
                return name
    found = ", ".join(names) or "no DNS name"
    raise UnreachableError(
        f"TLS: the certificate of {address} is for {found}, none of which is a node *{suffix}"
    )


@contextlib.asynccontextmanager
async def _connected(address: str, tls: TlsFiles | None, server_name: str) -> AsyncIterator[list[str]]:
    """Connects step by step and yields the DNS names of the certificate. Raises UnreachableError."""
    writer = await _connect(address, tls, server_name)
    try:
        certificate = writer.get_extra_info("peercert") or {}
        yield [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    finally:
        writer.transport.abort()  # nothing was said: no need to wait for the other side


async def _connect(address: str, tls: TlsFiles | None, server_name: str) -> asyncio.StreamWriter:
    if address.startswith(("unix:", "/")):
        return await _connect_unix(address)
    host, port = split_address(address)
    await _resolve(host, port)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), STEP_SECONDS)
    except TimeoutError as error:
        raise UnreachableError(f"port: {host}:{port} does not answer within {STEP_SECONDS:g} s") from error
    except OSError as error:
        raise UnreachableError(f"port: {host}:{port}: {_words(error)}") from error
    if tls is None:
        return writer
    return await _handshake(writer, tls, server_name, f"{host}:{port}")


async def _connect_unix(address: str) -> asyncio.StreamWriter:
    path = address.removeprefix("unix:").replace("///", "/", 1)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), STEP_SECONDS)
    except (OSError, TimeoutError) as error:
        raise UnreachableError(f"port: socket {path}: {error}") from error
    return writer


async def _resolve(host: str, port: int) -> None:
    lookup = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    try:
        await asyncio.wait_for(lookup, STEP_SECONDS)
    except TimeoutError as error:
        raise UnreachableError(f"DNS: {host} is not resolved within {STEP_SECONDS:g} s") from error
    except OSError as error:
        raise UnreachableError(f"DNS: {host} does not resolve: {_words(error)}") from error


async def _handshake(
    writer: asyncio.StreamWriter, tls: TlsFiles, server_name: str, address: str
) -> asyncio.StreamWriter:
    try:
        context = ssl.create_default_context(cafile=str(tls.ca))
        context.load_cert_chain(tls.cert, tls.key)
        context.check_hostname = bool(server_name)
        context.set_alpn_protocols(["h2"])
        await asyncio.wait_for(writer.start_tls(context, server_hostname=server_name or None), STEP_SECONDS)
    except (OSError, TimeoutError) as error:
        writer.transport.abort()
        reason = (
            getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error) or "no answer"
        )
        wanted = f" as {server_name}" if server_name else ""
        raise UnreachableError(f"TLS: {address}{wanted}: {log.clip(reason)}") from error
    return writer


def _words(error: OSError) -> str:
    """Returns the system's words; asyncio puts its own in their place."""
    system = os.strerror(error.errno) if error.errno is not None and error.errno > 0 else error.strerror
    return log.clip(system or str(error)).lower()
