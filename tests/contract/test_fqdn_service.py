"""The DNS proxy's API: rules from the real policy service, redirects in step, cache, names, watchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from axoneme.api.fqdn.v1 import fqdn_pb2 as pb
from axoneme.api.policy.v1 import policy_pb2
from axoneme.lib.kvstore.memory import MemoryStore
from axoneme.lib.labels import workload_labels
from axoneme.lib.tls import TlsFiles
from services.fqdn.model import Released
from services.fqdn.pins import NodeMaps
from tests.contract.fqdnserver import RunningFqdn, running_fqdn, write_identities
from tests.contract.policyserver import RunningPolicy, running_policy
from tests.unit.services.fqdn.parts import add_endpoint, add_prefix, answer, node_maps, question, raw
from tests.waiting import eventually

CLIENT = workload_labels(["app=client"], namespace="default", cluster="east")
DNS = workload_labels(["app=dns"], namespace="default", cluster="east")
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: dns}}]
    toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*.example.com"}]}}]
  - toFQDNs: [{matchPattern: "*.example.com"}]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
"""
POD, POD6, SERVER = "10.0.0.2", "2001:db8::2", "10.0.0.53"
ALLOWED, DENIED = question("www.example.com"), question("www.example.org")
SETS = {1 << 24: ("0.0.0.0/0", ["*.example.com"]), (1 << 24) + 1: ("::/0", ["*.example.com"])}


def maps_of_node() -> NodeMaps:
    import time

    maps = node_maps()
    maps.clock_ns = time.monotonic_ns
    add_endpoint(maps, POD, ifindex=3, endpoint_id=7, identity=300)
    add_endpoint(maps, POD6, ifindex=4, endpoint_id=8, identity=300)
    add_prefix(maps, f"{SERVER}/32", 301)
    return maps


@pytest.fixture
async def policy(tls_files: Callable[[str], TlsFiles]) -> AsyncIterator[RunningPolicy]:
    async with running_policy(MemoryStore(), tls_files) as running:
        await running.add_identity(300, CLIENT, "node1")
        await running.add_identity(301, DNS, "node1")
        yield running


@pytest.fixture
async def fqdn(
    tmp_path: Path, policy: RunningPolicy, tls_files: Callable[[str], TlsFiles]
) -> AsyncIterator[RunningFqdn]:
    write_identities(tmp_path, 1, SETS)
    async with running_fqdn(
        tmp_path, maps_of_node(), node="node1", tls=tls_files("node/node1"), policy_port=policy.port
    ) as running:
        yield running


async def apply(policy: RunningPolicy, text: str = POLICY) -> None:
    async with policy.client("user/admin/ann") as stub:
        await stub.ApplyPolicy(policy_pb2.ApplyPolicyRequest(text=text))


class Shim:
    """The shim's end of SyncRedirects, by hand."""

    def __init__(self, fqdn: RunningFqdn) -> None:
        self.call: Any = fqdn.stub.SyncRedirects()

    async def snapshot(self, **digests: bytes) -> None:
        request = pb.SyncRedirectsRequest()
        request.snapshot.SetInParent()
        for name, digest in digests.items():
            request.snapshot.subjects.add(
                subject=policy_pb2.Subject(identity=int(name.removeprefix("s"))), rules_digest=digest
            )
        await self.call.write(request)

    async def changed(self, identity: int, digest: bytes) -> None:
        subject = policy_pb2.Subject(identity=identity)
        changed = pb.SubjectRedirects(subject=subject, rules_digest=digest)
        await self.call.write(pb.SyncRedirectsRequest(changed=changed))

    async def until(self, kind: str) -> Any:
        while True:
            message = await asyncio.wait_for(self.call.read(), 20)
            assert message is not grpc.aio.EOF, await self.call.details()
            if message.WhichOneof("kind") == kind:
                return getattr(message, kind)


