"""Settings of `axoneme clustermesh serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from axoneme.lib.config import option
from axoneme.lib.errors import FieldViolation, InvalidArgument
from axoneme.lib.roles import NameRole, parse_name_roles
from services.clustermesh.pools import Pools

if TYPE_CHECKING:
    from axoneme.lib.tls import TlsFiles


@dataclass(frozen=True, kw_only=True)
class ClusterMeshConfig:
    """One field is one flag, one environment variable and one key of the file."""

    listen_address: str = option("127.0.0.1:4303", "host:port to serve gRPC on")
    metrics_address: str = option(
        "127.0.0.1:9964", "host:port of /metrics, /healthz and /readyz; empty: none"
    )
    etcd_endpoints: tuple[str, ...] = option(("127.0.0.1:2379",), "etcd members, host:port or unix:///path")
    etcd_ca_file: Path | None = option(None, "CA of etcd's certificate; none for a unix socket")
    etcd_cert_file: Path | None = option(None, "client certificate for etcd")
    etcd_key_file: Path | None = option(None, "its key, mode 0600")
    etcd_server_name: str = option("", "name in etcd's certificate when it is not the host")
    ca_file: Path | None = option(None, "CA of all parts of the cluster")
    cert_file: Path | None = option(None, "certificate of this service (role svc/clustermesh)")
    key_file: Path | None = option(None, "its key, mode 0600")
    trust_domain: str = option("", "SPIFFE trust domain; empty means <cluster_name>.mesh")
    certificate_names: tuple[str, ...] = option(
        (),
        "roles of certificates without a SPIFFE id, NAME=ROLE",
        metavar="*.hubble-relay.cilium.io=user/reader/stock",
    )
    cluster_name: str = option("default", "name of this cluster")
    service_cidrs: tuple[str, ...] = option(
        ("10.96.0.0/12",), "where cluster IPs are taken from, at most one prefix of each family"
    )
    node_port_range: str = option("30000-32767", "ports of the nodes that services may have")
    drain_seconds: float = option(5.0, "time that open calls get at shutdown")
    log_level: str = option("info", "debug, info, warning or error")

    def check(self) -> None:
        """Raises InvalidArgument that names every wrong setting."""
        faults = []
        if not self.cluster_name or "/" in self.cluster_name or len(self.cluster_name) > 32:
            faults.append(FieldViolation("cluster_name", "needs 1–32 characters without '/'"))
        if not self.etcd_endpoints:
            faults.append(FieldViolation("etcd_endpoints", "is empty; name at least one etcd server"))
        faults += [
            FieldViolation(name, "is not set")
            for name in ("ca_file", "cert_file", "key_file")
            if getattr(self, name) is None and not self.listen_address.startswith("unix:")
        ]
        for read in (self.pools, self.name_roles):
            try:
                read()
            except InvalidArgument as error:
                faults += error.violations or (FieldViolation("", str(error)),)
        if faults:
            text = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
            raise InvalidArgument(f"configuration: {text}", violations=faults)

    def pools(self) -> Pools:
        """What may be allocated. Raises InvalidArgument."""
        return Pools.parse(self.service_cidrs, self.node_port_range)

    def tls(self) -> TlsFiles | None:
        """Own certificate."""
        return _files(self.ca_file, self.cert_file, self.key_file)

    def etcd_tls(self) -> TlsFiles | None:
        """Certificate for etcd."""
        return _files(self.etcd_ca_file, self.etcd_cert_file, self.etcd_key_file)

    def name_roles(self) -> tuple[NameRole, ...]:
        """Roles of stock clients. Raises InvalidArgument."""
        return parse_name_roles(self.certificate_names)

    def domain(self) -> str:
        """Trust domain."""
        return self.trust_domain or f"{self.cluster_name}.mesh"


def _files(ca: Path | None, cert: Path | None, key: Path | None) -> TlsFiles | None:
    from axoneme.lib.tls import TlsFiles  # brings gRPC, which commands do without

    return TlsFiles(ca, cert, key) if ca and cert and key else None
