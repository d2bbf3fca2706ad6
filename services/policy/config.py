"""Settings of `axoneme policy serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from axoneme.lib.config import option
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.roles import NameRole, parse_name_roles
from services.policy.settings import EnforcementMode, Family, PolicySettings

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
    policy_enforcement: str = option(
        "default", "default: endpoints that a policy selects; always: all; never: none"
    )
    allow_localhost: str = option(
        "always", "always: the local host may reach pods where nothing denies it; policy: as policies say"
    )
    policy_cidr_match_mode: tuple[str, ...] = option((), "what CIDR rules select besides addresses: nodes")
    policy_default_local_cluster: bool = option(False, "peers that name no cluster are those of this cluster")
    enable_node_selector_labels: bool = option(False, "fromNodes and toNodes tell nodes apart by labels")
    enable_host_firewall: bool = option(False, "policies with a nodeSelector have effect")
    enable_ipv4: bool = option(True, "the cluster has IPv4 addresses")
    enable_ipv6: bool = option(True, "the cluster has IPv6 addresses")
    drain_seconds: float = option(5.0, "time that open calls get at shutdown")
    log_level: str = option("info", "debug, info, warning or error")

    def tls(self) -> TlsFiles | None:
        """The files of this service's certificate."""
        return _files(self.ca_file, self.cert_file, self.key_file)

    def etcd_tls(self) -> TlsFiles | None:
        """The files for etcd."""
        return _files(self.etcd_ca_file, self.etcd_cert_file, self.etcd_key_file)

    def settings(self) -> PolicySettings:
        """What these options mean for policies. Raises InvalidArgument naming the option."""
        return PolicySettings(
            cluster_name=self.cluster_name,
            mode=EnforcementMode(
                _one_of("policy_enforcement", self.policy_enforcement, tuple(EnforcementMode))
            ),
            allow_localhost=_one_of("allow_localhost", self.allow_localhost, ("always", "auto", "policy"))
            != "policy",
            cidr_match_nodes=bool(
                [_one_of("policy_cidr_match_mode", one, ("nodes",)) for one in self.policy_cidr_match_mode]
            ),
            default_local_cluster=self.policy_default_local_cluster,
            node_labels=self.enable_node_selector_labels,
            host_firewall=self.enable_host_firewall,
            families=self._families(),
        )

    def _families(self) -> frozenset[Family]:
        found: set[Family] = set()
        if self.enable_ipv4:
            found.add("ipv4")
        if self.enable_ipv6:
            found.add("ipv6")
        if not found:
            raise InvalidArgument.of_field("enable_ipv4", "is off and so is enable_ipv6; enable one of them")
        return frozenset(found)

    def name_roles(self) -> tuple[NameRole, ...]:
        """Roles of stock clients. Raises InvalidArgument."""
        return parse_name_roles(self.certificate_names)

    def spiffe_domain(self) -> str:
        """The trust domain."""
        return self.trust_domain or f"{self.cluster_name}.mesh"


def _one_of(field: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise InvalidArgument.of_field(field, f"{text[:40]!r} is not known; use one of {', '.join(choices)}")
    return text


def _files(ca: Path | None, cert: Path | None, key: Path | None) -> TlsFiles | None:
    # Imported late: the command line reads this module and must not import gRPC.
    from axoneme.lib.tls import TlsFiles

    return TlsFiles(ca, cert, key) if ca and cert and key else None