async def test_rules_come_are_judged_by_and_told(policy: RunningPolicy, fqdn: RunningFqdn) -> None:
    """A policy's rules decide for IPv4 and IPv6 pods; the shim hears their digest; they end in order."""
    shim = Shim(fqdn)
    await shim.snapshot(s300=b"")
    first = await shim.until("ready")
    assert (first.complete, first.proxy_port, len(first.subjects)) == (True, 10_053, 0)
    assert not fqdn.ask(POD, SERVER, ALLOWED).allowed
    await apply(policy)
    ready = await shim.until("ready")
    (subject,) = ready.subjects
    assert (subject.subject.identity, len(subject.rules_digest), ready.complete) == (300, 32, False)
    for client, endpoint_id in ((POD, 7), (POD6, 8)):
        assert fqdn.ask(client, SERVER, ALLOWED) == (True, endpoint_id, 301, "")
        assert not fqdn.ask(client, SERVER, DENIED).allowed
    await shim.changed(300, subject.rules_digest)
    async with policy.client("user/admin/ann") as stub:
        await stub.DeletePolicy(
            policy_pb2.DeletePolicyRequest(kind="CiliumNetworkPolicy", namespace="default", name="names")
        )
    gone = await shim.until("ready")
    assert [one.rules_digest for one in gone.subjects] == [b""]
    assert fqdn.ask(POD, SERVER, ALLOWED).allowed, "still redirected: still judged"
    await shim.changed(300, b"")
    await eventually(lambda: not fqdn.ask(POD, SERVER, ALLOWED).allowed)


async def test_rules_and_names_outlive_the_process_and_the_policy_service(
    tmp_path: Path, policy: RunningPolicy, tls_files: Callable[[str], TlsFiles]
) -> None:
    """Restored without a policy service: allowed names are allowed, new ones are learned."""
    maps = maps_of_node()
    write_identities(tmp_path, 1, SETS)
    options: dict[str, Any] = {"node": "node1", "tls": tls_files("node/node1")}
    async with running_fqdn(tmp_path, maps, policy_port=policy.port, **options) as fqdn:
        await apply(policy)
        await eventually(lambda: fqdn.ask(POD, SERVER, ALLOWED).allowed)
        assert fqdn.answer(fqdn.ask(POD, SERVER, ALLOWED), ALLOWED, answer("192.0.2.1")) is Released.NOW
        await eventually((tmp_path / "state" / "dns-rules.bin").exists)
    async with running_fqdn(tmp_path, maps, policy_port=1, **options) as again:
        listed = await again.stub.ListCache(pb.ListCacheRequest())
        assert [(one.endpoint_id, one.name) for one in listed.entries] == [(7, "www.example.com.")]
        other = question("other.example.com")
        ruling = again.ask(POD, SERVER, other)
        assert ruling.allowed
        assert again.answer(ruling, other, answer("192.0.2.2")) is Released.NOW
        both = {raw("192.0.2.1"), raw("192.0.2.2")}
        await eventually(lambda: {one.address for one in maps.learned()} == both)
        status = await again.stub.GetStatus(pb.GetStatusRequest())
        assert not status.rules_connected
        assert status.HasField("rules_stale")
        assert any("judged by the last ones" in text for text in status.problems)


async def test_a_newer_shim_takes_over(fqdn: RunningFqdn) -> None:
    older, newer = Shim(fqdn), Shim(fqdn)
    await older.snapshot()
    await older.until("ready")
    await newer.snapshot()
    await newer.until("ready")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await older.until("identity_wanted")
    assert caught.value.code() is grpc.StatusCode.ABORTED
    late: Any = fqdn.stub.SyncRedirects()
    await late.write(pb.SyncRedirectsRequest(identities=pb.IdentityTableChanged(revision=1)))
    assert await asyncio.wait_for(late.code(), 20) is grpc.StatusCode.INVALID_ARGUMENT


