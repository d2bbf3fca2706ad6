"""Names for the numbers in flow records, answered from the shim's own tables.

Endpoints and default-deny origins stay for a while after they are gone, since records are decoded when they
are asked for. Nothing here waits or raises for what is unknown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from axoneme.lib.policy.model import Origin
from shim.cookies import CookieTable
from shim.endpoints import Endpoint, EndpointTable
from shim.flows.context import EGRESS, PolicyOrigin, WorkloadInfo
from shim.ipcache import Rank
from shim.localidentities import LocalIdentities
from shim.nodeipcache import NodeIpcache
from shim.policies import PolicySink

MAX_REMEMBERED = 4096


class NodeNames:
    """What the flow decoder asks."""

    def __init__(
        self,
        *,
        node_name: str,
        cluster_name: str,
        endpoints: EndpointTable,
        ipcache: NodeIpcache,
        policies: PolicySink,
        cookies: CookieTable,
        local: LocalIdentities,
    ) -> None:
        self._node_name, self._cluster_name = node_name, cluster_name
        self._ipcache = ipcache
        self._policies = policies
        self._cookies = cookies
        self._local = local
        self._remembered: OrderedDict[int, Endpoint] = OrderedDict()
        self._interface_by_index: dict[int, str] = {}
        endpoints.listen(self._on_endpoint)
        for endpoint in endpoints:
            self._on_endpoint(endpoint.endpoint_id, endpoint)

    @property
    def node_name(self) -> str:
        """Name of this node."""
        return self._node_name

    @property
    def cluster_name(self) -> str:
        """Name of the cluster."""
        return self._cluster_name

    def endpoint(self, endpoint_id: int) -> WorkloadInfo | None:
        """An endpoint of this node, also one that is gone."""
        endpoint = self._remembered.get(endpoint_id)
        if endpoint is None:
            return None
        return WorkloadInfo(
            namespace=endpoint.namespace,
            pod_name=endpoint.pod_name,
            endpoint_id=endpoint.endpoint_id,
            identity=endpoint.identity,
            labels=endpoint.labels.texts(),
            cluster_name=self._cluster_name,
            addresses=tuple(ip_address(ip) for ip in endpoint.ips),
        )

    def workload_at(self, address: IPv4Address | IPv6Address) -> WorkloadInfo | None:
        """The workload behind an address, here or elsewhere."""
        winner = self._ipcache.merge.winner(f"{address}/{address.max_prefixlen}")
        if winner is None:
            return None
        if winner.rank is Rank.ENDPOINT:
            return self.endpoint(int(winner.source))
        if not winner.pod_name:
            return None
        return WorkloadInfo(
            namespace=winner.namespace,
            pod_name=winner.pod_name,
            identity=winner.value.identity,
            labels=tuple(self.identity_labels(winner.value.identity)),
            cluster_name=self._cluster_name,
            addresses=(address,),
        )

    def identity_labels(self, identity: int) -> Sequence[str]:
        """Labels of a number: of this node, of the cluster, or of an endpoint that is not published yet."""
        labels = self._local.labels_of(identity) or self._ipcache.labels.get(identity)
        if labels is None:
            labels = next((e.labels for e in self._remembered.values() if e.identity == identity), None)
        return labels.texts() if labels is not None else ()

    def names(self, endpoint_id: int, address: IPv4Address | IPv6Address) -> Sequence[str]:  # noqa: ARG002
        """DNS names; none are learned yet."""
        return ()

    def origins(self, cookie: int) -> Sequence[PolicyOrigin]:
        """Rules behind a cookie."""
        return _policies(self._cookies.origins_of(cookie), 0)

    def default_deny_origins(self, endpoint_id: int, direction: int) -> Sequence[PolicyOrigin]:
        """Rules that switched default deny on."""
        endpoint = self._remembered.get(endpoint_id)
        policy = self._policies.policies.get(endpoint.identity) if endpoint else None
        if policy is None:
            return ()
        numbers = policy.egress_default_deny if direction == EGRESS else policy.ingress_default_deny
        found = (policy.origins[number] for number in sorted(numbers) if number in policy.origins)
        return _policies(found, policy.policy_revision)

    def interface_name(self, ifindex: int) -> str:
        """Interface of an endpoint, also one that is gone."""
        return self._interface_by_index.get(ifindex, "")

    def _on_endpoint(self, endpoint_id: int, endpoint: Endpoint | None) -> None:
        if endpoint is None:
            return
        self._remembered[endpoint_id] = endpoint
        self._remembered.move_to_end(endpoint_id)
        if endpoint.ifindex:
            self._interface_by_index[endpoint.ifindex] = endpoint.interface_name
        while len(self._remembered) > MAX_REMEMBERED:
            _, oldest = self._remembered.popitem(last=False)
            self._interface_by_index.pop(oldest.ifindex, None)


def _policies(origins: Iterable[Origin], revision: int) -> list[PolicyOrigin]:
    return [
        PolicyOrigin(
            name=origin.name,
            namespace=origin.namespace,
            kind=origin.kind,
            labels=origin.labels,
            revision=revision,
        )
        for origin in origins
    ]
