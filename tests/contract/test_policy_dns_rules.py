"""SubscribeDnsRules with the proxy's end of the stream against the service, over both stores."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from axoneme.api.policy.v1 import policy_pb2 as pb
from axoneme.api.policy.v1 import policy_pb2_grpc
from axoneme.lib.channel import open_channel
from axoneme.lib.intent import Failure
from axoneme.lib.intentstream import IntentClient, Timing
from axoneme.lib.kvstore.port import Store
from axoneme.lib.labels import workload_labels
from axoneme.lib.policy.dnsrules import DnsRules
from axoneme.lib.policy.model import FqdnDefinition, IdentityPeer
from axoneme.lib.policycodec.dnsstream import DnsRulesSubscriber
from axoneme.lib.tasks import TaskScope
from axoneme.lib.tls import TlsFiles
from tests.contract.policyserver import NodeStream, RunningPolicy, running_policy

NAMES = (Path(__file__).parents[2] / "examples" / "policies" / "dns.yaml").read_text()
WEB = workload_labels(["app=web"], namespace="default", cluster="east")
JOB = workload_labels(["app=job"], namespace="default", cluster="east")
RESOLVER = workload_labels(["k8s-app=kube-dns"], namespace="kube-system", cluster="east")
DNS_SPEC = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: %s, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: %s}}
  egress:
    - toEndpoints: [{matchLabels: {k8s-app: kube-dns, "k8s:io.kubernetes.pod.namespace": kube-system}}]
      toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchPattern: "%s"}]}}]
"""
TIMING = Timing(reconnect_first_seconds=0.01, reconnect_limit_seconds=0.05)


class Told:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.rules: dict[str, DnsRules] = {}
        self.snapshots = 0
        self.upserts = 0
        self._moved = asyncio.Event()

    async def apply(
        self, upserts: Mapping[str, DnsRules], removals: Collection[str], *, complete: bool
    ) -> Mapping[str, Failure]:
        """Everything is in effect at once."""
        self.rules.update(upserts)
        self.upserts += len(upserts)
        self.snapshots += complete
        for key in removals:
            self.rules.pop(key, None)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        return {}

    async def until(self, done: Callable[[dict[str, DnsRules]], bool]) -> None:
        """Wait until something holds; the caller bounds it."""
        while not done(self.rules):
            await self._moved.wait()

    def names(self, key: str) -> set[str]:
        """All names of a subject's rules."""
        return {name.text for rule in self.rules[key].rules for name in rule.names}


class Replicas:
    """Channels to several replicas; a failing one is left for the next."""

    def __init__(self, *channels: grpc.aio.Channel) -> None:
        self._channels = list(channels)

    def current(self) -> grpc.aio.Channel:
        """The present one."""
        return self._channels[0]

    def move_on(self) -> None:
        """To the next one."""
        self._channels.append(self._channels.pop(0))


@contextlib.asynccontextmanager
async def proxy_of(
    *services: RunningPolicy, node: str = "node1"
) -> AsyncIterator[tuple[IntentClient[DnsRules], Told]]:
    """The proxy's end on a node, connected for as long as the block lasts."""
    told = Told()
    async with contextlib.AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                open_channel(f"127.0.0.1:{one.port}", one.issue(f"node/{node}"), "policy.east.mesh")
            )
            for one in services
        ]
        client = IntentClient(
            "SubscribeDnsRules",
            channel=Replicas(*channels),
            open_stream=_open,
            codec=DnsRulesSubscriber(),
            sink=told,
            node_name=node,
            rng=random.Random(1),
            interest=True,
            timing=TIMING,
        )
        scope = await stack.enter_async_context(TaskScope("proxy"))
        scope.start("stream", client.run())
        async with asyncio.timeout(30):
            yield client, told


def _open(channel: grpc.aio.Channel) -> Any:
    return policy_pb2_grpc.PolicyServiceStub(channel).SubscribeDnsRules()  # type: ignore[call-arg]


