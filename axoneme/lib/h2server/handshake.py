"""TLS of a listener: 1.3 only, client certificates demanded, always with the files that are in force now."""

from __future__ import annotations

import os
import ssl

from axoneme.lib.tls import ServerCertificates, TlsMaterial


class FollowingContext:
    """The SSL context of one listener; a new one for each generation of its certificate files."""

    def __init__(self, certificates: ServerCertificates) -> None:
        self._certificates = certificates
        self._generation = certificates.generation
        self._context = server_context(certificates.material)

    def current(self) -> ssl.SSLContext:
        """What the next handshake is made with."""
        generation = self._certificates.generation
        if generation != self._generation:
            self._context = server_context(self._certificates.material)
            self._generation = generation
        return self._context


def server_context(material: TlsMaterial) -> ssl.SSLContext:
    """A context of checked material.

    No session tickets: a resumed session would pass without the check of the certificate under today's CA.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # As grpc's own TLS: any certificate of the bundle is an anchor, also one that is no root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["h2"])
    context.load_verify_locations(cadata=material.ca.decode("latin-1"))
    _load_chain(context, material)
    return context


def _load_chain(context: ssl.SSLContext, material: TlsMaterial) -> None:
    """Loads from memory: the files may already be others than those that were checked."""
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, material.cert + b"\n" + material.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
