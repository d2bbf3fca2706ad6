"""Configuration of a node: `axoneme shim serve` and `axoneme node serve` read the same one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from axoneme.lib import config
from axoneme.lib.errors import InvalidArgument
from axoneme.lib.roles import parse_name_roles
from shim import options
from shim.flows.spill.options import SpillOptions
from shim.hubble.options import HubbleOptions
from shim.maps.layout import SCHEMA_VERSION
from shim.network import DIRECT, SIZED_MAPS, TUNNEL, NetworkSettings
from shim.routes import families_without_address

__all__ = ["DIRECT", "KERNEL", "MEMORY", "TUNNEL", "ShimConfig"]

KERNEL, MEMORY = "kernel", "memory"


@dataclass(frozen=True, kw_only=True)
class ShimConfig(HubbleOptions):
    """Everything that a node's processes are told."""

    node_name: str = config.option("", "name of this node, as in its certificate")
    cluster_name: str = config.option("default", "name of the cluster")
    cluster_id: int = config.option(0, "number of the cluster in a mesh, 1-255; 0 is no mesh")
    identity_targets: tuple[str, ...] = config.option(
        ("127.0.0.1:4301",), "host:port of the identity service"
    )
    policy_targets: tuple[str, ...] = config.option(("127.0.0.1:4302",), "policy service, host:port")
    clustermesh_targets: tuple[str, ...] = config.option(
        ("127.0.0.1:4303",), "clustermesh service, host:port; empty: no services on this node"
    )
    ca_file: Path = config.option(Path("ca.crt"), "certificate authority of the cluster")
    cert_file: Path = config.option(Path("tls.crt"), "certificate of this node")
    key_file: Path = config.option(Path("tls.key"), "key of this node, mode 0600")
    trust_domain: str = config.option("", "SPIFFE trust domain; empty means <cluster_name>.mesh")
    internal_ips: tuple[str, ...] = config.option((), "addresses under which other nodes reach this one")
    pod_cidrs: tuple[str, ...] = config.option((), "wanted PodCIDRs; empty takes free blocks of the pools")
    labels: tuple[str, ...] = config.option(
        (), "labels of the node, which policies with a nodeSelector go by", metavar="KEY=VALUE"
    )
    certificate_names: tuple[str, ...] = config.option(
        (),
        "roles of certificates without a SPIFFE id on the Observer API, NAME=ROLE",
        metavar="*.hubble-relay.cilium.io=user/reader/stock",
    )
    observer_listen: str = config.option("0.0.0.0:4244", "host:port of the Observer and Peer API")
    state_directory: Path = config.option(Path("/var/lib/axoneme"), "where the shim keeps its state file")
    run_directory: Path = config.option(Path("/run/axoneme"), "where shim.sock and helper.sock are made")
    bpffs: Path = config.option(Path("/sys/fs/bpf"), "BPF file system for pins")
    datapath: str = config.option(KERNEL, "kernel, or memory: no BPF and no packets")
    metrics_address: str = config.option("127.0.0.1:9966", "host:port of /metrics and /healthz")
    policy_audit: bool = config.option(
        False, "report what policy denies and let it pass, for every endpoint of the node"
    )
    uplink: str = config.option("", "interface towards other nodes; empty: the one with the internal IPs")
    routing_mode: str = config.option(DIRECT, "direct: the network carries pod addresses; tunnel: VXLAN")
    tunnel_port: int = config.option(8472, "UDP port of the tunnel")
    mtu: int = config.option(0, "MTU of endpoints; 0: the uplink's, less the tunnel's headers")
    masquerade: bool = config.option(
        True, "replace a pod's address by the node's towards destinations outside the clusters"
    )
    native_routing_cidrs: tuple[str, ...] = config.option((), "destinations that are never masqueraded")
    attach: str = config.option("auto", "how programs are attached: tcx, clsact or auto (tcx if it is there)")
    host_routing: bool = config.option(True, "pass packets between endpoints without the node's stack")
    host_firewall: bool = config.option(False, "enforce policies of the node itself")
    socket_lb: bool = config.option(True, "translate service addresses when a socket connects")
    cgroup_root: str = config.option("", "cgroup v2 folder of the workloads; empty: the root")
    sockmap: bool = config.option(False, "pass data between sockets of this node without its stack")
    dns_proxy: bool = config.option(True, "redirect DNS queries to the node's proxy where DNS rules want it")
    dns_proxy_port: int = config.option(10_053, "port on which the node's DNS proxy takes them")
    xdp: str = config.option("off", "load balancing at the uplink's driver: off, generic or native")
    lb_algorithm: str = config.option("random", "default choice of backends: random or maglev")
    lb_forwarding: str = config.option("snat", "default way to backends on other nodes: snat or dsr")
    maglev_table_size: int = config.option(16_381, "default elements of a Maglev table")
    nat_ports: str = config.option("16384-29999", "ports of the node that translated connections use")
    map_sizes: tuple[str, ...] = config.option((), "entries of a map", metavar="axoneme_ct=262144")
    monitor_aggregation: str = config.option("medium", "trace events: none, low, medium or maximum")
    health_port: int = config.option(4240, "port of health probes on nodes and health endpoints; 0: none")
    health_seconds: float = config.option(10.0, "time between two health probes of a node")
    first_policy_seconds: float = config.option(7.0, "how long AddEndpoint waits for the first mapstate")
    link_check_seconds: float = config.option(10.0, "time between two looks at the attached programs")
    audit_seconds: float = config.option(60.0, "time between two map audits, plus or minus a tenth")
    flow_capacity: int = config.option(1 << 20, "flows kept in memory, rounded down to a power of two")
    flow_spill_directory: str = config.option("", "folder of flows that survive a restart; empty: none do")
    flow_spill_bytes: int = config.option(64 << 20, "bytes that they may take there")
    drain_seconds: float = config.option(2.0, "time that open calls get at shutdown")
    log_level: str = config.option("info", "debug, info, warning or error")

    def __post_init__(self) -> None:
        if not self.node_name:
            raise InvalidArgument.of_field("node_name", "is empty; give the node the name in its certificate")
        if self.datapath not in (KERNEL, MEMORY):
            raise InvalidArgument.of_field("datapath", f"is {self.datapath!r}; write kernel or memory")
        _, colon, port = self.observer_listen.rpartition(":")
        if not (colon and port.isdigit() and int(port) <= 65_535):
            raise InvalidArgument.of_field("observer_listen", f"{self.observer_listen!r} is not host:port")
        parse_name_roles(self.certificate_names)
        options.addresses("internal_ips", self.internal_ips)
        options.networks("pod_cidrs", self.pod_cidrs)
        options.networks("native_routing_cidrs", self.native_routing_cidrs)
        options.one_of("lb_algorithm", self.lb_algorithm, ("random", "maglev"))
        options.one_of("lb_forwarding", self.lb_forwarding, ("snat", "dsr"))
        options.in_range("maglev_table_size", self.maglev_table_size, 251, 131_071)
        options.in_range("health_port", self.health_port, 0, 65_535)
        options.in_range("dns_proxy_port", self.dns_proxy_port, 1, 65_535)
        options.in_range("cluster_id", self.cluster_id, 0, 255)
        options.port_range("nat_ports", self.nat_ports)
        options.in_range("flow_capacity", self.flow_capacity, 1, 1 << 26)
        options.in_range("flow_spill_bytes", self.flow_spill_bytes, 1 << 20, 1 << 36)
        for name in ("health_seconds", "link_check_seconds", "audit_seconds"):
            if not 0.05 <= getattr(self, name) <= 86_400:
                raise InvalidArgument.of_field(name, "must be from 0.05 to 86400 seconds")
        options.labels("labels", self.labels)
        self.check_hubble()
        self._check_families()
        self.network  # noqa: B018 - checks the options that it is made of

    def _check_families(self) -> None:
        """Without a tunnel, packets to pods go to the node's address of their family."""
        if self.routing_mode == TUNNEL or not self.internal_ips:
            return
        lost = families_without_address(self.pod_cidrs, self.internal_ips)
        if lost:
            raise InvalidArgument.of_field(
                "pod_cidrs",
                f"holds {', '.join(lost)}, but internal_ips ({', '.join(self.internal_ips)}) has no address "
                "of that family: add one, leave the PodCIDR out, or set routing_mode tunnel",
            )

    @property
    def flow_spill(self) -> SpillOptions | None:
        """Where flows survive a restart, if they do."""
        if not self.flow_spill_directory:
            return None
        return SpillOptions(directory=Path(self.flow_spill_directory), max_bytes=self.flow_spill_bytes)

    @property
    def node_labels(self) -> tuple[tuple[str, str], ...]:
        """The option `labels` as sorted pairs."""
        return tuple(sorted(options.labels("labels", self.labels).items()))

    @property
    def network(self) -> NetworkSettings:
        """What the node's network is asked to be. Raises InvalidArgument by the option's name."""
        return NetworkSettings(
            routing_mode=self.routing_mode,
            tunnel_port=self.tunnel_port,
            uplink=self.uplink,
            internal_ips=self.internal_ips,
            mtu=self.mtu,
            services=bool(self.clustermesh_targets),
            masquerade=self.masquerade,
            host_routing=self.host_routing,
            host_firewall=self.host_firewall,
            socket_lb=self.socket_lb,
            cgroup_root=self.cgroup_root,
            sockmap=self.sockmap,
            dns_proxy=self.dns_proxy,
            xdp=self.xdp,
            attach=self.attach,
            monitor_aggregation=self.monitor_aggregation,
            health=self.health_port != 0,
            map_sizes=options.map_sizes("map_sizes", self.map_sizes, SIZED_MAPS),
        )

    @property
    def domain(self) -> str:
        """SPIFFE trust domain in force."""
        return self.trust_domain or f"{self.cluster_name}.mesh"

    @property
    def simulated(self) -> bool:
        """No packets: maps are kept in memory."""
        return self.datapath == MEMORY

    @property
    def has_dns_proxy(self) -> bool:
        """Whether the DNS proxy runs beside the shim; without packets there is nothing for it to take."""
        return self.dns_proxy and not self.simulated

    @property
    def shim_socket(self) -> Path:
        """Unix socket of the node API."""
        return self.run_directory / "shim.sock"

    @property
    def fqdn_socket(self) -> Path:
        """Unix socket of the node's DNS proxy."""
        return self.run_directory / "fqdn.sock"

    @property
    def helper_socket(self) -> Path:
        """Unix socket of the privileged helper."""
        return self.run_directory / "helper.sock"

    @property
    def pin_directory(self) -> Path:
        """Where the maps and links of this node are pinned; the last part is the map schema."""
        return self.bpffs / "axoneme" / self.node_name / f"v{SCHEMA_VERSION}"
