"""Redirects, rules, names and numbers in whatever order things happen.

After each step, and at each write to a map of the kernel: no learned address has a number that a policy
map in force does not know. After each step: what was switched to while the proxy was connected has its rules
there, and the proxy has them as long as the session lasts.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import random
from pathlib import Path

import pytest

from axoneme.lib.bpf.memory import MemoryMap
from axoneme.lib.dnsnames import matches
from axoneme.lib.errors import AlreadyExists, Unavailable
from axoneme.lib.policy.model import Action, CidrDefinition, Direction, FqdnDefinition, SubjectPolicy
from axoneme.lib.policycodec import subject_key
from shim.endpoints import Endpoint, EndpointState
from shim.maps import layout
from shim.maps.proxied import ProxiedPort
from tests.conftest import scaled
from tests.unit.shim.dns.dnsnode import (
    Ports,
    ProxyModel,
    dns_node,
    dns_of,
    dns_policy,
    learned,
    restarted,
)
from tests.unit.shim.memorynode import ALLOW_ALL, MemoryNode, wanted

VARIANTS: tuple[SubjectPolicy, ...] = (
    ALLOW_ALL,
    dns_policy(b"one", "a.example.com"),
    dns_policy(b"two", "*.example.com", deny=("10.0.0.0/8", "2001:db8::/32")),
    dns_policy(b"three", "*.example.com", "a.example.com", "*.org", port=5353),
    dns_policy(b"four", "b.*", deny=("10.1.0.0/16",)),
    dns_policy(b"", "**.com", redirect=False),
)
NAMES = ("a.example.com", "b.example.com", "b.org", "x.y.com", "nobody.net")
ADDRESSES = ("10.1.2.3", "10.2.0.1", "192.0.2.7", "2001:db8::7", "2001:db9::7")


class World:
    """A node, its proxy and the invariants."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = Ports()
        self.node = dns_node(directory, ports=self.ports)
        self.proxy = ProxyModel(directory)
        self.alive = True
        self.known: set[int] = set()
        self.checked: dict[int, SubjectPolicy] = {}  # switched to, or found right, in this session

    # --- invariants

    def check_numbers(self) -> None:
        """Also called in the middle of things, by each write to the kernel."""
        node = self.node
        dns, covered = dns_of(node), node.policies.judged_by.covered(node.local.revision)
        key_of = {number: key for key, number in node.local.numbers().items()}
        # A number that all maps knew is known to them until it is retired, across restarts too.
        fresh = {
            number for key, number in node.local.numbers().items() if node.local.known_number(key, covered)
        }
        self.known = (self.known & key_of.keys()) | fresh
        for place, number in learned(node).items():
            key = key_of.get(number)
            assert key is not None, (place, number, "is of nobody")
            assert number in self.known, (place, key, "is not known to all maps")
        assert all(key in key_of.values() for key in dns.names.table.named), (
            "the file has only numbers that live"
        )

    def check(self) -> None:
        self.check_numbers()
        self.check_redirects()
        self.check_ports()

    def check_redirects(self) -> None:
        node = self.node
        if not dns_of(node).order.connected:
            self.checked.clear()
            return
        for endpoint in node.endpoints:
            one = node.policies.judged_by.of(endpoint.endpoint_id)
            if one is None or one.policy is None or not one.redirected:
                self.checked.pop(endpoint.endpoint_id, None)
                continue
            right = one.policy.dns_rules_digest in self.proxy.has(subject_key(endpoint.identity))
            if endpoint.endpoint_id in self.checked:
                assert right, "redirected, and the proxy has no rules for it"
            elif right:
                self.checked[endpoint.endpoint_id] = one.policy

    def check_ports(self) -> None:
        """Every redirect in the kernel has its bit."""
        for endpoint in self.node.endpoints:
            bpf_map = self.node.policies.map_of(endpoint.endpoint_id)
            for key, value in bpf_map.items() if bpf_map is not None else ():
                if layout.policy_entry_redirects(value):
                    ports = layout.policy_key_from_bytes(key).ports
                    assert ProxiedPort(ports.protocol, ports.port) in self.ports.ports
                    assert layout.PolicyEntry.unpack(value).proxy_port == 10_053

    # --- what happens

    async def tell(self, policies: dict[int, SubjectPolicy]) -> None:
        """Policies arrive, and with a session none with redirects comes into force before its rules."""
        before = {e.endpoint_id: self.node.policies.in_force(e.endpoint_id) for e in self.node.endpoints}
        upserts = {subject_key(number): one for number, one in policies.items()}
        await self.node.policies.apply(upserts, (), complete=True)
        self.check_switches(before)

    def check_switches(self, before: dict[int, SubjectPolicy | None]) -> None:
        if not dns_of(self.node).order.connected:
            return
        for number, was in before.items():
            one = self.node.policies.judged_by.of(number)
            endpoint = self.node.endpoints.get(number)
            if endpoint is None or one is None or one.policy is was or was is None or not one.redirected:
                continue
            assert one.policy is not None
            assert one.policy.dns_rules_digest in self.proxy.has(subject_key(endpoint.identity))
            self.checked[number] = one.policy

    async def settle(self) -> None:
        before = {e.endpoint_id: self.node.policies.in_force(e.endpoint_id) for e in self.node.endpoints}
        await self.node.policies.settle_again()
        self.check_switches(before)

    def connect(self) -> None:
        if self.alive and not self.proxy.connected:
            self.proxy.connect(self.node)

    def lose(self) -> None:
        if self.proxy.connected:
            self.proxy.lose(self.node)

    def kill_proxy(self) -> None:
        """What it had on disk it has again: rules, cache; the kernel has what was learned."""
        self.lose()
        self.alive = False

    def start_proxy(self) -> None:
        if not self.alive:
            self.alive = True
            self.proxy.read_table(self.node)

    async def restart(self) -> None:
        self.lose()
        self.checked.clear()
        self.node = await restarted(self.node, self.directory, self.ports)

    async def drain(self) -> None:
        """Everybody works off what there is."""
        for _ in range(6):
            while self.proxy.to_proxy:
                self.proxy.take_one(self.node)
                self.check()
            while self.proxy.to_shim:
                self.proxy.tell_one(self.node)
                self.check()
            await self.settle()
            self.check()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    one = World(tmp_path)
    for name in ("update", "delete", "set_inner"):
        monkeypatch.setattr(MemoryMap, name, watched(getattr(MemoryMap, name), one))
    return one


