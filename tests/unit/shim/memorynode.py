"""A node on the memory datapath without gRPC; a fake control plane writes down what it was asked."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

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
    Origin,
    Peer,
    PortBlock,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policycodec import subject_key, subject_number
from shim.cookies import CookieTable
from shim.datapath import MemoryDatapath
from shim.endpoints import Endpoint, EndpointTable
from shim.ipam import Ipam
from shim.localidentities import LocalIdentities
from shim.maps import layout
from shim.nodeipcache import NodeIpcache
from shim.policies import PolicySink
from shim.routes import NodeEntry
from shim.services import Registration
from shim.tables import IpcacheTable
from shim.workloads import EndpointMap, Wanted, Workloads
from tests.waiting import FakeClock

MAX_ENTRIES = 40

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

    def __init__(self, datapath: MemoryDatapath | None = None, services: FakeServices | None = None) -> None:
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
        self.endpoint_map = EndpointMap(maps[layout.EP.name], clock=self.clock)
        self.policies = PolicySink(
            endpoints=self.endpoints,
            datapath=self.datapath,
            cookies=self.cookies,
            local=LocalIdentities(),
            write_endpoint=self.endpoint_map.write,
            clock=self.clock,
            max_entries=MAX_ENTRIES,
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

    def outer_id(self, endpoint: Endpoint) -> int | None:
        """Id of the inner map that an endpoint has."""
        return self.datapath.maps[layout.POLICY.name].inner_id(layout.policy_outer_key(endpoint.endpoint_id))


def wanted(name: str = "web", *labels: str, netns: str = "/run/netns/x") -> Wanted:
    return Wanted(
        namespace="default",
        pod_name=name,
        labels=labels or (f"app={name}",),
        netns=netns,
        interface_name="eth0",
    )
