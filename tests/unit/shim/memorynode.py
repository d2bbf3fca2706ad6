"""A node on the memory datapath without gRPC; a fake control plane writes down what it was asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from axoneme.lib.errors import AxonemeError, Unavailable
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    Contribution,
    Direction,
    Enforcement,
    Entity,
    EntitySelector,
    IdentityPeer,
    NamedPort,
    Origin,
    Peer,
    PortBlock,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policy.precedence import precedence
from axoneme.lib.policycodec import subject_key, subject_number
from shim.cookies import CookieTable
from shim.dns.nodedns import NodeDns
from shim.endpointmap import EndpointMap
from shim.endpoints import Endpoint, EndpointTable
from shim.holders import Holders, Host
from shim.ipam import Ipam
from shim.localidentities import LocalIdentities
from shim.maps import base, layout
from shim.memorydatapath import MemoryDatapath
from shim.nodeipcache import NodeIpcache
from shim.policies import PolicySink
from shim.routes import NodeEntry
from shim.services import Registration
from shim.tables import IpcacheTable
from shim.wanted import Wanted
from shim.workloads import Workloads
from tests.waiting import FakeClock

MAX_ENTRIES = 40

ORIGIN = Origin.of(kind="CiliumNetworkPolicy", namespace="default", name="web", rule="spec.ingress[0]")

ALLOW_ALL = SubjectPolicy(ingress=Enforcement.DEFAULT_ALLOW, egress=Enforcement.DEFAULT_ALLOW)


def allow(peer: Peer, ports: PortBlock = ANY_PORT, name: str = "web") -> SubjectPolicy:
    """Default deny for ingress, with one allowed peer."""
    origin = Origin.of(kind="CiliumNetworkPolicy", namespace="default", name=name, rule="spec.ingress[0]")
    contribution = Contribution(
        direction=Direction.INGRESS,
        peer=peer,
        ports=ports,
        action=Action.ALLOW,
        precedence=0xFFFFFF01,
        origins=frozenset({origin.origin_id}),
    )
    return SubjectPolicy(
        ingress=Enforcement.DEFAULT_DENY,
        egress=Enforcement.DEFAULT_ALLOW,
        contributions=frozenset({contribution}),
        selectors={"entity:world": EntitySelector(Entity.WORLD)} if isinstance(peer, SelectorPeer) else {},
        origins={origin.origin_id: origin},
    )


def policy(
    *rules: Contribution,
    ingress: Enforcement = Enforcement.DEFAULT_DENY,
    egress: Enforcement = Enforcement.DEFAULT_ALLOW,
    **definitions: SelectorDefinition,
) -> SubjectPolicy:
    """A policy of contributions; a peer `SelectorPeer("x")` is defined by the keyword `x`."""
    return SubjectPolicy(
        ingress=ingress,
        egress=egress,
        contributions=frozenset(rules),
        selectors=definitions,
        origins={ORIGIN.origin_id: ORIGIN},
    )


def rule(
    peer: Peer,
    action: Action = Action.ALLOW,
    ports: PortBlock | NamedPort = ANY_PORT,
    direction: Direction = Direction.INGRESS,
    **fields: Any,
) -> Contribution:
    """One contribution of the normal tier."""
    return Contribution(
        direction=direction,
        peer=peer,
        ports=ports,
        action=action,
        precedence=precedence(action=action),
        origins=frozenset({ORIGIN.origin_id}),
        **fields,
    )


def many(count: int) -> SubjectPolicy:
    """A policy with so many entries that differ."""
    base = allow(AnyPeer())
    one = next(iter(base.contributions))
    contributions = frozenset(
        replace(one, peer=IdentityPeer(1_000 + number // 60_000), ports=one_port(6, 1 + number % 60_000))
        for number in range(count)
    )
    return replace(base, contributions=contributions)


@dataclass
class FakeServices:
    """Answers at once; `down` names calls that fail."""

    calls: list[str] = field(default_factory=list)
    down: set[str] = field(default_factory=set)
    numbers: dict[LabelSet, int] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)
    cidrs: tuple[str, ...] = ("10.1.0.0/24", "fd00:10:1::/64")
    error: AxonemeError | None = None

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.down:
            raise self.error or Unavailable(f"{name}: nobody there")

    async def register(self, node: NodeEntry) -> Registration:
        self._called("register")
        given = replace(node, pod_cidrs=node.pod_cidrs or self.cidrs, router_ips=("10.1.0.1", "fd00:10:1::1"))
        return Registration(node=given, lease_ttl_seconds=900.0)

    async def renew(self) -> float:
        self._called("renew")
        return 900.0

    async def allocate_identity(self, labels: LabelSet, request_id: str) -> int:
        self._called("allocate")
        return self.numbers.setdefault(labels, 70_000 + len(self.numbers))

    async def release_identity(self, identity: int) -> None:
        self._called(f"release {identity}")

    async def await_identity(self, identity: int, labels: LabelSet) -> bool:
        self._called("await")
        return True

    async def publish(self, endpoints: Sequence[Endpoint], host_ip: str, *, complete: bool) -> bool:
        self._called("publish")
        if complete:
            self.published.clear()
        self.published.update((ip, endpoint.identity) for endpoint in endpoints for ip in endpoint.ips)
        return True

    async def withdraw(self, ips: Sequence[str]) -> None:
        self._called("withdraw")
        for ip in ips:
            self.published.pop(ip, None)


class MemoryNode:
    """The parts of a shim below its streams; `policy_of` is what the policy service would send."""

    def __init__(
        self,
        datapath: MemoryDatapath | None = None,
        services: FakeServices | None = None,
        *,
        max_entries: int = MAX_ENTRIES,
        audit: bool = False,
        host: bool = False,
        dns: Callable[[MemoryNode], NodeDns] | None = None,
    ) -> None:
        """`dns` makes what the node has for its DNS proxy, out of `datapath`, `local` and `clock`."""
        self.clock = FakeClock()
        self.rng = random.Random(7)
        self.datapath = datapath or MemoryDatapath()
        self.services = services or FakeServices()
        self.endpoints = EndpointTable()
        self.cookies = CookieTable()
        self.policy_of: dict[int, SubjectPolicy] = {}
        self.default_policy: SubjectPolicy | None = ALLOW_ALL
        self.interest: set[str] = set()
        self.checkpoints = 0
        maps = self.datapath.maps
        table = IpcacheTable(maps[layout.IPEXACT.name], maps[layout.IPCACHE.name])
        self.ipcache = NodeIpcache(table, cluster_name="east", clock=self.clock)
        self.endpoint_map = EndpointMap(maps[layout.EP.name], clock=self.clock, audit=audit)
        self.local = LocalIdentities()
        self.dns = dns(self) if dns is not None else None
        self.host_generations: list[int] = []
        self.host = Host("n1", generation=7, write=self._write_host) if host else None
        self.policies = PolicySink(
            holders=Holders(self.endpoints, self.endpoint_map.write, self.host),
            datapath=self.datapath,
            cookies=self.cookies,
            local=self.local,
            prefixes=self.ipcache,
            checkpoint=self._checkpoint,
            clock=self.clock,
            dns=self.dns,
            max_entries=max_entries,
        )
        self.workloads = Workloads(
            cluster_name="east",
            endpoints=self.endpoints,
            datapath=self.datapath,
            ipcache=self.ipcache,
            policies=self.policies,
            endpoint_map=self.endpoint_map,
            services=self.services,
            interest=self,
            checkpoint=self._checkpoint,
            host_ip=lambda: "192.0.2.1",
            first_policy_seconds=0.05,
            first_generation=lambda: self.rng.randint(1, 0xFFFF_FFFF),
        )
        self.workloads.ipam = Ipam(self.services.cidrs, ("10.1.0.1", "fd00:10:1::1"))

    def _checkpoint(self) -> None:
        self.checkpoints += 1

    def _write_host(self, host: Endpoint) -> None:
        self.host_generations.append(host.policy_generation)

    async def change_interest(self, added: Collection[str] = (), removed: Collection[str] = ()) -> None:
        """The policy stream: a new subject is answered with its policy."""
        fresh = set(added) - self.interest
        self.interest = (self.interest | fresh) - set(removed)
        answers = {key: self.policy_of.get(subject_number(key), self.default_policy) for key in fresh}
        await self.policies.apply({k: p for k, p in answers.items() if p is not None}, (), complete=False)
        if removed:
            await self.policies.apply({}, removed, complete=False)

    async def set_policy(self, identity: int, policy: SubjectPolicy) -> dict[str, str]:
        """Sends a policy; returns reasons by key of what failed."""
        failures = await self.policies.apply({subject_key(identity): policy}, (), complete=False)
        return {key: failure.reason for key, failure in failures.items()}

    def entry(self, endpoint: Endpoint) -> layout.EndpointEntry:
        """What the kernel has for an endpoint's interface."""
        raw = self.datapath.maps[layout.EP.name].lookup(layout.endpoint_key(endpoint.ifindex))
        assert raw is not None
        return layout.EndpointEntry.unpack(raw)

    def verdict(
        self, endpoint: Endpoint, direction: Direction, address: str, protocol: int, port: int
    ) -> str:
        """What the datapath program would do with a new connection, by the content of the maps alone."""
        return self.verdict_of(endpoint, direction, self.identity_of(address), protocol, port)

    def verdict_of(
        self, endpoint: Endpoint, direction: Direction, number: int, protocol: int, port: int
    ) -> str:
        """The same for a peer of this number."""
        inner = self.datapath.memory_maps[layout.POLICY.name].inner(
            layout.policy_outer_key(endpoint.endpoint_id)
        )
        if inner is None:
            return "locked"
        found = []
        for specific, identity in ((1, number), (0, 0)):
            key = layout.PolicyKey(64, identity, int(direction), protocol, port.to_bytes(2, "big"))
            raw = inner.lookup(key.pack())
            if raw is not None:
                entry = layout.PolicyEntry.unpack(raw)
                found.append((entry.precedence, entry.port_bits, specific, entry))
        if not found:
            return "none"
        entry = max(found, key=lambda one: one[:3])[3]
        audit = entry.action == Action.DENY and entry.flags & layout.ENTRY_AUDIT
        return "audit" if audit else Action(entry.action).name.lower()

    def identity_of(self, address: str) -> int:
        """The number that the kernel's ipcache has for an address."""
        raw = self.datapath.maps[layout.IPEXACT.name].lookup(base.address_bytes(address))
        if raw is None:
            key = base.IpcacheKey(128, base.address_bytes(address))
            raw = self.datapath.maps[layout.IPCACHE.name].lookup(key.pack())
        return layout.IpcacheEntry.unpack(raw).identity if raw else 0

    def outer_id(self, endpoint: Endpoint) -> int | None:
        """Id of the inner map that an endpoint has."""
        return self.datapath.maps[layout.POLICY.name].inner_id(layout.policy_outer_key(endpoint.endpoint_id))


def wanted(name: str = "web", *labels: str, netns: str = "/run/netns/x", **fields: Any) -> Wanted:
    return Wanted(
        namespace="default",
        pod_name=name,
        labels=labels or (f"app={name}",),
        netns=netns,
        interface_name="eth0",
        **fields,
    )
