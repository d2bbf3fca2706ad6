"""Which agent events a node's own tables tell: endpoints, addresses, policies, services."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import UInt32Value

from axoneme.api.hubble.flow import flow_pb2
from axoneme.api.hubble.observer import observer_pb2
from axoneme.lib.policy.model import AnyPeer, Origin, one_port
from shim.agentevents.addresses import AddressEvents
from shim.agentevents.endpoints import EndpointEvents
from shim.agentevents.log import AgentEventLog
from shim.agentevents.policies import PolicyEvents
from shim.agentevents.services import ServiceEvents
from shim.endpoints import EndpointState
from shim.ipcache import Contribution, IpcacheValue, Rank
from tests.unit.shim.lb.lbnode import LbNode, backend
from tests.unit.shim.lb.lbnode import service as lb_service
from tests.unit.shim.memorynode import MemoryNode, allow, many, wanted


def told(log: AgentEventLog) -> list[flow_pb2.AgentEvent]:
    """All that happened so far; forgotten afterwards."""

    async def read() -> list[flow_pb2.AgentEvent]:
        return [event.message() async for event in log.events(observer_pb2.GetAgentEventsRequest())]

    found = asyncio.run(read())
    log._events.clear()
    return found


def kinds(events: list[flow_pb2.AgentEvent]) -> list[str]:
    return [flow_pb2.AgentEventType.Name(event.type) for event in events]


class Watched:
    """A node on maps in memory with its log."""

    def __init__(self, **options: Any) -> None:
        self.node = MemoryNode(**options)
        self.log = AgentEventLog()
        EndpointEvents(self.log, self.node.endpoints)
        AddressEvents(self.log, self.node.ipcache.merge)
        policies = PolicyEvents(self.log, self.node.policies.in_force, lambda: self.node.endpoints)
        self.node.policies.judged_by.listen(policies.switched)

    def of(self, prefix: str) -> list[flow_pb2.AgentEvent]:
        return [one for one in told(self.log) if flow_pb2.AgentEventType.Name(one.type).startswith(prefix)]


def test_the_life_of_an_endpoint() -> None:
    watched = Watched()
    made = asyncio.run(watched.node.workloads.add(wanted("web")))
    events = watched.of("ENDPOINT")
    assert kinds(events)[0] == "ENDPOINT_CREATED"
    assert "ENDPOINT_REGENERATE_SUCCESS" in kinds(events)
    created = events[0].endpoint_update
    assert (created.id, created.namespace, created.pod_name) == (made.endpoint_id, "default", "web")
    assert any(label.endswith("app=web") for label in created.labels)
    asyncio.run(watched.node.workloads.delete(made.endpoint_id))
    events = watched.of("ENDPOINT")
    assert kinds(events)[-1] == "ENDPOINT_DELETED"
    assert events[-1].endpoint_update.pod_name == "web"


def test_a_policy_that_cannot_be_applied() -> None:
    watched = Watched(max_entries=40)
    made = asyncio.run(watched.node.workloads.add(wanted("web")))
    told(watched.log)
    asyncio.run(watched.node.set_policy(made.identity, many(60)))
    (failure,) = watched.of("ENDPOINT_REGENERATE")
    assert failure.type == flow_pb2.ENDPOINT_REGENERATE_FAILURE
    assert "61 entries" in failure.endpoint_regenerate.error
    assert watched.node.endpoints.require(made.endpoint_id).state is EndpointState.STALE
    asyncio.run(watched.node.set_policy(made.identity, many(10)))
    assert kinds(watched.of("ENDPOINT_REGENERATE")) == ["ENDPOINT_REGENERATE_SUCCESS"]


def test_policies_are_told_when_their_rules_change() -> None:
    watched = Watched()
    made = asyncio.run(watched.node.workloads.add(wanted("web")))
    told(watched.log)
    first = replace(allow(AnyPeer(), name="allow-web"), policy_revision=3)
    asyncio.run(watched.node.set_policy(made.identity, first))
    (updated,) = watched.of("POLICY")
    assert updated.type == flow_pb2.POLICY_UPDATED
    assert (updated.policy_update.revision, updated.policy_update.rule_count) == (3, 1)
    assert "k8s:io.cilium.k8s.policy.name=allow-web" in updated.policy_update.labels
    asyncio.run(watched.node.set_policy(made.identity, replace(first, policy_revision=4)))
    assert watched.of("POLICY") == []
    port = replace(next(iter(first.contributions)), ports=one_port(6, 80))
    changed = replace(first, contributions=frozenset({port}), policy_revision=5)
    asyncio.run(watched.node.set_policy(made.identity, changed))
    assert [(one.type, one.policy_update.revision) for one in watched.of("POLICY")] == [
        (flow_pb2.POLICY_UPDATED, 5)
    ]
    other = replace(allow(AnyPeer(), name="other"), policy_revision=6)
    asyncio.run(watched.node.set_policy(made.identity, other))
    assert kinds(watched.of("POLICY")) == ["POLICY_DELETED", "POLICY_UPDATED"]


def test_a_policy_of_two_subjects_is_told_once_and_deleted_with_the_last() -> None:
    watched = Watched()
    ends = [asyncio.run(watched.node.workloads.add(wanted(name))) for name in ("web", "api")]
    told(watched.log)
    shared = replace(allow(AnyPeer(), name="shared"), policy_revision=3)
    for end in ends:
        asyncio.run(watched.node.set_policy(end.identity, shared))
    assert kinds(watched.of("POLICY")) == ["POLICY_UPDATED"]
    without = replace(shared, contributions=frozenset(), origins={}, policy_revision=4)
    asyncio.run(watched.node.set_policy(ends[0].identity, without))
    assert watched.of("POLICY") == []
    asyncio.run(watched.node.set_policy(ends[1].identity, without))
    assert kinds(watched.of("POLICY")) == ["POLICY_DELETED"]


def test_a_large_subject_counts_as_changed_whole() -> None:
    watched = Watched(max_entries=20_000)
    made = asyncio.run(watched.node.workloads.add(wanted("web")))
    asyncio.run(watched.node.set_policy(made.identity, replace(many(10_001), policy_revision=1)))
    told(watched.log)
    asyncio.run(watched.node.set_policy(made.identity, replace(many(10_002), policy_revision=2)))
    assert kinds(watched.of("POLICY")) == ["POLICY_UPDATED"]


@pytest.mark.parametrize(
    ("prefix", "node", "other"),
    [("10.1.0.12/32", "192.0.2.1", "192.0.2.9"), ("fd00:10:1::12/128", "2001:db8::1", "2001:db8::9")],
)
def test_addresses(prefix: str, node: str, other: str) -> None:
    watched = Watched()
    merge = watched.node.ipcache.merge
    merge.drain()
    told(watched.log)
    strong = Contribution(
        rank=Rank.IDENTITY,
        value=IpcacheValue(identity=20102, tunnel_endpoint=node, encryption_key=3),
        namespace="shop",
        pod_name="api-1",
    )
    weak = Contribution(rank=Rank.CIDR, value=IpcacheValue(identity=4, tunnel_endpoint=other))
    merge.put(prefix, weak)
    merge.drain()
    merge.put(prefix, strong)
    merge.drain()
    merge.put(prefix, strong)
    merge.drain()
    merge.remove(prefix, Rank.IDENTITY)
    merge.remove(prefix, Rank.CIDR)
    merge.drain()
    first, second, gone = told(watched.log)
    assert not first.ipcache_update.HasField("old_identity")
    assert second.ipcache_update == flow_pb2.IPCacheNotification(
        cidr=prefix,
        identity=20102,
        old_identity=UInt32Value(value=4),
        host_ip=node,
        old_host_ip=other,
        encrypt_key=3,
        namespace="shop",
        pod_name="api-1",
    )
    assert (gone.type, gone.ipcache_update.identity) == (flow_pb2.IPCACHE_DELETED, 20102)


def test_services() -> None:
    lb, log = LbNode(watched=False), AgentEventLog()
    ServiceEvents(log, lb.balancer)
    backends = [backend(f"10.0.1.{number}") for number in (1, 2)]
    web = lb_service("web", *backends, cluster_ips=("10.96.0.1",))
    asyncio.run(lb.put(web))
    events = told(log)
    assert set(kinds(events)) == {"SERVICE_UPSERTED"}
    upsert = events[0].service_upsert
    assert (upsert.name, upsert.namespace, upsert.type) == (web.name, web.namespace, "ClusterIP")
    assert len(upsert.backend_addresses) == 2
    assert (upsert.ext_traffic_policy, upsert.int_traffic_policy) == ("Cluster", "Cluster")
    asyncio.run(lb.put(web))
    assert told(log) == []
    asyncio.run(lb.put(replace(web, backends=web.backends[:1])))
    (fewer, *_) = told(log)
    assert len(fewer.service_upsert.backend_addresses) == 1
    assert fewer.service_upsert.id == upsert.id
    asyncio.run(lb.put(removed=(web.key,)))
    gone = told(log)
    assert {one.service_delete.id for one in gone} == {one.service_upsert.id for one in events}


def test_origins_without_a_namespace_have_no_label_of_it() -> None:
    origin = Origin.of(kind="CiliumClusterwideNetworkPolicy", namespace="", name="all", rule="spec")
    watched = Watched()
    made = asyncio.run(watched.node.workloads.add(wanted("web")))
    told(watched.log)
    base = allow(AnyPeer())
    one = replace(next(iter(base.contributions)), origins=frozenset({origin.origin_id}))
    policy = replace(base, contributions=frozenset({one}), origins={origin.origin_id: origin})
    asyncio.run(watched.node.set_policy(made.identity, policy))
    (updated,) = watched.of("POLICY_UPDATED")
    assert list(updated.policy_update.labels) == [
        "k8s:io.cilium.k8s.policy.derived-from=CiliumClusterwideNetworkPolicy",
        "k8s:io.cilium.k8s.policy.name=all",
    ]
