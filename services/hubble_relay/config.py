"""Settings of `axoneme relay serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from axoneme.lib.config import option
from axoneme.lib.roles import NameRole, parse_name_roles

if TYPE_CHECKING:
    from axoneme.lib.tls import TlsFiles


@dataclass(frozen=True)
class RelayConfig:
    """One field is one flag, one environment variable and one key of the file."""

    listen_address: str = option("127.0.0.1:4245", "host:port to serve gRPC on")
    metrics_address: str = option(
        "127.0.0.1:9965", "host:port of /metrics, /healthz and /readyz; empty: none"
    )
    peer_service: tuple[str, ...] = option(
        (), "node observers, comma separated: host:port or unix:///path; one of them tells the others"
    )
    ca_file: Path | None = option(None, "CA certificate of nodes and clients")
    cert_file: Path | None = option(None, "certificate of this service")
    key_file: Path | None = option(None, "key of this service's certificate")
    trust_domain: str = option("", "SPIFFE trust domain; empty means <cluster_name>.mesh")
    certificate_names: tuple[str, ...] = option(
        (),
        "roles of certificates without a SPIFFE id, NAME=ROLE",
        metavar="*.hubble-relay.cilium.io=user/reader/stock",
    )
    cluster_name: str = option("default", "name of this cluster")
    retry_seconds: float = option(30.0, "longest delay before the peer service is asked again")
    sort_buffer: int = option(100, "responses held back to put flows of several nodes into time order")
    sort_seconds: float = option(1.0, "time without input after which held flows are sent")
    node_seconds: float = option(5.0, "time a silent node may delay a query that does not follow")
    flow_server: str = option("grpc", "what serves the listener: grpc, or h2 (own HTTP/2, made for flows)")
    drain_seconds: float = option(5.0, "time that open calls get at shutdown")
    log_level: str = option("info", "debug, info, warning or error")

    def tls(self) -> TlsFiles | None:
        """The files of this service's certificate, shown to nodes and clients."""
        # Imported late: the command line reads this module and must not import gRPC.
        from axoneme.lib.tls import TlsFiles

        if not (self.ca_file and self.cert_file and self.key_file):
            return None
        return TlsFiles(self.ca_file, self.cert_file, self.key_file)

    def name_roles(self) -> tuple[NameRole, ...]:
        """Roles of stock clients. Raises InvalidArgument."""
        return parse_name_roles(self.certificate_names)

    def spiffe_domain(self) -> str:
        """The trust domain."""
        return self.trust_domain or f"{self.cluster_name}.mesh"
