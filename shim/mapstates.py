"""The mapstate of one subject for endpoints with the same named ports, as bytes of a policy map.

    SubjectPolicy ─┐
    local identities ─► MapstateBuilder ─► changed entries ─► cookies ─► Content

A mapstate is moved from policy to policy and from table to table of local identities; only what changed is
encoded again. It may be ahead of the kernel: what cannot be enforced or does not fit is for the caller to
refuse. Building takes up to a second for a large subject and so runs in a worker thread; cookies are given
out in the event loop, which owns them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

from axoneme.lib.errors import Unsupported
from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.mapstate import MapstateBuilder
from axoneme.lib.policy.model import (
    Action,
    AuthMode,
    MapEntry,
    MapKey,
    NamedPort,
    Origin,
    PortBlock,
    SubjectPolicy,
)
from shim.cookies import CookieTable
from shim.innermaps import Content
from shim.localidentities import LocalIdentities
from shim.maps import layout

Ports: TypeAlias = tuple[tuple[int, str, int], ...]
"""Named ports of an endpoint: protocol, name and number, sorted."""

DNS: Final = "dns"
"""Parser of redirects to the node's DNS proxy."""
_MAX_NAMED: Final = 3
_PROTOCOLS: Final = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_DEMANDS: Final = (AuthMode.REQUIRED, AuthMode.ALWAYS_FAIL)


class _Step(NamedTuple):
    upserts: dict[MapKey, MapEntry]
    removals: set[MapKey]
    origin_sets: set[frozenset[int]]


class Mapstate:
    """Not safe for concurrent use."""

    def __init__(self, ports: Ports) -> None:
        self.content: Content = {}
        self._ports = {(protocol, name): number for protocol, name, number in ports}
        self._builder: MapstateBuilder | None = None
        self._policy: SubjectPolicy | None = None
        self._revision = -1
        self._unenforceable: dict[MapKey, MapEntry] = {}
        self._redirected: set[MapKey] = set()
        self._proxy_port = 0

    async def move(
        self, policy: SubjectPolicy, local: LocalIdentities, cookies: CookieTable, proxy_port: int = 0
    ) -> Content:
        """The entries of a policy with the local identities of this moment; never changed afterwards.

        `proxy_port` is where the node's DNS proxy takes packets, 0 without one. Raises KeyError for a
        reference without a definition.
        """
        if proxy_port != self._proxy_port:
            self._forget()
            self._proxy_port = proxy_port
        if self._policy is policy and self._revision == local.revision:
            return self.content
        labels = dict(local.labels()) if self._revision != local.revision else None
        revision = local.revision
        cookies.learn(policy.origins)
        try:
            step = await asyncio.to_thread(self._advance, policy, labels)
            of = {origins: cookies.cookie_of(origins) for origins in step.origin_sets}
            self.content = await asyncio.to_thread(_encoded, self.content, step, of, proxy_port)
        except BaseException:
            self._forget()  # half a step is no state to go on from
            raise
        self._policy, self._revision = policy, revision
        return self.content

    def refusal(self, *, host: bool = False) -> Unsupported | None:
        """Why this node cannot enforce the mapstate, its own where `host`; it is never enforced in part."""
        if self._policy is None or not self._unenforceable:
            return None
        return refusal_of(self._policy, self._unenforceable, host=host)

    @property
    def redirected(self) -> frozenset[PortBlock]:
        """Ports of entries that lead to the DNS proxy."""
        return frozenset(key.ports for key in self._redirected)

    def _advance(self, policy: SubjectPolicy, labels: dict[int, LabelSet] | None) -> _Step:
        if self._builder is None:
            self._builder = MapstateBuilder(labels or {}, self._ports)
            steps = [self._builder.update(policy)]
        else:
            steps = [self._builder.set_local(labels)] if labels is not None else []
            steps += [self._builder.update(policy)] if policy is not self._policy else []
        upserts: dict[MapKey, MapEntry] = {}
        removals: set[MapKey] = set()
        for one in steps:
            upserts = {key: entry for key, entry in upserts.items() if key not in one.removals}
            upserts.update(one.upserts)
            removals = (removals | set(one.removals)) - one.upserts.keys()
        for key in removals:
            self._unenforceable.pop(key, None)
        self._redirected -= removals
        for key, entry in upserts.items():
            proxied = bool(self._proxy_port) and to_dns_proxy(entry)
            if proxied:
                self._redirected.add(key)
            else:
                self._redirected.discard(key)
            if needs_more(entry) and not proxied:
                self._unenforceable[key] = entry
            else:
                self._unenforceable.pop(key, None)
        return _Step(upserts, removals, {entry.origins for entry in upserts.values()})

    def _forget(self) -> None:
        self._builder, self._policy, self._revision = None, None, -1
        self.content, self._unenforceable, self._redirected = {}, {}, set()


