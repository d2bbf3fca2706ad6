"""A node on the memory datapath beside a model of its DNS proxy; messages between them lie in two queues."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from axoneme.lib.dns.sets import SetTable, possible_sets
from axoneme.lib.dnsnames import matches
from axoneme.lib.policy.model import (
    ANY_PORT,
    Action,
    AnyPeer,
    CidrDefinition,
    Contribution,
    Direction,
    Enforcement,
    FqdnDefinition,
    Redirect,
    SelectorDefinition,
    SelectorPeer,
    SubjectPolicy,
    one_port,
)
from shim.dns.identities import NameIdentities
from shim.dns.learned import LearnedAddresses
from shim.dns.nodedns import NodeDns
from shim.dns.order import UNKNOWN_DIGEST
from shim.dns.table import IdentityFile
from shim.localidentities import LocalKey
from shim.maps import base, layout
from shim.maps.layout import LearnedEntry, LearnedKey
from shim.maps.proxied import ProxiedPort
from tests.unit.shim.memorynode import MemoryNode, policy, rule

PORT = 10_053
DNS = Redirect("dns")


class Ports:
    """What the programs look out for."""

    def __init__(self) -> None:
        self.ports: frozenset[ProxiedPort] = frozenset()

    def replace(self, ports: object) -> None:
        self.ports = frozenset(ports)  # type: ignore[call-overload]


def dns_node(directory: Path, before: MemoryNode | None = None, ports: Ports | None = None) -> MemoryNode:
    """A node whose file of identities lies in `directory`; `before`: the life that ended."""

    def make(node: MemoryNode) -> NodeDns:
        return NodeDns(
            names=NameIdentities(node.local, IdentityFile(directory), possible_sets, enabled=True),
            learned=LearnedAddresses(node.datapath.maps[layout.LEARNED.name]),
            ports=ports or Ports(),
            clock=node.clock,
            proxy_port=PORT,
        )

    room = layout.POLICY_INNER.max_entries
    if before is None:
        node = MemoryNode(max_entries=room, dns=make)
        node.policies.complete = True
        return node
    return MemoryNode(before.datapath, before.services, max_entries=room, dns=make)


async def restarted(node: MemoryNode, directory: Path, ports: Ports | None = None) -> MemoryNode:
    """Another life over the same kernel, state file and file of identities; policies come later."""
    again = dns_node(directory, node, ports)
    again.interest.update(node.interest)
    again.clock.now = node.clock.now
    again.cookies.load(node.cookies.dump())
    again.ipcache.load()
    names = dns_of(again).names
    again.local.load(node.local.dump(), again.ipcache.holds, names.table.named.values())
    names.load()
    again.workloads.ipam = node.workloads.ipam
    await again.workloads.restore(list(node.endpoints), node.workloads.numbers.last_given)
    await again.policies.resume()
    for stream in ("ipcache", "nodes"):
        again.ipcache.heard(stream)
    again.ipcache.commit()
    return again


def dns_of(node: MemoryNode) -> NodeDns:
    assert node.dns is not None
    return node.dns


def dns_policy(
    digest: bytes, *names: str, port: int = 53, deny: tuple[str, ...] = (), redirect: bool = True
) -> SubjectPolicy:
    """Default deny for egress: DNS to `port` through the proxy, names with HTTPS, denied prefixes."""
    rules: list[Contribution] = []
    definitions: dict[str, SelectorDefinition] = {}
    if redirect:
        for protocol in (6, 17):
            ports = one_port(protocol, port)
            rules.append(rule(AnyPeer(), Action.REDIRECT, ports, Direction.EGRESS, redirect=DNS))
    for index, name in enumerate(names):
        definitions[f"n{index}"] = FqdnDefinition(name, pattern="*" in name)
        rules.append(rule(SelectorPeer(f"n{index}"), ports=one_port(6, 443), direction=Direction.EGRESS))
    if deny:
        definitions["d"] = CidrDefinition(include=deny)
        rules.append(rule(SelectorPeer("d"), Action.DENY, ANY_PORT, Direction.EGRESS))
    made = policy(*rules, ingress=Enforcement.DEFAULT_ALLOW, egress=Enforcement.DEFAULT_DENY, **definitions)
    return replace(made, dns_rules_digest=digest)


class ProxyModel:
    """What services/fqdn promises, without I/O: rules with leftovers, a cache, and the table as last read."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "dns-identities.json"
        self.rules: dict[str, bytes] = {}  # as the policy service sent them
        self.kept: dict[str, set[bytes]] = {}  # of earlier ones, until a newer one is redirected
        self.cache: dict[int, dict[str, set[str]]] = {}  # endpoint, name, addresses
        self.table = SetTable()
        self.to_proxy: deque[tuple[str, object]] = deque()
        self.to_shim: deque[tuple[str, object]] = deque()
        self.connected = False

    def read_table(self, node: MemoryNode) -> None:
        if self.file.exists():
            self.table = SetTable.load(self.file.read_bytes())
        self.write_all(node)

    def connect(self, node: MemoryNode) -> None:
        """The shim opens a session."""
        dns = dns_of(node)
        self.to_proxy.clear()
        self.to_shim.clear()
        self.connected = True
        dns.on_redirects = lambda changes: self.to_proxy.append(("changed", dict(changes)))
        dns.on_table = lambda revision: self.to_proxy.append(("table", revision))
        dns.on_forget = lambda number: self.to_proxy.append(("forget", number))
        self.to_proxy.append(("snapshot", dns.opened()))
        self.to_proxy.append(("table", dns.names.table.revision))
        self.to_shim.append(("ready", (dict(self.rules), True)))

    def lose(self, node: MemoryNode) -> None:
        dns = dns_of(node)
        dns.on_redirects = lambda _: None
        dns.on_table = dns.on_forget = lambda _: None
        self.connected = False
        self.to_proxy.clear()
        self.to_shim.clear()
        dns.closed()

    def has(self, key: str) -> set[bytes]:
        """Digests of rules by which queries of a subject find what they need."""
        return self.kept.get(key, set()) | {self.rules[key]} if key in self.rules else set()

    def get_rules(self, key: str, digest: bytes) -> None:
        """The policy service sends newer rules."""
        if self.rules.get(key) == digest:
            return
        if key in self.rules:
            self.kept.setdefault(key, set()).add(self.rules[key])
        self.rules[key] = digest
        if self.connected:
            self.to_shim.append(("ready", ({key: digest}, False)))

    def take_one(self, node: MemoryNode) -> None:
        """Works off one message of the shim."""
        kind, what = self.to_proxy.popleft()
        if kind in ("snapshot", "changed"):
            assert isinstance(what, dict)
            told = {key: what.get(key, b"") for key in self.rules} if kind == "snapshot" else what
            for key, digest in told.items():
                self._confirm(key, digest)
        elif kind == "table":
            self.read_table(node)
            self.to_shim.append(("applied", self.table.revision))
        elif kind == "forget":
            assert isinstance(what, int)
            self.cache.pop(what, None)

    def _confirm(self, key: str, digest: bytes) -> None:
        if digest in (b"", self.rules.get(key)):
            self.kept.pop(key, None)
        elif digest != UNKNOWN_DIGEST and key in self.kept:
            self.kept[key] &= {digest}

    def tell_one(self, node: MemoryNode) -> None:
        """The shim takes one message; its worker settles later."""
        kind, what = self.to_shim.popleft()
        dns = dns_of(node)
        if kind == "ready":
            assert isinstance(what, tuple)
            dns.order.hear(what[0], complete=what[1], proxy_port=PORT)
        elif kind == "applied":
            assert isinstance(what, int)
            dns.names.applied(what)

    # --- learning

    def learn(self, node: MemoryNode, endpoint_id: int, name: str, address: str) -> LocalKey | None:
        """An answer came; returns what the table lacks, if the best known set is not the whole one."""
        self.cache.setdefault(endpoint_id, {}).setdefault(name, set()).add(address)
        prefix, names = self.key_of(endpoint_id, address)
        self._write(node, endpoint_id, address)
        missing = names and self.table.number_of(prefix, names) is None
        return LocalKey(prefix, names) if missing else None

    def key_of(self, endpoint_id: int, address: str) -> tuple[str, frozenset[str]]:
        mine = [name for name, found in self.cache[endpoint_id].items() if address in found]
        names = frozenset(
            one.text
            for one in self.table.selectors
            if any(matches(one.text, pattern=one.pattern, name=name) for name in mine)
        )
        return self.table.prefix_of(ipaddress.ip_address(address).packed), names

    def _write(self, node: MemoryNode, endpoint_id: int, address: str) -> None:
        learned = node.datapath.maps[layout.LEARNED.name]
        prefix, names = self.key_of(endpoint_id, address)
        number = self.table.number_of(prefix, names) or self.table.nearest(prefix, names)
        key = LearnedKey(endpoint_id, base.address_bytes(address)).pack()
        if number is None or not names:
            learned.delete(key)
        else:
            learned.update(key, LearnedEntry(number, 1 << 60).pack())

    def write_all(self, node: MemoryNode) -> None:
        """Everything learned, under the table of this moment; endpoints that are gone are forgotten."""
        learned = node.datapath.maps[layout.LEARNED.name]
        living = {layout.EndpointEntry.unpack(raw).endpoint_id for _, raw in _endpoints(node)}
        self.cache = {number: names for number, names in self.cache.items() if number in living}
        numbers = self.table.numbers()
        for endpoint_id, by_name in self.cache.items():
            for address in sorted(set().union(*by_name.values())):
                self._write(node, endpoint_id, address)
        for key, raw in learned.items():
            if LearnedEntry.unpack(raw).identity not in numbers:
                learned.delete(key)


def _endpoints(node: MemoryNode) -> list[tuple[bytes, bytes]]:
    return node.datapath.maps[layout.EP.name].items()


def learned(node: MemoryNode) -> Mapping[tuple[int, str], int]:
    """What is in the kernel: number by endpoint and address."""
    found = {}
    for key, raw in node.datapath.maps[layout.LEARNED.name].items():
        one = LearnedKey.unpack(key)
        place = one.endpoint_id, str(base.address_from_bytes(one.address))
        found[place] = LearnedEntry.unpack(raw).identity
    return found
