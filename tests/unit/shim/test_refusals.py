"""What this node cannot enforce is refused as a whole, by name, and never widened; audit is passed on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from axoneme.api.node.v1 import node_pb2
from axoneme.lib.errors import NotFound
from axoneme.lib.policy.model import (
    Action,
    AnyPeer,
    AuthMode,
    Contribution,
    Direction,
    Enforcement,
    IdentityPeer,
    MapEntry,
    Redirect,
    one_port,
)
from axoneme.lib.policycodec import subject_key
from shim.config import ShimConfig
from shim.endpoints import Endpoint, EndpointState
from shim.maps import layout
from shim.mapstates import needs_more
from tests.unit.shim.memorynode import ALLOW_ALL, MemoryNode, policy, rule, wanted
from tests.unit.shim.test_node_api import served

PEER = IdentityPeer(7_000)


def redirect(parser: str, listener: str = "") -> Contribution:
    target = Redirect(parser, listener, 101)
    return rule(PEER, Action.REDIRECT, one_port(6, 80), redirect=target)


REFUSED = {
    "http": (redirect("http"), "redirects ingress TCP 80 to the http proxy", "remove its L7 part"),
    "dns": (redirect("dns"), "to the dns proxy", "remove its L7 part"),
    "tls": (redirect("tls"), "to the tls proxy", "remove its L7 part"),
    "listener": (redirect("crd", "envoy"), "to the crd proxy", "remove its listener"),
    "auth": (
        rule(PEER, auth=AuthMode.REQUIRED),
        r"asks for authentication \(required\) of ingress traffic",
        "remove its authentication",
    ),
    "always-fail": (
        rule(PEER, ports=one_port(17, 53), auth=AuthMode.ALWAYS_FAIL),
        r"\(test-always-fail\) of ingress UDP 53",
        "set mode disabled",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_policy_that_asks_for_more_fails_its_subject_and_names_itself(case: str) -> None:
    one, *texts = REFUSED[case]
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    before = node.outer_id(endpoint), node.entry(endpoint)
    failures = await node.policies.apply(
        {subject_key(endpoint.identity): policy(one, rule(AnyPeer()))}, (), complete=True
    )
    failure = failures[subject_key(endpoint.identity)]
    assert (failure.code, failure.reason) == ("UNIMPLEMENTED", "NOT_ENFORCEABLE")
    for text in ("CiliumNetworkPolicy default/web .spec.ingress", *texts):
        assert re.search(text, failure.message), failure.message
    assert (node.outer_id(endpoint), node.entry(endpoint)) == before, "the last policy is in force whole"
    shown = node.endpoints.require(endpoint.endpoint_id)
    assert (shown.state, shown.state_reason) == (EndpointState.STALE, failure.message)
    assert await node.set_policy(endpoint.identity, ALLOW_ALL) == {}
    assert node.endpoints.require(endpoint.endpoint_id).state is EndpointState.READY


async def test_disabled_authentication_is_a_plain_allow() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    one = policy(rule(AnyPeer(), auth=AuthMode.DISABLED))
    assert await node.set_policy(endpoint.identity, one) == {}
    for address in ("192.0.2.1", "2001:db9::1"):
        node.ipcache.commit()
        assert node.verdict(endpoint, Direction.INGRESS, address, 6, 80) == "allow"


async def test_what_a_denial_covers_is_not_asked_for() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    one = policy(redirect("http"), rule(AnyPeer(), Action.DENY))
    assert await node.set_policy(endpoint.identity, one) == {}


def test_a_denial_never_asks_for_authentication() -> None:
    assert not needs_more(MapEntry(action=Action.DENY, precedence=1, auth=AuthMode.REQUIRED))
    assert needs_more(MapEntry(action=Action.ALLOW, precedence=1, auth=AuthMode.REQUIRED))


async def test_an_audited_policy_reports_and_lets_pass() -> None:
    node = MemoryNode()
    node.ipcache.commit()
    endpoint = await node.workloads.add(wanted())
    one = policy(rule(AnyPeer(), Action.DENY, audit=True), ingress=Enforcement.DEFAULT_ALLOW)
    assert await node.set_policy(endpoint.identity, one) == {}
    for address in ("192.0.2.1", "2001:db9::1"):
        assert node.verdict(endpoint, Direction.INGRESS, address, 6, 80) == "audit"
    one = policy(rule(AnyPeer(), audit=True))
    assert await node.set_policy(endpoint.identity, one) == {}
    for address in ("192.0.2.1", "2001:db9::1"):
        assert node.verdict(endpoint, Direction.INGRESS, address, 6, 80) == "none", "never widened"


def flags(node: MemoryNode, endpoint: Endpoint) -> int:
    return node.entry(endpoint).flags


async def test_the_switch_of_an_endpoint(socket_directory: Path) -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted())
    other = await node.workloads.add(wanted("other", audit=True))
    assert (flags(node, endpoint), flags(node, other)) == (0, layout.ENDPOINT_AUDIT)
    generation, checkpoints = node.entry(endpoint).policy_generation, node.checkpoints
    async with served(node, socket_directory) as api:
        request = node_pb2.SetEndpointAuditRequest(endpoint_id=endpoint.endpoint_id, audit=True)
        shown = (await api.SetEndpointAudit(request)).endpoint
        assert shown.audit
        assert flags(node, endpoint) == layout.ENDPOINT_AUDIT
        assert node.entry(endpoint).policy_generation == generation + 1, (
            "connections that were cut get a chance"
        )
        assert node.checkpoints == checkpoints + 1
        await api.SetEndpointAudit(request)
        assert node.entry(endpoint).policy_generation == generation + 1, "nothing changed"
        request.audit = False
        assert not (await api.SetEndpointAudit(request)).endpoint.audit
    assert flags(node, endpoint) == 0
    with pytest.raises(NotFound):
        await node.workloads.switches.set_audit(999, audit=True)


async def test_the_switch_survives_a_restart() -> None:
    node = MemoryNode()
    endpoint = await node.workloads.add(wanted(audit=True))
    again = MemoryNode(node.datapath, node.services)
    again.default_policy = None
    await again.workloads.restore([Endpoint.load(one.dump()) for one in node.endpoints])
    assert flags(again, endpoint) == layout.ENDPOINT_AUDIT


async def test_the_switch_of_the_node(socket_directory: Path) -> None:
    node = MemoryNode(audit=True)
    endpoint = await node.workloads.add(wanted())
    assert flags(node, endpoint) == layout.ENDPOINT_AUDIT
    await node.workloads.switches.set_audit(endpoint.endpoint_id, audit=False)
    assert flags(node, endpoint) == layout.ENDPOINT_AUDIT
    async with served(node, socket_directory) as api:
        request = node_pb2.GetEndpointRequest(endpoint_id=endpoint.endpoint_id)
        assert (await api.GetEndpoint(request)).endpoint.audit
    again = MemoryNode(node.datapath, node.services)
    await again.workloads.restore(list(node.endpoints))
    assert flags(again, endpoint) == 0, "switched off in the configuration"
    assert not ShimConfig(node_name="n1").policy_audit