async def apply(service: RunningPolicy, text: str) -> pb.ApplyPolicyResponse:
    """Store policies."""
    async with service.client("user/admin/ann") as stub:
        return await stub.ApplyPolicy(pb.ApplyPolicyRequest(text=text))


async def delete(service: RunningPolicy, name: str) -> None:
    """Delete a policy of the default namespace."""
    async with service.client("user/admin/ann") as stub:
        await stub.DeletePolicy(
            pb.DeletePolicyRequest(kind="CiliumNetworkPolicy", namespace="default", name=name)
        )


async def pods(service: RunningPolicy) -> None:
    """Two applications on node1, another of them on node2 too, and resolvers."""
    await service.add_identity(300, WEB, "node1")
    await service.add_identity(301, JOB, "node2")
    await service.add_identity(400, RESOLVER, "node2")


async def test_a_node_gets_the_rules_of_its_subjects(policy_service: RunningPolicy) -> None:
    """As they come, change and go; those of other nodes' subjects never, nor of subjects without any."""
    await pods(policy_service)
    async with proxy_of(policy_service) as (client, told):
        await client.change_interest(["subject:300", "subject:301", "subject:5"])
        await apply(policy_service, DNS_SPEC % ("web", "web", "*.domain.com"))
        await apply(policy_service, DNS_SPEC % ("job", "job", "*.job.com"))
        await told.until(lambda rules: "subject:300" in rules)
        assert told.names("subject:300") == {"*.domain.com"}
        peers = {rule.peer for rule in told.rules["subject:300"].rules}
        assert IdentityPeer(400) in peers
        await apply(policy_service, DNS_SPEC % ("web", "web", "*.other.com"))
        await told.until(lambda _: told.names("subject:300") == {"*.other.com"})
        labels = workload_labels(["k8s-app=kube-dns", "v=2"], namespace="kube-system", cluster="east")
        await policy_service.add_identity(401, labels)
        await told.until(lambda rules: IdentityPeer(401) in {one.peer for one in rules["subject:300"].rules})
        assert set(told.rules) == {"subject:300"}
        await delete(policy_service, "web")
        await told.until(lambda rules: not rules)
        assert policy_service.state.dns_host.table.revision > 0


async def test_the_policy_names_the_rules_that_the_proxy_gets(policy_service: RunningPolicy) -> None:
    """By their digest, on the shim's own stream; a change of the names alone reaches it too."""
    await pods(policy_service)
    await apply(policy_service, DNS_SPEC % ("web", "web", "*.domain.com"))
    async with (
        proxy_of(policy_service) as (client, told),
        policy_service.client("node/node1") as stub,
    ):
        shim = NodeStream(stub, "node1")
        await shim.start(300)
        await client.change_interest(["subject:300"])
        await told.until(lambda rules: "subject:300" in rules)
        digest = told.rules["subject:300"].digest
        await shim.until(lambda have: "subject:300" in have)
        before = shim.policies["subject:300"]
        assert before.dns_rules_digest == digest
        await apply(policy_service, DNS_SPEC % ("web", "web", "*.other.com"))
        await told.until(lambda rules: rules["subject:300"].digest != digest)
        await shim.until(lambda have: have["subject:300"].dns_rules_digest != digest)
        after = shim.policies["subject:300"]
        assert after.dns_rules_digest == told.rules["subject:300"].digest
        assert after.contributions == before.contributions
        shim.cancel()


