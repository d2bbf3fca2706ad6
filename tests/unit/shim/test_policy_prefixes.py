"""Prefixes that policies name: told apart only when every map knows them, and never to another's harm."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator

import pytest

from axoneme.lib import identities
from axoneme.lib.bpf.errors import BpfError, MapFullError
from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.policy.model import (
    Action,
    AnyPeer,
    CidrDefinition,
    Contribution,
    Direction,
    Enforcement,
    Entity,
    EntitySelector,
    FqdnDefinition,
    IdentityPeer,
    Peer,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from shim.endpoints import Endpoint, EndpointState
from shim.ipcache import Contribution as Statement
from shim.ipcache import IpcacheValue, Rank
from shim.localidentities import LocalIdentities, LocalKey
from shim.maps import base, layout
from shim.nodeipcache import NODE_STREAM
from tests.conftest import scaled
from tests.unit.shim.memorynode import ALLOW_ALL, MAX_ENTRIES, MemoryNode, policy, rule, wanted

FIRST = identities.LOCAL_SCOPE
WIDE = {4: "10.0.0.0/8", 6: "2001:db8::/32"}
NARROW = {4: "10.1.0.0/16", 6: "2001:db8:1::/48"}
IN_WIDE = {4: "10.200.0.1", 6: "2001:db8:ff::1"}
IN_NARROW = {4: "10.1.2.3", 6: "2001:db8:1::3"}
OUTSIDE = {4: "192.0.2.1", 6: "2001:db9::1"}
families = pytest.mark.parametrize("v", [4, 6])


def cidr(*include: str, exclude: tuple[str, ...] = ()) -> CidrDefinition:
    return CidrDefinition(include=include, exclude=exclude)


def deny_cidr(*include: str) -> SubjectPolicy:
    """Allow all, deny some."""
    rules = (rule(AnyPeer()), rule(SelectorPeer("x"), Action.DENY))
    return policy(*rules, x=cidr(*include))


def allow_cidr(*include: str, exclude: tuple[str, ...] = ()) -> SubjectPolicy:
    return policy(rule(SelectorPeer("x")), x=cidr(*include, exclude=exclude))


async def node_with(*names: str, max_entries: int = MAX_ENTRIES) -> tuple[MemoryNode, list[Endpoint]]:
    node = MemoryNode(max_entries=max_entries)
    node.ipcache.commit()
    return node, [await node.workloads.add(wanted(name)) for name in names]


def ingress(node: MemoryNode, endpoint: Endpoint, address: str) -> str:
    return node.verdict(endpoint, Direction.INGRESS, address, 6, 80)


@families
async def test_a_named_prefix_gets_a_number_in_maps_and_ipcache(v: int) -> None:
    node, [web] = await node_with("web")
    assert await node.set_policy(web.identity, allow_cidr(WIDE[v], exclude=(NARROW[v],))) == {}
    assert node.identity_of(IN_WIDE[v]) in (FIRST, FIRST + 1)
    assert node.identity_of(IN_WIDE[v]) != node.identity_of(IN_NARROW[v])
    assert ingress(node, web, IN_WIDE[v]) == "allow"
    assert ingress(node, web, IN_NARROW[v]) == ingress(node, web, OUTSIDE[v]) == "none"


@families
async def test_cve_2024_47825_a_narrower_prefix_of_another_policy_does_not_lift_a_deny(v: int) -> None:
    """GHSA-3wwx-63fv-pfq6: broad CIDR deny ignored beside a narrower prefix that `all` allows."""
    node, [web, other] = await node_with("web", "other")
    await node.set_policy(web.identity, deny_cidr(WIDE[v]))
    assert ingress(node, web, IN_NARROW[v]) == "deny"
    generation = node.entry(web).policy_generation
    await node.set_policy(other.identity, allow_cidr(NARROW[v]))
    assert node.identity_of(IN_NARROW[v]) != node.identity_of(IN_WIDE[v])
    assert ingress(node, web, IN_NARROW[v]) == ingress(node, web, IN_WIDE[v]) == "deny"
    assert ingress(node, web, OUTSIDE[v]) == "allow"
    assert ingress(node, other, IN_NARROW[v]) == "allow"
    assert node.entry(web).policy_generation == generation + 1, "changed in place, judged again"
    await node.set_policy(other.identity, ALLOW_ALL)
    assert node.identity_of(IN_NARROW[v]) == node.identity_of(IN_WIDE[v])
    assert ingress(node, web, IN_NARROW[v]) == "deny"


@families
async def test_world_rules_cover_every_named_prefix(v: int) -> None:
    node, [web, other] = await node_with("web", "other")
    world = policy(rule(SelectorPeer("w"), ports=one_port(6, 80)), w=EntitySelector(Entity.WORLD))
    await node.set_policy(web.identity, world)
    await node.set_policy(other.identity, allow_cidr(WIDE[v], f"{IN_NARROW[v]}/{32 if v == 4 else 128}"))
    for address in (IN_WIDE[v], IN_NARROW[v], OUTSIDE[v]):
        assert ingress(node, web, address) == "allow"
        assert node.verdict(web, Direction.INGRESS, address, 6, 81) == "none"


async def test_a_rule_for_everything_needs_no_number() -> None:
    node, [web] = await node_with("web")
    await node.set_policy(web.identity, allow_cidr("0.0.0.0/0"))
    assert node.identity_of("192.0.2.1") == identities.WORLD_IPV4
    assert ingress(node, web, "192.0.2.1") == "allow"
    assert ingress(node, web, "2001:db9::1") == "none"


class Journal:
    """The order in which the kernel sees entries of a policy map, of the ipcache, and generations."""

    def __init__(self, node: MemoryNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        update, delete, set_inner = MemoryMap.update, MemoryMap.delete, MemoryMap.set_inner

        def note_update(one: MemoryMap, key: bytes, value: bytes) -> None:
            self.note("+", one.name, key)
            update(one, key, value)

        def note_delete(one: MemoryMap, key: bytes) -> bool:
            self.note("-", one.name, key)
            return delete(one, key)

        def note_switch(one: MemoryMap, key: bytes, inner: MemoryMap) -> None:
            set_inner(one, key, inner)
            self.lines.append("switch")

        monkeypatch.setattr(MemoryMap, "update", note_update)
        monkeypatch.setattr(MemoryMap, "delete", note_delete)
        monkeypatch.setattr(MemoryMap, "set_inner", note_switch)

    def note(self, sign: str, name: str, key: bytes) -> None:
        if name == layout.POLICY_INNER.name:
            number = layout.policy_key_from_bytes(key).identity
            self.lines += [f"{sign}policy"] if identities.is_local(number) else []
        elif name in (layout.IPEXACT.name, layout.IPCACHE.name):
            self.lines.append(f"{sign}ipcache")
        elif name == layout.EP.name:
            self.lines.append("generation")


@families
async def test_r_86_maps_before_the_ipcache_and_back_in_reverse(
    v: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, [web, other] = await node_with("web", "other")
    world = policy(rule(SelectorPeer("w")), w=EntitySelector(Entity.WORLD))
    await node.set_policy(web.identity, world)
    journal = Journal(node, monkeypatch)
    await node.set_policy(other.identity, allow_cidr(NARROW[v]))
    assert journal.lines == [
        *("+policy", "generation"),  # the map in force of web, in place
        "+ipcache",
        *("+policy", "switch", "generation"),  # the new map of other
    ]
    journal.lines.clear()
    await node.set_policy(other.identity, policy())
    assert journal.lines == [
        *("-policy", "generation"),  # the new policy of other, in place
        "-ipcache",
        *("-policy", "generation"),  # what web's rule for the world had of it
    ]


async def test_numbers_are_on_disk_before_a_map_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    node, [web] = await node_with("web")
    before = node.checkpoints
    await node.set_policy(web.identity, allow_cidr("10.0.0.0/8"))
    assert node.checkpoints == before + 1

    def fail() -> None:
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(node.policies._prefixes, "_checkpoint", fail)
        failures = await node.set_policy(web.identity, allow_cidr("192.0.2.0/24"))
    assert failures == {f"subject:{web.identity}": "PREFIX_NOT_PUBLISHED"}
    assert ingress(node, web, "10.0.0.1") == "allow", "the last policy stays whole"
    assert ingress(node, web, "192.0.2.1") == "none"
    node.clock.advance(1)
    assert await node.policies.retry_due()
    assert ingress(node, web, "192.0.2.1") == "allow"
    assert node.policies.failures == {}


@families
async def test_a_map_without_room_keeps_a_prefix_back_and_with_it_the_policy_that_names_it(v: int) -> None:
    """Published, the new number would be allowed by web's `all`, though web denies the wider prefix."""
    node, [web, other] = await node_with("web", "other")
    filling = [rule(IdentityPeer(7_000 + number), Action.DENY) for number in range(MAX_ENTRIES - 3)]
    full = (rule(AnyPeer()), rule(SelectorPeer("x"), Action.DENY), *filling)
    assert await node.set_policy(web.identity, policy(*full, x=cidr(WIDE[v]))) == {}
    failures = await node.set_policy(other.identity, allow_cidr(NARROW[v]))
    assert failures[f"subject:{other.identity}"] == "PREFIX_NOT_PUBLISHED"
    assert node.identity_of(IN_NARROW[v]) == node.identity_of(IN_WIDE[v])
    assert ingress(node, web, IN_NARROW[v]) == "deny"
    shown = node.endpoints.require(other.endpoint_id)
    assert shown.state is EndpointState.STALE
    assert "default/web" in shown.state_reason
    assert ingress(node, other, IN_NARROW[v]) == "allow", "its last policy, which allowed everything"
    assert await node.set_policy(web.identity, deny_cidr(WIDE[v])) == {}, "room again: both at once"
    assert ingress(node, web, IN_NARROW[v]) == "deny"
    assert ingress(node, other, OUTSIDE[v]) == "none"
    assert node.endpoints.require(other.endpoint_id).state is EndpointState.READY


