"""The parts of a node that hold its state and write it into the kernel; wired top to bottom, once the maps
are open.

    tables, description of the node ─► sinks (policies, nodes, load balancing) ─► streams into them
                                    ─► endpoints, membership, health

What one part must hear of another stands at the end. No rule lives here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from axoneme.lib.intentstream import StreamState
from shim.config import ShimConfig
from shim.cookies import CookieTable
from shim.datapath import Datapath
from shim.dns.names import LearnedNames
from shim.dns.nodepart import node_dns
from shim.dns.session import DnsSession
from shim.endpointmap import EndpointMap
from shim.endpoints import EndpointTable
from shim.flownames import boot_clock_ns
from shim.health.endpoint import HealthEndpoint
from shim.health.part import Health
from shim.holders import Holders, Host
from shim.lb.balancer import LoadBalancer
from shim.localendpoints import EndpointNamespaces, LocalEndpoints
from shim.localidentities import LocalIdentities
from shim.maps import layout
from shim.maps.node import LOCAL, PROXIED
from shim.maps.sockets import NETNS
from shim.membership import Membership
from shim.network import NetworkFacts
from shim.nodeipcache import NodeIpcache
from shim.nodemaps import NodeMaps
from shim.nodenetwork import NodeNetwork
from shim.nodes import NodeSink
from shim.nodestreams import Channels, NodeStreams
from shim.ownnode import lb_view, own_entry
from shim.peer import PeerNode, PeerTable
from shim.policies import PolicySink
from shim.proxiedports import ProxiedPorts
from shim.routes import NodeEntry
from shim.services import Services
from shim.state import NodeState
from shim.tables import IpcacheTable
from shim.workloads import Workloads


class NodeParts:
    """Everything of a node that outlives a request."""

    def __init__(
        self,
        cfg: ShimConfig,
        *,
        datapath: Datapath,
        channels: Channels,
        peers: PeerTable,
        checkpoint: Callable[[], None],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        """`checkpoint` writes the state file."""
        self._cfg, self._checkpoint, self._clock, self._rng = cfg, checkpoint, clock, rng
        self.datapath, self.peers = datapath, peers
        self.endpoints = EndpointTable()
        self.cookies = CookieTable()
        self.local = LocalIdentities()
        self.services = Services(channels.identity, channels.policy, node_name=cfg.node_name)
        self._build_tables()
        self._build_description()
        self._build_dns()
        self._build_sinks()
        self.streams = NodeStreams(
            cfg,
            channels,
            ipcache=self.ipcache,
            nodes=self.nodes,
            policies=self.policies,
            balancer=self.balancer,
            names=self.learned_names,
            declare=self._declare,
            rng=rng,
        )
        self.dns_session = None
        if channels.fqdn is not None:
            target = f"unix:{cfg.fqdn_socket}"
            self.dns_session = DnsSession(target, self.dns, self.policies, rng=rng, clock=clock)
        self._build_workloads()
        self._build_membership()
        self.health_endpoint = HealthEndpoint(self.workloads, self.policies)
        self.health = Health(cfg, datapath, self.health_endpoint, clock=clock, rng=rng)

    # --- wiring

    def _build_tables(self) -> None:
        cfg, maps = self._cfg, self.datapath.maps
        self.ipcache_table = IpcacheTable(maps[layout.IPEXACT.name], maps[layout.IPCACHE.name])
        self.ipcache = NodeIpcache(
            self.ipcache_table, cluster_name=cfg.cluster_name, clock=self._clock, tunnel=cfg.network.tunnel
        )
        self.endpoint_map = EndpointMap(maps[layout.EP.name], clock=self._clock, audit=cfg.policy_audit)

    def _build_description(self) -> None:
        """The maps that describe the node, and who fills them."""
        cfg, maps = self._cfg, self.datapath.maps
        self.node_maps = NodeMaps(cfg, maps, clock=self._clock)
        self.node_maps.load()
        self.local_endpoints = LocalEndpoints(maps[LOCAL.name], self.endpoints, clock=self._clock)
        self.local_endpoints.load()
        self.endpoint_namespaces = EndpointNamespaces(maps[NETNS.name], self.endpoints, clock=self._clock)
        self.endpoint_namespaces.load()
        self.network = NodeNetwork(self.datapath, cfg.network, self._on_network)
        self.host = None
        if cfg.host_firewall:
            generation = self.node_maps.host_generation or self._first_generation()
            self.host = Host(cfg.node_name, generation=generation, write=self.node_maps.write_host)

    def _build_dns(self) -> None:
        """What names are to policy, and the proxy's part in it."""
        cfg, maps = self._cfg, self.datapath.maps
        self.learned_names = LearnedNames(boot_clock_ns)
        self.proxied_ports = ProxiedPorts(maps[PROXIED.name], self.node_maps, clock=self._clock)
        self.proxied_ports.load()
        self.dns = node_dns(cfg, self.local, maps[layout.LEARNED.name], self.proxied_ports, clock=self._clock)

    def _build_sinks(self) -> None:
        cfg, datapath, clock = self._cfg, self.datapath, self._clock
        self.policies = PolicySink(
            holders=Holders(self.endpoints, self.endpoint_map.write, self.host),
            datapath=datapath,
            cookies=self.cookies,
            local=self.local,
            prefixes=self.ipcache,
            checkpoint=self._checkpoint,
            clock=clock,
            dns=self.dns,
        )
        self.nodes = NodeSink(
            own_key=own_entry(cfg).key,
            ipcache=self.ipcache,
            routes=datapath.routes,
            clock=clock,
            on_change=self._on_nodes,
            tunnel=cfg.network.tunnel,
            own_ips=cfg.internal_ips,
        )
        self.balancer = LoadBalancer(datapath, node=lb_view(cfg), endpoints=self.endpoints, clock=clock)

    def _build_workloads(self) -> None:
        cfg = self._cfg
        self.workloads = Workloads(
            cluster_name=cfg.cluster_name,
            endpoints=self.endpoints,
            datapath=self.datapath,
            ipcache=self.ipcache,
            policies=self.policies,
            endpoint_map=self.endpoint_map,
            services=self.services,
            interest=self.streams.policy,
            checkpoint=self._checkpoint,
            host_ip=lambda: self.membership.host_ip(),
            first_policy_seconds=cfg.first_policy_seconds,
            first_generation=self._first_generation,
            check_host_ports=self.balancer.check_host_ports,
        )

    def _build_membership(self) -> None:
        cfg = self._cfg
        self.membership: Membership = Membership(
            own_entry(cfg),
            services=self.services,
            workloads=self.workloads,
            ipcache=self.ipcache,
            datapath=self.datapath,
            set_routes=self._on_own_cidrs,
            checkpoint=self._checkpoint,
            rng=self._rng,
            health=cfg.health_port > 0,
            tunnel=cfg.network.tunnel,
        )

    def _first_generation(self) -> int:
        return self._rng.randint(1, 0xFFFF_FFFF)

    def stream_states(self) -> list[StreamState]:
        """State of every stream, the DNS proxy's session among them."""
        session = self.dns_session
        return [*self.streams.states(), *([session.status()] if session is not None else [])]

    # --- for the state file

    def state(self) -> NodeState:
        """What must survive a restart."""
        return NodeState(
            pod_cidrs=self.workloads.ipam.cidrs,
            router_ips=self.membership.node.router_ips,
            health_ips=self.membership.node.health_ips,
            endpoints=tuple(self.endpoints),
            last_endpoint_id=self.workloads.numbers.last_given,
            released=tuple(sorted(self.workloads.releases.pending)),
            cookies=self.cookies.dump(),
            local_identities=self.local.dump(),
            last_backend_id=self.balancer.books.backends.last.last,
            last_set_id=self.balancer.books.last_set.last,
        )

    # --- who hears of what

    def describe_nodes(self) -> None:
        """The node's maps and its probes learn the nodes of this moment."""
        nodes, own = self.nodes, self.membership.node
        self.node_maps.set_nodes(nodes.nodes.values(), own, complete=nodes.complete)
        self.health.set_nodes(nodes.nodes.values(), own)

    async def _declare(self) -> None:
        await self.membership.declare()

    def _on_network(self, facts: NetworkFacts) -> None:
        self.node_maps.set_network(facts)
        self.health.set_network(facts)

    async def _on_own_cidrs(self, cidrs: tuple[str, ...]) -> None:
        await self.nodes.set_own_cidrs(cidrs)
        self.describe_nodes()

    def _on_nodes(self, nodes: Mapping[str, NodeEntry]) -> None:
        self.describe_nodes()
        self.peers.replace(
            PeerNode(cluster=node.cluster, name=node.name, address=node.observer_address)
            for node in nodes.values()
            if node.observer_address
        )
