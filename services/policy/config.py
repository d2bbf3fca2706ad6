"""Settings of `axoneme policy serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from axoneme.lib.config import option
from axoneme.lib.roles import NameRole, parse_name_roles

if TYPE_CHECKING:
    from axoneme.lib.tls import TlsFiles


@dataclass(frozen=True)
class PolicyConfig:
    """One field is one flag, one environment variable and one key of the file."""

    listen_address: str = option("127.0.0.1:4302", "host:port to serve gRPC on")
    metrics_address: str = option(
        "127.0.0.1:9963", "host:port of /metrics, /healthz and /readyz; empty: none"
    )
    etcd_endpoints: tuple[str, ...] = option((), "etcd servers, comma separated: host:port or unix:///path")
    etcd_ca_file: Path | None = option(None, "CA certificate of etcd; without it etcd is called without TLS")
    etcd_cert_file: Path | None = option(None, "certificate shown to etcd")
    etcd_key_file: Path | None = option(None, "key of the certificate shown to etcd")
    ca_file: Path | None = option(None, "CA certificate of clients")
    cert_file: Path | None = option(None, "certificate of this service")
    key_file: Path | None = option(None, "key of this service's certificate")
    trust_domain: str = option("", "SPIFFE trust domain; empty means <cluster_name>.mesh")
    certificate_names: tuple[str, ...] = option(
        (),
        "roles of certificates without a SPIFFE id, NAME=ROLE",
        metavar="*.hubble-relay.cilium.io=user/reader/stock",
    )
    cluster_name: str = option("default", "name of this cluster")
    drain_seconds: float = option(5.0, "time that open calls get at shutdown")
    log_level: str = option("info", "debug, info, warning or error")

    def tls(self) -> TlsFiles | None:
        """The files of this service's certificate."""
        return _files(self.ca_file, self.cert_file, self.key_file)

    def etcd_tls(self) -> TlsFiles | None:
        """The files for etcd."""
        return _files(self.etcd_ca_file, self.etcd_cert_file, self.etcd_key_file)

    def name_roles(self) -> tuple[NameRole, ...]:
        """Roles of stock clients. Raises InvalidArgument."""
        return parse_name_roles(self.certificate_names)

    def spiffe_domain(self) -> str:
        """The trust domain."""
        return self.trust_domain or f"{self.cluster_name}.mesh"


def _files(ca: Path | None, cert: Path | None, key: Path | None) -> TlsFiles | None:
    # Imported late: the command line reads this module and must not import gRPC.
    from axoneme.lib.tls import TlsFiles

    return TlsFiles(ca, cert, key) if ca and cert and key else None