async def test_a_full_ipcache_keeps_the_last_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    node, [web] = await node_with("web")
    trie = node.datapath.memory_maps[layout.IPCACHE.name]

    def full(key: bytes, value: bytes) -> None:
        raise MapFullError(28, "update", trie.name)

    with monkeypatch.context() as patch:
        patch.setattr(trie, "update", full)
        failures = await node.set_policy(web.identity, deny_cidr("10.0.0.0/8"))
        assert failures == {f"subject:{web.identity}": "MAP_FULL"}
        assert ingress(node, web, "10.0.0.1") == "allow"
    node.clock.advance(1)
    node.ipcache.commit()
    assert await node.policies.retry_due()
    assert ingress(node, web, "10.0.0.1") == "deny"


async def test_the_last_policy_keeps_up_with_the_table_while_a_newer_one_is_refused() -> None:
    node, [web, other] = await node_with("web", "other")
    await node.set_policy(web.identity, deny_cidr("10.0.0.0/8"))
    too_large = policy(*[rule(IdentityPeer(7_000 + number)) for number in range(MAX_ENTRIES + 1)])
    assert set((await node.set_policy(web.identity, too_large)).values()) == {"POLICY_MAP_FULL"}
    failures = await node.set_policy(other.identity, allow_cidr("10.1.0.0/16"))
    assert failures == {f"subject:{web.identity}": "POLICY_MAP_FULL"}
    assert node.identity_of("10.1.2.3") != node.identity_of("10.2.2.3")
    assert ingress(node, web, "10.1.2.3") == ingress(node, web, "10.2.2.3") == "deny"


