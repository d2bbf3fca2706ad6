"""The session over a real socket: snapshot first, order kept, news worked off, a proxy that goes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from axoneme.lib import grpcsettings  # isort: skip  (before grpc)
import grpc

from axoneme.api.fqdn.v1 import fqdn_pb2, fqdn_pb2_grpc
from axoneme.lib.policycodec import encode_subject, subject_key
from axoneme.lib.tasks import TaskScope
from shim.dns.lookups import follow_lookups
from shim.dns.nodepart import dns_problems
from shim.dns.session import DnsSession
from shim.localidentities import LocalKey
from tests.unit.shim.dns.dnsnode import PORT, dns_node, dns_of, dns_policy
from tests.unit.shim.memorynode import MemoryNode, wanted
from tests.waiting import eventually

assert grpcsettings.ENVIRONMENT


class Proxy(fqdn_pb2_grpc.FqdnServiceServicer):
    """Answers as the test says; of the rest nothing is asked."""

    async def _nothing(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def SubscribeNames(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        while context is None:
            yield fqdn_pb2.SubscribeNamesResponse()

    GetStatus = ListCache = ListRules = ListSelectors = ReportLookups = _nothing

    def __init__(self) -> None:
        self.heard: list[fqdn_pb2.SyncRedirectsRequest] = []
        self.to_say: asyncio.Queue[fqdn_pb2.SyncRedirectsResponse] = asyncio.Queue()
        self.cleaned: list[int] = []
        self.applies = True
        self.port = PORT

    async def SyncRedirects(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        self.heard.append(await anext(request_iterator))  # it says nothing, not even metadata, before
        async with TaskScope("proxy") as scope:
            scope.start("reads", self._read(request_iterator), critical=False)
            yield fqdn_pb2.SyncRedirectsResponse(
                ready=fqdn_pb2.RulesReady(complete=True, proxy_port=self.port)
            )
            while True:
                yield await self.to_say.get()

    async def _read(self, requests: Any) -> None:
        async for request in requests:
            self.heard.append(request)
            if request.WhichOneof("kind") == "identities" and self.applies:
                applied = fqdn_pb2.IdentitiesApplied(revision=request.identities.revision)
                await self.to_say.put(fqdn_pb2.SyncRedirectsResponse(identities_applied=applied))

    async def CleanCache(self, request: Any, context: Any) -> Any:
        self.cleaned.append(request.endpoint_id)
        return fqdn_pb2.CleanCacheResponse()

    async def WatchLookups(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield fqdn_pb2.WatchLookupsResponse(events=[fqdn_pb2.LookupEvent(query="a.example.com.")], lost=3)

    async def say_ready(self, key: str, digest: bytes) -> None:
        one = fqdn_pb2.SubjectRedirects(subject=encode_subject(key), rules_digest=digest)
        ready = fqdn_pb2.RulesReady(subjects=[one], proxy_port=self.port)
        await self.to_say.put(fqdn_pb2.SyncRedirectsResponse(ready=ready))

    def kinds(self) -> list[str]:
        return [str(one.WhichOneof("kind")) for one in self.heard]


@contextlib.asynccontextmanager
async def serving(proxy: Proxy, target: str) -> AsyncIterator[None]:
    server = grpc.aio.server()
    fqdn_pb2_grpc.add_FqdnServiceServicer_to_server(proxy, server)
    server.add_insecure_port(target)
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def following(node: MemoryNode, target: str) -> AsyncIterator[DnsSession]:
    session = DnsSession(target, dns_of(node), node.policies, rng=random.Random(1))
    async with TaskScope("test") as scope:
        scope.start("session", session.run())
        yield session


@pytest.fixture
def target(socket_directory: Path) -> str:
    return f"unix:{socket_directory / 'fqdn.sock'}"


async def test_redirects_come_after_their_rules(tmp_path: Path, target: str) -> None:
    node, proxy = dns_node(tmp_path), Proxy()
    endpoint = await node.workloads.add(wanted())
    key = subject_key(endpoint.identity)
    async with serving(proxy, target), following(node, target) as session:
        await eventually(lambda: session.status().synced)
        assert proxy.kinds()[:2] == ["snapshot", "identities"]
        assert [one.subject for one in proxy.heard[0].snapshot.subjects] == [encode_subject(key)]
        failures = await node.policies.apply({key: dns_policy(b"one", "a.example.com")}, (), complete=True)
        assert failures[key].reason == "DNS_RULES_NOT_READY"
        await proxy.say_ready(key, b"one")
        await eventually(lambda: node.policies.failures == {})
        await eventually(lambda: "changed" in proxy.kinds())
        changed = [one.changed for one in proxy.heard if one.WhichOneof("kind") == "changed"]
        assert [(one.subject, one.rules_digest) for one in changed] == [(encode_subject(key), b"one")]
        assert dns_of(node).names.applied_revision == dns_of(node).names.table.revision > 0


async def test_a_proxy_that_goes_and_comes(tmp_path: Path, target: str) -> None:
    node, proxy = dns_node(tmp_path), Proxy()
    endpoint = await node.workloads.add(wanted())
    key = subject_key(endpoint.identity)
    dns = dns_of(node)
    async with following(node, target) as session:
        await eventually(lambda: session.status().error != "not connected yet")
        assert not dns.order.connected
        async with serving(proxy, target):
            await eventually(lambda: session.status().synced)
            failures = await node.policies.apply({key: dns_policy(b"one")}, (), complete=True)
            assert failures[key].reason == "DNS_RULES_NOT_READY"
        await eventually(lambda: node.policies.failures == {}, message="without a proxy nothing waits")
        assert session.status().stale_seconds > 0
        again = Proxy()
        async with serving(again, target):
            await eventually(lambda: again.heard)
            subjects = [(one.subject, one.rules_digest) for one in again.heard[0].snapshot.subjects]
            assert subjects == [(encode_subject(key), b"one")]


async def test_an_identity_that_nobody_foresaw(tmp_path: Path, target: str) -> None:
    node, proxy = dns_node(tmp_path), Proxy()
    endpoint = await node.workloads.add(wanted())
    key = subject_key(endpoint.identity)
    async with serving(proxy, target), following(node, target) as session:
        await eventually(lambda: session.status().synced)
        await proxy.say_ready(key, b"one")
        await eventually(lambda: not dns_of(node).order.lacks(key, b"one"))
        await node.policies.apply({key: dns_policy(b"one", "a.example.com", "b.org")}, (), complete=True)
        await eventually(lambda: node.policies.failures == {})
        names = ["a.example.com", "b.org"]
        wish = fqdn_pb2.IdentityWanted(prefix="::/0", selectors=names)
        for one in (wish, fqdn_pb2.IdentityWanted(prefix="10.0.0.0/8", selectors=["b.org"])):
            await proxy.to_say.put(fqdn_pb2.SyncRedirectsResponse(identity_wanted=one))
        await eventually(lambda: proxy.kinds().count("identity_given") == 2)
        given = [one.identity_given for one in proxy.heard if one.WhichOneof("kind") == "identity_given"]
        number = node.local.number_of("::/0", names)
        assert number
        table = dns_of(node).names.table
        assert (given[0].identity, given[0].revision, given[0].wanted) == (number, table.revision, wish)
        assert given[1].identity == 0, "no policy names this prefix"
        assert table.numbers[LocalKey("::/0", frozenset(names))] == number
        held = node.policies.map_of(endpoint.endpoint_id)
        assert held is not None
        assert any(int.from_bytes(raw[4:8], "little") == number for raw, _ in held.items())


async def test_the_proxy_forgets_endpoints_that_are_gone(tmp_path: Path, target: str) -> None:
    node, proxy = dns_node(tmp_path), Proxy()
    async with serving(proxy, target), following(node, target) as session:
        endpoint = await node.workloads.add(wanted())
        await eventually(lambda: session.status().synced)
        await node.workloads.delete(endpoint.endpoint_id)
        await eventually(lambda: endpoint.endpoint_id in proxy.cleaned)


async def test_problems_in_words(tmp_path: Path, target: str) -> None:
    node, proxy = dns_node(tmp_path), Proxy()
    proxy.port = 5_300
    endpoint = await node.workloads.add(wanted())
    await node.policies.apply({subject_key(endpoint.identity): dns_policy(b"one")}, (), complete=True)
    clock = node.clock
    session = DnsSession(target, dns_of(node), node.policies, rng=random.Random(1), clock=clock)
    clock.advance(60.0)
    [problem] = dns_problems(dns_of(node), session)
    assert "not connected for 60 s" in problem
    assert "queries of 1 subjects are dropped" in problem
    async with serving(proxy, target), following(node, target) as session:
        await eventually(lambda: session.status().synced)
        [problem] = dns_problems(dns_of(node), session)
        assert "redirected to port 10053 and the DNS proxy takes them on port 5300" in problem


async def test_dns_messages_are_followed(target: str) -> None:
    found: list[tuple[str, int]] = []

    class Taker:
        def add(self, events: Any, lost: int) -> None:
            found.extend((one.query, lost) for one in events)

    async with serving(Proxy(), target), TaskScope("test") as scope:
        scope.start("follow", follow_lookups(target, Taker(), rng=random.Random(1)))
        await eventually(lambda: len(found) > 1, message="a stream that ends is opened again")
    assert found[0] == ("a.example.com.", 3)
