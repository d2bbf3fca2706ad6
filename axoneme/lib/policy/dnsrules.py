"""Which names a subject may ask which servers for: what the policy service tells a node's DNS proxy.

Pure values. The wire form, and the digest over it, is `axoneme.lib.policycodec.dnsrules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from axoneme.lib.labels import LabelSet
from axoneme.lib.policy.model import (
    AnyPeer,
    FqdnDefinition,
    IdentityPeer,
    Peer,
    SelectorDefinition,
    SelectorPeer,
)
from axoneme.lib.policy.selection import selects


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsRule:
    """One rule: `names` is empty if and only if `every_name`.

    `protocol` is 6, 17 or 0 for both; `port` begins an aligned block with `prefix_length` significant bits
    (16 one port, 0 every port). `level` is the precedence of the rule's entries without its lowest byte: of
    the rules that match a query, those of the highest level decide, by union (facts R-46, R-47).
    """

    peer: Peer
    protocol: int
    port: int
    prefix_length: int
    level: int
    every_name: bool = False
    names: frozenset[FqdnDefinition] = frozenset()

    def covers(self, protocol: int, port: int) -> bool:
        """Whether a query over this transport to this port is one of the rule's."""
        shift = 16 - self.prefix_length
        return self.protocol in (0, protocol) and port >> shift == self.port >> shift


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True)
class DnsRules:
    """All rules of one subject; `digest` is that of `axoneme.lib.policycodec.dnsrules.digest_of(rules)`."""

    rules: frozenset[DnsRule] = frozenset()
    selectors: Mapping[str, SelectorDefinition] = field(default_factory=dict)
    digest: bytes = b""

    def deciding(self, server: int, labels: LabelSet | None, protocol: int, port: int) -> tuple[DnsRule, ...]:
        """The rules that decide on queries to a server: of those that match, the ones of the highest level.

        `labels` are those of a node-local identity or of the world, None for a cluster-wide number. Looks at
        every rule, so for questions and as a twin of what a proxy has indexed.
        """
        found = [
            rule
            for rule in self.rules
            if rule.covers(protocol, port) and self._about(rule.peer, server, labels)
        ]
        level = max((rule.level for rule in found), default=0)
        return tuple(rule for rule in found if rule.level == level)

    def _about(self, peer: Peer, server: int, labels: LabelSet | None) -> bool:
        if isinstance(peer, SelectorPeer):
            return labels is not None and selects(self.selectors[peer.key], labels)
        return isinstance(peer, AnyPeer) or (isinstance(peer, IdentityPeer) and peer.number == server)