async def test_interest_waits_for_the_claim_and_other_nodes_are_refused(
    policy_service: RunningPolicy,
) -> None:
    """The node authorisation of the mapstates: a claim of the identity, and a certificate with the name."""
    await pods(policy_service)
    await apply(policy_service, DNS_SPEC % ("job", "job", "*.job.com"))
    async with proxy_of(policy_service) as (client, told):
        await client.change_interest(["subject:301", "host:node2"])
        await client.wait_synced()
        assert not told.rules
        await policy_service.claim(301, JOB, "node1")
        await told.until(lambda rules: set(rules) == {"subject:301"})
    async with policy_service.client("node/node1") as stub:
        call: Any = stub.SubscribeDnsRules()  # type: ignore[call-arg]
        hello = pb.SubscribeDnsRulesRequest()
        hello.hello.node_name = "node2"
        await call.write(hello)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    async with policy_service.client("user/reader/bob") as stub:
        call = stub.SubscribeDnsRules()  # type: ignore[call-arg]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_stream_resumes_where_it_was(policy_service: RunningPolicy) -> None:
    """After a break only what changed meanwhile is sent; what went away meanwhile goes."""
    await pods(policy_service)
    await policy_service.claim(301, JOB, "node1")
    await apply(policy_service, DNS_SPEC % ("web", "web", "*.domain.com"))
    await apply(policy_service, DNS_SPEC % ("job", "job", "*.job.com"))
    async with proxy_of(policy_service) as (client, told):
        await client.change_interest(["subject:300", "subject:301"])
        await told.until(lambda rules: len(rules) == 2)
        snapshots = told.snapshots
        await policy_service.state.dns_host.goodbye_all(Failure("UNAVAILABLE", "DRAINING", "for a test"))
        await delete(policy_service, "job")
        await apply(policy_service, DNS_SPEC % ("web", "web", "*.other.com"))
        policy_service.state.dns_host._draining = None  # as if it had never drained
        await told.until(lambda rules: set(rules) == {"subject:300"})
        await told.until(lambda _: told.names("subject:300") == {"*.other.com"})
        assert told.snapshots == snapshots


async def test_another_replica_takes_over(policy_store: Store, tls_files: Callable[[str], TlsFiles]) -> None:
    """Rules with the same digests come from either replica, and a proxy that changes over misses nothing."""
    async with (
        running_policy(policy_store, tls_files, replica="one", epoch=8) as first,
        running_policy(policy_store, tls_files, replica="two", epoch=9) as second,
    ):
        await pods(first)
        await apply(first, DNS_SPEC % ("web", "web", "*.domain.com"))
        await second.caught_up()
        async with proxy_of(first, second) as (client, told):
            await client.change_interest(["subject:300"])
            await told.until(lambda rules: "subject:300" in rules)
            digest = told.rules["subject:300"].digest
            await first.state.dns_host.goodbye_all(Failure("UNAVAILABLE", "DRAINING", "for a test"))
            await apply(second, DNS_SPEC % ("web", "web", "*.other.com"))
            await told.until(lambda _: told.names("subject:300") == {"*.other.com"})
            assert second.state.dns_host.subscribers() == ["node1"]
            await apply(second, DNS_SPEC % ("web", "web", "*.domain.com"))
            await told.until(lambda rules: rules["subject:300"].digest == digest)


@pytest.mark.parametrize("address", ["10.1.0.1", "fd00:10:1::1"])
async def test_a_host_has_rules_by_the_name_of_its_node(policy_service: RunningPolicy, address: str) -> None:
    """Without the host firewall none: the interest is heard and nothing comes of it."""
    await policy_service.add_node("node1", address, role="edge")
    async with proxy_of(policy_service) as (client, told):
        await client.change_interest(["host:node1"])
        await client.wait_synced()
        assert not told.rules


async def test_the_example_reaches_the_proxy(policy_service: RunningPolicy) -> None:
    """The policy of the announcement as it stands: one pattern, both transports, kube-dns alone."""
    await policy_service.add_identity(300, WEB, "node1")
    await policy_service.add_identity(400, RESOLVER, "node2")
    answer = await apply(policy_service, NAMES)
    assert not [text for text in answer.policies[0].warnings if "toFQDNs" in text or "proxy" in text]
    async with proxy_of(policy_service) as (client, told):
        await client.change_interest(["subject:300"])
        await told.until(lambda rules: "subject:300" in rules)
        rules = told.rules["subject:300"].rules
        assert {rule.port for rule in rules} == {53}
        assert {rule.protocol for rule in rules} == {6, 17}
        assert {name for rule in rules for name in rule.names} == {
            FqdnDefinition("*.domain.com", pattern=True)
        }
