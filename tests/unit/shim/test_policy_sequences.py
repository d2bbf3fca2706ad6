"""Any sequence of updates gives what a fresh build gives: maps, ipcache and table of local identities."""

from __future__ import annotations

import contextlib
import random

import pytest

from axoneme.lib import identities
from axoneme.lib.bpf.errors import BpfError
from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.errors import Unavailable
from axoneme.lib.policy.finish import finish
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    AuthMode,
    CidrDefinition,
    Contribution,
    Direction,
    Enforcement,
    Entity,
    EntitySelector,
    IdentityPeer,
    NamedPort,
    Peer,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from axoneme.lib.policycodec import subject_key
from shim.endpoints import Endpoint, EndpointState
from shim.innermaps import Content
from shim.maps import layout
from tests.conftest import scaled
from tests.unit.shim.memorynode import MemoryNode, policy, rule, wanted

ROOM = 40
PREFIXES = ("10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32", "2001:db8:1::/48", "fd00::7/128")
PORTS = ((), ((6, "http", 80),), ((6, "http", 8080), (17, "dns", 53)))


def random_policy(rng: random.Random) -> SubjectPolicy:
    definitions: dict[str, SelectorDefinition] = {"w": EntitySelector(Entity.WORLD)}
    rules: list[Contribution] = []
    for index in range(rng.choice((0, 1, 2, 4))):
        definitions[f"x{index}"] = CidrDefinition(
            include=tuple(rng.sample(PREFIXES, rng.randint(1, 2))),
            exclude=tuple(rng.sample(PREFIXES, rng.randint(0, 1))),
        )
        peers: list[Peer] = [AnyPeer(), SelectorPeer("w"), SelectorPeer(f"x{index}")]
        peers += [IdentityPeer(7_000 + rng.randint(0, 6)) for _ in range(3)]
        for peer in rng.sample(peers, rng.randint(1, 4)):
            ports = rng.choice((ANY_PORT, one_port(6, 80), NamedPort(6, "http"), NamedPort(17, "dns")))
            direction = Direction.INGRESS if isinstance(ports, NamedPort) else rng.choice(list(Direction))
            action = rng.choice((Action.ALLOW, Action.ALLOW, Action.DENY))
            rules.append(rule(peer, action, ports, direction))
    if rng.random() < 0.1:
        rules += [rule(IdentityPeer(8_000 + number)) for number in range(ROOM + 1)]
    if rng.random() < 0.1:
        rules.append(rule(IdentityPeer(7_000), auth=AuthMode.REQUIRED))
    defaults = [rng.choice(list(Enforcement)) for _ in Direction]
    return policy(*rules, ingress=defaults[0], egress=defaults[1], **definitions)


def fresh(node: MemoryNode, endpoint: Endpoint, one: SubjectPolicy) -> Content:
    """What a map for the endpoint would hold if it were made now."""
    ports = {(protocol, name): number for protocol, name, number in endpoint.named_ports}
    entries = finish(one, local_identities=node.local.labels(), named_ports=ports)
    return {
        layout.policy_key(key): layout.policy_entry(key, e, cookie=node.cookies.cookie_of(e.origins))
        for key, e in entries.items()
    }


