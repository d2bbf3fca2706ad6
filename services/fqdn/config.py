"""Settings of `axoneme fqdn serve`: table [fqdn] of the node's file, and what the whole node shares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from axoneme.lib.config import option
from axoneme.lib.errors import FieldViolation, InvalidArgument
from services.fqdn.model import NXDOMAIN, REFUSED, ProxySettings
from services.fqdn.pins import SCHEMA_VERSION

RELEASE, DROP = "release", "drop"
_CODES: Final = {"refused": REFUSED, "nameError": NXDOMAIN}
_LIMITS: Final = (
    *("max_ips_per_name", "max_names_per_endpoint", "max_addresses_per_endpoint", "max_upstreams"),
    *("max_in_flight", "max_in_flight_per_client", "max_connections", "max_connections_per_client"),
)


@dataclass(frozen=True, kw_only=True)
class FqdnConfig:
    """One field is one flag, one environment variable and one key of the file."""

    SECTION: ClassVar[str] = "fqdn"
    SHARED: ClassVar[frozenset[str]] = frozenset(
        {
            *("node_name", "cluster_name", "policy_targets", "ca_file", "cert_file", "key_file"),
            *("trust_domain", "run_directory", "state_directory", "bpffs", "datapath", "dns_proxy_port"),
            *("drain_seconds", "log_level"),
        }
    )

    node_name: str = option("", "name of this node, as in its certificate")
    cluster_name: str = option("default", "name of the cluster")
    policy_targets: tuple[str, ...] = option(("127.0.0.1:4302",), "policy service, host:port")
    ca_file: Path = option(Path("ca.crt"), "certificate authority of the cluster")
    cert_file: Path = option(Path("tls.crt"), "certificate of this node")
    key_file: Path = option(Path("tls.key"), "key of this node, mode 0600")
    trust_domain: str = option("", "SPIFFE trust domain; empty means <cluster_name>.mesh")
    run_directory: Path = option(Path("/run/axoneme"), "where fqdn.sock is made")
    state_directory: Path = option(
        Path("/var/lib/axoneme"), "where names, rules and the node's identities are kept"
    )
    bpffs: Path = option(Path("/sys/fs/bpf"), "BPF file system with the node's pins")
    datapath: str = option("kernel", "of the node; with memory there are no packets to take")
    dns_proxy_port: int = option(10_053, "port on which redirected packets are taken")
    drain_seconds: float = option(2.0, "time that open calls get at shutdown")
    log_level: str = option("info", "debug, info, warning or error")
    metrics_address: str = option("127.0.0.1:9967", "host:port of /metrics and /healthz; empty: none")
    min_ttl: int = option(0, "lowest lifetime of an address in seconds, whatever the answer's TTL says")
    deny_response_code: str = option("refused", "what a denied query gets: refused or nameError (NXDOMAIN)")
    max_ips_per_name: int = option(1_000, "addresses of one name of an endpoint; the oldest goes first")
    max_names_per_endpoint: int = option(
        20_000, "names of one endpoint; the one unused for longest goes first"
    )
    max_addresses_per_endpoint: int = option(8_192, "addresses of one endpoint; the oldest goes first")
    barrier_seconds: float = option(
        0.1, "how long an answer waits for an identity that nobody foresaw, at most"
    )
    barrier_action: str = option(
        RELEASE, "what happens to the answer then: release (with what is known) or drop"
    )
    pre_cache: Path | None = option(
        None, "file with names to begin with, as `axoneme fqdn cache list -o json` prints it"
    )
    forward_seconds: float = option(10.0, "how long an answer of a server is waited for")
    max_upstreams: int = option(4_096, "sockets towards servers")
    max_in_flight: int = option(16_384, "queries that wait for an answer")
    max_in_flight_per_client: int = option(1_024, "queries of one address that wait for an answer")
    max_connections: int = option(2_048, "TCP connections of endpoints")
    max_connections_per_client: int = option(64, "TCP connections of one address")
    idle_connection_seconds: float = option(10.0, "how long a TCP connection may be silent")

    def __post_init__(self) -> None:
        """Raises InvalidArgument that names every wrong setting."""
        faults = [FieldViolation(name, "must be 1 or more") for name in _LIMITS if getattr(self, name) < 1]
        if not self.node_name:
            faults.append(FieldViolation("node_name", "is empty; give the name in the node's certificate"))
        if not 1 <= self.dns_proxy_port <= 65_535:
            faults.append(FieldViolation("dns_proxy_port", "must be from 1 to 65535"))
        if not 0 <= self.min_ttl <= 604_800:
            faults.append(FieldViolation("min_ttl", "must be from 0 to 604800 seconds"))
        if not 0 <= self.barrier_seconds <= 10:
            faults.append(FieldViolation("barrier_seconds", "must be from 0 to 10 seconds"))
        if self.deny_response_code not in _CODES:
            faults.append(FieldViolation("deny_response_code", "write refused or nameError"))
        if self.barrier_action not in (RELEASE, DROP):
            faults.append(FieldViolation("barrier_action", "write release or drop"))
        if faults:
            text = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
            raise InvalidArgument(f"configuration: {text}", violations=faults)

    @property
    def domain(self) -> str:
        """SPIFFE trust domain in force."""
        return self.trust_domain or f"{self.cluster_name}.mesh"

    @property
    def socket(self) -> Path:
        """Unix socket of the API."""
        return self.run_directory / "fqdn.sock"

    @property
    def heartbeat(self) -> Path:
        """File that is touched while the proxy works."""
        return self.run_directory / "fqdn.heartbeat"

    @property
    def identities_file(self) -> Path:
        """The node's identities, as the shim leaves them."""
        return self.state_directory / "dns-identities.json"

    @property
    def rules_file(self) -> Path:
        """The last rules of the policy service."""
        return self.state_directory / "dns-rules.bin"

    @property
    def pin_directory(self) -> Path:
        """Where the maps of this node are pinned."""
        return self.bpffs / "axoneme" / self.node_name / f"v{SCHEMA_VERSION}"

    @property
    def proxy(self) -> ProxySettings:
        """What the proxy itself is told."""
        return ProxySettings(
            port=self.dns_proxy_port,
            deny_rcode=_CODES[self.deny_response_code],
            forward_seconds=self.forward_seconds,
            max_upstreams=self.max_upstreams,
            max_in_flight=self.max_in_flight,
            max_in_flight_per_client=self.max_in_flight_per_client,
            max_connections=self.max_connections,
            max_connections_per_client=self.max_connections_per_client,
            idle_connection_seconds=self.idle_connection_seconds,
        )
