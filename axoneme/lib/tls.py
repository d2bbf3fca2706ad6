"""Certificate files: loading with mode checks, server credentials that follow the files, channel credentials.

A server's fetcher runs inside every handshake, so it only hands over an object that the reload loop prepared
before. Files that do not parse or do not fit together are reported and leave the old certificate in force.
"""

from __future__ import annotations

import logging
import stat
import threading
from dataclasses import dataclass
from pathlib import Path

from axoneme.lib import grpcsettings, log  # isort: skip  (before grpc)
import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from axoneme.lib.errors import FailedPrecondition

logger = logging.getLogger(__name__)
assert grpcsettings.ENVIRONMENT

Fingerprint = tuple[tuple[int, int, int], ...]


class TlsFilesInvalid(FailedPrecondition):
    """Certificate files are missing, readable by others, or do not fit together."""

    default_reason = "TLS_FILES_INVALID"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of the CA bundle, the certificate chain (leaf first) and its key, all PEM."""

    ca: Path
    cert: Path
    key: Path

    def fingerprint(self) -> Fingerprint:
        """Changes whenever a file is replaced or rewritten. Raises TlsFilesInvalid when one is missing."""
        try:
            states = [path.stat() for path in (self.ca, self.cert, self.key)]
        except OSError as error:
            raise TlsFilesInvalid(f"TLS file {error.filename}: {error.strerror}") from error
        return tuple((state.st_mtime_ns, state.st_ino, state.st_size) for state in states)


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """Checked content of the three files."""

    ca: bytes
    cert: bytes
    key: bytes

    def authorities(self) -> list[x509.Certificate]:
        """The certificates of the CA bundle."""
        return x509.load_pem_x509_certificates(self.ca)

    def leaf(self) -> x509.Certificate:
        """The own certificate."""
        return x509.load_pem_x509_certificates(self.cert)[0]


def load(files: TlsFiles) -> TlsMaterial:
    """Reads and checks. Raises TlsFilesInvalid: a file is missing, open to others, or does not fit."""
    check_private(files.key)
    material = TlsMaterial(_read(files.ca), _read(files.cert), _read(files.key))
    try:
        material.authorities()
        public = material.leaf().public_key()
        own = load_pem_private_key(material.key, password=None).public_key()
    except ValueError as error:
        raise TlsFilesInvalid(f"TLS files beside {files.cert}: {error}") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != own.public_bytes(*form):
        raise TlsFilesInvalid(f"TLS key {files.key} does not belong to the certificate {files.cert}")
    return material


def check_private(path: Path) -> None:
    """Raises TlsFilesInvalid unless only its owner may read the file."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise TlsFilesInvalid(f"TLS file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise TlsFilesInvalid(f"TLS key {path} has mode {mode:04o}; make it 0600 (chmod 600 {path})")


class ServerCertificates:
    """Server credentials of one listener that follow the files."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self.generation = 0
        self._fingerprint = files.fingerprint()
        self._material = load(files)
        self._pending: grpc.ServerCertificateConfiguration | None = None
        self._lock = threading.Lock()

    @property
    def material(self) -> TlsMaterial:
        """What new handshakes are served with."""
        return self._material

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials that demand a client certificate of the CA bundle."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._material),
            self._take_pending,  # type: ignore[arg-type]
            require_client_authentication=True,
        )

    def refresh(self) -> bool:
        """Looks at the files once; True when new content is in force from the next handshake on."""
        try:
            fingerprint = self.files.fingerprint()
            if fingerprint == self._fingerprint:
                return False
            material = load(self.files)
        except (TlsFilesInvalid, OSError) as error:
            logger.error(
                "certificate files not usable, keeping the old ones", extra={log.ERROR: log.clip(error)}
            )
            return False
        changed = material != self._material
        self._fingerprint, self._material = fingerprint, material
        if changed:
            self.generation += 1
            with self._lock:
                self._pending = _configuration(material)
            logger.info("certificate files reloaded", extra={log.PATH: str(self.files.cert)})
        return changed

    def _take_pending(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC in each handshake: must not block. None, which the types forget, means "keep"."""
        with self._lock:
            pending, self._pending = self._pending, None
        return pending


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a server; use ServerCertificates to have them follow the files."""
    return ServerCertificates(files).credentials()


def channel_credentials(files: TlsFiles) -> grpc.ChannelCredentials:
    """Credentials of a client, as the files are now; a channel is rebuilt to change them."""
    material = load(files)
    return grpc.ssl_channel_credentials(material.ca, material.key, material.cert)


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.cert)], root_certificates=material.ca
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TlsFilesInvalid(f"TLS file {path}: {error.strerror}") from error