def relevant_ports(ports: Ports, named: frozenset[NamedPort]) -> Ports:
    """The named ports that a policy speaks about: endpoints that differ in others share a mapstate."""
    return tuple(one for one in ports if NamedPort(one[0], one[1]) in named) if named else ()


def named_ports_in(policy: SubjectPolicy) -> frozenset[NamedPort]:
    """The ports that a policy gives by name."""
    return frozenset(one.ports for one in policy.contributions if isinstance(one.ports, NamedPort))


def needs_more(entry: MapEntry) -> bool:
    """Whether an entry asks for what this node does not have: a proxy, or mutual authentication."""
    return entry.action is Action.REDIRECT or (entry.action is Action.ALLOW and entry.auth in _DEMANDS)


def to_dns_proxy(entry: MapEntry) -> bool:
    """Whether an entry leads to the node's DNS proxy, which knows no listeners."""
    return entry.redirect is not None and entry.redirect.parser == DNS and not entry.redirect.listener


def redirected_in(content: Content) -> dict[bytes, PortBlock]:
    """The ports of a map's entries that lead to the DNS proxy, by key."""
    return {
        key: layout.policy_key_from_bytes(key).ports
        for key, value in content.items()
        if layout.policy_entry_redirects(value)
    }


def refusal_of(
    policy: SubjectPolicy, entries: Mapping[MapKey, MapEntry], *, host: bool = False
) -> Unsupported:
    """Names the policies, the rules in them and what each asks for."""
    texts: dict[str, None] = {}
    for key in sorted(entries):
        texts[_demand(key, entries[key], policy.origins, host=host)] = None
    more = f"; and {len(texts) - _MAX_NAMED} more" if len(texts) > _MAX_NAMED else ""
    named = "; ".join(list(texts)[:_MAX_NAMED])
    return Unsupported(f"{named}{more}; the last policy stays in force", reason="NOT_ENFORCEABLE")


def _demand(key: MapKey, entry: MapEntry, origins: Mapping[int, Origin], *, host: bool) -> str:
    rules = ", ".join(_rule(origins[number]) for number in sorted(entry.origins) if number in origins)
    where = f"{key.direction.name.lower()} {_ports(key.ports)}"
    if entry.redirect is not None:
        runs = "this node runs none" + (" for itself" if host else "")
        what = f"redirects {where} to the {entry.redirect.parser} proxy, and {runs}: "
        if to_dns_proxy(entry) and not host:
            what += "switch dns_proxy on, or "
        what += "remove its listener" if entry.redirect.listener else "remove its L7 part"
    else:
        mode = "required" if entry.auth is AuthMode.REQUIRED else "test-always-fail"
        what = f"asks for authentication ({mode}) of {where}, which this node cannot do: "
        what += "remove its authentication or set mode disabled"
    return f"{rules or 'a rule'} {what}"


def _rule(origin: Origin) -> str:
    name = f"{origin.namespace}/{origin.name}" if origin.namespace else origin.name
    return f"{origin.kind} {name} ({origin.rule})"


def _ports(ports: PortBlock) -> str:
    if not ports.protocol:
        return "traffic"
    name = _PROTOCOLS.get(ports.protocol, f"protocol {ports.protocol}")
    if not ports.prefix_length:
        return name
    last = ports.port + (1 << (16 - ports.prefix_length)) - 1
    return f"{name} {ports.port}" if last == ports.port else f"{name} {ports.port}-{last}"


def _encoded(before: Content, step: _Step, cookies: Mapping[frozenset[int], int], proxy_port: int) -> Content:
    """The content after a step; `before` stays as it is, since a map may be known to hold it."""
    after = dict(before)
    for gone in step.removals:
        after.pop(layout.policy_key(gone), None)
    for key, entry in step.upserts.items():
        port = proxy_port if to_dns_proxy(entry) else 0
        after[layout.policy_key(key)] = layout.policy_entry(
            key, entry, cookie=cookies[entry.origins], proxy_port=port
        )
    return after
