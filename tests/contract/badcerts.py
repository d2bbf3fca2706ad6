"""Certificates that a server must refuse, each wrong in one way."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from axoneme.lib import certs
from axoneme.lib.tls import TlsFiles

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def write_leaf(
    authority: certs.Authority,
    directory: Path,
    *,
    uris: Sequence[str] = (),
    dns: Sequence[str] = (),
    uses: Sequence[x509.ObjectIdentifier] = BOTH,
    start: dt.datetime = NOW - DAY,
    end: dt.datetime = NOW + DAY,
    common_name: str = "test",
    is_ca: bool = False,
) -> TlsFiles:
    """A leaf with any mistake one likes, signed by `authority`."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if uses:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    certs.private_directory(directory)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certs.write_private(directory / "tls.key", pem)
    certs.write_public(directory / "tls.crt", certificate.public_bytes(Encoding.PEM))
    certs.write_public(directory / "ca.crt", authority.certificate.public_bytes(Encoding.PEM))
    return TlsFiles(directory / "ca.crt", directory / "tls.crt", directory / "tls.key")
