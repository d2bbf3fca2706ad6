"""What looks at a node's parts and what answers for them: audit, status, metrics, node API, CNI socket.

Nothing here holds state of the kernel; without it packets flow all the same. No rule lives here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial

from prometheus_client import CollectorRegistry

from axoneme.lib.requests import RequestLog
from shim.agentevents.log import AgentEventLog
from shim.agentevents.recording import recorded
from shim.audit import MapAudit
from shim.cnicommands import CniCommands
from shim.cniserver import CniServer
from shim.collector import Collector
from shim.config import ShimConfig
from shim.dns.nodepart import DnsMetrics, dns_problems
from shim.flownames import NodeNames
from shim.inspection.endpointlog import EndpointLog
from shim.inspection.service import Inspection, inspection
from shim.lb.metrics import LbMetrics
from shim.lb.naming import FrontendDirectory
from shim.links import LinkCheck
from shim.maps import layout, lb
from shim.metrics import NodeMetrics
from shim.nodeparts import NodeParts
from shim.server import NodeService
from shim.status import NodeStatus, lost_events_of


class NodeApis:
    """Everything through which a node is looked at and asked."""

    def __init__(
        self,
        cfg: ShimConfig,
        parts: NodeParts,
        *,
        not_ready: Callable[[], str | None],
        clock: Callable[[], float],
        registry: CollectorRegistry,
        version: str,
    ) -> None:
        """`not_ready` says why new endpoints cannot be served yet."""
        maps = parts.datapath.maps
        self.links = LinkCheck(parts.workloads, parts.network, clock=clock)
        self.audit = _audit(parts, self.links)
        self.status = _status(cfg, parts, self.audit, self.links, version)
        self.collector = Collector(maps[layout.CT.name], maps[lb.NAT.name])
        self.endpoint_log = EndpointLog(parts.endpoints, now=_now)
        self.node = _node_service(parts, self.audit, self.status, _inspection(parts, self.endpoint_log))
        self.cni_commands = CniCommands(
            workloads=parts.workloads,
            endpoints=parts.endpoints,
            datapath=parts.datapath,
            not_ready=not_ready,
            state_directory=cfg.state_directory,
        )
        self.cni = CniServer(self.cni_commands)
        self.names = _names(cfg, parts)
        self.agent_events = recorded(parts, AgentEventLog())
        streams = parts.stream_states
        NodeMetrics(registry, self.status, streams, parts.workloads, self.audit, self.links, parts.datapath)
        LbMetrics(registry, parts.balancer)
        DnsMetrics(registry, parts.dns)


def _now() -> datetime:
    return datetime.now(UTC)


def _audit(parts: NodeParts, links: LinkCheck) -> MapAudit:
    return MapAudit(
        ipcache=parts.ipcache,
        endpoint_map=parts.endpoint_map,
        policies=parts.policies,
        nodes=parts.nodes,
        workloads=parts.workloads,
        links=links,
        now=_now,
        steps=(
            parts.network.audit,
            parts.node_maps.audit,
            parts.proxied_ports.audit,
            parts.local_endpoints.audit,
            parts.endpoint_namespaces.audit,
            parts.balancer.audit,
        ),
    )


def _status(cfg: ShimConfig, parts: NodeParts, audit: MapAudit, links: LinkCheck, version: str) -> NodeStatus:
    problems: list[Callable[[], Iterable[str]]] = [
        parts.network.problems,
        parts.node_maps.problems,
        parts.local_endpoints.problems,
        parts.endpoint_namespaces.problems,
        parts.membership.problems,
        parts.balancer.problems,
        parts.health.problems,
        partial(dns_problems, parts.dns, parts.dns_session),
    ]
    return NodeStatus(
        node_name=cfg.node_name,
        cluster_name=cfg.cluster_name,
        version=version,
        endpoints=parts.endpoints,
        datapath=parts.datapath,
        membership=parts.membership,
        audit=audit,
        links=links,
        streams=parts.stream_states,
        lost_events=partial(lost_events_of, parts.datapath),
        policy_audit=cfg.policy_audit,
        parts=[*problems, parts.host.problems] if parts.host is not None else problems,
    )


def _inspection(parts: NodeParts, log: EndpointLog) -> Inspection:
    return inspection(
        parts.datapath.maps,
        cookies=parts.cookies,
        named=FrontendDirectory(parts.balancer),
        log=log,
        open_table=parts.datapath.open_maglev_table,
    )


def _node_service(
    parts: NodeParts, audit: MapAudit, status: NodeStatus, inspected: Inspection
) -> NodeService:
    return NodeService(
        inspection=inspected,
        endpoints=parts.endpoints,
        workloads=parts.workloads,
        policies=parts.policies,
        cookies=parts.cookies,
        merge=parts.ipcache.merge,
        ipcache_table=parts.ipcache_table,
        audit=audit,
        status=status,
        health=parts.health.report,
        requests=RequestLog(),
    )


def _names(cfg: ShimConfig, parts: NodeParts) -> NodeNames:
    return NodeNames(
        node_name=cfg.node_name,
        cluster_name=cfg.cluster_name,
        endpoints=parts.endpoints,
        ipcache=parts.ipcache,
        policies=parts.policies,
        cookies=parts.cookies,
        local=parts.local,
        learned=parts.learned_names,
    )
