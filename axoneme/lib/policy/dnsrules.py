"""Which names a subject may ask which servers for: what the policy service tells a node's DNS proxy.

Pure values. The wire form, and the digest over it, is `axoneme.lib.policycodec.dnsrules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from axoneme.lib.policy.model import FqdnDefinition, Peer, SelectorDefinition


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsRules:
    """All rules of one subject; `digest` is that of `axoneme.lib.policycodec.dnsrules.digest_of(rules)`."""

    rules: frozenset[DnsRule] = frozenset()
    selectors: Mapping[str, SelectorDefinition] = field(default_factory=dict)
    digest: bytes = b""
