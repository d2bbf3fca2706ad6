"""Making certificates: a CA per trust domain, leaves for the roles of `roles.py`. P-256 throughout.

Ed25519 would be shorter, but gRPC clients refuse it. Files: `<ca dir>/ca.crt` and `ca.key`; per leaf
`ca.crt`, `tls.crt`, `tls.key`. Keys are 0600, folders 0700, and both are refused when others may read them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from axoneme.lib.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from axoneme.lib.roles import NODE, SCHEME, SERVICE, Role, check_trust_domain, parse_role, spiffe_id

CA_TTL = dt.timedelta(days=3650)
LEAF_TTL = dt.timedelta(days=365)
BACKDATE = dt.timedelta(minutes=5)
"""Certificates start a little in the past: clocks of two machines are never equal."""

HUBBLE_NODE_SUFFIX = "hubble-grpc.cilium.io"
HUBBLE_RELAY_NAME = "*.hubble-relay.cilium.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A CA in memory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    trust_domain: str


def create_ca(
    directory: Path, trust_domain: str, *, ttl: dt.timedelta = CA_TTL, now: dt.datetime | None = None
) -> Authority:
    """Writes a new CA. Raises AlreadyExists: replacing one would cut off all of its leaves."""
    check_trust_domain(trust_domain)
    if (directory / "ca.key").exists() or (directory / "ca.crt").exists():
        raise AlreadyExists(f"{directory} holds a CA already; choose another folder")
    start = now or dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Axoneme CA {trust_domain}"[:64])])
    builder = (
        _builder(name, name, key, start, ttl)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_uri(f"{SCHEME}{trust_domain}"), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    private_directory(directory)
    write_private(directory / "ca.key", _key_pem(key))
    write_public(directory / "ca.crt", certificate.public_bytes(Encoding.PEM))
    return Authority(certificate=certificate, key=key, trust_domain=trust_domain)


def load_ca(directory: Path) -> Authority:
    """Reads a CA. Raises NotFound, or FailedPrecondition for modes that let others read the key."""
    if not (directory / "ca.key").exists():
        raise NotFound(f"no CA in {directory}; make one with: axoneme certs ca --directory {directory} …")
    check_modes(directory, directory / "ca.key")
    certificate = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    key = load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uri = san.get_values_for_type(x509.UniformResourceIdentifier)[0]
    return Authority(certificate=certificate, key=key, trust_domain=uri.removeprefix(SCHEME))


def issue(
    ca_directory: Path,
    role: str | Role,
    name: str,
    out_directory: Path,
    ttl: dt.timedelta = LEAF_TTL,
    dns_sans: Iterable[str] = (),
    ip_sans: Iterable[str] = (),
    *,
    cluster: str | None = None,
    now: dt.datetime | None = None,
) -> x509.Certificate:
    """Issues a leaf: `role` is svc, node, user/reader, user/admin or peer (or a Role), `name` its last part.

    Replaces files of an earlier leaf one by one, key first, which readers of changed files take for "not
    yet". `cluster` gives nodes their Hubble name; None takes the first label of the trust domain.
    """
    authority = load_ca(ca_directory)
    chosen = role if isinstance(role, Role) else parse_role(f"{role.strip('/')}/{name}")
    key = ec.generate_private_key(ec.SECP256R1())
    names = [*default_names(chosen, authority.trust_domain, cluster), *dns_sans]
    certificate = sign_leaf(authority, key, chosen, names, ip_sans, ttl, now or dt.datetime.now(dt.UTC))
    private_directory(out_directory)
    write_private(out_directory / "tls.key", _key_pem(key))
    write_public(out_directory / "tls.crt", certificate.public_bytes(Encoding.PEM))
    write_public(out_directory / "ca.crt", authority.certificate.public_bytes(Encoding.PEM))
    return certificate


def sign_leaf(
    authority: Authority,
    key: ec.EllipticCurvePrivateKey,
    role: Role,
    dns_names: Iterable[str],
    ip_sans: Iterable[str],
    ttl: dt.timedelta,
    start: dt.datetime,
) -> x509.Certificate:
    """The certificate of a role. Raises InvalidArgument for addresses or a lifetime that make no sense."""
    if ttl <= dt.timedelta(0):
        raise InvalidArgument.of_field("ttl", "must be longer than nothing")
    sans: list[x509.GeneralName] = [x509.UniformResourceIdentifier(spiffe_id(role, authority.trust_domain))]
    sans += [x509.DNSName(name) for name in dict.fromkeys(dns_names)]
    sans += [x509.IPAddress(_ip(text)) for text in dict.fromkeys(ip_sans)]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, role.name[:64])])
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    end = min(start + ttl, authority.certificate.not_valid_after_utc)
    return (
        _builder(subject, authority.certificate.subject, key, start, end - start)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(sans), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )


def default_names(role: Role, trust_domain: str, cluster: str | None = None) -> list[str]:
    """DNS SANs by role; users and peers are never servers and get none."""
    if role.kind == SERVICE:
        relay = [HUBBLE_RELAY_NAME] if role.name == "relay" else []
        return [f"{role.name}.{trust_domain}", *relay]
    if role.kind == NODE:
        return [
            f"{role.name}.{trust_domain}",
            hubble_node_name(role.name, cluster or trust_domain.split(".")[0]),
        ]
    return []


def hubble_node_name(node: str, cluster: str) -> str:
    """Name under which Hubble clients expect a node: dots of both parts become dashes."""
    return f"{node.replace('.', '-')}.{cluster.replace('.', '-')}.{HUBBLE_NODE_SUFFIX}"


def private_directory(directory: Path) -> None:
    """Makes a folder with mode 0700. Raises FailedPrecondition when it exists with a looser one."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_modes(directory)


def check_modes(*paths: Path) -> None:
    """Raises FailedPrecondition when others than the owner have any right."""
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            fix = "700" if path.is_dir() else "600"
            raise FailedPrecondition(
                f"{path} has mode {mode:04o} and may be read by others; fix it: chmod {fix} {path}",
                reason="FILE_MODE_TOO_OPEN",
            )


def write_private(path: Path, content: bytes) -> None:
    """Writes a file of mode 0600, complete or not at all."""
    _write(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Writes a file of mode 0644, complete or not at all."""
    _write(path, content, 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
    temporary.replace(path)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: dt.datetime,
    ttl: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - BACKDATE)
        .not_valid_after(start + ttl)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _uri(uri: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument.of_field("ip_sans", f"{text!r} is not an IP address") from error
