"""Who is at the other end of a connection, in grpc's words."""

from __future__ import annotations

import asyncio
import ssl

NAME_BY_VERSION = {"TLSv1.3": b"TLSv1.3"}


def peer_name(transport: asyncio.BaseTransport) -> str:
    """`ipv4:a.b.c.d:port`, `ipv6:[…]:port` or `unix:`."""
    address = transport.get_extra_info("peername")
    if not isinstance(address, tuple):
        return "unix:"
    host, port = address[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def auth_context(wrapped: ssl.SSLObject) -> dict[str, list[bytes]]:
    """What `axoneme.lib.peercert` asks for, under the names of grpc's auth context."""
    leaf = wrapped.getpeercert(binary_form=True)
    pem = [ssl.DER_cert_to_PEM_cert(leaf).encode()] if leaf else []
    return {
        "transport_security_type": [b"ssl"],
        "ssl_tls_version": [NAME_BY_VERSION.get(wrapped.version() or "", b"")],
        "x509_pem_cert": pem,
        "x509_pem_cert_chain": [b"".join(_chain(wrapped))] if pem else [],
    }


def _chain(wrapped: ssl.SSLObject) -> list[bytes]:
    """What the client sent, leaf first, PEM; public as SSLObject.get_unverified_chain from Python 3.13 on."""
    inner = wrapped._sslobj  # type: ignore[attr-defined]  # noqa: SLF001
    certificates = inner.get_unverified_chain() or []
    return [ssl.DER_cert_to_PEM_cert(_der(one)).encode() for one in certificates]


def _der(certificate: object) -> bytes:
    """Bytes of what 3.13 gives as bytes and earlier versions as an object."""
    if isinstance(certificate, bytes):
        return certificate
    der: bytes = certificate.public_bytes(2)  # type: ignore[attr-defined]  # _ssl.ENCODING_DER
    return der