def watched(original: object, world: World) -> object:
    def write(bpf_map: MemoryMap, *arguments: object) -> object:
        result = original(bpf_map, *arguments)  # type: ignore[operator]
        if bpf_map.name in (layout.POLICY.name, layout.POLICY_INNER.name, layout.EP.name):
            world.check_numbers()
        return result

    return write


# --- every order of the few things that matter

EVENTS = ("mapstate", "rules", "lost", "back", "restart", "mapstate 2", "rules 2")


@pytest.mark.parametrize("first", EVENTS)
async def test_every_order(first: str, tmp_path: Path) -> None:
    rest = [event for event in EVENTS if event != first]
    orders = [(first, *others) for others in itertools.permutations(rest)]
    rng = random.Random(first)
    for number, order in enumerate(rng.sample(orders, scaled(60, len(orders)))):
        directory = tmp_path / str(number)
        directory.mkdir()
        await one_order(World(directory), order)


async def one_order(world: World, order: tuple[str, ...]) -> None:
    endpoint = await world.node.workloads.add(wanted())
    identity, key = endpoint.identity, subject_key(endpoint.identity)
    world.connect()
    await world.drain()
    last: SubjectPolicy = ALLOW_ALL
    for event in order:
        if event.startswith("mapstate"):
            last = VARIANTS[2 if event.endswith("2") else 1]
            await world.tell({identity: last})
        elif event.startswith("rules"):
            world.proxy.get_rules(key, b"two" if event.endswith("2") else b"one")
        elif event == "lost":
            world.lose()
        elif event == "back":
            world.connect()
        else:
            await world.restart()
            await world.tell({identity: last})
        world.check()
        for _ in range(2):
            if world.proxy.to_proxy:
                world.proxy.take_one(world.node)
                world.check()
            if world.proxy.to_shim:
                world.proxy.tell_one(world.node)
                await world.settle()
                world.check()
    world.connect()
    world.proxy.get_rules(key, last.dns_rules_digest)
    await world.drain()
    assert world.node.policies.in_force(endpoint.endpoint_id) == last
    assert world.node.policies.failures == {}


# --- and long random lives

STEPS = ("tell", "rules", "to proxy", "to shim", "settle", "lose", "connect", "kill", "start", "restart")
MORE = ("learn", "learn", "learn", "add", "delete", "wait", "alone", "wanted", "drain", "audit")


@pytest.mark.parametrize("seed", range(scaled(30, 500)))
async def test_any_sequence(seed: int, world: World) -> None:
    rng = random.Random(seed)
    world.node.default_policy = rng.choice(VARIANTS)
    for _ in range(scaled(60, 150)):
        await one_step(world, rng)
        world.check()
    await converge(world)
    check_verdicts(world)
    for endpoint in list(world.node.endpoints):
        await world.node.workloads.delete(endpoint.endpoint_id)
    await world.drain()
    world.node.clock.advance(100)
    assert learned(world.node) == {}, "nothing outlives its endpoint"
    assert set(world.node.local.labels()) == {9, 10}, "nor does a number"
    assert world.ports.ports == frozenset()