@families
async def test_a_prefix_inside_a_pod_network_makes_no_unknown_pod_the_world(v: int) -> None:
    pods = {4: "10.9.0.0/24", 6: "fd00:9::/64"}[v]
    pod = {4: "10.9.0.7", 6: "fd00:9::7"}[v]
    node, [web, other] = await node_with("web", "other")
    world = policy(rule(SelectorPeer("w")), w=EntitySelector(Entity.WORLD))
    await node.set_policy(web.identity, world)
    host = f"{pod}/{32 if v == 4 else 128}"
    await node.set_policy(other.identity, allow_cidr(host))
    assert node.identity_of(pod) >= FIRST
    unmanaged = Statement(
        rank=Rank.POD_CIDR, source="east/n2", value=IpcacheValue(identity=identities.UNMANAGED)
    )
    node.ipcache.merge.put(pods, unmanaged)
    node.ipcache.commit()
    assert node.identity_of(pod) == identities.UNMANAGED
    assert ingress(node, web, pod) == ingress(node, other, pod) == "none"
    await node.set_policy(other.identity, allow_cidr(host, pods))
    assert node.identity_of(pod) == identities.UNMANAGED
    node.ipcache.merge.remove(pods, Rank.POD_CIDR, "east/n2")
    node.ipcache.commit()
    assert node.identity_of(pod) >= FIRST
    assert ingress(node, other, pod) == "allow"