async def test_identities_on_demand(fqdn: RunningFqdn, policy: RunningPolicy) -> None:
    """An unforeseen set is asked for; the file that brings it releases the answer; what left it is gone."""
    directory = fqdn.core.cfg.run_directory
    shim = Shim(fqdn)
    await shim.snapshot()
    await shim.until("identities_applied")
    write_identities(directory, 4, {})
    await shim.call.write(pb.SyncRedirectsRequest(identities=pb.IdentityTableChanged(revision=4)))
    while (await shim.until("identities_applied")).revision != 4:
        pass
    await apply(policy)
    await eventually(lambda: fqdn.ask(POD, SERVER, ALLOWED).allowed)
    ruling = fqdn.ask(POD, SERVER, ALLOWED)
    assert fqdn.answer(ruling, ALLOWED, answer("192.0.2.1"), ticket=5) is Released.HELD
    wanted = await shim.until("identity_wanted")
    assert (wanted.prefix, list(wanted.selectors)) == ("0.0.0.0/0", ["*.example.com"])
    write_identities(directory, 5, {1 << 24: SETS[1 << 24]})
    given = pb.IdentityGiven(wanted=wanted, identity=1 << 24, revision=5)
    await shim.call.write(pb.SyncRedirectsRequest(identity_given=given))
    assert (await shim.until("identities_applied")).revision == 5
    assert fqdn.core.learner.due(0.0) == [(5, Released.NOW)]
    assert fqdn.core.learner.number_of(7, raw("192.0.2.1")) == 1 << 24
    write_identities(directory, 6, {})
    await shim.call.write(pb.SyncRedirectsRequest(identities=pb.IdentityTableChanged(revision=6)))
    assert (await shim.until("identities_applied")).revision == 6
    assert fqdn.core.learner.number_of(7, raw("192.0.2.1")) == 0


def lookup(endpoint_id: int, name: str, *addresses: str, ttl: int = 60) -> pb.Lookup:
    made = pb.Lookup(endpoint_id=endpoint_id, name=name, addresses=addresses)
    made.ttl.FromSeconds(ttl)
    return made


