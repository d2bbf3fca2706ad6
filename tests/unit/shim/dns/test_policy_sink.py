"""DNS redirects and selectors in the maps of endpoints: ports, flags, refusals, endpoints that go."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path

import pytest

from axoneme.api.fqdn.v1 import fqdn_pb2
from axoneme.api.intent.v1 import intent_pb2
from axoneme.lib.policy.model import Action, AnyPeer, Direction, Redirect, one_port
from axoneme.lib.policycodec import host_key, subject_key
from shim.dns.names import LearnedName, LearnedNames, NamesCodec
from shim.dns.order import UNKNOWN_DIGEST
from shim.flows.history import EVER
from shim.maps import base, layout
from shim.maps.layout import LearnedEntry, LearnedKey
from shim.maps.proxied import ProxiedPort
from tests.unit.shim.dns.dnsnode import (
    PORT,
    Ports,
    ProxyModel,
    dns_node,
    dns_of,
    dns_policy,
    learned,
    restarted,
)
from tests.unit.shim.memorynode import ALLOW_ALL, MemoryNode, policy, rule, wanted

UDP53, TCP53 = ProxiedPort(17, 53), ProxiedPort(6, 53)
ADDRESS = {4: "192.0.2.7", 6: "2001:db9::7"}


async def test_a_redirect_has_the_proxys_port(tmp_path: Path) -> None:
    ports = Ports()
    node = dns_node(tmp_path, ports=ports)
    endpoint = await node.workloads.add(wanted())
    assert await node.set_policy(endpoint.identity, dns_policy(b"one")) == {}
    held = node.policies.map_of(endpoint.endpoint_id)
    assert held is not None
    redirects = [
        layout.PolicyEntry.unpack(raw) for _, raw in held.items() if layout.policy_entry_redirects(raw)
    ]
    assert [(one.action, one.proxy_port) for one in redirects] == [(Action.REDIRECT, PORT)] * 2
    assert ports.ports == {UDP53, TCP53}
    assert await node.set_policy(endpoint.identity, ALLOW_ALL) == {}
    assert ports.ports == frozenset()


async def test_bits_are_there_before_the_map_and_go_after_it(tmp_path: Path) -> None:
    order: list[object] = []
    ports = Ports()
    node = dns_node(tmp_path, ports=ports)
    endpoint = await node.workloads.add(wanted())
    outer = node.datapath.memory_maps[layout.POLICY.name]
    set_inner, replace_ports = outer.set_inner, ports.replace
    outer.set_inner = lambda *a: (order.append("map"), set_inner(*a))[1]  # type: ignore[method-assign,func-returns-value]

    def note(wanted_ports: frozenset[ProxiedPort]) -> None:
        order.append(set(wanted_ports))
        replace_ports(wanted_ports)

    ports.replace = note  # type: ignore[method-assign, assignment]
    await node.set_policy(endpoint.identity, dns_policy(b"one"))
    await node.set_policy(endpoint.identity, dns_policy(b"two", port=5353))
    new = {ProxiedPort(17, 5353), ProxiedPort(6, 5353)}
    assert order == [{UDP53, TCP53}, "map", {UDP53, TCP53} | new, "map", new]


@pytest.mark.parametrize("redirect", [Redirect("http"), Redirect("dns", "envoy")])
async def test_other_proxies_are_not_there(redirect: Redirect, tmp_path: Path) -> None:
    node = dns_node(tmp_path)
    endpoint = await node.workloads.add(wanted())
    one = policy(rule(AnyPeer(), Action.REDIRECT, one_port(6, 80), Direction.EGRESS, redirect=redirect))
    assert await node.set_policy(endpoint.identity, one) == {
        f"subject:{endpoint.identity}": "NOT_ENFORCEABLE"
    }


async def test_a_node_without_a_proxy_says_so(tmp_path: Path) -> None:
    node = dns_node(tmp_path)
    endpoint = await node.workloads.add(wanted())
    dns_of(node).set_features({"sk_assign": "the kernel is older than 5.7"})
    key = subject_key(endpoint.identity)
    failures = await node.policies.apply({key: dns_policy(b"one")}, (), complete=True)
    assert "this node runs none: switch dns_proxy on, or remove its L7 part" in failures[key].message
    dns_of(node).set_features({"sk_assign": "yes", "skc_lookup_tcp": "yes"})
    node.clock.advance(1)
    await node.policies.retry_due()
    assert node.policies.failures == {}


async def test_the_nodes_own_queries_are_not_redirected() -> None:
    node = MemoryNode(host=True)
    failures = await node.policies.apply({host_key("n1"): dns_policy(b"one")}, (), complete=True)
    assert failures[host_key("n1")].reason == "NOT_ENFORCEABLE"
    assert "this node runs none for itself: remove its L7 part" in failures[host_key("n1")].message


async def test_the_flag_comes_before_the_map_and_goes_after_it(tmp_path: Path) -> None:
    node = dns_node(tmp_path)
    endpoint = await node.workloads.add(wanted())
    seen: list[bool] = []
    outer = node.datapath.memory_maps[layout.POLICY.name]
    set_inner = outer.set_inner

    def note(*arguments: object) -> None:
        seen.append(bool(node.entry(endpoint).flags & layout.ENDPOINT_LEARNED))
        set_inner(*arguments)  # type: ignore[arg-type]

    outer.set_inner = note  # type: ignore[method-assign, assignment]
    await node.set_policy(endpoint.identity, dns_policy(b"one", "a.example.com"))
    await node.set_policy(endpoint.identity, ALLOW_ALL)
    assert seen == [True, True]
    assert not node.entry(endpoint).flags & layout.ENDPOINT_LEARNED


async def test_a_restart_keeps_ports_flag_and_what_was_learned(tmp_path: Path) -> None:
    ports = Ports()
    node = dns_node(tmp_path, ports=ports)
    endpoint = await node.workloads.add(wanted())
    one = dns_policy(b"one", "a.example.com")
    await node.set_policy(endpoint.identity, one)
    proxy = ProxyModel(tmp_path)
    proxy.read_table(node)
    proxy.learn(node, endpoint.endpoint_id, "a.example.com", ADDRESS[4])
    before = learned(node)
    assert before
    again = await restarted(node, tmp_path, ports)
    assert learned(again) == before
    assert ports.ports == {UDP53, TCP53}
    assert again.entry(endpoint).flags & layout.ENDPOINT_LEARNED
    key = subject_key(endpoint.identity)
    assert dns_of(again).redirects == {key: UNKNOWN_DIGEST}, "no rules are dropped because of it"
    again.policies.complete = True
    dns_of(again).opened()  # a session, and the proxy said nothing yet
    assert await again.set_policy(endpoint.identity, one) == {}, "the kernel has it already"
    assert learned(again) == before
    assert dns_of(again).redirects == {key: b"one"}


async def test_holders_that_differ_are_told_by_the_older_one(tmp_path: Path) -> None:
    node = dns_node(tmp_path)
    first = await node.workloads.add(wanted("a", "app=web"))
    await node.workloads.add(wanted("b", "app=web"))
    await node.set_policy(first.identity, dns_policy(b"one"))
    key = subject_key(first.identity)
    in_force = node.policies.judged_by.of(first.endpoint_id)
    await node.set_policy(first.identity, dns_policy(b"two"))
    assert dns_of(node).redirects == {key: b"two"}
    assert in_force is not None
    node.policies.judged_by.switched(in_force, first.endpoint_id, True)
    await node.policies.settle_again()
    assert dns_of(node).redirects == {key: b"one"}


# --- endpoints that come and go


@pytest.mark.parametrize("v", [4, 6])
async def test_nothing_learned_outlives_its_endpoint(v: int, tmp_path: Path) -> None:
    node = dns_node(tmp_path)
    one, two = [await node.workloads.add(wanted(name, f"app={name}")) for name in ("a", "b")]
    bpf_map = node.datapath.maps[layout.LEARNED.name]
    for endpoint in (one, two):
        key = LearnedKey(endpoint.endpoint_id, base.address_bytes(ADDRESS[v])).pack()
        bpf_map.update(key, LearnedEntry(1 << 24, 1 << 60).pack())
    await node.workloads.delete(one.endpoint_id)
    assert set(learned(node)) == {(two.endpoint_id, ADDRESS[v])}


@pytest.mark.parametrize("v", [4, 6])
async def test_a_number_that_is_used_again_inherits_nothing(v: int, tmp_path: Path) -> None:
    """An answer under way when the endpoint went may be written after it."""
    node = dns_node(tmp_path)
    endpoint = await node.workloads.add(wanted("a", "app=a"))
    await node.workloads.delete(endpoint.endpoint_id)
    key = LearnedKey(endpoint.endpoint_id, base.address_bytes(ADDRESS[v])).pack()
    node.datapath.maps[layout.LEARNED.name].update(key, LearnedEntry(1 << 24, 1 << 60).pack())
    node.workloads.numbers.resume(endpoint.endpoint_id - 1 or 65_534)
    again = await node.workloads.add(wanted("b", "app=b"))
    assert again.endpoint_id == endpoint.endpoint_id
    assert learned(node) == {}


# --- names for display


async def test_names_are_those_of_the_time() -> None:
    now = [100]
    names = LearnedNames(lambda: now[0], max_ended=2)
    address = ipaddress.ip_address("192.0.2.7")
    packed = base.address_bytes(address)
    await names.apply({"k": LearnedName(1, packed, ("a.org.",))}, (), complete=True)
    assert names.names(1, address, EVER) == ("a.org.",), "before all was heard it held already"
    assert names.names(2, address, None) == ()
    now[0] = 200
    await names.apply({"k": LearnedName(1, packed, ("a.org.", "b.org."))}, (), complete=False)
    now[0] = 300
    revision = names.revision
    await names.apply({}, ["k", "unknown"], complete=False)
    assert names.revision > revision
    assert [names.names(1, address, t) for t in (150, 250, 350)] == [("a.org.",), ("a.org.", "b.org."), ()]
    assert names.names(1, address, None) == ("a.org.", "b.org.")
    assert list(names.change_times(1, address, 250)) == [300]


def test_an_address_that_is_none_fails_alone() -> None:
    response = fqdn_pb2.SubscribeNamesResponse(
        header=intent_pb2.UpdateHeader(nonce=1),
        upserts=[
            fqdn_pb2.LearnedName(endpoint_id=1, address="192.0.2.7", names=["a.org."]),
            fqdn_pb2.LearnedName(endpoint_id=1, address="nonsense", names=["a.org."]),
        ],
        removed=[fqdn_pb2.LearnedAddress(endpoint_id=2, address="2001:db8::7")],
    )
    update = NamesCodec().decode(response, lambda _: None)
    assert {change.key: change.value for change in update.changes} == {
        "name:1/192.0.2.7": LearnedName(1, base.address_bytes("192.0.2.7"), ("a.org.",)),
        "name:2/2001:db8::7": None,
    }
    assert list(update.failures) == ["name:1/nonsense"]


async def test_equal_content_waits_for_its_rules_too(tmp_path: Path) -> None:
    """Names that may be asked for are no part of the mapstate, and yet of the policy."""
    node = dns_node(tmp_path)
    endpoint = await node.workloads.add(wanted())
    await node.set_policy(endpoint.identity, dns_policy(b"one"))
    dns = dns_of(node)
    dns.opened()
    dns.order.hear({subject_key(endpoint.identity): b"one"}, complete=True, proxy_port=PORT)
    other = replace(dns_policy(b"one"), dns_rules_digest=b"two")
    assert await node.set_policy(endpoint.identity, other) == {
        f"subject:{endpoint.identity}": "DNS_RULES_NOT_READY"
    }


async def test_a_denied_prefix_waits_until_learned_addresses_are_told_apart(tmp_path: Path) -> None:
    node = dns_node(tmp_path)
    one, two = [await node.workloads.add(wanted(name, f"app={name}")) for name in ("a", "b")]
    assert await node.set_policy(one.identity, dns_policy(b"", "a.org", redirect=False)) == {}
    dns = dns_of(node)
    dns.opened()
    denying = dns_policy(b"", deny=("192.0.2.0/24", "2001:db9::/32"), redirect=False)
    key = f"subject:{two.identity}"
    assert await node.set_policy(two.identity, denying) == {key: "DNS_RULES_NOT_READY"}
    assert "192.0.2.0/24" in node.policies.failures[key].message
    assert dns.names.applied(dns.names.table.revision)
    await node.policies.settle_again()
    assert node.policies.failures == {}
