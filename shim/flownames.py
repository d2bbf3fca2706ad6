"""Names for the numbers in flow records, as of the time of the record.

    EndpointTable ──► endpoints, interfaces ─┐
    IpcacheMerge  ──► owners of addresses ───┼─► histories by time ◄── FlowDecoder, EndFilter
    NodeIpcache   ──► labels of identities ──┤
    LearnedNames  ──► DNS names of addresses ┤
    PolicySink    ──► default denials ───────┘

Records are decoded when they are asked for, and by then a pod may be gone, its address another's and its
policy a newer one. What is in force is kept without bound (its owner bounds it), what ended for a while.
Everything runs in the event loop; nothing here waits or raises for what is unknown, and nothing is written
to disk: flows do not outlive the process either. Must not import numpy, which is loaded late.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import Direction, Enforcement, Origin, SubjectPolicy
from shim.cookies import CookieTable
from shim.endpoints import Endpoint, EndpointTable
from shim.flows.context import Address, LearnedNames, NoNames, PolicyOrigin, WorkloadInfo, mapped
from shim.flows.denials import DefaultDenials, Denying
from shim.flows.history import EVER, History
from shim.ipcache import Contribution, Rank
from shim.localidentities import LocalIdentities
from shim.nodeipcache import NodeIpcache
from shim.policies import PolicySink

MAX_ENDED_ENDPOINTS = 4_096
MAX_ENDED_ADDRESSES = 65_536
MAX_ENDED_LABELS = 16_384
NAMES_LAG_NS = 1_000_000_000
"""How much later than the first packets to an address its name may be heard."""


def boot_clock_ns() -> int:
    """The clock of the records: time since boot, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


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
        learned: LearnedNames | None = None,
        clock_ns: Callable[[], int] = boot_clock_ns,
    ) -> None:
        self._node_name, self._cluster_name = node_name, cluster_name
        self._ipcache, self._policies, self._cookies, self._local = ipcache, policies, cookies, local
        self._learned: LearnedNames = learned if learned is not None else NoNames()
        self._clock_ns = clock_ns
        self._endpoints = History[int, WorkloadInfo](MAX_ENDED_ENDPOINTS)
        self._interfaces = History[int, str](MAX_ENDED_ENDPOINTS)
        self._owners = History[bytes, WorkloadInfo](MAX_ENDED_ADDRESSES)
        self._labels = History[int, LabelSet](MAX_ENDED_LABELS)
        self._own_labels: OrderedDict[int, LabelSet] = OrderedDict()
        self._texts: OrderedDict[int, tuple[LabelSet, tuple[str, ...]]] = OrderedDict()
        self._denials = DefaultDenials(max_endpoints=MAX_ENDED_ENDPOINTS)
        self._last: dict[int, Endpoint] = {}
        self._follow(endpoints)

    def _follow(self, endpoints: EndpointTable) -> None:
        """Takes over what is known and hears of each change."""
        for endpoint in endpoints:
            self._on_endpoint(endpoint.endpoint_id, endpoint)
            if self._policies.map_of(endpoint.endpoint_id) is not None:
                self._on_switch(endpoint)
        endpoints.listen(self._on_endpoint)
        for number, labels in self._ipcache.labels.items():
            self._on_labels(number, labels)
        self._ipcache.on_labels = self._on_labels
        for prefix, winner in self._ipcache.merge.winners().items():
            self._on_winner(prefix, winner)
        self._ipcache.merge.on_winner = self._on_winner
        self._policies.judged_by.listen(self._on_switch)

    @property
    def node_name(self) -> str:
        """Name of this node."""
        return self._node_name

    @property
    def cluster_name(self) -> str:
        """Name of the cluster."""
        return self._cluster_name

    @property
    def revision(self) -> int:
        """Grows with each change of a name."""
        parts = (self._endpoints, self._owners, self._labels, self._local)
        return sum(part.revision for part in parts)

    def endpoint(self, endpoint_id: int, time_ns: int | None) -> WorkloadInfo | None:
        """An endpoint of this node."""
        return self._endpoints.at(endpoint_id, time_ns)

    def workload_at(self, address: Address, time_ns: int | None) -> WorkloadInfo | None:
        """The workload that owned an address, here or elsewhere."""
        return self._owners.at(mapped(address.packed), time_ns)

    def identity_labels(self, identity: int, time_ns: int | None) -> Sequence[str]:
        """Labels of a number: of this node, of the cluster, or of an endpoint that was not published yet."""
        labels = self._local.labels_of(identity) or self._labels.at(identity, time_ns)
        labels = labels or self._own_labels.get(identity)
        if labels is None:
            return ()
        known = self._texts.get(identity)
        if known is None or known[0] is not labels:
            known = self._texts[identity] = (labels, labels.texts())
            while len(self._texts) > MAX_ENDED_LABELS:
                self._texts.popitem(last=False)
        return known[1]

    def known_addresses(self) -> Mapping[bytes, bool]:
        """Addresses with an owner at some time, and whether it was an endpoint here."""
        known = dict.fromkeys(self._owners, False)
        for endpoint_id in self._endpoints:
            for info in self._endpoints.values(endpoint_id):
                known.update((mapped(address.packed), True) for address in info.addresses)
        return known

    def change_times(
        self, identity: int, address: Address | None, endpoint_id: int, after_ns: int
    ) -> Iterable[int]:
        """When the names of an end may have changed."""
        times = self._labels.times(identity, after_ns)
        if endpoint_id:
            times += self._endpoints.times(endpoint_id, after_ns)
        if address is not None:
            key = mapped(address.packed)
            times += self._owners.times(key, after_ns)
            for owner in self._owners.values(key):
                if owner.identity != identity:
                    times += self._labels.times(owner.identity, after_ns)
        return times

    @property
    def names_revision(self) -> int:
        """Grows with each change of a learned name."""
        return self._learned.revision

    def named_addresses(self) -> Iterable[bytes]:
        """Addresses with a learned name at some time."""
        return self._learned.addresses()

    def has_names(self, endpoint_id: int, address: bytes) -> bool:
        """Whether the endpoint learned, or had learned, a name for the address."""
        return self._learned.knows(endpoint_id, address)

    def names(self, endpoint_id: int, address: Address, time_ns: int | None) -> Sequence[str]:
        """Names that the endpoint had learned for the address, without the last dot, as Hubble has them.

        The proxy tells of an answer after it let it go, so a name counts from a little before it was heard.
        """
        found = set(self._learned.names(endpoint_id, address, time_ns))
        if time_ns is not None:
            found.update(self._learned.names(endpoint_id, address, time_ns + NAMES_LAG_NS))
        return sorted(name.removesuffix(".") for name in found)

    def name_times(self, endpoint_id: int, address: Address, after_ns: int) -> Iterable[int]:
        """When learned names of the address may have changed."""
        heard = list(self._learned.change_times(endpoint_id, address, after_ns))
        return [*heard, *(time_ns - NAMES_LAG_NS for time_ns in heard if time_ns - NAMES_LAG_NS > after_ns)]

    def origins(self, cookie: int) -> Sequence[PolicyOrigin]:
        """Rules behind a cookie."""
        return _policies(self._cookies.origins_of(cookie), 0)

    def default_deny_origins(
        self, endpoint_id: int, direction: int, generation: int, time_ns: int
    ) -> Sequence[PolicyOrigin]:
        """Policies that had switched default deny on under that generation."""
        return self._denials.at(endpoint_id, direction, generation, time_ns)

    def interface_name(self, ifindex: int, time_ns: int | None) -> str:
        """Interface of an endpoint."""
        return self._interfaces.at(ifindex, time_ns) or ""

    # --- what happens on the node

    def _since(self, *, known: bool) -> int:
        """From when a statement holds: what is said first, before all was heard, held already."""
        return EVER if not known and not self._ipcache.complete else self._clock_ns()

    def _on_endpoint(self, endpoint_id: int, endpoint: Endpoint | None) -> None:
        now_ns = self._clock_ns()
        last = self._last.pop(endpoint_id, None)
        if endpoint is None:
            self._endpoints.end(endpoint_id, now_ns)
            self._denials.gone(endpoint_id, now_ns)
            if last is not None:
                self._interfaces.end(last.ifindex, now_ns)
            return
        self._last[endpoint_id] = endpoint
        # No record of an earlier time has these numbers, unless they are used again.
        since_ns = now_ns if endpoint_id in self._endpoints else EVER
        self._endpoints.put(endpoint_id, self._info(endpoint), since_ns)
        if endpoint.ifindex:
            since_ns = now_ns if endpoint.ifindex in self._interfaces else EVER
            self._interfaces.put(endpoint.ifindex, endpoint.interface_name, since_ns)
        if self._own_labels.get(endpoint.identity) != endpoint.labels:
            self._own_labels[endpoint.identity] = endpoint.labels
            while len(self._own_labels) > MAX_ENDED_ENDPOINTS:
                self._own_labels.popitem(last=False)

    def _info(self, endpoint: Endpoint) -> WorkloadInfo:
        return WorkloadInfo(
            namespace=endpoint.namespace,
            pod_name=endpoint.pod_name,
            endpoint_id=endpoint.endpoint_id,
            identity=endpoint.identity,
            labels=endpoint.labels.texts(),
            cluster_name=self._cluster_name,
            addresses=tuple(ip_address(ip) for ip in endpoint.ips),
        )

    def _on_winner(self, prefix: str, winner: Contribution | None) -> None:
        text, _, length = prefix.partition("/")
        if length != ("128" if ":" in text else "32"):
            return
        key = mapped(ip_address(text).packed)
        owner = self._owner(winner) if winner is not None else None
        if owner is None:
            self._owners.end(key, self._clock_ns())
        else:
            self._owners.put(key, owner, self._since(known=key in self._owners))

    def _owner(self, winner: Contribution) -> WorkloadInfo | None:
        if winner.rank is Rank.ENDPOINT:
            return self._endpoints.at(int(winner.source), None)
        if not winner.pod_name:
            return None
        return WorkloadInfo(
            namespace=winner.namespace,
            pod_name=winner.pod_name,
            identity=winner.value.identity,
            cluster_name=self._cluster_name,
        )

    def _on_labels(self, number: int, labels: LabelSet | None) -> None:
        if labels is None:
            self._labels.end(number, self._clock_ns())
        else:
            # Labels may come after the first packets of their number, which means nothing else before.
            self._labels.put(number, labels, self._clock_ns() if number in self._labels else EVER)

    def _on_switch(self, endpoint: Endpoint) -> None:
        """An endpoint is judged by the policy in force, under the generation that it has."""
        policy = self._policies.in_force(endpoint.endpoint_id)
        if policy is None:
            return
        self._denials.tell(
            endpoint.endpoint_id,
            endpoint.policy_generation,
            ingress=_denying(policy, Direction.INGRESS),
            egress=_denying(policy, Direction.EGRESS),
            now_ns=self._clock_ns(),
        )


def _denying(policy: SubjectPolicy, direction: Direction) -> Denying:
    """The policies behind a default deny, enforced or reported, each once; None where there is none."""
    if policy.audited_enforcement(direction) is not Enforcement.DEFAULT_DENY:
        return None
    numbers = sorted(policy.default_deny(direction))
    origins = (policy.origins[number] for number in numbers if number in policy.origins)
    by_name = {(origin.kind, origin.namespace, origin.name): origin for origin in origins}
    return tuple(_policies(by_name.values(), policy.policy_revision))


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