async def test_pod_networks_of_the_kernel_count_until_the_nodes_were_heard() -> None:
    node = MemoryNode()
    key = base.IpcacheKey.of("10.9.0.0/24").pack()
    value = layout.IpcacheEntry(identities.UNMANAGED).pack()
    node.datapath.maps[layout.IPCACHE.name].update(key, value)
    node.ipcache.load()
    web = await node.workloads.add(wanted("web"))
    await node.set_policy(web.identity, allow_cidr("10.9.0.7/32"))
    assert node.identity_of("10.9.0.7") == identities.UNMANAGED
    node.ipcache.heard(NODE_STREAM)
    node.ipcache.commit()
    assert node.identity_of("10.9.0.7") >= FIRST


async def test_pods_and_nodes_keep_their_own_identity() -> None:
    node, [web] = await node_with("web")
    node.ipcache.put_addresses(Rank.NODE, "east/n2", identities.REMOTE_NODE, ["192.0.2.7"])
    node.ipcache.commit()
    await node.set_policy(web.identity, allow_cidr("192.0.2.7/32", f"{web.ips[0]}/32"))
    assert node.identity_of("192.0.2.7") == identities.REMOTE_NODE
    assert node.identity_of(web.ips[0]) == web.identity


async def restarted(node: MemoryNode) -> MemoryNode:
    """Another life of the shim over the same kernel, with what the state file would hold."""
    again = MemoryNode(node.datapath, node.services)
    again.interest.update(node.interest)  # policies come later
    again.ipcache.load()
    again.local.load(node.local.dump(), again.ipcache.holds)
    await again.workloads.restore(list(node.endpoints))
    await again.policies.resume()
    return again


@families
async def test_a_restart_keeps_numbers_prefixes_and_denials(v: int) -> None:
    node, [web, other] = await node_with("web", "other")
    await node.set_policy(web.identity, deny_cidr(WIDE[v]))
    before = node.identity_of(IN_WIDE[v])
    again = await restarted(node)
    for stream in ("ipcache", "nodes"):
        again.ipcache.heard(stream)
    again.ipcache.commit()
    assert again.identity_of(IN_WIDE[v]) == before
    assert ingress(again, web, IN_WIDE[v]) == "deny"
    await again.set_policy(other.identity, allow_cidr(NARROW[v]))
    assert again.identity_of(IN_NARROW[v]) == before, "web's map does not know the new number yet"
    assert ingress(again, web, IN_NARROW[v]) == "deny"
    assert await again.set_policy(web.identity, deny_cidr(WIDE[v])) == {}
    assert again.identity_of(IN_NARROW[v]) not in (before, *range(11))
    assert again.identity_of(IN_WIDE[v]) == before
    assert ingress(again, web, IN_NARROW[v]) == ingress(again, web, IN_WIDE[v]) == "deny"
    assert ingress(again, other, IN_NARROW[v]) == "allow"


