"""Names of old flows: as of their time, whatever happened to pods, addresses and policies since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from axoneme.api.hubble.flow import flow_pb2
from axoneme.lib.flows.filters import FlowMatcher
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import IdentityPeer, Origin, SubjectPolicy
from shim.flownames import NodeNames
from shim.flows import record
from shim.flows.context import EGRESS, INGRESS
from shim.flows.decode import FlowDecoder
from shim.flows.query import FlowQuery
from shim.flows.record import Records
from shim.flows.store import FlowStore
from shim.localidentities import LocalIdentities
from shim.nodeipcache import IPCACHE_STREAM, NODE_STREAM, IdentityEntry, IpcacheSink, PrefixEntry
from tests.unit.shim.flows.scene import event, events
from tests.unit.shim.memorynode import ALLOW_ALL, MAX_ENTRIES, MemoryNode, allow, many, wanted


@dataclass
class Named:
    """A memory node with the names of its flows and a clock that stands until it is moved."""

    node: MemoryNode = field(default_factory=MemoryNode)
    now_ns: int = 1_000_000_000

    def __post_init__(self) -> None:
        self.names = NodeNames(
            node_name="node1",
            cluster_name="east",
            endpoints=self.node.endpoints,
            ipcache=self.node.ipcache,
            policies=self.node.policies,
            cookies=self.node.cookies,
            local=LocalIdentities(),
            clock_ns=lambda: self.now_ns,
        )
        self.decoder = FlowDecoder(self.names, boot_offset_ns=lambda: 0, uuid_salt=1)
        self.sink = IpcacheSink(self.node.ipcache)
        self.heard()

    def heard(self) -> None:
        for stream in (IPCACHE_STREAM, NODE_STREAM):
            self.node.ipcache.heard(stream)

    def later(self) -> int:
        self.now_ns += 1_000_000_000
        return self.now_ns

    async def remote(self, address: str, pod: str, identity: int) -> None:
        prefix = f"{address}/{ip_address(address).max_prefixlen}"
        entry = PrefixEntry(prefix=prefix, identity=identity, namespace="shop", pod_name=pod)
        await self.sink.apply({f"prefix:{prefix}": entry}, (), complete=False)

    async def remote_gone(self, address: str) -> None:
        prefix = f"{address}/{ip_address(address).max_prefixlen}"
        await self.sink.apply({}, [f"prefix:{prefix}"], complete=False)

    async def labels(self, identity: int, *texts: str) -> None:
        if texts:
            entry = IdentityEntry(number=identity, labels=LabelSet.parse(texts))
            await self.sink.apply({f"identity:{identity}": entry}, (), complete=False)
        else:
            await self.sink.apply({}, [f"identity:{identity}"], complete=False)

    def flow(self, **values: Any) -> flow_pb2.Flow:
        return self.decoder.decode(event(**values)[0], 1)


async def test_an_address_that_was_used_again_names_who_had_it_then() -> None:
    named = Named()
    for address in ("10.1.1.12", "fd00:10:1:1::12"):
        times = [named.later()]
        await named.remote(address, "old", 20_102)
        await named.labels(20_102, "k8s:app=old")
        times.append(named.later())
        await named.remote_gone(address)
        await named.labels(20_102)
        times.append(named.later())
        await named.remote(address, "new", 20_103)
        await named.labels(20_103, "k8s:app=new")
        times.append(named.later())
        sent = {"source_ip": "fd00:10:1::11" if ":" in address else "10.1.0.11", "destination_ip": address}
        flows = [named.flow(time_ns=time_ns - 1, **sent) for time_ns in times]
        assert [flow.destination.pod_name for flow in flows] == ["", "old", "", "new"]
        late = named.flow(time_ns=times[1] - 1, destination_identity=20_102, **sent)
        assert late.destination.labels == ["k8s:app=old"]


async def test_what_was_in_force_before_the_streams_were_heard_is_not_dated() -> None:
    named = Named.__new__(Named)
    named.node, named.now_ns, heard = MemoryNode(), 1_000_000_000, Named.heard
    named.heard = lambda: None  # type: ignore[method-assign]
    named.__post_init__()
    await named.remote("10.1.1.12", "api", 20_102)
    heard(named)
    assert named.flow(time_ns=5).destination.pod_name == "api", "an event of the time of the start"
    await named.remote("10.1.1.13", "other", 20_102)
    assert named.flow(time_ns=5, destination_ip="10.1.1.13").destination.pod_name == ""


async def test_an_endpoint_that_is_gone_keeps_its_old_flows() -> None:
    named = Named()
    endpoint = await named.node.workloads.add(wanted("web"))
    seen = {
        "endpoint_id": endpoint.endpoint_id,
        "source_ip": endpoint.ips[0],
        "source_identity": endpoint.identity,
        "ifindex": endpoint.ifindex,
        "time_ns": named.later(),
    }
    before = named.flow(**seen)
    named.later()
    await named.node.workloads.delete(endpoint.endpoint_id)
    named.later()
    again = replace(endpoint, pod_name="other", ips=("10.1.0.200",), interface_name="axonew")
    named.node.endpoints.put(again)  # its number is given out again
    assert before.source.pod_name == "web"
    assert before.interface.name == endpoint.interface_name
    assert named.flow(**seen) == before
    new = seen | {"time_ns": named.later(), "source_ip": "10.1.0.200"}
    assert named.flow(**new).source.pod_name == "other"
    assert named.flow(**new).interface.name == "axonew"


def also(policy: SubjectPolicy, *names: str) -> SubjectPolicy:
    """The same entries, and more rules that switch default deny on for ingress."""
    rules = [
        Origin.of(kind="CiliumNetworkPolicy", namespace="default", name=name, rule=f"spec.ingress[{i}]")
        for name in names
        for i in range(2)
    ]
    return replace(
        policy,
        origins={**policy.origins, **{rule.origin_id: rule for rule in rules}},
        ingress_default_deny=policy.ingress_default_deny | {rule.origin_id for rule in rules},
    )


def denied(named: Named, endpoint_id: int, generation: int, time_ns: int) -> list[str]:
    flow = named.flow(
        endpoint_id=endpoint_id, policy_generation=generation, time_ns=time_ns, direction=record.INGRESS,
        event_type=record.DROP, verdict=flow_pb2.DROPPED, drop_reason=record.POLICY_DENIED,
    )  # fmt: skip
    return [policy.name for policy in flow.ingress_denied_by]


async def test_a_drop_names_the_policies_of_its_generation_each_once() -> None:
    named = Named()
    node = named.node
    endpoint = await node.workloads.add(wanted("web"))
    number = endpoint.endpoint_id
    policies = [
        also(allow(IdentityPeer(7_000)), "allow-frontend"),
        also(allow(IdentityPeer(7_000)), "allow-frontend", "no-entries"),  # equal entries: no switch
        also(allow(IdentityPeer(7_001)), "allow-frontend", "deny-frontend"),
        ALLOW_ALL,
    ]
    stamps = []
    for policy in policies:
        named.later()
        await node.set_policy(endpoint.identity, policy)
        stamps.append((node.entry(node.endpoints.require(number)).policy_generation, named.later()))
    assert stamps[0][0] == stamps[1][0]
    expected = [["allow-frontend"], ["allow-frontend", "no-entries"], ["allow-frontend", "deny-frontend"], []]
    assert [sorted(denied(named, number, *stamp)) for stamp in stamps] == expected
    named.later()
    await node.workloads.delete(number)
    assert [sorted(denied(named, number, *stamp)) for stamp in stamps] == expected


async def test_the_generation_is_known_before_the_kernel_has_it(monkeypatch: Any) -> None:
    named, asked = Named(), list[list[str]]()
    node = named.node
    endpoint = await node.workloads.add(wanted("web"))
    write: Callable[..., None] = node.policies._holders.write

    def look(written: Any) -> None:
        asked.append(denied(named, written.endpoint_id, written.policy_generation, named.now_ns))
        write(written)

    monkeypatch.setattr(node.policies._holders, "write", look)
    await node.set_policy(endpoint.identity, also(allow(IdentityPeer(7_000)), "one"))
    assert asked == [["one"]]


async def test_a_policy_that_was_not_applied_is_not_named() -> None:
    named = Named()
    node = named.node
    endpoint = await node.workloads.add(wanted("web"))
    await node.set_policy(endpoint.identity, also(allow(IdentityPeer(7_000)), "one"))
    generation = node.entry(node.endpoints.require(endpoint.endpoint_id)).policy_generation
    named.later()
    assert await node.set_policy(endpoint.identity, also(many(MAX_ENTRIES + 1), "two"))
    assert denied(named, endpoint.endpoint_id, generation, named.later()) == ["one"]


async def test_a_policy_that_was_taken_over_is_named_for_both_generations() -> None:
    first = MemoryNode()
    endpoint = await first.workloads.add(wanted("web"))
    policy = also(allow(IdentityPeer(7_000)), "one")
    await first.set_policy(endpoint.identity, policy)
    endpoint = first.endpoints.require(endpoint.endpoint_id)
    named = Named(MemoryNode(first.datapath, first.services))
    named.node.cookies.load(first.cookies.dump())
    named.node.default_policy = None
    await named.node.workloads.restore([endpoint])
    early = named.now_ns
    named.later()
    await named.node.set_policy(endpoint.identity, policy)
    now = named.node.endpoints.require(endpoint.endpoint_id)
    assert now.policy_generation != endpoint.policy_generation
    assert denied(named, endpoint.endpoint_id, endpoint.policy_generation, early) == ["one"]
    assert denied(named, endpoint.endpoint_id, now.policy_generation, named.later()) == ["one"]
    assert named.names.default_deny_origins(endpoint.endpoint_id, EGRESS, 1, early) == ()
    assert named.names.default_deny_origins(999, INGRESS, 1, early) == ()


# --- everything at once, against what was true at the time

ADDRESSES = ["10.1.1.12", "10.1.1.13", "fd00:10:1:1::12"]
IDENTITIES = [20_101, 20_102]


class Step(NamedTuple):
    what: str
    address: str
    identity: int
    choice: int
    passes: bool


class Seen(NamedTuple):
    """A record and the names that its ends had when it was made."""

    row: Records
    pods: tuple[str, str]
    labels: tuple[list[str], list[str]]


STEPS = ["remote", "remote", "gone", "labels", "unlabel", "add", "delete", "flow", "flow", "flow", "flow"]
steps = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(STEPS),
        address=st.sampled_from(ADDRESSES),
        identity=st.sampled_from(IDENTITIES),
        choice=st.integers(0, 2),
        passes=st.booleans(),
    ),
    min_size=4,
    max_size=30,
)


class Story:
    """Plays steps on a node and writes down what each flow is to be called: the present, at that time."""

    def __init__(self) -> None:
        self.named = Named()
        self.seen: list[Seen] = []

    async def play(self, some: list[Step]) -> None:
        await self.named.labels(IDENTITIES[0], "k8s:app=zero")
        await self.named.labels(IDENTITIES[1], "k8s:app=one")
        for step in some:
            self.named.now_ns += step.passes
            await self._step(step)

    async def _step(self, step: Step) -> None:
        named, node = self.named, self.named.node
        local = list(node.endpoints)
        match step.what:
            case "remote":
                await named.remote(step.address, f"pod-{step.choice}", step.identity)
            case "gone":
                await named.remote_gone(step.address)
            case "labels":
                await named.labels(step.identity, f"k8s:app=l{step.choice}")
            case "unlabel":
                named.now_ns += 1  # nothing is said about the moment of a change of labels
                await named.labels(step.identity)
            case "add":
                named.now_ns += 1
                await node.workloads.add(wanted(f"local-{step.choice}"))
            case "delete" if local:
                await node.workloads.delete(local[step.choice % len(local)].endpoint_id)
            case "flow":
                self._flow(step)

    def _flow(self, step: Step) -> None:
        node = self.named.node
        local = list(node.endpoints)
        endpoint = local[step.choice % len(local)] if local and step.choice else None
        values: dict[str, Any] = {"endpoint_id": 0, "source_ip": "192.0.2.1", "source_identity": 9}
        if endpoint is not None:
            ip = next(ip for ip in endpoint.ips if (":" in ip) == (":" in step.address))
            values = {"endpoint_id": endpoint.endpoint_id, "source_ip": ip}
            values["source_identity"] = endpoint.identity
        elif ":" in step.address:
            values["source_ip"] = "2001:db8::1"
        winner = node.ipcache.merge.winner(f"{step.address}/{ip_address(step.address).max_prefixlen}")
        pods = (endpoint.pod_name if endpoint else "", winner.pod_name if winner else "")
        row = event(
            **values, destination_ip=step.address, destination_identity=step.identity,
            time_ns=self.named.now_ns,
        )  # fmt: skip
        labels = tuple(self._labels(int(row[f"{side}_identity"][0])) for side in ("source", "destination"))
        self.seen.append(Seen(row, pods, (labels[0], labels[1])))
        self.named.now_ns += 1  # the next change comes after it

    def _labels(self, identity: int) -> list[str]:
        node = self.named.node
        labels = node.ipcache.labels.get(identity)
        labels = labels or next((e.labels for e in node.endpoints if e.identity == identity), None)
        return list(labels.texts()) if labels else []


FILTERS = [
    flow_pb2.FlowFilter(destination_pod=["shop/pod-1"]),
    flow_pb2.FlowFilter(destination_pod=["shop/"]),
    flow_pb2.FlowFilter(source_pod=["local-1"]),
    flow_pb2.FlowFilter(source_pod=["/"]),
    flow_pb2.FlowFilter(destination_label=["app=l1"]),
    flow_pb2.FlowFilter(destination_label=["app in (zero, l2)"], source_label=["!nothing"]),
    flow_pb2.FlowFilter(destination_cluster_name=["east"], destination_pod=["shop/pod-0"]),
]


@settings(max_examples=60, deadline=None)
@given(steps)
def test_old_flows_are_called_what_they_were_and_queries_find_them(some: list[Step]) -> None:
    story = Story()
    asyncio.run(story.play(some))
    for seen in story.seen:
        flow = story.named.decoder.decode(seen.row[0], 0)
        assert (flow.source.pod_name, flow.destination.pod_name) == seen.pods
        assert flow.destination.labels == seen.labels[1] or not seen.labels[1]
    check_queries(story)


def check_queries(story: Story) -> None:
    """Each filter over the columns finds what the filter finds among all decoded flows."""
    store, decoder = FlowStore(64), story.named.decoder
    rows = [seen.row for seen in story.seen]
    if rows:
        store.append(events(*rows))
    flows = [decoder.decode(row[0], number) for number, row in enumerate(rows)]
    for flow_filter in FILTERS:
        matcher = FlowMatcher([flow_filter])
        expected = [number for number, flow in enumerate(flows) if matcher.matches(flow)]
        query = FlowQuery(store, decoder, [flow_filter], [])
        assert query.candidates(0, store.seen).tolist() == expected, "the mask alone is exact for ends"
        assert [number for number, _ in query.flows(0, store.seen)] == expected


async def test_a_query_that_follows_hears_of_new_names() -> None:
    named, store = Named(), FlowStore(64)
    query = FlowQuery(store, named.decoder, [flow_pb2.FlowFilter(destination_pod=["shop/api"])], [])
    store.append(event(time_ns=named.later()))
    assert list(query.flows(0, 1)) == []
    named.later()
    await named.remote("10.1.1.12", "api", 20_102)
    store.append(event(time_ns=named.later()))
    assert [number for number, _ in query.flows(0, 2)] == [1]
    named.later()
    await named.remote_gone("10.1.1.12")
    store.append(event(time_ns=named.later()))
    assert [number for number, _ in query.flows(0, 3)] == [1]