async def test_cache_reported_listed_by_pages_and_cleaned(fqdn: RunningFqdn) -> None:
    await eventually(lambda: 7 in fqdn.service.upkeep.endpoints)
    lookups = [lookup(7 + n % 2, f"n{n}.example.com", f"192.0.2.{n}", "2001:db8::1") for n in range(30)]
    reported = await fqdn.stub.ReportLookups(pb.ReportLookupsRequest(lookups=lookups, request_id="r"))
    assert reported.learned == 60
    again = await fqdn.stub.ReportLookups(pb.ReportLookupsRequest(lookups=lookups, request_id="r"))
    assert again == reported
    found: list[pb.CacheEntry] = []
    token = ""
    while True:
        page = await fqdn.stub.ListCache(pb.ListCacheRequest(page_size=7, page_token=token))
        found += page.entries
        token = page.next_page_token
        if not token:
            break
        assert len(page.entries) == 7
    assert len(found) == 30
    assert [one.endpoint_id for one in found] == [7] * 15 + [8] * 15
    assert {one.identity for entry in found for one in entry.addresses} == {1 << 24, (1 << 24) + 1}
    assert {one.source for one in found} == {pb.LOOKUP_SOURCE_REPORTED}
    for request, count in (
        (pb.ListCacheRequest(endpoint_id=8), 15),
        (pb.ListCacheRequest(match_pattern="n1*.example.com"), 11),
        (pb.ListCacheRequest(cidr="192.0.2.4/31"), 2),
        (pb.ListCacheRequest(source=pb.LOOKUP_SOURCE_LOOKUP), 0),
    ):
        assert len((await fqdn.stub.ListCache(request)).entries) == count
    selectors = await fqdn.stub.ListSelectors(pb.ListSelectorsRequest())
    assert [(one.selector.text, one.name_count) for one in selectors.selectors] == [("*.example.com", 30)]
    cleaned = await fqdn.stub.CleanCache(pb.CleanCacheRequest(endpoint_id=7, match_pattern="n1*.example.com"))
    assert cleaned.removed == 5
    assert fqdn.core.maps is not None
    assert (7, raw("192.0.2.10")) not in {one[:2] for one in fqdn.core.maps.learned()}
    assert (await fqdn.stub.CleanCache(pb.CleanCacheRequest())).removed == 25
    assert not fqdn.core.maps.learned()


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ListCache", pb.ListCacheRequest(cidr="x"), "cidr"),
        ("ListCache", pb.ListCacheRequest(page_size=-1), "page_size"),
        ("ListCache", pb.ListCacheRequest(page_token="x"), "page_token"),
        ("ListCache", pb.ListCacheRequest(match_pattern="a b"), "match_pattern"),
        ("CleanCache", pb.CleanCacheRequest(match_pattern="a\nb"), "match_pattern"),
        ("ReportLookups", pb.ReportLookupsRequest(lookups=[lookup(99, "a.x", "192.0.2.1")]), "endpoint_id"),
    ],
)
async def test_faults_name_their_field(fqdn: RunningFqdn, method: str, request_: Any, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(fqdn.stub, method)(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in str(caught.value.details())


async def test_rules_are_listed(policy: RunningPolicy, fqdn: RunningFqdn) -> None:
    await apply(policy)
    await eventually(lambda: fqdn.ask(POD, SERVER, ALLOWED).allowed)
    request = pb.ListRulesRequest(subject=policy_pb2.Subject(identity=300))
    (one,) = (await fqdn.stub.ListRules(request)).rules
    assert {name.text for rule in one.rules for name in rule.names} == {"*.example.com"}
    other = pb.ListRulesRequest(subject=policy_pb2.Subject(identity=5))
    assert not (await fqdn.stub.ListRules(other)).rules


async def test_watchers_see_requests_and_responses(fqdn: RunningFqdn, policy: RunningPolicy) -> None:
    await apply(policy)
    await eventually(lambda: fqdn.ask(POD, SERVER, ALLOWED).allowed)
    call: Any = fqdn.stub.WatchLookups(pb.WatchLookupsRequest())
    await call.initial_metadata()
    fqdn.ask(POD6, SERVER, DENIED)
    message = await asyncio.wait_for(call.read(), 20)
    (event,) = message.events
    assert (event.endpoint_id, event.client, event.query) == (8, POD6, "www.example.org.")
    assert (event.verdict, event.rcode, event.server_identity) == (pb.LOOKUP_VERDICT_DENIED, 5, 301)
    call.cancel()
    await eventually(lambda: not fqdn.core.feed._readers)


async def test_names_are_streamed(fqdn: RunningFqdn) -> None:
    call: Any = fqdn.stub.SubscribeNames()
    hello = pb.SubscribeNamesRequest()
    hello.hello.node_name = "node1"
    await call.write(hello)
    await eventually(lambda: 7 in fqdn.service.upkeep.endpoints)
    await fqdn.stub.ReportLookups(pb.ReportLookupsRequest(lookups=[lookup(7, "a.example.com", "192.0.2.1")]))
    seen: dict[tuple[int, str], list[str]] = {}
    cleaned = False
    while True:
        update = await asyncio.wait_for(call.read(), 20)
        for one in update.upserts:
            seen[one.endpoint_id, one.address] = list(one.names)
        for gone in update.removed:
            seen.pop((gone.endpoint_id, gone.address), None)
        ack = pb.SubscribeNamesRequest()
        ack.ack.nonce, ack.ack.revision = update.header.nonce, update.header.revision
        await call.write(ack)
        if seen and not cleaned:
            assert seen == {(7, "192.0.2.1"): ["a.example.com."]}
            await fqdn.stub.CleanCache(pb.CleanCacheRequest())
            cleaned = True
        elif cleaned and not seen:
            break
    call.cancel()


async def test_endpoints_that_go_away_are_forgotten(fqdn: RunningFqdn) -> None:
    await eventually(lambda: 7 in fqdn.service.upkeep.endpoints)
    await fqdn.stub.ReportLookups(
        pb.ReportLookupsRequest(lookups=[lookup(number, "a.example.com", "192.0.2.1") for number in (7, 8)])
    )
    maps = fqdn.core.maps
    assert maps is not None
    add_endpoint(maps, POD, ifindex=9, endpoint_id=7, identity=300)
    maps.maps["axoneme_ep"].delete(b"\x03\0\0\0")
    maps.maps["axoneme_ep"].delete(b"\x04\0\0\0")
    await eventually(lambda: not maps.learned(), message="another workload has the number; one has gone")