async def test_a_restart_lets_prefixes_go_once_every_map_is_known() -> None:
    node, [web] = await node_with("web")
    await node.set_policy(web.identity, deny_cidr("10.0.0.0/8"))
    again = await restarted(node)
    assert again.identity_of("10.0.0.1") == FIRST
    await again.set_policy(web.identity, ALLOW_ALL)
    assert again.identity_of("10.0.0.1") == identities.WORLD_IPV4
    assert set(again.local.labels()) == {9, 10}


async def test_a_new_prefix_of_the_policy_of_an_unknown_map_comes_with_the_policy() -> None:
    node, [web] = await node_with("web")
    await node.set_policy(web.identity, deny_cidr("10.0.0.0/8"))
    again = await restarted(node)
    assert await again.set_policy(web.identity, deny_cidr("10.0.0.0/8", "192.0.2.0/24")) == {}
    assert ingress(again, web, "192.0.2.1") == ingress(again, web, "10.0.0.1") == "deny"
    # A connection judged between the switch and the ipcache has the old identity: once more.
    assert again.entry(web).policy_generation >= node.entry(web).policy_generation


async def test_prefixes_go_with_the_last_endpoint() -> None:
    node, [web, other] = await node_with("web", "other")
    await node.set_policy(web.identity, allow_cidr("10.0.0.0/8"))
    await node.workloads.delete(web.endpoint_id)
    assert node.identity_of("10.0.0.1") == identities.WORLD_IPV4
    assert set(node.local.labels()) == {9, 10}
    assert ingress(node, other, "10.0.0.1") == "allow"


@families
async def test_maps_learn_numbers_of_dns_selectors(v: int) -> None:
    node, [web] = await node_with("web")
    dns = rule(SelectorPeer("d"), direction=Direction.EGRESS, ports=one_port(6, 443))
    one = policy(dns, egress=Enforcement.DEFAULT_DENY, d=FqdnDefinition("example.com"))
    assert await node.set_policy(web.identity, one) == {}
    everything = {4: "0.0.0.0/0", 6: "::/0"}[v]
    names = frozenset({"example.com", "*.com"})
    node.local.want_names([LocalKey(everything, names), LocalKey(everything, frozenset({"*.org"}))])
    assert await node.policies.finish_again() == {}
    held = node.policies.map_of(web.endpoint_id)
    assert held is not None
    keys = [layout.policy_key_from_bytes(key) for key, _ in held.items()]
    assert [key.identity for key in keys] == [node.local.number_of(everything, names)]
    node.local.want_names([])
    await node.policies.finish_again()
    assert held.items() == []
    assert set(node.local.labels()) == {9, 10}


async def test_a_failure_that_another_change_heals_is_told() -> None:
    node, [web, other] = await node_with("web", "other")
    filling = [rule(IdentityPeer(7_000 + number), Action.DENY) for number in range(MAX_ENTRIES - 3)]
    full = (rule(AnyPeer()), rule(SelectorPeer("x"), Action.DENY), *filling)
    await node.set_policy(web.identity, policy(*full, x=cidr("10.0.0.0/8")))
    assert f"subject:{other.identity}" in await node.set_policy(other.identity, allow_cidr("10.1.0.0/16"))
    node.endpoints.remove(web.endpoint_id)
    await node.policies.remove_endpoint(web.endpoint_id)
    assert await node.policies.retry_due()
    assert node.policies.failures == {}
    assert not await node.policies.retry_due()
    assert ingress(node, other, "10.1.2.3") == "allow"


# --- twin: random policies of several subjects, judged by the text of the rules

UNIVERSE = {
    4: ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "192.0.2.0/24"],
    6: ["::/0", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1:2::/64", "2001:db8:1:2::3/128", "fd00::/8"],
}
PROBES = {
    4: ["10.9.9.9", "10.1.9.9", "10.1.2.9", "10.1.2.3", "192.0.2.1", "198.51.100.1"],
    6: ["2001:db8:9::9", "2001:db8:1:9::9", "2001:db8:1:2::9", "2001:db8:1:2::3", "fd00::1", "2001:db9::1"],
}