class Flaky:
    """Memory maps of which one in a few writes fails while it is on."""

    def __init__(self, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on, self._rng = False, rng
        for name in ("update", "delete"):
            monkeypatch.setattr(MemoryMap, name, self._failing(getattr(MemoryMap, name)))

    def _failing(self, original: object) -> object:
        def write(one: MemoryMap, *arguments: bytes) -> object:
            if self.on and one.name == layout.POLICY_INNER.name and self._rng.random() < 0.1:
                raise BpfError(12, "write", one.name)
            return original(one, *arguments)  # type: ignore[operator]

        return write


@pytest.mark.parametrize("seed", range(scaled(30, 500)))
async def test_any_sequence_ends_as_a_fresh_build(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    node, flaky = MemoryNode(max_entries=ROOM), Flaky(rng, monkeypatch)
    node.ipcache.commit()
    for step in range(25):
        flaky.on = rng.random() < 0.3
        await one_step(rng, node, step)
        check_whole(node)
        if rng.random() < 0.05:
            node = await restarted(node)
    flaky.on = False
    last = {subject_key(e.identity): random_policy(rng) for e in node.endpoints}
    await node.policies.apply(last, (), complete=True)
    for _ in range(4):
        node.clock.advance(100)
        await node.policies.retry_due()
    await node.policies.audit()
    check_converged(node)
    for endpoint in list(node.endpoints):
        await node.workloads.delete(endpoint.endpoint_id)
    assert set(node.local.labels()) == {9, 10}
    assert node.datapath.maps[layout.IPEXACT.name].items() == []
    assert len(node.datapath.maps[layout.IPCACHE.name].items()) == 2, "the worlds"


async def restarted(node: MemoryNode) -> MemoryNode:
    """Another life over the same kernel and state file; policies come later."""
    again = MemoryNode(node.datapath, node.services, max_entries=ROOM)
    again.interest.update(node.interest)
    again.cookies.load(node.cookies.dump())
    again.ipcache.load()
    again.local.load(node.local.dump(), again.ipcache.holds)
    again.workloads.ipam = node.workloads.ipam
    await again.workloads.restore(list(node.endpoints), node.workloads.numbers.last_given)
    await again.policies.resume()
    for stream in ("ipcache", "nodes"):
        again.ipcache.heard(stream)
    again.ipcache.commit()
    return again


async def one_step(rng: random.Random, node: MemoryNode, step: int) -> None:
    living = list(node.endpoints)
    if not living or (len(living) < 5 and rng.random() < 0.2):
        node.default_policy = random_policy(rng)
        one = wanted(f"pod{step}", rng.choice(("app=a", "app=b", "app=c")), named_ports=rng.choice(PORTS))
        with contextlib.suppress(Unavailable):  # locked: its first policy cannot be in force
            await node.workloads.add(one)
    elif rng.random() < 0.1:
        await node.workloads.delete(rng.choice(living).endpoint_id)
    else:
        changed = {e.identity: random_policy(rng) for e in rng.sample(living, rng.randint(1, len(living)))}
        await node.policies.apply({subject_key(n): p for n, p in changed.items()}, (), complete=True)


def check_whole(node: MemoryNode) -> None:
    """A map holds one policy as a whole; the ipcache has no number that has no meaning."""
    published = {
        layout.IpcacheEntry.unpack(raw).identity
        for name in (layout.IPEXACT.name, layout.IPCACHE.name)
        for _, raw in node.datapath.maps[name].items()
    }
    assert all(node.local.labels_of(number) for number in published if identities.is_local(number))
    for endpoint in node.endpoints:
        in_force = node.policies.in_force(endpoint.endpoint_id)
        if endpoint.state is EndpointState.READY and in_force is not None:
            assert in_force is node.policies.policies[subject_key(endpoint.identity)]
            assert held(node, endpoint) == fresh(node, endpoint, in_force)


def check_converged(node: MemoryNode) -> None:
    for endpoint in node.endpoints:
        in_force = node.policies.in_force(endpoint.endpoint_id)
        if endpoint.state is EndpointState.LOCKED:
            assert in_force is None
            assert node.outer_id(endpoint) is None
            continue
        if in_force is None:  # of an earlier life, and what came since is refused
            assert subject_key(endpoint.identity) in node.policies.failures
            continue
        if endpoint.state is EndpointState.READY:
            assert in_force is node.policies.policies[subject_key(endpoint.identity)]
        else:
            assert subject_key(endpoint.identity) in node.policies.failures
        assert held(node, endpoint) == fresh(node, endpoint, in_force)


def held(node: MemoryNode, endpoint: Endpoint) -> Content:
    bpf_map = node.policies.map_of(endpoint.endpoint_id)
    assert bpf_map is not None
    assert node.outer_id(endpoint) == bpf_map.map_id
    return dict(bpf_map.items())