async def one_step(world: World, rng: random.Random) -> None:
    node, proxy = world.node, world.proxy
    step = rng.choice(STEPS + MORE)
    living = [endpoint for endpoint in node.endpoints if endpoint.state is not EndpointState.TERMINATING]
    if step == "add" and len(living) < 4:
        node.default_policy = rng.choice((None, *VARIANTS))
        name = f"pod{rng.randint(0, 9)}"
        with contextlib.suppress(Unavailable, AlreadyExists):  # locked, or there with other labels
            await node.workloads.add(wanted(name, rng.choice(("app=a", "app=b"))))
    elif step == "delete" and living:
        await node.workloads.delete(rng.choice(living).endpoint_id)
    elif step == "tell" and living:
        await world.tell({rng.choice(living).identity: rng.choice(VARIANTS)})
    elif step == "rules" and living:
        proxy.get_rules(subject_key(rng.choice(living).identity), rng.choice(VARIANTS).dns_rules_digest)
    elif step == "to proxy" and proxy.to_proxy:
        proxy.take_one(node)
    elif step == "to shim" and proxy.to_shim:
        proxy.tell_one(node)
    elif step == "learn" and world.alive and living:
        proxy.learn(node, rng.choice(living).endpoint_id, rng.choice(NAMES), rng.choice(ADDRESSES))
    elif step == "wanted" and world.alive and living and proxy.connected:
        key = proxy.learn(node, rng.choice(living).endpoint_id, rng.choice(NAMES), rng.choice(ADDRESSES))
        if key is not None:
            await node.policies.name_sets([key])
    elif step == "wait":
        node.clock.advance(rng.choice((0.1, 1.0, 10.0)))
        before = {e.endpoint_id: node.policies.in_force(e.endpoint_id) for e in node.endpoints}
        await node.policies.retry_due()
        world.check_switches(before)
    else:
        await other_step(world, rng, step)


async def other_step(world: World, rng: random.Random, step: str) -> None:
    if step == "alone":
        world.node.clock.advance(5.0)
        if not world.alive:
            await dns_of(world.node).settle_alone()
    elif step == "restart" and rng.random() < 0.3:
        await world.restart()
    elif step == "settle":
        await world.settle()
    elif step == "drain":
        await world.drain()
    elif step == "audit":
        await world.node.policies.audit()
    else:
        quick = {"lose": world.lose, "connect": world.connect, "kill": world.kill_proxy}
        quick["start"] = world.start_proxy
        quick.get(step, lambda: None)()


async def converge(world: World) -> None:
    """The proxy lives, has all rules, and every policy was told."""
    world.start_proxy()
    world.connect()
    node, rng = world.node, random.Random(1)
    told: dict[int, SubjectPolicy] = {}
    for endpoint in node.endpoints:
        one = told.setdefault(endpoint.identity, rng.choice(VARIANTS))
        world.proxy.get_rules(subject_key(endpoint.identity), one.dns_rules_digest)
    await world.tell(told)
    for _ in range(4):
        await world.drain()
        node.clock.advance(100)
        await node.policies.retry_due()
    assert node.policies.failures == {}
    missing = []
    for endpoint in node.endpoints:
        if endpoint.state is not EndpointState.TERMINATING:
            assert node.policies.in_force(endpoint.endpoint_id) == told[endpoint.identity]
            for name, address in zip(NAMES, ADDRESSES, strict=True):
                missing.append(world.proxy.learn(node, endpoint.endpoint_id, name, address))
    wishes = {key for key in missing if key is not None}
    assert (await node.policies.name_sets(wishes)).keys() == wishes
    await world.drain()


def check_verdicts(world: World) -> None:
    """By the text of the policies alone: a denied prefix wins, then a selector of a name that was learned."""
    node = world.node
    for endpoint in node.endpoints:
        one = node.policies.in_force(endpoint.endpoint_id)
        assert one is not None
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            by_name = world.proxy.cache[endpoint.endpoint_id]
            mine = [known for known, found in by_name.items() if address in found]
            assert name in mine
            assert allowed(node, endpoint, address) == by_hand(one, address, mine), (name, address, one)
        flag = node.entry(endpoint).flags & layout.ENDPOINT_LEARNED
        assert bool(flag) == any(isinstance(d, FqdnDefinition) for d in one.selectors.values())


def by_hand(one: SubjectPolicy, address: str, names: list[str]) -> bool:
    if one == ALLOW_ALL:
        return True
    for definition in one.selectors.values():
        if isinstance(definition, CidrDefinition):
            networks = map(ipaddress.ip_network, definition.include)
            if any(ipaddress.ip_address(address) in network for network in networks):
                return False
    return any(
        isinstance(d, FqdnDefinition) and any(matches(d.text, pattern=d.pattern, name=name) for name in names)
        for d in one.selectors.values()
    )


def allowed(node: MemoryNode, endpoint: Endpoint, address: str) -> bool:
    """What the program would do with a new HTTPS connection: the learned identity first, by the flag."""
    number = 0
    if node.entry(endpoint).flags & layout.ENDPOINT_LEARNED:
        number = learned(node).get((endpoint.endpoint_id, address), 0)
    return node.verdict_of(endpoint, Direction.EGRESS, number or node.identity_of(address), 6, 443) == (
        Action.ALLOW.name.lower()
    )
