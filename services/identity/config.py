"""Settings of the identity service."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from axoneme.lib import config
from axoneme.lib.errors import FieldViolation, InvalidArgument
from axoneme.lib.identities import MAX_CLUSTER_ID
from axoneme.lib.roles import NameRole, parse_name_roles
from services.identity.podcidrs import Pool

if TYPE_CHECKING:
    from axoneme.lib.tls import TlsFiles


MOST_ADDRESSES_PER_NODE = 4096
"""A node declares all its addresses in one message, of which gRPC takes 4 MiB: 1 KiB for each."""


@dataclass(frozen=True, kw_only=True)
class IdentityConfig:
    """One identity service."""

    listen_address: str = config.option("127.0.0.1:4301", "host:port to serve gRPC on")
    etcd_endpoints: tuple[str, ...] = config.option(
        ("127.0.0.1:2379",), "etcd members, host:port or unix:///path"
    )
    etcd_ca_file: Path | None = config.option(None, "CA of etcd's certificate; none for a unix socket")
    etcd_cert_file: Path | None = config.option(None, "client certificate for etcd")
    etcd_key_file: Path | None = config.option(None, "its key, mode 0600")
    etcd_server_name: str = config.option("", "name in etcd's certificate when it is not the host")
    ca_file: Path | None = config.option(None, "CA of all parts of the cluster")
    cert_file: Path | None = config.option(None, "certificate of this service (role svc/identity)")
    key_file: Path | None = config.option(None, "its key, mode 0600")
    trust_domain: str = config.option("", "SPIFFE trust domain [default: <cluster name>.mesh]")
    certificate_names: tuple[str, ...] = config.option(
        (),
        "roles of certificates without a SPIFFE id, NAME=ROLE",
        metavar="*.hubble-relay.cilium.io=user/reader/stock",
    )
    cluster_name: str = config.option("default", "name of the cluster")
    cluster_id: int = config.option(0, "1–255, unique in the mesh; 0 for a cluster without mesh")
    pod_cidr_pools: tuple[str, ...] = config.option(
        (), "pools for the nodes as POOL/BLOCK", metavar="10.1.0.0/16/24"
    )
    node_lease_seconds: int = config.option(900, "how long a node's keys outlive its last renewal")
    redeclare_grace_seconds: float = config.option(
        60.0, "how long a node may declare itself again after an outage before it counts as gone"
    )
    max_identities_per_node: int = config.option(1024, "identities that one node may refer to")
    max_addresses_per_node: int = config.option(2048, "addresses that one node may publish, at most 4096")
    collect_seconds: float = config.option(900.0, "interval between collections of unused identities")
    metrics_address: str = config.option("127.0.0.1:9962", "host:port of /metrics, /healthz and /readyz")
    drain_seconds: float = config.option(5.0, "time that open calls get at shutdown")
    log_level: str = config.option("info", "debug, info, warning or error")

    def check(self) -> None:
        """Raises InvalidArgument that names every wrong setting."""
        faults = []
        if not 0 <= self.cluster_id <= MAX_CLUSTER_ID:
            faults.append(FieldViolation("cluster_id", f"{self.cluster_id} is outside 0–{MAX_CLUSTER_ID}"))
        if not self.cluster_name or "/" in self.cluster_name or len(self.cluster_name) > 32:
            faults.append(FieldViolation("cluster_name", "needs 1–32 characters without '/'"))
        if self.node_lease_seconds < 1:
            faults.append(FieldViolation("node_lease_seconds", "must be at least 1"))
        if self.max_identities_per_node < 1:
            faults.append(FieldViolation("max_identities_per_node", "must be at least 1"))
        if not 1 <= self.max_addresses_per_node <= MOST_ADDRESSES_PER_NODE:
            faults.append(FieldViolation("max_addresses_per_node", f"must be 1–{MOST_ADDRESSES_PER_NODE}"))
        faults += [
            FieldViolation(name, "is not set")
            for name in ("ca_file", "cert_file", "key_file")
            if getattr(self, name) is None and not self.listen_address.startswith("unix:")
        ]
        if faults:
            text = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
            raise InvalidArgument(f"configuration: {text}", violations=faults)
        self.pools()
        self.name_roles()

    def pools(self) -> tuple[Pool, ...]:
        """The pools. Raises InvalidArgument."""
        return tuple(Pool.parse(text) for text in self.pod_cidr_pools)

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
