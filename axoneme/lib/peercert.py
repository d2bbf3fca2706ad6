"""The caller's certificate, checked on every call and every few seconds of a stream.

TLS checks a certificate once, at the handshake; a resumed session or a connection that outlives its
certificate is never asked again. So the edge takes the PEM that gRPC keeps and checks here: dates, CA, leaf
rules, deny list, id.
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from axoneme.lib.errors import Unauthenticated
from axoneme.lib.roles import NameRole, Role, role_of

CACHE_ENTRIES = 4_096
MAX_CHAIN = 4
TLS_VERSION = b"TLSv1.3"

AuthContext = Mapping[str, Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What of a certificate matters here. Times are UTC."""

    not_before: dt.datetime
    not_after: dt.datetime
    serial: str
    uris: tuple[str, ...]
    names: tuple[str, ...]
    fault: str

    def check(self, now: dt.datetime, denied: Collection[str]) -> None:
        """Raises Unauthenticated with the reason in words."""
        if self.fault:
            raise Unauthenticated(f"the client certificate {self.fault}")
        if now > self.not_after:
            raise Unauthenticated(f"the client certificate ended at {self.not_after:%Y-%m-%d %H:%M:%S} UTC")
        if now < self.not_before:
            raise Unauthenticated(f"the client certificate starts at {self.not_before:%Y-%m-%d %H:%M:%S} UTC")
        if self.serial in denied or any(uri in denied for uri in self.uris):
            raise Unauthenticated("the client certificate is on the deny list", reason="CERTIFICATE_DENIED")


class PeerCheck:
    """Turns the auth context of a call into a role, or raises Unauthenticated.

    Parsed certificates are cached by their PEM; verdicts are not, since time and deny list change.
    """

    def __init__(self, trust_domain: str, name_roles: Sequence[NameRole] = ()) -> None:
        self._trust_domain = trust_domain
        self._name_roles = tuple(name_roles)
        self._cache: OrderedDict[tuple[bytes, int], PeerCertificate] = OrderedDict()

    def role(
        self,
        context: AuthContext,
        *,
        now: dt.datetime,
        authorities: Sequence[x509.Certificate],
        generation: int,
        denied: Collection[str] = (),
    ) -> Role:
        """`generation` counts the CA bundles of the listener, so that a replaced CA is asked anew."""
        version = _first(context, "ssl_tls_version")
        if version != TLS_VERSION:
            raise Unauthenticated("only TLS 1.3 is served", reason="TLS_VERSION_TOO_OLD")
        pem = _first(context, "x509_pem_cert")
        if not pem:
            raise Unauthenticated("no client certificate", reason="NO_CERTIFICATE")
        chain = _first(context, "x509_pem_cert_chain") or pem
        certificate = self._certificate(pem, chain, authorities, generation)
        certificate.check(now, denied)
        return role_of(certificate.uris, certificate.names, self._trust_domain, self._name_roles)

    def _certificate(
        self, pem: bytes, chain: bytes, authorities: Sequence[x509.Certificate], generation: int
    ) -> PeerCertificate:
        key = (pem, generation)
        known = self._cache.get(key)
        if known is None:
            known = self._cache[key] = read_certificate(pem, chain, authorities)
            while len(self._cache) > CACHE_ENTRIES:
                self._cache.popitem(last=False)
        return known


def read_certificate(pem: bytes, chain: bytes, authorities: Sequence[x509.Certificate]) -> PeerCertificate:
    """Parses a leaf and says what is wrong with it. Raises Unauthenticated when it does not parse."""
    try:
        leaf = x509.load_pem_x509_certificate(pem)
        others = x509.load_pem_x509_certificates(chain)[:MAX_CHAIN]
        uris, names = subject_names(leaf)
        fault = _leaf_fault(leaf) or _issuer_fault(leaf, others, authorities)
    except ValueError as error:
        raise Unauthenticated(f"the client certificate cannot be read: {error}") from error
    return PeerCertificate(
        leaf.not_valid_before_utc, leaf.not_valid_after_utc, f"{leaf.serial_number:x}", uris, names, fault
    )


def subject_names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(URIs, DNS SANs followed by the CN)."""
    common = [
        str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    ]
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), tuple(common)
    uris = tuple(san.get_values_for_type(x509.UniformResourceIdentifier))
    return uris, (*san.get_values_for_type(x509.DNSName), *common)


def _leaf_fault(leaf: x509.Certificate) -> str:
    """Rules of a SPIFFE leaf: no CA, and client authentication where uses are listed."""
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            return "is a CA certificate"
        if (
            isinstance(extension.value, x509.ExtendedKeyUsage)
            and ExtendedKeyUsageOID.CLIENT_AUTH not in extension.value
        ):
            return "is not made for client authentication"
    return ""


def _issuer_fault(
    leaf: x509.Certificate, chain: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate]
) -> str:
    """Empty when signatures lead from the leaf to one of the authorities."""
    current = leaf
    for _ in range(MAX_CHAIN):
        if any(_issued(current, authority) for authority in authorities):
            return ""
        above = next((other for other in chain if other is not current and _issued(current, other)), None)
        if above is None or above == current:
            break
        current = above
    return "was not issued by a CA that is trusted now"


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _first(context: AuthContext, key: str) -> bytes:
    values = context.get(key) or ()
    return bytes(next(iter(values), b""))
