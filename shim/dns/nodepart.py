"""DNS as a part of the node: how it is wired, what is wrong with it in words, and in numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from axoneme.lib.bpf.maps import BpfMap
from axoneme.lib.dns.sets import possible_sets
from shim.config import ShimConfig
from shim.dns.identities import NameIdentities
from shim.dns.learned import LearnedAddresses
from shim.dns.nodedns import NodeDns
from shim.dns.proxiedports import PortTable
from shim.dns.session import DnsSession
from shim.dns.table import IdentityFile
from shim.localidentities import LocalIdentities

STALE_SECONDS = 2.0
"""The proxy is back sooner than that when it is started anew."""


def node_dns(
    cfg: ShimConfig, local: LocalIdentities, learned: BpfMap, ports: PortTable, *, clock: Callable[[], float]
) -> NodeDns:
    """The part of a node with these options."""
    return NodeDns(
        names=NameIdentities(
            local, IdentityFile(cfg.state_directory), possible_sets, enabled=cfg.has_dns_proxy
        ),
        learned=LearnedAddresses(learned),
        ports=ports,
        clock=clock,
        proxy_port=cfg.dns_proxy_port if cfg.has_dns_proxy else 0,
    )


def dns_problems(dns: NodeDns, session: DnsSession | None) -> Iterable[str]:
    """What is wrong, each with the next step."""
    found = [one for one in (dns.names.problem, dns.ports_problem) if one]
    if session is None:
        return found
    state, redirected = session.status(), sum(map(bool, dns.redirects.values()))
    if state.stale_seconds > STALE_SECONDS:
        lost = f": queries of {redirected} subjects are dropped" if redirected else ""
        found.append(
            f"the DNS proxy is not connected for {state.stale_seconds:.0f} s ({state.error}){lost}; "
            "is axoneme fqdn running on this node? Its log says why not"
        )
    port = dns.order.proxy_port
    if port is not None and redirected and port != dns.proxy_port:
        takes = f"takes them on port {port}" if port else "takes none yet"
        found.append(
            f"queries are redirected to port {dns.proxy_port} and the DNS proxy {takes}: they are dropped; "
            "give the node and axoneme fqdn the same dns_proxy_port"
        )
    return found


class DnsMetrics(Collector):
    """Read when they are asked for."""

    def __init__(self, registry: CollectorRegistry, dns: NodeDns) -> None:
        self._dns = dns
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before the first scrape, and nothing needs to be."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """One scrape."""
        dns, names = self._dns, self._dns.names
        for name, text, value in (
            ("proxy_connected", "Whether the node's DNS proxy is connected.", dns.order.connected),
            (
                "redirected_subjects",
                "Subjects whose DNS is redirected.",
                sum(map(bool, dns.redirects.values())),
            ),
            ("selectors", "DNS selectors that the proxy knows.", len(names.table.selectors)),
            ("identities", "Identities of names that the proxy knows.", len(names.table.named)),
            ("unforeseen_identities", "Those that no rule let foresee.", names.unforeseen),
            ("identity_revision", "Revision of the file of identities.", names.table.revision),
            ("identities_applied", "Revision that the proxy took over.", names.applied_revision),
        ):
            yield GaugeMetricFamily(f"axoneme_shim_dns_{name}", text, value=value)
        yield CounterMetricFamily(
            "axoneme_shim_dns_redirects_delayed",
            "Times that redirects had to wait for rules of the proxy.",
            value=dns.delayed,
        )