def random_policy(rng: random.Random) -> SubjectPolicy:
    definitions: dict[str, SelectorDefinition] = {"w": EntitySelector(Entity.WORLD)}
    rules: list[Contribution] = []
    for index in range(rng.randint(0, 4)):
        pool = UNIVERSE[4] + UNIVERSE[6]
        include = tuple(rng.sample(pool, rng.randint(1, 2)))
        definitions[f"x{index}"] = cidr(*include, exclude=tuple(rng.sample(pool, rng.randint(0, 2))))
        peer: Peer = rng.choice([AnyPeer(), SelectorPeer("w"), *[SelectorPeer(f"x{index}")] * 4])
        action = rng.choice([Action.ALLOW, Action.ALLOW, Action.DENY])
        ports = rng.choice([rule(AnyPeer()).ports, one_port(6, 80)])
        rules.append(rule(peer, action, ports, rng.choice(list(Direction))))
    defaults = [rng.choice(list(Enforcement)) for _ in Direction]
    return policy(*rules, ingress=defaults[0], egress=defaults[1], **definitions)


def by_hand(one: SubjectPolicy, direction: Direction, address: str, port: int) -> bool:
    """Deny wins, then allow, then the default; selectors by the text of their prefixes."""
    found = {c.action for c in matching(one, direction, address, port)}
    if Action.DENY in found:
        return False
    return Action.ALLOW in found or one.enforcement(direction) is Enforcement.DEFAULT_ALLOW


def matching(one: SubjectPolicy, direction: Direction, address: str, port: int) -> Iterator[Contribution]:
    for contribution in one.contributions:
        if contribution.direction is not direction:
            continue
        if contribution.ports == one_port(6, 80) and port != 80:
            continue
        peer = contribution.peer
        if not isinstance(peer, SelectorPeer) or holds(one.selectors[peer.key], address):
            yield contribution


def holds(definition: SelectorDefinition, address: str) -> bool:
    if not isinstance(definition, CidrDefinition):
        return True
    parsed = ipaddress.ip_address(address)
    inside = [prefix for prefix in definition.include if parsed in ipaddress.ip_network(prefix)]
    return bool(inside) and not any(parsed in ipaddress.ip_network(prefix) for prefix in definition.exclude)


@pytest.mark.parametrize("seed", range(scaled(25, 400)))
async def test_verdicts_depend_on_the_own_policy_alone(seed: int) -> None:
    rng = random.Random(seed)
    node, endpoints = await node_with("a", "b", "c", max_entries=layout.POLICY_INNER.max_entries)
    held = {endpoint.endpoint_id: ALLOW_ALL for endpoint in endpoints}
    for _ in range(8):
        endpoint, one = rng.choice(endpoints), random_policy(rng)
        assert await node.set_policy(endpoint.identity, one) == {}
        held[endpoint.endpoint_id] = one
        for known in endpoints:
            for address in PROBES[4] + PROBES[6]:
                for direction, port in ((d, p) for d in Direction for p in (80, 81)):
                    shown = node.verdict(known, direction, address, 6, port) == "allow"
                    wanted_verdict = by_hand(held[known.endpoint_id], direction, address, port)
                    assert shown == wanted_verdict, (known.pod_name, direction, address, port)
    for endpoint in endpoints:
        await node.set_policy(endpoint.identity, ALLOW_ALL)
    assert set(node.local.labels()) == {9, 10}
    assert LocalIdentities().labels() == node.local.labels()


async def test_a_failed_write_in_place_is_healed_by_a_new_map(monkeypatch: pytest.MonkeyPatch) -> None:
    node, [web, other] = await node_with("web", "other")
    await node.set_policy(web.identity, deny_cidr("10.0.0.0/8"))
    inner = node.policies.map_of(web.endpoint_id)
    assert inner is not None
    before = node.outer_id(web)

    def refuse(*_: object) -> None:
        raise BpfError(12, "update", "map")

    with monkeypatch.context() as patch:
        patch.setattr(inner, "update", refuse)
        assert await node.set_policy(other.identity, allow_cidr("10.1.0.0/16")) == {}
    assert node.outer_id(web) != before
    assert ingress(node, web, "10.1.2.3") == "deny"
